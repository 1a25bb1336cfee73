"""Foretells the next value of a series: an Estimator with two LSTM layers.

A typical program for TensorFlow 1.13: model_fn and input_fn, batch
normalization with its update ops, a SavedModel at the end.
"""

import argparse
import os

import numpy as np
import tensorflow as tf

WINDOW = 12


def parse_flags():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model_dir", required=True)
    parser.add_argument("--max_steps", type=int, default=500)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--units", type=int, default=10)
    parser.add_argument("--learning_rate", type=float, default=0.02)
    return parser.parse_args()


def series(length):
    time = np.arange(length)
    noise = np.random.RandomState(1).normal(scale=0.05, size=length)
    values = np.sin(0.5 * time) + 0.5 * np.sin(0.17 * time) + noise
    return values.astype(np.float32)


def windows(values):
    starts = np.arange(len(values) - WINDOW)
    rows = values[starts[:, None] + np.arange(WINDOW + 1)]
    return {"past": rows[:, :-1, None]}, rows[:, -1:]


def input_fn(values, batch_size, is_training):
    data = tf.data.Dataset.from_tensor_slices(windows(values))
    if is_training:
        data = data.shuffle(1000, seed=1).repeat()
    return data.batch(batch_size)


def model_fn(features, labels, mode, params):
    is_training = mode == tf.estimator.ModeKeys.TRAIN
    inputs = tf.layers.batch_normalization(
        features["past"], training=is_training
    )
    cells = []
    for _ in range(2):
        cells.append(tf.contrib.rnn.LSTMCell(params.units))
    stack = tf.contrib.rnn.MultiRNNCell(cells)
    _, state = tf.nn.dynamic_rnn(stack, inputs, dtype=tf.float32)
    guess = tf.layers.dense(state[-1].h, 1)
    if mode == tf.estimator.ModeKeys.PREDICT:
        return tf.estimator.EstimatorSpec(mode, {"next": guess})
    loss = tf.losses.mean_squared_error(labels, guess)
    tf.summary.scalar("rmse", tf.sqrt(loss))
    if mode == tf.estimator.ModeKeys.EVAL:
        metrics = {"mae": tf.metrics.mean_absolute_error(labels, guess)}
        return tf.estimator.EstimatorSpec(
            mode, loss=loss, eval_metric_ops=metrics
        )
    optimizer = tf.train.AdamOptimizer(params.learning_rate)
    updates = tf.get_collection(tf.GraphKeys.UPDATE_OPS)
    with tf.control_dependencies(updates):
        train_op = optimizer.minimize(loss, tf.train.get_global_step())
    return tf.estimator.EstimatorSpec(mode, loss=loss, train_op=train_op)


def show(metrics):
    print("step {global_step} loss {loss:.9g} mae {mae:.9g}".format(**metrics))


def main():
    flags = parse_flags()
    values = series(600)
    estimator = tf.estimator.Estimator(
        model_fn,
        flags.model_dir,
        tf.estimator.RunConfig(tf_random_seed=1, save_summary_steps=1),
        params=flags,
    )

    def training():
        return input_fn(values[:500], flags.batch_size, True)

    def held_out():
        return input_fn(values[500:], 50, False)

    if estimator.latest_checkpoint():
        show(estimator.evaluate(held_out))
    estimator.train(training, max_steps=flags.max_steps)
    show(estimator.evaluate(held_out))
    past = tf.placeholder(tf.float32, [None, WINDOW, 1])
    receiver = tf.estimator.export.build_raw_serving_input_receiver_fn(
        {"past": past}
    )
    estimator.export_savedmodel(
        os.path.join(flags.model_dir, "export"), receiver
    )


if __name__ == "__main__":
    main()
