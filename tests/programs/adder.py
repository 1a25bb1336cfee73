"""Adds up the two numbers of a sequence that are marked, with two LSTMs.

A typical program of TensorFlow 1.x that was moved to 2.x, by its first lines:
placeholders that are fed, a stack of cells, checkpoints, summaries.
"""

import argparse
import os

import numpy as np
import tensorflow.compat.v1 as tf

tf.disable_eager_execution()

TIME = 10


def parse_flags():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model_dir", required=True)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--units", type=int, default=16)
    parser.add_argument("--learning_rate", type=float, default=0.01)
    return parser.parse_args()


def sums(count, random):
    """Sequences `[count, TIME, 2]` of numbers and marks, and their sums."""
    numbers = random.uniform(size=[count, TIME])
    marks = np.zeros([count, TIME])
    for row in marks:
        row[random.choice(TIME, 2, replace=False)] = 1
    return np.stack([numbers, marks], 2), np.sum(numbers * marks, 1)


class Model(object):
    def __init__(self, flags):
        self.inputs = tf.placeholder(tf.float32, [None, TIME, 2])
        self.labels = tf.placeholder(tf.float32, [None])
        self.is_training = is_training = tf.placeholder_with_default(False, [])
        cells = [tf.nn.rnn_cell.LSTMCell(flags.units) for _ in range(2)]
        stack = tf.nn.rnn_cell.MultiRNNCell(cells)
        outputs, _ = tf.nn.dynamic_rnn(stack, self.inputs, dtype=tf.float32)
        dropped = tf.layers.dropout(outputs[:, -1], 0.1, training=is_training)
        guess = tf.layers.dense(dropped, 1)[:, 0]
        self.loss = tf.losses.mean_squared_error(self.labels, guess)
        tf.summary.scalar("loss", self.loss)
        self.summaries = tf.summary.merge_all()
        self.global_step = tf.train.get_or_create_global_step()
        optimizer = tf.train.AdamOptimizer(flags.learning_rate)
        gradients, variables = zip(*optimizer.compute_gradients(self.loss))
        clipped, _ = tf.clip_by_global_norm(gradients, 1.0)
        self.train_op = optimizer.apply_gradients(
            zip(clipped, variables), self.global_step
        )

    def feed(self, count, random, is_training=False):
        inputs, labels = sums(count, random)
        return {
            self.inputs: inputs,
            self.labels: labels,
            self.is_training: is_training,
        }

    def evaluate(self, session):
        held_out = self.feed(200, np.random.RandomState(2))
        step, loss = session.run([self.global_step, self.loss], held_out)
        print(f"step {step} loss {loss:.9g}")


def main():
    flags = parse_flags()
    tf.set_random_seed(1)
    model = Model(flags)
    saver = tf.train.Saver()
    with tf.Session() as session:
        checkpoint = tf.train.latest_checkpoint(flags.model_dir)
        if checkpoint:
            saver.restore(session, checkpoint)
        else:
            session.run(tf.global_variables_initializer())
        model.evaluate(session)
        random = np.random.RandomState(session.run(model.global_step))
        writer = tf.summary.FileWriter(flags.model_dir, session.graph)
        for _ in range(flags.steps):
            summary, step, _ = session.run(
                [model.summaries, model.global_step, model.train_op],
                model.feed(flags.batch_size, random, True),
            )
            writer.add_summary(summary, step)
        writer.close()
        if flags.steps:
            path = os.path.join(flags.model_dir, "model")
            saver.save(session, path, model.global_step)
            model.evaluate(session)


if __name__ == "__main__":
    main()
