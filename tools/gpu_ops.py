"""Whether every op of a step has a kernel for a GPU; no GPU is needed.

    python tools/gpu_ops.py            # a line for each owner and mode
    python tools/gpu_ops.py --list     # and one for each kind of op
    python tools/gpu_ops.py --record   # keeps this build's registry, see below
    FLOW=v2 python tools/gpu_ops.py    # with control flow v2, on 2.x

Builds a training and an evaluation step for each owner of a mask in each of its
modes, and asks for each of their ops which kernels TensorFlow has for its
types: one for a GPU, and which of its inputs and outputs that one has in the
memory of the host. An op without one, or with more than a few numbers in the
memory of the host, is a fault: data would go to and fro in each step.

Builds for the CPU alone have no such kernels: for these what is known of one
with CUDA is read, from gpu_kernels.json beside this file. It is written by
`--record`, on such a build.
"""

import argparse
import collections
import functools
import json
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))  # the installed package comes first

import awd_lstm_tf  # noqa: E402

VERSION = tf.__version__
if VERSION[0] == "2":
    tf = tf.compat.v1
    tf.logging.set_verbosity(tf.logging.ERROR)
    if os.environ.get("FLOW") == "v2":
        tf.disable_eager_execution()
    else:
        tf.disable_v2_behavior()

KNOWN = pathlib.Path(__file__).resolve().with_name("gpu_kernels.json")
FEW = 64  # numbers that may be in the memory of the host: shapes, lengths

# Ops that TensorFlow's placer puts anywhere, or that are no computation.
NOWHERE = {"NoOp", "Placeholder", "PlaceholderWithDefault", "Const"}
# The text of an error. It is on the host, and made only when there is one; and
# what a summary, a print and a checkpoint are made of.
ON_HOST = {"Assert", "Print", "PrintV2", "StringFormat", "AsString"}

TIME, BATCH, DEPTH, UNITS = 8, 20, 12, 16


# ---------------------------------------------------------------------------
# Steps. Each is a function that returns what a session would be asked for.

MODES = {
    "standard": {},
    "use_vd": dict(use_vd=True),
    "auto_update": dict(use_vd=True, auto_update=True),
}


def train(outputs, update_ops=(), optimizer=None):
    optimizer = optimizer or tf.train.GradientDescentOptimizer(0.1)
    with tf.control_dependencies(update_ops):
        return optimizer.minimize(tf.reduce_mean(tf.square(outputs)))


def inputs():
    return tf.get_variable("inputs", [TIME, BATCH, DEPTH])


def dynamic_rnn(cell):
    return tf.nn.dynamic_rnn(cell, inputs(), dtype=tf.float32, time_major=True)


def static_rnn(cell):
    steps = tf.unstack(inputs())
    lengths = tf.placeholder_with_default([TIME] * BATCH, [BATCH])
    outputs, state = tf.nn.static_rnn(
        cell, steps, dtype=tf.float32, sequence_length=lengths
    )
    return tf.stack(outputs), state


def cell_step(unroll, **arguments):
    cell = awd_lstm_tf.WeightDropLSTMCell(UNITS, input_size=DEPTH, **arguments)
    outputs = unroll(cell)[0]
    if arguments.get("is_train") is False:
        return outputs
    return train(outputs, cell.get_vd_update_op())


def fused_step(use_peepholes=False, **arguments):
    arguments["use_peephole"] = use_peepholes
    layer = awd_lstm_tf.WeightDropLSTMBlockFusedCell(
        UNITS, input_size=DEPTH, **arguments
    )
    lengths = tf.placeholder_with_default([TIME] * BATCH, [BATCH])
    outputs, _ = layer(inputs(), dtype=tf.float32, sequence_length=lengths)
    if arguments.get("is_train") is False:
        return outputs
    return train(outputs, layer.get_vd_update_op())


def wrapper_step(**arguments):
    cell = awd_lstm_tf.WeightDropWrapper(
        awd_lstm_tf._versions.rnn_cell.GRUCell(UNITS + 1), 0.5, **arguments
    )
    outputs = dynamic_rnn(cell)[0]
    return train(outputs, cell.get_vd_update_op())


def dropout_step(auto_update, keep_prob=0.5):
    # Of a size that is no multiple of 4, the number of entries in one draw.
    dropout = awd_lstm_tf.VariationalDropout(
        [1, 5, 5], keep_prob, auto_update=auto_update
    )
    dropped = dropout(tf.get_variable("dropped", [TIME, 5, 5]))
    return train(dropped, dropout.get_update_mask_op())


def rest_of_the_recipe():
    table = tf.get_variable("table", [30, DEPTH])
    ids = tf.placeholder_with_default([[1] * BATCH] * TIME, [TIME, BATCH])
    outputs = awd_lstm_tf.embedding_dropout(table, ids, 0.9)
    lengths = tf.placeholder_with_default([TIME] * BATCH, [BATCH])
    penalties = [
        penalty(outputs, 1.0, time_major=True, sequence_length=lengths)
        for penalty in (
            awd_lstm_tf.activation_regularization,
            awd_lstm_tf.temporal_activation_regularization,
        )
    ]
    optimizer = awd_lstm_tf.NTASGDOptimizer(0.1)
    step = train(tf.add_n(penalties), optimizer=optimizer)
    return [step, optimizer.swap_in, optimizer.swap_out, optimizer.restart]


def _with_tensors(step):
    return step(
        weight_drop_kr=tf.placeholder_with_default(0.5, []),
        is_train=tf.placeholder_with_default(True, []),
    )


def steps():
    """All steps, by name: `{"cell, use_vd": function}`."""
    found = collections.OrderedDict()
    half = dict(weight_drop_kr=0.5)
    cell = functools.partial(cell_step, dynamic_rnn)
    for mode, arguments in MODES.items():
        arguments = dict(half, **arguments)
        for name, step in [
            ("cell", cell),
            ("cell in static_rnn", functools.partial(cell_step, static_rnn)),
            ("fused", fused_step),
        ]:
            if name == "fused" and mode == "standard":
                continue  # it has no such mode
            more = functools.partial(step, **arguments)
            found[f"{name}, {mode}"] = more
            found[f"{name}, {mode}, recurrent_only, peepholes, clip"] = (
                functools.partial(
                    more, recurrent_only=True, use_peepholes=True, cell_clip=3.0
                )
            )
            found[f"{name}, {mode}, tensors for keep rate and is_train"] = (
                functools.partial(_with_tensors, more)
            )
        found[f"cell, {mode}, is_quant"] = functools.partial(
            cell, is_quant=True, **arguments
        )
        found[f"wrapper, {mode}"] = functools.partial(
            wrapper_step, **MODES[mode]
        )
    for auto_update in (False, True):
        mode = "auto_update" if auto_update else "use_vd"
        found[f"dropout, {mode}"] = functools.partial(dropout_step, auto_update)
    found["embedding dropout, AR, TAR, NT-ASGD"] = rest_of_the_recipe
    found["cell, evaluation"] = functools.partial(cell, is_train=False, **half)
    found["cell, evaluation, is_quant"] = functools.partial(
        cell, is_train=False, is_quant=True, **half
    )
    found["fused, evaluation"] = functools.partial(
        fused_step, is_train=False, use_vd=True, **half
    )
    return found


# ---------------------------------------------------------------------------
# Their ops

Op = collections.namedtuple("Op", "kind types large")


def ops_of(step):
    """The kinds of ops that a step runs, those in functions among them."""
    with tf.Graph().as_default() as graph:
        fetches = step()
        fetches = fetches if isinstance(fetches, list) else [fetches]
        found = _behind([getattr(each, "op", each) for each in fetches])
        for function in graph.as_graph_def().library.function:
            found.update(_graph_of(function).get_operations())
        return {_described(op) for op in found}


def _behind(ops):
    found, todo = set(), list(ops)
    while todo:
        op = todo.pop()
        if op not in found:
            found.add(op)
            todo += [tensor.op for tensor in op.inputs] + op.control_inputs
    return found


def _graph_of(function):
    from tensorflow.python.framework import function_def_to_graph

    return function_def_to_graph.function_def_to_graph(function)


def _described(op):
    types = {
        name: tf.as_dtype(value.type).name
        for name, value in op.node_def.attr.items()
        if value.WhichOneof("value") == "type"
    }
    large = set()
    for arguments, tensors in [
        (op.op_def.input_arg, list(op.inputs)),
        (op.op_def.output_arg, list(op.outputs)),
    ]:
        for argument in arguments:
            count = _length(argument, op.node_def.attr)
            # In a function the shape of a range's ends may be unknown.
            is_end = argument.name in ("min", "max")
            if not is_end and any(map(_is_large, tensors[:count])):
                large.add(argument.name)
            tensors = tensors[count:]
    return Op(op.type, tuple(sorted(types.items())), tuple(sorted(large)))


def _length(argument, attributes):
    if argument.number_attr:
        return attributes[argument.number_attr].i
    if argument.type_list_attr:
        return len(attributes[argument.type_list_attr].list.type)
    return 1


def _is_large(tensor):
    # Ints of 32 bits are lengths, ids and shapes: TensorFlow has them on the
    # host.
    handles = (tf.resource, tf.variant, tf.string)
    if tensor.dtype.base_dtype in handles + (tf.int32,):
        return False
    size = tensor.shape.num_elements()
    # What lies on a stack of unknown length is as large as what is in it, and
    # the stack itself is a handle.
    return size is None or size > FEW


# ---------------------------------------------------------------------------
# The kernels


def registry():
    """What this build has for a GPU: `{kind: [{types, host}, ...]}`."""
    from tensorflow.python.framework import kernels

    found = collections.defaultdict(list)
    for kernel in kernels.get_all_registered_kernels().kernel:
        if kernel.device_type not in ("GPU", "DEFAULT") or kernel.label:
            continue
        types = {
            constraint.name: sorted(
                tf.as_dtype(each).name
                for each in constraint.allowed_values.list.type
            )
            for constraint in kernel.constraint
            if constraint.allowed_values.list.type
        }
        host = sorted(kernel.host_memory_arg)
        entry = {"device": kernel.device_type, "types": types, "host": host}
        _add(found[kernel.op], entry)
    return found


def _add(entries, new):
    """Adds an entry, to the types of another if it differs by these alone."""
    for old in entries:
        if (old["device"], old["host"]) != (new["device"], new["host"]):
            continue
        if old["types"].keys() != new["types"].keys():
            continue
        differ = [k for k in old["types"] if old["types"][k] != new["types"][k]]
        if len(differ) > 1:
            continue
        for name in differ:
            both = old["types"][name] + new["types"][name]
            old["types"][name] = sorted(set(both))
        return
    entries.append(new)


def known_registry():
    """The version asked, and its registry."""
    if tf.test.is_built_with_cuda():
        return VERSION, registry()
    known = json.loads(KNOWN.read_text(encoding="utf-8"))
    same = [each for each in known if each.split(".")[0] == VERSION[0]]
    nearest = max(same)
    return nearest, known[nearest]


def fault(op, kernels):
    """What is wrong with an op on a GPU; None if nothing is."""
    if op.kind in NOWHERE or op.kind in ON_HOST:
        return None
    types = dict(op.types)
    if "string" in types.values():
        return None  # of the text of an error
    if types.get("T") == "int32" or types.get("dtype") == "int32":
        return None  # as above
    if op.kind not in kernels:
        return "no kernel"
    fitting = [
        kernel
        for kernel in kernels[op.kind]
        if all(types.get(k, v[0]) in v for k, v in kernel["types"].items())
    ]
    if not fitting:
        return "no kernel for these types"
    gpu = [kernel for kernel in fitting if kernel["device"] == "GPU"]
    host = min((set(each["host"]) for each in gpu or fitting), key=len)
    on_host = sorted(host & set(op.large))
    return f"{', '.join(on_host)} on the host" if on_host else None


def record(kinds):
    """Adds what this build has of the ops `kinds` to gpu_kernels.json."""
    if not tf.test.is_built_with_cuda():
        sys.exit(f"--record needs a build with CUDA, got {VERSION} without.")
    known = {}
    if KNOWN.exists():
        known = json.loads(KNOWN.read_text(encoding="utf-8"))
    whole = registry()
    kinds = kinds.union(known.get(VERSION, ()))
    known[VERSION] = {kind: whole.get(kind, []) for kind in sorted(kinds)}
    lines = [
        f' "{version}": {{\n'
        + ",\n".join(
            f"  {json.dumps(kind)}: {json.dumps(kernels, sort_keys=True)}"
            for kind, kernels in sorted(known[version].items())
        )
        + "\n }"
        for version in sorted(known)
    ]
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    KNOWN.write_text(text, encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--record", action="store_true")
    flags = parser.parse_args()
    tf.logging.set_verbosity(tf.logging.ERROR)
    ops = {name: ops_of(step) for name, step in steps().items()}
    every = set().union(*ops.values())
    if flags.record:
        record({op.kind for op in every})
    version, kernels = known_registry()
    faults = {op: fault(op, kernels) for op in every}
    print(f"Kernels for a GPU, by the registry of TensorFlow {version}:")
    for name, used in ops.items():
        bad = {f"{op.kind}: {faults[op]}" for op in used if faults[op]}
        print(f"{name:<58} {len(used):>3} ", ", ".join(sorted(bad)) or "all")
    for op in sorted(every) if flags.list else []:
        types = " ".join(f"{name}={kind}" for name, kind in op.types)
        print(f"{op.kind:<28} {types:<40} {faults[op] or 'yes'}")
    sys.exit(any(faults.values()))


if __name__ == "__main__":
    main()
