"""A character model trained with fake quant, exported, run on integers.

    python examples/quantize_and_export.py                   # Python's manual
    python examples/quantize_and_export.py --data book.txt
    python examples/quantize_and_export.py --tied            # one table
    python examples/quantize_and_export.py --runtime venv/bin/python

Trains a network twice, with floats and with fake quant; exports the second as
TFLite models that hold nothing but integers, in both forms; and runs these step
by step on text that was held out. Prints the bits per character of each, how
far they are from the fake-quant graph, sizes and times.

TensorFlow 1.x runs the form "uint8" alone. `--runtime` names a Python that has
ai-edge-litert, tflite-runtime or tflite-micro, and runs all that this can. For
micro-controllers, `model_int16x8.cc` and `.h` hold the model as an array.
"""

import argparse
import collections
import json
import os
import subprocess
import sys

import numpy as np
import tensorflow as tf
from language_model import read_text

import awd_lstm_tf
import awd_lstm_tf.tflite

FORMS = ("uint8", "int16x8")
EMBEDDING = 32  # size of a character's vector
ROWS, STEPS = 32, 32  # windows of text per training step, characters of each
LEARNING_RATE = 0.01  # at the start
FOLDER = os.path.dirname(os.path.abspath(__file__))
RUNNER = os.path.join(FOLDER, os.pardir, "benchmarks", "run_tflite.py")


class Network(object):
    """embedding -> LSTM -> logits, in a graph of its own.

    With `is_train` over windows of text; else of a single step, whose state is
    fed and fetched. Without `is_quant`, of floats all through.
    """

    def __init__(self, flags, characters, is_quant, is_train):
        name = "fake_quant" if is_quant else "float"
        self.checkpoint = os.path.join(flags.out, name)
        self.graph, self.threads = tf.Graph(), flags.threads
        with self.graph.as_default():
            tf.set_random_seed(flags.seed)
            # With and without fake quant, weights begin alike.
            start = tf.glorot_uniform_initializer(flags.seed)
            tf.get_variable_scope().set_initializer(start)
            self._build(flags, characters, is_quant, is_train)
            if is_quant:
                rewrite(is_train, delay=flags.steps // 2)
            if is_train:  # only now: rewriting does not work after `minimize`
                step = tf.train.get_or_create_global_step()
                rate = tf.train.exponential_decay(
                    LEARNING_RATE, step, max(flags.steps // 3, 1), 0.5
                )
                optimizer = tf.train.AdamOptimizer(rate)
                self.train_op = optimizer.minimize(self.loss, step)
            self.saver = tf.train.Saver()

    def _build(self, flags, characters, is_quant, is_train):
        shape = [ROWS, STEPS] if is_train else [1]
        self.ids = tf.placeholder(tf.int32, shape, name="ids")
        self.targets = tf.placeholder(tf.int32, shape, name="targets")
        size = flags.units if flags.tied else EMBEDDING
        table = tf.get_variable("table", [characters, size])
        # The cell clips what is outside of [-1, 1). Rows that are softmax
        # weights, too, must be free to leave it.
        inputs = tf.gather(table if flags.tied else tf.tanh(table), self.ids)
        cell = awd_lstm_tf.WeightDropLSTMCell(
            flags.units,
            weight_drop_kr=flags.keep_rate,
            use_vd=True,
            auto_update=True,
            is_quant=is_quant,
            is_train=is_train,
        )
        if is_train:
            outputs, _ = tf.nn.dynamic_rnn(cell, inputs, dtype=tf.float32)
        else:
            self.state = tf.nn.rnn_cell.LSTMStateTuple(
                tf.placeholder(tf.float32, [1, flags.units], name="c"),
                tf.placeholder(tf.float32, [1, flags.units], name="h"),
            )
            with tf.variable_scope("rnn"):  # as dynamic_rnn names it
                outputs, self.new_state = cell(inputs, self.state)
        outputs = tf.reshape(outputs, [-1, flags.units])
        if flags.tied:
            bias = tf.get_variable("bias", [characters])
            products = tf.matmul(outputs, table, transpose_b=True)
            self.logits = tf.nn.bias_add(products, bias)
        else:
            self.logits = tf.layers.dense(outputs, characters, name="logits")
        # Rewritten, it sees the logits rounded as the integer model's are.
        self.loss = tf.losses.sparse_softmax_cross_entropy(
            tf.reshape(self.targets, [-1]), self.logits
        )

    def session(self, trained=True):
        config = tf.ConfigProto(
            intra_op_parallelism_threads=self.threads,
            inter_op_parallelism_threads=self.threads,
        )
        session = tf.Session(graph=self.graph, config=config)
        if trained:
            self.saver.restore(session, self.checkpoint)
        return session


def rewrite(is_train, delay):
    """Gives the layers around the cell fake quant.

    From TensorFlow 1.13 on with symmetric ranges: the weights of "int16x8" have
    no zero points. And with a delay: the logits' range is their average over a
    thousand steps; while they still grow fast, it would clip them.
    """
    rewriter = tf.contrib.quantize
    options = {"symmetric": True} if hasattr(tf, "lite") else {}
    if is_train:
        options["quant_delay"] = delay
        rewriter.experimental_create_training_graph(**options)
    else:
        rewriter.experimental_create_eval_graph(**options)


def load(flags):
    """Ids to train on, ids held out, and the number of different characters."""
    try:
        text = read_text(flags.data)
    except (OSError, UnicodeDecodeError) as error:
        sys.exit(f"error: `--data` must be a UTF-8 text: {error}")
    cut = int(0.9 * len(text))
    if cut <= ROWS * STEPS:
        sys.exit(f"error: `--data` is too short, {len(text)} characters.")
    counts = collections.Counter(text[:cut])
    common = sorted(counts, key=lambda x: (-counts[x], x))
    ids = {character: i for i, character in enumerate(common, 1)}
    ids = np.array([ids.get(x, 0) for x in text], np.int32)
    return ids[:cut], ids[cut:], len(common) + 1


def train(flags, ids, characters, is_quant):
    """Trains on random windows of the text, and saves."""
    network = Network(flags, characters, is_quant, is_train=True)
    random = np.random.RandomState(flags.seed)
    with network.session(trained=False) as session:
        with network.graph.as_default():
            session.run(tf.global_variables_initializer())
        for step in range(flags.steps):
            starts = random.randint(0, len(ids) - STEPS, ROWS)
            text = ids[starts[:, None] + np.arange(STEPS + 1)]
            feed = {network.ids: text[:, :-1], network.targets: text[:, 1:]}
            loss, _ = session.run([network.loss, network.train_op], feed)
            if step % 100 == 0:
                print(f"  step {step}: {loss / np.log(2):.3f} bits", flush=True)
        network.saver.save(session, network.checkpoint)


def evaluate(flags, ids, characters, is_quant):
    """The logits for each of `ids`, one after the other."""
    network = Network(flags, characters, is_quant, is_train=False)
    logits, found = network.logits, []
    state = [np.zeros([1, flags.units])] * 2
    for user in logits.consumers():
        if user.type.startswith("FakeQuant"):
            (logits,) = user.outputs
    with network.session() as session:
        for number in ids:
            feed = dict(zip(network.state, state))
            feed[network.ids] = [number]
            *state, row = session.run([*network.new_state, logits], feed)
            found.append(row[0])
    return np.array(found)


def bits_per_character(logits, targets):
    """Mean of -log2 of the probability given to what came."""
    logits = logits - logits.max(axis=1, keepdims=True)
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return -logs[np.arange(len(targets)), targets].mean() / np.log(2)


def export(flags, characters, form):
    """The trained network as the bytes of a TFLite model."""
    network = Network(flags, characters, form in FORMS, is_train=False)
    with network.session() as session:
        if form in FORMS:
            states = list(zip(network.state, network.new_state))
            return awd_lstm_tf.tflite.convert(
                session, [network.ids], [network.logits], states, form=form
            )
        # Floats, to compare with: by a program looked for on PATH alone.
        folder = os.path.dirname(sys.executable)
        os.environ["PATH"] = folder + os.pathsep + os.environ.get("PATH", "")
        converter = tf.lite.TFLiteConverter.from_session(
            session,
            [network.ids, *network.state],
            [network.logits, *network.new_state],
        )
        return converter.convert()


ARRAY = """#include "model_int16x8.h"

alignas(16) const unsigned char g_model[] = {{
{rows}}};
const unsigned int g_model_len = {length};
"""
HEADER = """#pragma once

// For tflite::GetModel; inputs: ids (int32), c, h (int16); outputs: logits,
// then the new c and h, which are fed back as they are. Begin with zeros.
extern const unsigned char g_model[];
extern const unsigned int g_model_len;

// Bytes of TFLite Micro's arena, as --runtime measured it: {arena}
"""


def write_c_array(folder, content, arena):
    """Writes a model as `model_int16x8.cc` and `model_int16x8.h`."""
    rows = ""
    for start in range(0, len(content), 12):
        row = content[start : start + 12]
        rows += "    " + " ".join(f"0x{byte:02x}," for byte in row) + "\n"
    with open(os.path.join(folder, "model_int16x8.cc"), "w") as file:
        file.write(ARRAY.format(rows=rows, length=len(content)))
    with open(os.path.join(folder, "model_int16x8.h"), "w") as file:
        file.write(HEADER.format(arena=arena or "unknown"))


def run_steps(python, path, ids):
    """Runs a model step by step in a Python that has a runtime for it.

    Returns what that tells, and the logits; None where it cannot.
    """
    ends = [path + ".in.npz", path + ".out.npz"]
    np.savez(ends[0], input_0=ids)
    done = subprocess.run(
        [python, RUNNER, path, "--arena", *ends],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
    )
    if done.returncode:
        (*_, said) = done.stderr.strip().splitlines() or [""]
        print(f"    {python} does not run it: {said}")
        return None
    found = json.loads(done.stdout.splitlines()[-1])
    with np.load(ends[1]) as outputs:
        integers = outputs["output_0"].reshape(len(ids), -1)
    logits = found["outputs"][0]
    found["scale"] = logits["scale"] or 1.0  # 0 for floats
    found["logits"] = found["scale"] * (integers - float(logits["zero_point"]))
    return found


def compare(flags, name, content, ids, targets, rounded):
    """Runs a model in all Pythons given, and prints how good it is in each."""
    path = os.path.join(flags.out, f"model_{name}.tflite")
    with open(path, "wb") as file:
        file.write(content)
    print(f"  {name}, {len(content)} bytes")
    # TensorFlow 1.x has no kernels for int16x8.
    pythons = [sys.executable] * (name != "int16x8") + flags.runtime
    ran = list(filter(None, (run_steps(each, path, ids) for each in pythons)))
    for found in ran:
        found["bits"] = bits_per_character(found["logits"], targets)
        line = f"    in {found['runtime']:18} {found['bits']:.4f} bits, "
        line += f"{found['microseconds']:.0f} microseconds per character"
        if name in FORMS:
            off = np.abs(np.round((found["logits"] - rounded) / found["scale"]))
            found.update(equal=np.mean(off == 0), largest=int(off.max()))
            line += f"; {found['equal']:.2%} of the logits are fake quant's, "
            line += f"the others at most {found['largest']} step(s) off"
        print(line)
    return ran


def run(flags):
    """Trains, exports, compares; returns what it prints."""
    train_ids, held_out, characters = load(flags)
    os.makedirs(flags.out, exist_ok=True)
    ids, targets = held_out[: flags.held_out], held_out[1 : flags.held_out + 1]
    bits, sizes, ran = {}, {}, {}
    for name in ("float", "fake_quant"):
        print(f"Training, {name}:", flush=True)
        is_quant = name == "fake_quant"
        train(flags, train_ids, characters, is_quant)
        logits = evaluate(flags, ids, characters, is_quant)
        bits[name] = bits_per_character(logits, targets)
    print(f"\nBits per character on {len(ids)} characters held out:")
    for name in bits:
        print(f"  {name} in the graph: {bits[name]:.4f}")
    for name in FORMS + ("float",) * hasattr(tf, "lite"):
        content = export(flags, characters, name)
        sizes[name] = len(content)
        ran[name] = compare(flags, name, content, ids, targets, logits)
        if name == "int16x8":
            arena = max([0] + [x.get("arena_bytes", 0) for x in ran[name]])
            write_c_array(flags.out, content, arena)
            print(f"    Arena of TFLite Micro: {arena or 'unknown'} bytes")
    return dict(bits, bytes=sizes, ran=ran)


def parse(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--data", help="a text file; without it, Python's own manual")
    add("--out", default="runs/quantize_and_export", help="folder to write to")
    add("--units", type=int, default=128, help="of the LSTM")
    add("--tied", action="store_true", help="the table is softmax weights, too")
    add(
        "--runtime",
        action="append",
        default=[],
        help="a Python that has ai-edge-litert, tflite-runtime or tflite-micro",
    )
    add("--keep-rate", type=float, default=0.7, help="of the kernel's weights")
    add("--steps", type=int, default=2000, help="of training, for each model")
    add("--held-out", type=int, default=2000, help="characters to compare on")
    add("--threads", type=int, default=0, help="0: as many as there are cores")
    add("--seed", type=int, default=1, help="of the weights and windows")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    tf.logging.set_verbosity(tf.logging.ERROR)
    run(parse())
