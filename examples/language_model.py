"""A language model on real text: LSTMCell against WeightDropLSTMCell.

    python examples/language_model.py                  # Python's own manual
    python examples/language_model.py --data book.txt --level char
    python examples/language_model.py --data ptb/      # train.txt, valid.txt...
    python examples/language_model.py --resume         # after an interruption

Trains the same network twice, once with each cell, and prints the perplexity of
both on text that was held out, each at its best epoch. Nothing but the cell
differs: same sizes, same learning rate and rule for lowering it, same number of
epochs, and no other dropout. `make_cell` is where the library is used.

Everything is written to `--out`: `settings.json`, `curves.png`, and for each
cell a folder with checkpoints, progress and TensorBoard summaries
(`tensorboard --logdir runs/language_model`).

The code: the network and the command line are here, reading text is in
`text_data.py`, the training loop in `trainer.py`, files in `run_folder.py`.
"""

import argparse
import functools
import os
import sys

import run_folder
import tensorflow as tf
import text_data
import trainer

import awd_lstm_tf

TITLES = {"lstm": "LSTMCell", "weight_drop": "WeightDropLSTMCell"}
SAMPLE_TEMPERATURE = 0.8

# The network.


def make_cell(kind, flags, is_train):
    """One layer: the stock cell, or the same cell with weight drop."""
    if kind == "lstm":
        return tf.nn.rnn_cell.LSTMCell(flags.units)
    return awd_lstm_tf.WeightDropLSTMCell(
        flags.units,
        weight_drop_kr=flags.keep_rate,
        use_vd=True,  # one mask for all time steps of a window of text,
        auto_update=True,  # and a new one for the next window
        recurrent_only=not flags.whole_kernel,
        is_train=is_train,  # False: nothing is dropped
    )


def run_layers(cells, inputs, carried):
    """Runs LSTM layers over a window, from the carried state on.

    Args:
      cells: One cell for each layer.
      inputs: `[batch_size, time, units]`.
      carried: c and h of every layer, `[layers, 2, batch_size, units]`.

    Returns:
      The last layer's outputs, `[batch_size, time, units]`, and the new state,
      shaped as `carried`.
    """
    state = tuple(
        tf.nn.rnn_cell.LSTMStateTuple(carried[i, 0], carried[i, 1])
        for i in range(len(cells))
    )
    outputs, state = tf.nn.dynamic_rnn(
        tf.nn.rnn_cell.MultiRNNCell(cells), inputs, initial_state=state
    )
    return outputs, tf.stack([[c, h] for c, h in state])


class LanguageModel(object):
    """embedding -> LSTM layers -> softmax, over windows of tokens.

    Built more than once in a graph, for training, evaluation and sampling. The
    weights are shared; each has a carried state of its own, so that a window
    goes on where the window before it stopped. The softmax's weights are the
    embedding, transposed ("weight tying", arXiv 1608.05859).

    Args:
      kind: 'lstm' or 'weight_drop'.
      flags: Settings, see `parse_flags`.
      vocabulary_size: Number of tokens.
      batch_size: Rows of a window.
      is_train: Python bool; False switches weight drop off.
      name: Scope of the carried state.

    Attributes:
      inputs, targets: Placeholders, `[batch_size, time]` token ids.
      loss: Mean of -log(probability) over the window, in nats per token.
      probabilities: `[batch_size, vocabulary_size]`, of the token that follows.
      reset_state: Op that zeroes the carried state.
      carry_state: Op that moves the carried state past the window.
      summaries: What weight drop did, for TensorBoard.
    """

    def __init__(
        self, kind, flags, vocabulary_size, batch_size, is_train, name
    ):
        self.inputs = tf.placeholder(tf.int32, [batch_size, None])
        self.targets = tf.placeholder(tf.int32, [batch_size, None])
        carried = self._carried_state(flags, batch_size, name)

        with tf.variable_scope("model", reuse=tf.AUTO_REUSE):
            embedding = tf.get_variable(
                "embedding",
                [vocabulary_size, flags.units],
                initializer=tf.random_uniform_initializer(-0.1, 0.1),
            )
            bias = tf.get_variable(
                "bias", [vocabulary_size], initializer=tf.zeros_initializer()
            )
            cells = [
                make_cell(kind, flags, is_train) for _ in range(flags.layers)
            ]
            outputs, state = run_layers(
                cells, tf.nn.embedding_lookup(embedding, self.inputs), carried
            )
            logits = tf.tensordot(outputs, embedding, [[2], [1]]) + bias

        self.carry_state = carried.assign(state)
        self.loss = tf.reduce_mean(
            tf.nn.sparse_softmax_cross_entropy_with_logits(
                labels=self.targets, logits=logits
            )
        )
        self.probabilities = tf.nn.softmax(logits[:, -1] / SAMPLE_TEMPERATURE)
        self.summaries = []
        if kind == "weight_drop":
            self.summaries = awd_lstm_tf.mask_summaries(*cells)

    def _carried_state(self, flags, batch_size, name):
        """c and h of every layer, `[layers, 2, batch_size, units]`."""
        # A resource variable: a value read from it stays what it was when the
        # new state is assigned, and the gradient needs the old one.
        carried = tf.get_variable(
            name + "/state",
            [flags.layers, 2, batch_size, flags.units],
            initializer=tf.zeros_initializer(),
            trainable=False,
            use_resource=True,
        )
        self.reset_state = carried.initializer
        return carried


# The command line.


def positive(convert):
    """An argparse type for numbers greater than zero."""

    def parse(text):
        value = convert(text)
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(
                f"must be greater than 0, got {text}."
            )
        return value

    parse.__name__ = convert.__name__  # argparse says "invalid int value"
    return parse


def keep_rate(text):
    """An argparse type for numbers in (0, 1]."""
    value = float(text)
    if not 0.0 < value <= 1.0:
        raise argparse.ArgumentTypeError(f"must be in (0, 1], got {text}.")
    return value


def parse_flags(argv=None):
    """Settings from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_run_flags(parser.add_argument_group("the run").add_argument)
    add_model_flags(parser.add_argument_group("the model").add_argument)
    return parser.parse_args(argv)


def add_run_flags(add):
    """Flags that say what is read and written."""
    add(
        "--data",
        metavar="PATH",
        help="a text file (its last 10%% is held out), or a folder with "
        "train.txt, valid.txt and test.txt; without it, the documentation that "
        "comes with Python",
    )
    add("--level", choices=("word", "char"), default="word", help="of tokens")
    add(
        "--out",
        metavar="DIR",
        default="runs/language_model",
        help="where everything is written; an earlier run there is renamed",
    )
    add(
        "--resume",
        action="store_true",
        help="go on with the run in --out; give the other flags as before",
    )
    add(
        "--cells",
        nargs="+",
        choices=sorted(TITLES),
        default=sorted(TITLES),
        help="the cells to train, one after the other",
    )
    add(
        "--sample",
        type=positive(int),
        default=100,
        metavar="TOKENS",
        help="length of the text written at the end",
    )
    add(
        "--save-seconds",
        type=positive(float),
        default=60.0,
        help="longest time between checkpoints",
    )
    add(
        "--threads",
        type=int,
        default=0,
        help="of TensorFlow; 0 lets it choose",
    )


def add_model_flags(add):
    """Flags that say what is trained, and how."""
    add("--units", type=positive(int), default=200, help="of each layer")
    add("--layers", type=positive(int), default=1, help="of LSTM cells")
    add(
        "--keep-rate",
        type=keep_rate,
        default=0.3,
        help="share of the weights that weight drop keeps",
    )
    add(
        "--whole-kernel",
        action="store_true",
        help="drop the inputs' weights too; without it the hidden-to-hidden "
        "weights alone, as in the paper",
    )
    add("--batch-size", type=positive(int), default=20, help="rows of text")
    add(
        "--steps",
        type=positive(int),
        default=35,
        help="tokens of a row to propagate back through",
    )
    add("--epochs", type=positive(int), default=20, help="passes over the text")
    add(
        "--learning-rate",
        type=positive(float),
        default=2e-3,
        help="of Adam; halved after an epoch without improvement on the "
        "held-out text",
    )
    add("--seed", type=int, default=1, help="of initial weights and masks")


def make_trainer(kind, flags, corpus):
    """A trainer for one kind of cell, with a folder of its own in `--out`."""
    build_model = functools.partial(
        LanguageModel, kind, flags, len(corpus.vocabulary)
    )
    folder = os.path.join(flags.out, kind)
    return trainer.Trainer(build_model, flags, corpus, folder)


def run(flags):
    """Trains the models and shows what came of it."""
    corpus = text_data.load_corpus(flags.data, flags.level)
    text_data.check_length(
        corpus, flags.batch_size, flags.steps, trainer.HELD_OUT_BATCH_SIZE
    )
    run_folder.prepare(flags, corpus)
    print(
        f"{len(corpus.train)} {flags.level}s to train on, "
        f"{len(corpus.valid)} held out, {len(corpus.vocabulary)} different"
    )
    progress, samples = {}, {}
    for kind in flags.cells:
        training = make_trainer(kind, flags, corpus)
        training.train(TITLES[kind])
        training.restore(training.progress["best"]["checkpoint"])
        tokens = [corpus.vocabulary[i] for i in training.sample(flags.sample)]
        samples[TITLES[kind]] = text_data.to_text(tokens, flags.level)
        progress[TITLES[kind]] = training.progress
    report(flags, progress, samples)


def report(flags, progress, samples):
    """The sampled texts, the held-out figures and the picture's path."""
    for title in samples:
        print(f"\n--- sampled from {title} ---\n{samples[title]}")
    print(f"\nHeld-out perplexity per {flags.level}, at the best epoch:")
    for title in progress:
        best = progress[title]["best"]
        print(
            f"  {title:20}{best['held_out']:8.2f}  (epoch {best['epoch']} of "
            f"{len(progress[title]['curve'])})"
        )
    picture = os.path.join(flags.out, "curves.png")
    run_folder.draw_curves(picture, progress, flags.level)
    print("Curves:", picture)


def main(argv=None):
    """Returns the exit code: 2 when the user can mend what went wrong."""
    tf.logging.set_verbosity(tf.logging.ERROR)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # what the CPU has
    flags = parse_flags(argv)
    try:
        run(flags)
    except (run_folder.RunError, text_data.DataError) as error:
        print("error:", error, file=sys.stderr)
        return 2
    except trainer.DivergedError as error:
        print("error:", error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "Interrupted. The same command with --resume goes on from here.",
            file=sys.stderr,
        )
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
