"""A character model trained with fake quant, exported, run on integers.

    python examples/quantize_and_export.py                   # Python's manual
    python examples/quantize_and_export.py --data book.txt
    python examples/quantize_and_export.py --steps 300       # a quick look

Trains the same network twice, with floats and with fake quant; exports the
second as a TFLite model that holds nothing but integers; and runs that step by
step on text that was held out. Prints the bits per character of all three, how
far the integer model is from the fake-quant graph, and sizes and times.

What to look at: `CharacterModel` for where fake quant goes and which rewriter
to call when, `export` for what `awd_lstm_tf.tflite.convert` needs, and
`IntegerModel` for how a state is fed.
"""

import argparse
import collections
import os
import sys
import time

import numpy as np
import tensorflow as tf
from language_model import read_text

import awd_lstm_tf
import awd_lstm_tf.tflite


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
            if is_quant and is_train:
                # Before `minimize`, which it does not work after.
                tf.contrib.quantize.create_training_graph()
            elif is_quant:
                tf.contrib.quantize.create_eval_graph()
            if is_train:
                self.train_op = self._train_op(flags)
            self.saver = tf.train.Saver()

    def _build(self, flags, characters, shape, is_quant, is_train):
        batch, steps = shape
        size = [batch] if steps is None else [batch, steps]
        self.ids = tf.placeholder(tf.int32, size, name="ids")
        self.targets = tf.placeholder(tf.int32, size, name="targets")
        table = tf.get_variable("table", [characters, flags.embedding])
        # The cell clips what is outside of [-1, 1); tanh keeps it inside.
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


def export(flags, characters, checkpoint):
    """The trained model as the bytes of a TFLite model."""
    model = CharacterModel(flags, characters, (1, None), True, False)
    with model.session(flags.threads) as session:
        model.saver.restore(session, checkpoint)
        return awd_lstm_tf.tflite.convert(
            session,
            inputs=[model.ids],
            outputs=[model.logits],
            states=list(zip(model.state, model.new_state)),
        )


class IntegerModel(object):
    """The exported model, which keeps its state from step to step.

    Args:
      content: bytes of a TFLite model whose first input is ids, whose first
        output is logits, and whose other inputs and outputs are states.
    """

    def __init__(self, content):
        # In TensorFlow 1.11 and 1.12 it is tf.contrib.lite.
        lite = tf.lite if hasattr(tf, "lite") else tf.contrib.lite
        self.interpreter = lite.Interpreter(model_content=content)
        self.interpreter.allocate_tensors()
        self.ids, *self.old = self.interpreter.get_input_details()
        self.logits, *self.new = self.interpreter.get_output_details()
        for old in self.old:
            # A state of zeros is one of zero points.
            _, zero_point = old["quantization"]
            zeros = np.full(old["shape"], zero_point, old["dtype"])
            self.interpreter.set_tensor(old["index"], zeros)

    def step(self, number):
        """The logits, as integers, after one more character."""
        interpreter = self.interpreter
        interpreter.set_tensor(self.ids["index"], np.int32([number]))
        interpreter.invoke()
        state = [interpreter.get_tensor(new["index"]) for new in self.new]
        for old, value in zip(self.old, state):
            interpreter.set_tensor(old["index"], value)
        return interpreter.get_tensor(self.logits["index"])[0]

    def to_real(self, integers):
        scale, zero_point = self.logits["quantization"]
        return (integers.astype(np.float64) - zero_point) * scale

    def types(self):
        """Names of the types of all tensors."""
        if not hasattr(self.interpreter, "get_tensor_details"):
            return ["told by TensorFlow 1.13 or later"]
        details = self.interpreter.get_tensor_details()
        return sorted({np.dtype(detail["dtype"]).name for detail in details})


def run_integers(content, ids):
    """Integer logits for `ids`, and seconds per step."""
    model = IntegerModel(content)
    start = time.perf_counter()
    integers = np.array([model.step(number) for number in ids])
    return model, integers, (time.perf_counter() - start) / len(ids)


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
    content = export(flags, characters, paths["quantized"])
    with open(os.path.join(flags.out, "model.tflite"), "wb") as file:
        file.write(content)

    ids = held_out[: flags.held_out + 1]
    ids, targets = ids[:-1], ids[1:]
    reals = evaluate(flags, characters, ids, False, paths["float"])
    rounded = evaluate(flags, characters, ids, True, paths["quantized"])
    model, integers, seconds = run_integers(content, ids)
    scale = model.logits["quantization"][0]
    off = np.abs(np.round((model.to_real(integers) - rounded) / scale))
    weights = sum(
        int(np.prod(shape))
        for name, shape in tf.train.list_variables(paths["float"])
        if "Adam" not in name and shape  # nor the step, nor powers of betas
    )
    return {
        "float": bits_per_character(reals, targets),
        "fake_quant": bits_per_character(rounded, targets),
        "integer": bits_per_character(model.to_real(integers), targets),
        "steps": len(ids),
        "equal": np.mean(off == 0),
        "largest": int(off.max()),
        "float_bytes": 4 * weights,
        "bytes": len(content),
        "seconds": seconds,
        "types": model.types(),
    }


REPORT = """
Bits per character on {steps} characters held out:
  float        {float:.3f}
  fake quant   {fake_quant:.3f}
  integers     {integer:.3f}
Integer logits against the fake-quant graph's, each with a state of its own:
  {equal:.2%} equal, the others off by at most {largest} quantization step(s)
Size: {bytes} bytes, {ratio:.2f} of the {float_bytes} of the float weights
Time: {microseconds:.0f} microseconds per character
Types of the model's tensors: {names}"""


def report(results):
    """Prints what `run` found."""
    print(
        REPORT.format(
            ratio=results["bytes"] / results["float_bytes"],
            microseconds=1e6 * results["seconds"],
            names=", ".join(results["types"]),
            **results,
        )
    )


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
