"""Trains the language model that the evidence is made with, in any setting.

    python benchmarks/train.py                  # Python's own manual
    python benchmarks/train.py --resume         # after an interruption
    python benchmarks/train.py --config shakespeare --data input.txt
    python benchmarks/train.py --config medium --data ptb/
    python benchmarks/train.py --without ar tar --models recipe

Trains one network twice, `plain`, with no regulariser at all, and `recipe`, and
prints how well both predict text that was held out, each at its best epoch. The
recipe (arXiv 1708.02182): weight drop, locked dropout, embedding dropout, AR,
TAR, weight tying, windows of varying length, NT-ASGD, fine-tuning, and the
cache pointer (arXiv 1612.04426) at the end. Each has a setting; `--config`
sets them all; `--without` leaves parts out. `examples/language_model.py` is the
same in one short file, for reading.

Everything is written to `--out`: `settings.json`, `curves.png`, and for each
model a folder with checkpoints, progress and TensorBoard summaries
(`tensorboard --logdir runs/train`).

`--data` takes a text file, or a folder with the train, valid and test parts of
PTB (ptb.train.txt, ...: in the `data` folder of Mikolov's simple-examples.tgz)
or WikiText-2 (wiki.train.tokens, ...: in wikitext-2-v1.zip).

The network is in `tf_awd_lstm.py`, named settings in `configurations.py`,
reading text in `text_data.py`, the training loop in `trainer.py`, the cache in
`cache_pointer.py`, files in `run_folder.py`.
"""

import argparse
import functools
import os
import sys

import configurations
import run_folder
import text_data
import tf_awd_lstm
import trainer
from tf_awd_lstm import tf

import awd_lstm_tf

sys.path.append(os.path.join(os.path.dirname(__file__), os.pardir, "examples"))
from flag_types import checked, keep_rate, seed

KINDS = ("plain", "recipe")
SAMPLE_TEMPERATURE = 0.8

# The network.


def network_settings(flags, vocabulary_size):
    """What `tf_awd_lstm.Network` takes, of this command's flags."""
    units = [flags.units] * flags.layers
    if flags.weight_tying:
        units[-1] = flags.embedding  # the softmax's weights are that deep
    return {
        "vocabulary": vocabulary_size,
        "embedding": flags.embedding,
        "units": units,
        "tied": flags.weight_tying,
        "whole_kernel": flags.whole_kernel,
        "glorot": True,
        "keep": {
            "weights": flags.weight_keep,
            "embedding": flags.embedding_keep,
            "inputs": flags.input_keep,
            "hidden": flags.hidden_keep,
            "outputs": flags.output_keep,
        },
        "alpha": flags.alpha,
        "beta": flags.beta,
    }


class LanguageModel(object):
    """The network, with a state that goes on from window to window.

    Args:
      flags: Settings, see `parse_flags`.
      vocabulary_size: Number of tokens.
      batch_size: Rows of a window.
      is_train: Python bool; False switches all that regularises off.
      name: Scope of the carried state.

    Attributes:
      inputs, targets: Placeholders, `[batch_size, time]` token ids. Targets
        below 0 do not count.
      weight_keep: Placeholder of the share kept of the layers' weights, where
        that changes in training; or None.
      loss: Mean of -log(probability) of the targets, in nats per token.
      objective: What is minimised: the loss, AR and TAR.
      losses: Each target's -log(probability), `[time, batch_size]`.
      outputs: The last layer's, not dropped, `[time, batch_size, units]`.
      probabilities: `[batch_size, vocabulary_size]`, of the token that follows.
      reset_state: Op that zeroes the carried state.
      carry_state: Op that moves the carried state past the window.
      summaries: What weight drop did, for TensorBoard.
    """

    def __init__(self, flags, vocabulary_size, batch_size, is_train, name):
        # The fused layer is fastest where it knows the time.
        steps = flags.steps if is_train and not flags.variable_bptt else None
        self.inputs = tf.placeholder(tf.int32, [batch_size, steps])
        self.targets = tf.placeholder(tf.int32, [batch_size, steps])
        settings = network_settings(flags, vocabulary_size)
        self.weight_keep = None
        if is_train and comes_in(flags):
            self.weight_keep = tf.placeholder(tf.float32, [])
            settings["keep"]["weights"] = self.weight_keep
        carried = carried_state(name, batch_size, settings["units"])
        network = tf_awd_lstm.Network(
            settings,
            tf.transpose(self.inputs),
            tf.transpose(self.targets),
            [variable.read_value() for variable in carried],
            is_train,
        )
        self.reset_state = tf.group([x.initializer for x in carried])
        self.carry_state = tf.group(
            [x.assign(new) for x, new in zip(carried, network.last_state)]
        )
        self.loss, self.objective = network.entropy, network.loss
        self.losses, self.outputs = network.losses, network.raw
        self.probabilities = tf.nn.softmax(
            network.logits[-1] / SAMPLE_TEMPERATURE
        )
        self.summaries = awd_lstm_tf.mask_summaries(*network.layers)


def comes_in(flags):
    """Whether weight drop comes in in the course of training."""
    if flags.weight_keep == 1.0:
        return False
    return flags.weight_drop_over > 0 or flags.weight_drop_patience > 0


def carried_state(name, batch_size, units):
    """Variables of c and h of each layer, `[batch_size, units]`."""
    # Resource variables: a value read from one stays what it was when the new
    # state is assigned, and the gradient needs the old one.
    return [
        tf.get_variable(
            f"{name}/layer_{i}/{part}",
            [batch_size, size],
            initializer=tf.zeros_initializer(),
            trainable=False,
            use_resource=True,
        )
        for i, size in enumerate(units)
        for part in "ch"
    ]


# The command line.


def positive(convert):
    """An argparse type for numbers greater than zero."""
    return checked(convert, "greater than 0", lambda x: 0 < x < float("inf"))


def at_least_zero(convert):
    """An argparse type for numbers that are not negative."""
    return checked(convert, "at least 0", lambda x: 0 <= x < float("inf"))


share = checked(float, "in [0, 1]", lambda x: 0.0 <= x <= 1.0)


def parse_flags(argv=None):
    """Settings from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_run_flags(parser.add_argument_group("the run").add_argument)
    add_model_flags(parser.add_argument_group("the model").add_argument)
    add_recipe_flags(parser.add_argument_group("the recipe").add_argument)
    add_end_flags(parser.add_argument_group("at the end").add_argument)
    config = parser.parse_known_args(argv)[0].config
    parser.set_defaults(**configurations.CONFIGURATIONS[config])
    flags = parser.parse_args(argv)
    if flags.fine_tune and flags.optimizer != "nt_asgd":
        parser.error(
            "argument --fine-tune: needs --optimizer nt_asgd, got "
            f"{flags.optimizer}."
        )
    if flags.fine_tune and flags.patience:
        parser.error(
            "argument --patience: must be 0 with --fine-tune, which begins "
            f"after the last epoch, got {flags.patience}."
        )
    configurations.leave_out(flags, flags.without)
    return flags


def add_run_flags(add):
    """Flags that say what is read and written."""
    add(
        "--config",
        choices=sorted(configurations.CONFIGURATIONS),
        default="small",
        help="named settings, see configurations.py; the defaults of others",
    )
    add(
        "--data",
        metavar="PATH",
        help="a text file (its last 10%% is held out), or a folder with "
        "train.txt, valid.txt and test.txt; without it, the documentation that "
        "comes with Python",
    )
    add("--level", choices=("word", "char"), help="of tokens")
    add(
        "--out",
        metavar="DIR",
        type=os.path.normpath,
        default="runs/train",
        help="where everything is written; an earlier run there is renamed",
    )
    add(
        "--resume",
        action="store_true",
        help="go on with the run in --out; give the other flags as before",
    )
    add(
        "--models",
        nargs="+",
        choices=KINDS,
        default=KINDS,
        help="what to train, one after the other",
    )
    add(
        "--save-seconds",
        type=positive(float),
        default=60.0,
        help="longest time between checkpoints",
    )
    add(
        "--threads",
        type=at_least_zero(int),
        default=0,
        help="of TensorFlow; 0 lets it choose",
    )


def add_model_flags(add):
    """Flags of the network and its training, of both models."""
    add("--embedding", type=positive(int), help="depth of the input vectors")
    add("--units", type=positive(int), help="of each layer")
    add("--layers", type=positive(int), help="of LSTM")
    add("--batch-size", type=positive(int), help="rows of text")
    add(
        "--steps",
        type=positive(int),
        help="tokens of a row to propagate back through",
    )
    add("--epochs", type=positive(int), help="passes over the text")
    add(
        "--patience",
        type=at_least_zero(int),
        default=0,
        metavar="EPOCHS",
        help="stop after so many epochs without a new best; 0: never",
    )
    add(
        "--optimizer",
        choices=("adam", "nt_asgd"),
        help="adam: a cosine from the learning rate to 0, after a short rise; "
        "nt_asgd: a constant rate, and averages once validation stalls",
    )
    add("--learning-rate", type=positive(float), help="the highest")
    add(
        "--nonmono",
        type=positive(int),
        default=5,
        help="of NT-ASGD: epochs that may go without improving",
    )
    add("--clip-norm", type=positive(float), help="of the gradient, at most")
    add("--seed", type=seed, default=1, help="of initial weights and masks")


def add_recipe_flags(add):
    """Flags of the regularisers, which the plain model does without."""
    add(
        "--without",
        nargs="+",
        choices=sorted(configurations.PARTS),
        default=[],
        metavar="PART",
        help="leave out: " + ", ".join(sorted(configurations.PARTS)),
    )
    for name, what in (
        ("weight", "weights of the LSTM layers"),
        ("input", "embedded inputs"),
        ("hidden", "what one layer gives the next"),
        ("output", "outputs of the last layer"),
        ("embedding", "words, whole rows of the embedding"),
    ):
        add(f"--{name}-keep", type=keep_rate, help=f"share kept of {what}")
    add(
        "--whole-kernel",
        action="store_true",
        help="drop the inputs' weights too; without it the hidden-to-hidden "
        "weights alone, as in the paper",
    )
    add(
        "--weight-drop-over",
        type=at_least_zero(float),
        default=0.0,
        metavar="EPOCHS",
        help="weight drop comes in bit by bit: the share kept of weights falls "
        "from 1, over so many epochs",
    )
    add(
        "--weight-drop-patience",
        type=at_least_zero(int),
        default=0,
        metavar="EPOCHS",
        help="weight drop comes in after so many epochs without a new best",
    )
    add("--alpha", type=at_least_zero(float), help="weight of AR")
    add("--beta", type=at_least_zero(float), help="weight of TAR")
    add("--weight-decay", type=at_least_zero(float), help="L2 on all weights")
    add(
        "--variable-bptt",
        action="store_true",
        help="windows of varying length, the learning rate in proportion",
    )
    add(
        "--weight-tying",
        action="store_true",
        help="the softmax's weights are the embedding; the last layer is as "
        "deep as that",
    )


def add_end_flags(add):
    """Flags of what comes after training."""
    add(
        "--fine-tune",
        type=at_least_zero(int),
        default=0,
        metavar="EPOCHS",
        help="at most so many, restarting NT-ASGD from its averages, until "
        "validation stalls",
    )
    add(
        "--cache",
        type=at_least_zero(int),
        default=0,
        metavar="TOKENS",
        help="evaluate with a cache pointer over so many past tokens, too",
    )
    add(
        "--cache-theta",
        type=at_least_zero(float),
        default=0.66,
        help="how much closer states count for more in the cache",
    )
    add(
        "--cache-share",
        type=share,
        default=0.13,
        help="of the cache in the prediction",
    )
    add(
        "--sample",
        type=positive(int),
        default=100,
        metavar="TOKENS",
        help="length of the text written at the end",
    )


def make_trainer(kind, flags, corpus):
    """A trainer of one kind of model, with a folder of its own in `--out`."""
    flags = argparse.Namespace(**vars(flags))
    if kind == "plain":
        # Weight tying and windows are how the network is made and fed, which
        # both share.
        configurations.leave_out(
            flags, set(configurations.PARTS) - {"weight_tying", "variable_bptt"}
        )
    build_model = functools.partial(
        LanguageModel, flags, len(corpus.vocabulary)
    )
    folder = os.path.join(flags.out, kind)
    return trainer.Trainer(build_model, flags, corpus, folder)


def title_of(kind, flags):
    """What a model is called: AWD-LSTM is none without weight drop."""
    if kind == "plain":
        return "LSTM"
    return "AWD-LSTM" if flags.weight_keep < 1.0 else "recipe, no weight drop"


def run(flags):
    """Trains the models and shows what came of it."""
    corpus = text_data.load_corpus(flags.data, flags.level)
    text_data.check_length(corpus, flags.batch_size, flags.steps)
    run_folder.prepare(flags, corpus)
    print(
        f"{len(corpus.train)} {flags.level}s to train on, "
        f"{len(corpus.valid)} held out, {len(corpus.vocabulary)} different"
    )
    finished = {}
    for kind in flags.models:
        training = make_trainer(kind, flags, corpus)
        title = title_of(kind, flags)
        training.train(title)
        training.restore(training.progress["best"]["checkpoint"])
        tokens = [corpus.vocabulary[i] for i in training.sample(flags.sample)]
        text = text_data.to_text(tokens, flags.level)
        say(f"\n--- sampled from {title} ---\n{text}\n")
        finished[title] = training
    report(flags, finished)


def say(text):
    """Prints; what the terminal's encoding lacks becomes a question mark."""
    encoding = sys.stdout.encoding or "ascii"
    print(text.encode(encoding, "replace").decode(encoding))


def report(flags, finished):
    """The held-out figures and the picture's path."""
    print(
        f"\nHeld-out loss in nats per {flags.level}, and perplexity, at the "
        "best epoch:"
    )
    for title, training in finished.items():
        best = training.progress["best"]
        print(
            f"  {title:22}{figures(best['held_out'])}  (epoch {best['epoch']} "
            f"of {len(training.progress['curve'])}, {training.weights} weights)"
        )
        for what, loss in further_losses(flags, training):
            print(f"  {what:22}{figures(loss)}")
    picture = os.path.join(flags.out, "curves.png")
    progress = {title: finished[title].progress for title in finished}
    run_folder.draw_curves(picture, progress, flags.level)
    print("Curves:", picture)


def further_losses(flags, training):
    """Yields what else is evaluated at the end, and the loss."""
    _, valid, test, _ = training.corpus
    if flags.cache:
        yield "with cache", training.evaluate_with_cache(valid)
    if len(test) > 1:  # a folder has one
        yield "test part", training.evaluate(test)
        if flags.cache:
            yield "with cache", training.evaluate_with_cache(test)


def figures(loss):
    """A loss, and the perplexity it is."""
    return f"{loss:8.4f}{text_data.perplexity(loss):10.2f}"


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
