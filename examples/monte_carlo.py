"""How sure is the net? A noisy sine continued under one mask after the other.

    python examples/monte_carlo.py    # ten seconds, and a picture

Monte-Carlo dropout: masks stay on at prediction. Each prediction of many steps,
one `session.run` for each of them, holds one mask; then the masks are drawn
again. The mean of all predictions is the forecast, their spread says how sure
it is: small where the net sees the series, growing where it has only itself to
go on.
"""

import argparse
import os

import flag_types
import numpy as np
import tensorflow as tf

import awd_lstm_tf

tf = getattr(tf.compat, "v1", tf)  # where TensorFlow 2 keeps 1
LENGTH = 400
PERIOD = 12
WINDOW = 60
BATCH = 16


def series(start, stop):
    """The truth: two sines."""
    time = np.arange(start, stop) * 2 * np.pi / PERIOD
    return 0.6 * np.sin(time) + 0.3 * np.sin(time / 2.7)


class Forecaster(object):
    """Predicts the next value at each step of `[batch, time]` values."""

    def __init__(self, units, keep_rate):
        self.values = tf.placeholder(tf.float32, [None, None])
        inputs = self.values[:, :, None]
        self.cell = awd_lstm_tf.WeightDropLSTMCell(
            units, weight_drop_kr=keep_rate, use_vd=True, input_size=1
        )
        self.dropout = awd_lstm_tf.VariationalDropout([units], keep_rate)
        self.start = self.cell.zero_state(tf.shape(inputs)[0], tf.float32)
        outputs, self.state = tf.nn.dynamic_rnn(
            self.cell, inputs, initial_state=self.start
        )
        readout = tf.get_variable("readout", [units])
        self.predictions = tf.reduce_sum(self.dropout(outputs) * readout, -1)
        self.loss = tf.losses.mean_squared_error(
            self.values[:, 1:], self.predictions[:, :-1]
        )
        self.train_op = tf.train.AdamOptimizer(0.01).minimize(self.loss)
        self.new_masks = [
            self.cell.get_vd_update_op(),
            self.dropout.get_update_mask_op(),
        ]
        self.no_masks = [
            self.cell.get_vd_reset_op(),
            self.dropout.get_reset_mask_op(),
        ]

    def train(self, session, observed, steps, random):
        """Trains on windows of the series, with new masks at each step."""
        for _ in range(steps):
            starts = random.randint(len(observed) - WINDOW, size=BATCH)
            batch = [observed[start : start + WINDOW] for start in starts]
            session.run(self.new_masks)
            session.run(self.train_op, {self.values: batch})

    def predict(self, session, observed, horizon):
        """Goes on with a series on the masks there are.

        Returns:
          The net's values for the steps 1 to `len(observed) + horizon`: first
          each from the true value before, then each from its own.
        """
        feeds = {self.values: [observed]}
        predictions, state = session.run([self.predictions, self.state], feeds)
        values = list(predictions[0])
        for _ in range(horizon):
            feeds = {self.values: [values[-1:]], self.start: state}
            value, state = session.run([self.predictions, self.state], feeds)
            values.append(value[0, 0])
        return np.array(values)

    def draws(self, session, observed, horizon, count):
        """`count` predictions, each under masks of its own."""
        predictions = []
        for _ in range(count):
            session.run(self.new_masks)  # held until the next time round
            predictions.append(self.predict(session, observed, horizon))
        return np.array(predictions)


def draw_picture(path, seen, predictions):
    """Writes the series, the mean prediction and bands of 1 and 2 deviations.

    Args:
      path: of the picture.
      seen: the last part of the observed series.
      predictions: `[draws, len(seen) + horizon]`, of the values one step later.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    mean, deviation = predictions.mean(0), predictions.std(0)
    first = LENGTH - len(seen)
    time = first + 1 + np.arange(len(mean))
    figure, axes = pyplot.subplots(figsize=(10, 4))
    for width in (2, 1):
        low, high = mean - width * deviation, mean + width * deviation
        axes.fill_between(time, low, high, color="C0", alpha=0.2, lw=0)
    axes.plot(time, mean, "C0", label="mean prediction, 1 and 2 deviations")
    truth = series(time[0], time[-1] + 1)
    axes.plot(time, truth, "k--", lw=0.8, label="truth")
    axes.plot(range(first, LENGTH), seen, "k.", label="observed, with noise")
    axes.axvline(LENGTH, color="grey", lw=0.8)
    axes.set_xlabel("step (right of the line the net feeds on itself)")
    axes.legend(loc="lower left", ncol=3, fontsize="small")
    figure.tight_layout()
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def run(flags):
    """Trains, predicts, writes the picture; returns the spreads by name."""
    random = np.random.RandomState(flags.seed)
    observed = series(0, LENGTH) + 0.05 * random.randn(LENGTH)
    seen = observed[-4 * PERIOD :]
    config = tf.ConfigProto(
        intra_op_parallelism_threads=1, inter_op_parallelism_threads=1
    )
    with tf.Graph().as_default(), tf.Session(config=config) as session:
        tf.set_random_seed(flags.seed)
        model = Forecaster(flags.units, flags.keep_rate)
        session.run(tf.global_variables_initializer())
        model.train(session, observed, flags.steps, random)
        predictions = model.draws(session, seen, flags.horizon, flags.draws)
        session.run(model.no_masks)
        plain = [model.predict(session, seen, flags.horizon) for _ in range(2)]
    draw_picture(flags.out, seen, predictions)
    spread = predictions.std(0)
    return {
        "where the series is seen": spread[: len(seen)].mean(),
        "where it is continued": spread[len(seen) :].mean(),
        "without masks": np.std(plain, 0).mean(),
    }


def parse(arguments=None):
    """The flags."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    one, two = flag_types.at_least(1), flag_types.at_least(2)
    picture = flag_types.checked(
        str, "a .png file", lambda path: path.endswith(".png")
    )
    add("--out", type=picture, default="runs/monte_carlo.png", help="picture")
    add("--units", type=one, default=48, help="of the net")
    add("--keep-rate", type=flag_types.keep_rate, default=0.9, help="of masks")
    add("--steps", type=one, default=500, help="of training")
    add("--draws", type=two, default=30, help="of the masks")
    add("--horizon", type=one, default=72, help="steps to go on for")
    add("--seed", type=flag_types.seed, default=1, help="of noise and masks")
    return parser.parse_args(arguments)


def main(arguments=None):
    """Runs, and prints what came out."""
    flags = parse(arguments)
    for name, spread in run(flags).items():
        print(f"Spread {name}: {spread:.3f}")
    print("Picture:", flags.out)


if __name__ == "__main__":
    tf.logging.set_verbosity(tf.logging.ERROR)
    main()
