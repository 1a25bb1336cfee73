"""Export of a quantized model as a TFLite file that computes with integers."""

import os
import shutil
import subprocess
import sys
import tempfile

from awd_lstm_tf import _checks, _integer_graph

_TOCO = "toco_from_protos"

# Of TFLite's schema: the slots of fields in their tables, and tensor types.
_SUBGRAPHS = 2
_TENSORS, _INPUTS = 0, 1
_TYPE, _NAME, _IS_VARIABLE = 1, 3, 5
_INTEGER_TYPES = {2, 3, 4, 7, 9}  # int32, uint8, int64, int16, int8


def convert(session, inputs, outputs, states):
    """Converts a quantized single-step graph to an integer-only TFLite model.

    The graph is one for evaluation: cells with `is_quant=True` and
    `is_train=False`, called once, and around them embeddings by gather, dense
    layers rewritten by `tf.contrib.quantize.create_eval_graph`, and softmax.

    All tensors of the model are integers. Its inputs are `inputs`, then those
    of `states`; its outputs are `outputs`, then those of `states`. They bear
    the op names of the tensors given. A real value `r` is the integer
    `r / scale + zero_point`, with the two from `quantization` in the details
    that `tf.lite.Interpreter` gives. The zero state is a state's zero point;
    the state outputs are fed back as they are.

    Args:
      session: `tf.Session` whose variables hold the trained values.
      inputs: list of placeholders of known shape: ids, or float32 tensors that
        go into a quantized cell or a fake-quant op.
      outputs: list of tensors; where one goes into fake quant, what comes out
        of that, so logits are those after `create_eval_graph`, too.
      states: list of (input tensor, output tensor) pairs.

    Returns:
      The model, as bytes.

    Raises:
      ValueError: naming the op or the range at fault, when something has no
        integer form.
      TypeError: for a value of the wrong kind.
      ImportError: when the package `flatbuffers` is missing.
      OSError: when TensorFlow's converter, `toco_from_protos`, is missing.

    Example:

        ids = tf.placeholder(tf.int32, [1], name="ids")
        c = tf.placeholder(tf.float32, [1, 128], name="c")
        h = tf.placeholder(tf.float32, [1, 128], name="h")
        cell = awd_lstm_tf.WeightDropLSTMCell(
            128, is_quant=True, is_train=False)
        with tf.variable_scope("rnn"):
            output, state = cell(tf.gather(embedding, ids), (c, h))
        logits = tf.layers.dense(output, 1000)
        tf.contrib.quantize.create_eval_graph()
        tf.train.Saver().restore(session, checkpoint)
        model = awd_lstm_tf.tflite.convert(
            session, [ids], [logits], [(c, state.c), (h, state.h)])
    """
    table = _table_class()  # before the work, if it is missing
    toco = _find_toco()
    inputs = _checks.listed("inputs", inputs)
    outputs = _checks.listed("outputs", outputs)
    states = _checks.listed("states", states)
    states = [_checks.pair("states", pair) for pair in states]
    graph = _checks.session(session).graph
    _checks.model_ends(graph, inputs, outputs, states)
    graph = _integer_graph.IntegerGraph(session, inputs, outputs, states)
    model = _run_toco(toco, *graph.protos())
    return _finished(table, model, [state.op.name for state, _ in states])


def _find_toco():
    # Beside the interpreter first: an environment need not be activated.
    beside = os.path.join(os.path.dirname(sys.executable), _TOCO)
    found = shutil.which(beside) or shutil.which(_TOCO)
    _checks.converter_found(_TOCO, found)
    return found


def _run_toco(toco, model_flags, toco_flags, graph_def):
    with tempfile.TemporaryDirectory() as folder:
        paths = [
            os.path.join(folder, name) for name in ("model", "toco", "graph")
        ]
        for path, proto in zip(paths, (model_flags, toco_flags, graph_def)):
            with open(path, "wb") as file:
                file.write(proto.SerializeToString())
        result, no_debug_info = (
            os.path.join(folder, name) for name in ("result", "debug")
        )
        open(no_debug_info, "wb").close()  # asked for by TensorFlow 1.15
        process = subprocess.run(
            [toco] + paths + [result, "--debug_proto_file=" + no_debug_info],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        log = process.stdout.decode(errors="replace")
        _checks.converted(process.returncode, log)
        with open(result, "rb") as file:
            return file.read()


# ---------------------------------------------------------------------------
# The file


def _table_class():
    try:
        import flatbuffers.table  # only export needs it
    except ImportError as error:
        _checks.flatbuffers_missing(error)
    return flatbuffers.table.Table


def _place(table, slot):
    """Where the field is in the file; 0 if the table does not have it."""
    offset = table.Offset(4 + 2 * slot)  # 4: the vtable's own header
    return offset and table.Pos + offset


def _tables(table, slot):
    """The tables of a vector of tables."""
    offset = table.Offset(4 + 2 * slot)
    first = table.Vector(offset)
    return [
        type(table)(table.Bytes, table.Indirect(first + 4 * number))
        for number in range(table.VectorLen(offset))
    ]


def _name(tensor):
    return tensor.String(_place(tensor, _NAME)).decode()


def _finished(table_class, model, states):
    """`model` with its states as inputs; checked to be all integers."""
    model = bytearray(model)
    root = table_class(model, int.from_bytes(model[:4], "little"))
    (subgraph,) = _tables(root, _SUBGRAPHS)
    tensors = _tables(subgraph, _TENSORS)
    numbers = {_name(tensor): number for number, tensor in enumerate(tensors)}
    for tensor in tensors:
        place = _place(tensor, _TYPE)  # absent for the default, float32
        integer = bool(place) and model[place] in _INTEGER_TYPES
        _checks.integer_tensor(_name(tensor), integer)
        place = _place(tensor, _IS_VARIABLE)
        if place:
            model[place] = 0
    _append_inputs(model, subgraph, [numbers[name] for name in states])
    return bytes(model)


def _append_inputs(model, subgraph, numbers):
    # A vector cannot grow where it is: a longer one goes to the end of the
    # file, 4-byte aligned, and the field is pointed at it.
    offset = subgraph.Offset(4 + 2 * _INPUTS)
    first, length = subgraph.Vector(offset), subgraph.VectorLen(offset)
    before = bytes(model[first : first + 4 * length])
    model += bytes(-len(model) % 4)
    place = _place(subgraph, _INPUTS)
    model[place : place + 4] = _int32(len(model) - place)
    model += _int32(length + len(numbers)) + before
    for number in numbers:
        model += _int32(number)


def _int32(number):
    return number.to_bytes(4, "little")
