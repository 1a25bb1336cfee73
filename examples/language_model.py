"""The AWD-LSTM language model on real text, and a plain LSTM beside it.

    python examples/language_model.py                    # Python's own manual
    python examples/language_model.py --data book.txt    # any text, UTF-8
    tensorboard --logdir runs/language_model             # while it trains

Trains a network twice on nine tenths of a text: `LSTM`, with nothing that
regularises, and `AWD-LSTM`, with the recipe of arXiv 1708.02182. Prints how
well each predicts the last tenth, and draws that by epoch. What was broken off
goes on when the same command is given again.
"""

import argparse
import collections
import os
import re
import sys
import zlib

import numpy as np
import tensorflow as tf
import tqdm

import awd_lstm_tf

tf = getattr(tf.compat, "v1", tf)  # where TensorFlow 2 keeps 1
UNITS = 400  # of the LSTM, and of the words' vectors
ROWS, STEPS = 20, 35  # of a window: places in the text, words of each
EPOCHS, LEARNING_RATE, WARM_UP, CLIP_NORM = 20, 4e-3, 200, 1.0
READ_STEPS = 200  # words at a time where no gradient is needed
RECIPE = {
    "weight_keep": 0.5,  # weight drop, of the recurrent weights
    "input_keep": 0.8,  # locked dropout: one mask for all steps of a window
    "output_keep": 0.7,
    "embedding_keep": 0.95,  # embedding dropout, of whole words
    "alpha": 1.0,  # AR: small outputs
    "beta": 1.0,  # TAR: outputs that change slowly
}
NOTHING = dict(dict.fromkeys(RECIPE, 1.0), alpha=0.0, beta=0.0)
MODELS = {"LSTM": NOTHING, "AWD-LSTM": RECIPE}


def read_text(path=None):
    """A file's text, or the documentation that comes with Python."""
    if path:
        with open(path, encoding="utf-8-sig") as file:
            return file.read()
    from pydoc_data import topics

    # The topics quote one another. Each paragraph is kept once, or what is
    # held out would be partly a copy of what is trained on.
    paragraphs = (
        paragraph.strip("\n")
        for topic in sorted(topics.topics)
        for paragraph in topics.topics[topic].split("\n\n")
    )
    return "\n\n".join(collections.OrderedDict.fromkeys(paragraphs))


def load(path):
    """Words and those that follow, to train on, held out; the vocabulary."""
    # A token is an empty line, a word, or a run of one punctuation mark.
    matches = re.finditer(r"\n\s*\n|\w+|([^\w\s])\1*", read_text(path))
    tokens = [x.group() if x.group().strip() else "<eos>" for x in matches]
    cut = int(0.9 * len(tokens))
    counts = collections.Counter(tokens[:cut])
    words = sorted(counts, key=lambda word: (-counts[word], word))
    words = ["<unk>"] + [word for word in words if counts[word] > 1]
    ids = {word: number for number, word in enumerate(words)}
    ids = np.array([ids.get(token, 0) for token in tokens], np.int32)
    if cut < 3 * ROWS * STEPS or len(words) == 1:
        raise ValueError(f"too short, {len(ids)} words.")
    pairs = np.stack([ids[:-1], ids[1:]], 1)
    return pairs[: cut - 1], pairs[cut:], words


def network(window, start, words, recipe, is_train):
    """embedding -> LSTM -> softmax, over `[time, rows]` of words and the next.

    Training and reading share the weights; each has a state of its own, carried
    from window to window, and zero where `start` is 0. Returns the LSTM,
    logits, losses, AR and TAR, and the ops that carry the state.
    """
    rows, size = window.shape.as_list()[1], len(words)
    name = "training" if is_train else "reading"
    small = tf.random_uniform_initializer(-0.1, 0.1)
    zeros = tf.zeros_initializer()
    with tf.variable_scope("model", reuse=tf.AUTO_REUSE, use_resource=True):
        embedding = tf.get_variable("embedding", [size, UNITS], None, small)
        bias = tf.get_variable("bias", [size], None, zeros)
        c, h = (
            tf.get_variable(x, [rows, UNITS], None, zeros, trainable=False)
            for x in (name + "_c", name + "_h")
        )

        def locked_dropout(values, keep_prob):
            return awd_lstm_tf.VariationalDropout(
                [1, rows, UNITS], keep_prob, is_train=is_train, auto_update=True
            )(values)

        lstm = awd_lstm_tf.WeightDropLSTMBlockFusedCell(
            UNITS,
            weight_drop_kr=recipe["weight_keep"],
            recurrent_only=True,  # hidden-to-hidden weights, as in the paper
            use_vd=True,  # one mask for all steps of a window,
            auto_update=True,  # and a new one for the next window
            is_train=is_train,
            name="lstm",
        )
        vectors = awd_lstm_tf.embedding_dropout(
            embedding, window[..., 0], recipe["embedding_keep"], is_train
        )
        kept = tf.cast(start > 0, tf.float32)
        raw, (new_c, new_h) = lstm(
            locked_dropout(vectors, recipe["input_keep"]),
            initial_state=(kept * c, kept * h),
        )
    outputs = locked_dropout(raw, recipe["output_keep"])
    logits = tf.tensordot(outputs, embedding, [[2], [1]]) + bias  # tied weights
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
        labels=window[..., 1], logits=logits
    )
    penalty = awd_lstm_tf.activation_regularization(outputs, recipe["alpha"])
    penalty += awd_lstm_tf.temporal_activation_regularization(
        raw, recipe["beta"], time_major=True
    )
    return lstm, logits, losses, penalty, [c.assign(new_c), h.assign(new_h)]


def make_training(pairs, words, recipe, epochs):
    """The op that trains on the next window, and the windows of an epoch."""
    step, length = tf.train.get_or_create_global_step(), len(pairs) // ROWS
    windows = length // STEPS - 1
    pairs = pairs[: ROWS * length].reshape([ROWS, length, 2]).swapaxes(0, 1)
    number, epoch = step % windows, step // windows
    start = number * STEPS + 13 * epoch % STEPS  # each epoch cuts elsewhere
    window = tf.slice(pairs, tf.stack([start, 0, 0]), [STEPS, ROWS, 2])
    lstm, _, losses, penalty, carry = network(
        window, number, words, recipe, True
    )
    loss = tf.reduce_mean(losses)
    rise = tf.minimum(tf.cast(step + 1, tf.float32) / WARM_UP, 1.0)
    fall = tf.train.cosine_decay(LEARNING_RATE, step, epochs * windows)
    optimizer = tf.train.AdamOptimizer(rise * fall)
    gradients, weights = zip(*optimizer.compute_gradients(loss + penalty))
    # Dense: the norm of sparse ones would count repeated words apart.
    gradients = [tf.convert_to_tensor(gradient) for gradient in gradients]
    gradients, _ = tf.clip_by_global_norm(gradients, CLIP_NORM)
    update = optimizer.apply_gradients(zip(gradients, weights), step)
    tf.summary.scalar("train_loss", loss)
    awd_lstm_tf.mask_summaries(lstm)
    return tf.group(update, *carry), windows


def write(read, pairs, words):
    """A hundred words that go on from a text."""
    random, written = np.random.RandomState(1), []
    for i in range(100):
        p = read(i, pairs)[1]
        p[0] = 0.0  # <unk>
        pairs = random.choice(len(p), (1, 2), p=p / p.sum())
        written.append(words[pairs[0, 0]])
    return " ".join(written).replace("<eos>", "\n\n")


def train(title, recipe, flags, train_pairs, held_out, words):
    """Trains to the end; returns perplexity by epoch, and a text."""
    tf.set_random_seed(flags.seed)
    train_op, windows = make_training(train_pairs, words, recipe, flags.epochs)
    start, window = (tf.placeholder("int32", x) for x in ([], [None, 1, 2]))
    _, logits, losses, _, carry = network(window, start, words, recipe, False)
    p = tf.nn.softmax(logits[-1, 0] / 0.8)  # a little bolder than learnt
    reading = tf.reduce_sum(losses), p, carry
    # The held-out losses are a variable, so that checkpoints have them.
    zeros = tf.zeros([flags.epochs + 1])
    curve = tf.Variable(zeros, trainable=False, name="curve")
    step, loss = tf.train.get_global_step(), tf.placeholder("float", [])
    note = tf.scatter_update(curve, step // windows, loss)
    tf.summary.scalar("held_out_loss", curve[step // windows])
    # Named after all that matters, so that no other training goes on there.
    settings = repr([recipe, UNITS, vars(flags), words]).encode("utf-8")
    with tf.train.MonitoredTrainingSession(
        checkpoint_dir=f"{flags.out}/{title}-{zlib.crc32(settings):08x}",
        save_checkpoint_secs=60,
        save_summaries_steps=20,
        log_step_count_steps=None,
    ) as session:

        def read(begin, pairs):
            return session.run(reading, {window: pairs[:, None], start: begin})

        begin, end = session.run(step), flags.epochs * windows
        starts = range(0, len(held_out), READ_STEPS)
        with tqdm.tqdm(desc=title, initial=begin, total=end) as bar:
            for number in range(begin, end + 1):
                if number % windows == 0:
                    losses = [
                        read(i, held_out[i : i + READ_STEPS])[0] for i in starts
                    ]
                    mean = sum(losses) / len(held_out)
                    session.run(note, {loss: mean})
                    bar.set_postfix_str(f"held out {np.exp(mean):.1f}")
                if number < end:
                    session.run(train_op)
                    bar.update()
        return np.exp(session.run(curve)), write(read, held_out[:1000], words)


def draw(path, curves):
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    for title, curve in curves.items():
        axes.semilogy(curve, label=title)
        axes.plot(np.argmin(curve), min(curve), "ko")
    axes.set(xlabel="epoch", ylabel="perplexity of held-out text")
    axes.legend()
    axes.figure.savefig(path, dpi=120)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", help="a text file; none: Python's manual")
    parser.add_argument("--out", default="runs/language_model", help="folder")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--seed", type=int, default=1)
    flags, curves = parser.parse_args(argv), {}
    if flags.epochs < 1:
        parser.error(f"argument --epochs: must be at least 1: {flags.epochs}")
    try:
        corpus = load(flags.data)
    except (OSError, ValueError) as error:
        parser.error(f"argument --data: must be a UTF-8 text: {error}")
    for title, recipe in MODELS.items():
        with tf.Graph().as_default():
            curves[title], text = train(title, recipe, flags, *corpus)
        encoding = sys.stdout.encoding or "ascii"  # may lack some letters
        text = text.encode(encoding, "replace").decode(encoding)
        print(f"\n--- written by the {title} ---\n{text}\n", flush=True)
    path = os.path.join(flags.out, "curves.png")
    draw(path, curves)
    print("Perplexity of the held-out text, at the best epoch:")
    for title, curve in curves.items():
        print(f"  {title:9} {min(curve):6.2f}  (epoch {np.argmin(curve)})")
    print("Curves:", path)


if __name__ == "__main__":
    tf.logging.set_verbosity(tf.logging.ERROR)
    main()
