"""A character model trained with fake quant, exported, run on integers.

    python examples/quantize_and_export.py                   # Python's manual
    python examples/quantize_and_export.py --data book.txt
    python examples/quantize_and_export.py --steps 300       # a quick look
    python examples/quantize_and_export.py --tied            # one table

Trains the same network twice, with floats and with fake quant; exports the
second as TFLite models that hold nothing but integers, in both forms; and runs
these step by step on text that was held out. Prints the bits per character of
each, how far the integer models are from the fake-quant graph, and sizes and
times.

TensorFlow 1.x runs the form "uint8" alone. For "int16x8" name Pythons that have
a runtime of today, and all models are run there, too:

    --runtime venv/bin/python    which has ai-edge-litert, tflite-runtime or
                                 tflite-micro (with this, the arena's size)

For micro-controllers, `model_int16x8.cc` and `.h` hold the model as an array.

What to look at: `CharacterModel` for where fake quant goes and which rewriter
to call when, `export` for what `awd_lstm_tf.tflite.convert` needs, and
`run_steps` in run_tflite.py for how a state is fed.
"""

import argparse
import collections
import json
import os
import subprocess
import sys
import tempfile

import numpy as np
import run_tflite
import tensorflow as tf
from language_model import read_text

import awd_lstm_tf
import awd_lstm_tf.tflite

FORMS = ("uint8", "int16x8")


class CharacterModel(object):
    """embedding -> LSTM -> logits, in a graph of its own.

    Args:
      flags: sizes, see `parse`.
      characters: size of the vocabulary.
      shape: `(batch, time)` of the ids; `time` is None for a single step, whose
        state is fed and fetched.
      is_quant: False: floats all through.
      is_train: for training, or for evaluation.
    """

    def __init__(self, flags, characters, shape, is_quant, is_train):
        self.graph = tf.Graph()
        with self.graph.as_default():
            tf.set_random_seed(flags.seed)
            self._build(flags, characters, shape, is_quant, is_train)
            if is_quant:
                # In training before `minimize`: it does not work after.
                rewrite(is_train)
            if is_train:
                self.train_op = self._train_op(flags)
            self.saver = tf.train.Saver()

    def _build(self, flags, characters, shape, is_quant, is_train):
        batch, steps = shape
        size = [batch] if steps is None else [batch, steps]
        self.ids = tf.placeholder(tf.int32, size, name="ids")
        self.targets = tf.placeholder(tf.int32, size, name="targets")
        if flags.tied:
            # The rows are softmax weights, too, and may leave [-1, 1), where
            # the cell clips its inputs.
            table = tf.get_variable("table", [characters, flags.units])
            inputs = tf.gather(table, self.ids)
        else:
            table = tf.get_variable("table", [characters, flags.embedding])
            inputs = tf.gather(tf.tanh(table), self.ids)
        cell = awd_lstm_tf.WeightDropLSTMCell(
            flags.units,
            weight_drop_kr=flags.keep_rate,
            use_vd=True,
            auto_update=True,
            is_quant=is_quant,
            is_train=is_train,
        )
        self.state = tf.nn.rnn_cell.LSTMStateTuple(
            tf.placeholder(tf.float32, [batch, flags.units], name="c"),
            tf.placeholder(tf.float32, [batch, flags.units], name="h"),
        )
        if steps is None:
            with tf.variable_scope("rnn"):  # as dynamic_rnn names it
                outputs, self.new_state = cell(inputs, self.state)
        else:
            outputs, self.new_state = tf.nn.dynamic_rnn(
                cell, inputs, initial_state=self.state
            )
        outputs = tf.reshape(outputs, [-1, flags.units])
        if flags.tied:
            bias = tf.get_variable(
                "bias", [characters], initializer=tf.zeros_initializer()
            )
            products = tf.matmul(outputs, table, transpose_b=True)
            self.logits = tf.nn.bias_add(products, bias)
        else:
            self.logits = tf.layers.dense(outputs, characters, name="logits")
        # Losses see the logits rounded as the integer model's are.
        self.loss = tf.losses.sparse_softmax_cross_entropy(
            tf.reshape(self.targets, [-1]), self.logits
        )

    def _train_op(self, flags):
        step = tf.train.get_or_create_global_step()
        rate = tf.train.exponential_decay(
            flags.learning_rate, step, max(flags.steps // 3, 1), 0.5
        )
        return tf.train.AdamOptimizer(rate).minimize(self.loss, step)

    def session(self, threads):
        config = tf.ConfigProto(
            intra_op_parallelism_threads=threads,
            inter_op_parallelism_threads=threads,
        )
        return tf.Session(graph=self.graph, config=config)


def rewrite(is_train):
    """Gives the layers around the cell fake quant.

    With symmetric ranges, from TensorFlow 1.13 on: the weights of "int16x8"
    have no zero points.
    """
    rewriter = tf.contrib.quantize
    if not hasattr(tf, "lite"):
        if is_train:
            rewriter.create_training_graph()
        else:
            rewriter.create_eval_graph()
    elif is_train:
        rewriter.experimental_create_training_graph(symmetric=True)
    else:
        rewriter.experimental_create_eval_graph(symmetric=True)


def zero_state(model):
    return {
        part: np.zeros(part.shape.as_list(), np.float32) for part in model.state
    }


def load(flags):
    """Ids to train on, ids held out, and the number of different characters."""
    try:
        text = read_text(flags.data)
    except (OSError, UnicodeDecodeError) as error:
        sys.exit(f"error: `--data` must be a UTF-8 text: {error}")
    cut = int(0.9 * len(text))
    if cut <= flags.batch_size * flags.window:
        sys.exit(f"error: `--data` is too short, {len(text)} characters.")
    counts = collections.Counter(text[:cut])
    common = sorted(counts, key=lambda x: (-counts[x], x))
    ids = {character: i for i, character in enumerate(common, 1)}
    ids = np.array([ids.get(x, 0) for x in text], np.int32)
    return ids[:cut], ids[cut:], len(common) + 1


def train(flags, ids, characters, is_quant, checkpoint):
    """Trains on random windows of the text, and saves."""
    shape = (flags.batch_size, flags.window)
    model = CharacterModel(flags, characters, shape, is_quant, is_train=True)
    random = np.random.RandomState(flags.seed)
    with model.session(flags.threads) as session:
        with model.graph.as_default():
            session.run(tf.global_variables_initializer())
        for step in range(flags.steps):
            starts = random.randint(
                0, len(ids) - flags.window, flags.batch_size
            )
            spans = starts[:, None] + np.arange(flags.window + 1)
            text = ids[np.minimum(spans, len(ids) - 1)]
            feed = {model.ids: text[:, :-1], model.targets: text[:, 1:]}
            loss, _ = session.run(
                [model.loss, model.train_op], {**feed, **zero_state(model)}
            )
            if step % 100 == 0 or step == flags.steps - 1:
                print(
                    f"  step {step}: {loss / np.log(2):.3f} bits per character",
                    flush=True,
                )
        model.saver.save(session, checkpoint)


def bits_per_character(logits, targets):
    """Mean of -log2 of the probability given to what came."""
    logits = logits - logits.max(axis=1, keepdims=True)
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return -logs[np.arange(len(targets)), targets].mean() / np.log(2)


def evaluate(flags, characters, ids, is_quant, checkpoint):
    """The logits for each of `ids`, one after the other."""
    model = CharacterModel(flags, characters, (1, None), is_quant, False)
    logits = rounded_logits(model) if is_quant else model.logits
    with model.session(flags.threads) as session:
        model.saver.restore(session, checkpoint)
        state, found = list(zero_state(model).values()), []
        for number in ids:
            feed = dict(zip(model.state, state))
            feed[model.ids] = [number]
            *state, row = session.run([*model.new_state, logits], feed)
            found.append(row[0])
    return np.array(found)


def rounded_logits(model):
    """What the rewriter's fake quant makes of the logits."""
    return next(
        user.outputs[0]
        for user in model.logits.consumers()
        if user.type.startswith("FakeQuant")
    )


def export(flags, characters, checkpoint, form):
    """The trained model as the bytes of a TFLite model."""
    model = CharacterModel(flags, characters, (1, None), True, False)
    with model.session(flags.threads) as session:
        model.saver.restore(session, checkpoint)
        return awd_lstm_tf.tflite.convert(
            session,
            inputs=[model.ids],
            outputs=[model.logits],
            states=list(zip(model.state, model.new_state)),
            form=form,
        )


def export_floats(flags, characters, checkpoint):
    """The model of floats in TFLite, to compare times; None before 1.13."""
    if not hasattr(tf, "lite"):
        return None
    # TensorFlow looks for its converter on PATH alone.
    folders = [os.path.dirname(sys.executable), os.environ.get("PATH", "")]
    os.environ["PATH"] = os.pathsep.join(folders)
    model = CharacterModel(flags, characters, (1, None), False, False)
    with model.session(flags.threads) as session:
        model.saver.restore(session, checkpoint)
        converter = tf.lite.TFLiteConverter.from_session(
            session,
            [model.ids, *model.state],
            [model.logits, *model.new_state],
        )
        return converter.convert()


ARRAY = """// Made by examples/quantize_and_export.py.
#include "{header}"

alignas(16) const unsigned char g_model[] = {{
{rows}
}};
const unsigned int g_model_len = {length};
"""
HEADER = """// Made by examples/quantize_and_export.py.
#ifndef MODEL_INT16X8_H_
#define MODEL_INT16X8_H_

// For tflite::GetModel; inputs: ids (int32), c, h (int16); outputs: logits,
// then the new c and h, which are fed back as they are. Begin with zeros.
extern const unsigned char g_model[];
extern const unsigned int g_model_len;

// Of TFLite Micro's arena: {arena}
#endif  // MODEL_INT16X8_H_
"""


def write_c_array(stem, content, arena_bytes):
    """Writes a model as `stem.cc` and `stem.h`."""
    rows = [
        "    " + " ".join(f"0x{byte:02x}," for byte in content[start:][:12])
        for start in range(0, len(content), 12)
    ]
    arena = f"{arena_bytes} bytes on the machine that measured it."
    if arena_bytes is None:
        arena = "give --runtime a Python that has tflite-micro to learn it."
    with open(stem + ".cc", "w") as file:
        header = os.path.basename(stem) + ".h"
        file.write(
            ARRAY.format(
                header=header, rows="\n".join(rows), length=len(content)
            )
        )
    with open(stem + ".h", "w") as file:
        file.write(HEADER.format(arena=arena))


class Ran(object):
    """What one runtime made of one model.

    Args:
      told: what run_tflite.py tells about it.
      integers: the logits of all steps.
    """

    def __init__(self, told, integers):
        self.runtime, self.microseconds = told["runtime"], told["microseconds"]
        self.arena_bytes = told.get("arena_bytes")
        (self.logits, *_) = told["outputs"]
        self.integers = integers

    def reals(self):
        if not self.logits["scale"]:  # floats
            return self.integers
        integers = self.integers.astype(np.float64)
        return (integers - self.logits["zero_point"]) * self.logits["scale"]


def run_here(content, ids):
    """Runs a model in this Python's runtime."""
    runtime = run_tflite.find_runtime()
    model = runtime(content)
    outputs, microseconds = run_tflite.run_steps(model, [ids])
    told = dict(
        runtime=runtime.name, microseconds=microseconds, outputs=model.outputs
    )
    return Ran(told, outputs[0].reshape(len(ids), -1))


def run_there(python, path, ids):
    """Runs a model in another Python; None where that has no such kernels."""
    with tempfile.TemporaryDirectory() as folder:
        ends = [os.path.join(folder, name) for name in ("in.npz", "out.npz")]
        np.savez(ends[0], input_0=ids)
        done = subprocess.run(
            [python, run_tflite.__file__, path, "--arena"] + ends,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            universal_newlines=True,
        )
        if done.returncode:
            (*_, said) = done.stderr.strip().splitlines() or [""]
            print(f"{python} does not run {path}: {said}")
            return None
        told = json.loads(done.stdout.splitlines()[-1])
        with np.load(ends[1]) as data:
            return Ran(told, data["output_0"].reshape(len(ids), -1))


def run_everywhere(flags, name, content, ids):
    """Runs a model here, if this TensorFlow can, and in all Pythons given."""
    path = os.path.join(flags.out, f"model_{name}.tflite")
    with open(path, "wb") as file:
        file.write(content)
    ran = []
    if name != "int16x8" or tf.__version__ >= "2":
        ran.append(run_here(content, ids))
    for python in flags.runtime:
        found = run_there(python, path, ids)
        if found:
            ran.append(found)
    return ran


def run(flags):
    """Trains, exports, compares; returns what it prints, as a dict."""
    train_ids, held_out, characters = load(flags)
    os.makedirs(flags.out, exist_ok=True)
    paths = {
        name: os.path.join(flags.out, name) for name in ("float", "quantized")
    }
    for name, path in paths.items():
        print(f"Training, {name}:", flush=True)
        train(flags, train_ids, characters, name == "quantized", path)

    ids = held_out[: flags.held_out + 1]
    ids, targets = ids[:-1], ids[1:]
    reals = evaluate(flags, characters, ids, False, paths["float"])
    rounded = evaluate(flags, characters, ids, True, paths["quantized"])
    contents = {
        form: export(flags, characters, paths["quantized"], form)
        for form in FORMS
    }
    contents["float"] = export_floats(flags, characters, paths["float"])
    models = {
        name: run_everywhere(flags, name, content, ids)
        for name, content in contents.items()
        if content
    }
    stem = os.path.join(flags.out, "model_int16x8")
    arenas = [ran.arena_bytes for ran in models["int16x8"] if ran.arena_bytes]
    write_c_array(stem, contents["int16x8"], arenas[0] if arenas else None)
    return {
        "float": bits_per_character(reals, targets),
        "fake_quant": bits_per_character(rounded, targets),
        "steps": len(ids),
        "float_bytes": 4 * count_weights(paths["float"]),
        "arena_bytes": arenas[0] if arenas else None,
        "bytes": {form: len(contents[form]) for form in FORMS},
        "ran": {
            name: [compared(ran, rounded, targets) for ran in found]
            for name, found in models.items()
        },
    }


def count_weights(checkpoint):
    return sum(
        int(np.prod(shape))
        for name, shape in tf.train.list_variables(checkpoint)
        if "Adam" not in name and shape  # nor the step, nor powers of betas
    )


def compared(ran, rounded, targets):
    """How good a model is in one runtime, and how far off its logits are."""
    reals = ran.reals()
    found = {
        "runtime": ran.runtime,
        "microseconds": ran.microseconds,
        "bits": bits_per_character(reals, targets),
    }
    if ran.logits["scale"]:
        off = np.abs(np.round((reals - rounded) / ran.logits["scale"]))
        found.update(equal=np.mean(off == 0), largest=int(off.max()))
    return found


def report(results):
    """Prints what `run` found."""
    print(f"\nBits per character on {results['steps']} characters held out:")
    print(f"  float        {results['float']:.4f}")
    print(f"  fake quant   {results['fake_quant']:.4f}")
    for name, found in results["ran"].items():
        for each in found:
            print(
                f"  {name:<8} in {each['runtime']}: {each['bits']:.4f}, "
                f"{each['microseconds']:.0f} microseconds per character"
            )
            if "equal" in each:
                print(
                    f"    logits {each['equal']:.2%} equal to the fake-quant "
                    f"graph's, the others off by at most {each['largest']} "
                    "quantization step(s)"
                )
    print(f"Bytes: {results['float_bytes']} of the float weights")
    for form, size in results["bytes"].items():
        print(f"  {form}: {size}, {size / results['float_bytes']:.2f} of them")
    if results["arena_bytes"]:
        print(f"Arena of TFLite Micro: {results['arena_bytes']} bytes")


def parse(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--data", help="a text file; without it, Python's own manual")
    add("--out", default="runs/quantize_and_export", help="folder to write to")
    add("--units", type=int, default=128, help="of the LSTM")
    add(
        "--embedding", type=int, default=32, help="size of a character's vector"
    )
    add("--tied", action="store_true", help="the table is softmax weights, too")
    add(
        "--runtime",
        action="append",
        default=[],
        help="a Python that has ai-edge-litert, tflite-runtime or tflite-micro",
    )
    add("--keep-rate", type=float, default=1.0, help="of the kernel's weights")
    add("--steps", type=int, default=2000, help="of training, for each model")
    add("--batch-size", type=int, default=32, help="windows per step")
    add("--window", type=int, default=32, help="characters per window")
    add("--learning-rate", type=float, default=0.01, help="at the start")
    add("--held-out", type=int, default=2000, help="characters to compare on")
    add("--threads", type=int, default=0, help="0: as many as there are cores")
    add("--seed", type=int, default=1, help="of the weights and windows")
    return parser.parse_args(arguments)


def main(arguments=None):
    report(run(parse(arguments)))


if __name__ == "__main__":
    tf.logging.set_verbosity(tf.logging.ERROR)
    main()
