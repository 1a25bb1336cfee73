"""Reads a line of digits and writes it down backwards, with attention.

A typical program for TensorFlow 1.13: tf.contrib.seq2seq, an encoder and a
decoder with attention, a graph to train and a graph to decode greedily that
reads the checkpoints of the other.
"""

import argparse
import os

import numpy as np
import tensorflow as tf

START, END, WORDS, LENGTH = 0, 1, 8, 5


def parse_flags():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model_dir", required=True)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--units", type=int, default=24)
    parser.add_argument("--learning_rate", type=float, default=0.02)
    return parser.parse_args()


def make_batch(random, size):
    source = random.randint(2, WORDS, size=[size, LENGTH])
    ends = np.full([size, 1], END)
    return source, np.concatenate([source[:, ::-1], ends], 1)


class Model(object):
    def __init__(self, is_training, flags):
        self.graph = tf.get_default_graph()
        self.source = tf.placeholder(tf.int32, [None, LENGTH])
        self.target = tf.placeholder(tf.int32, [None, LENGTH + 1])
        self.size = tf.shape(self.source)[0]
        table = tf.get_variable("embedding", [WORDS, flags.units])
        cells = []
        for _ in range(2):
            cell = tf.nn.rnn_cell.LSTMCell(flags.units)
            cells.append(cell)
        with tf.variable_scope("encoder"):
            inputs = tf.nn.embedding_lookup(table, self.source)
            memory, state = tf.nn.dynamic_rnn(
                cells[0], inputs, dtype=tf.float32
            )
        with tf.variable_scope("decoder"):
            decoder = self._decoder(
                is_training, cells[1], memory, state, table, flags
            )
            outputs, _, _ = tf.contrib.seq2seq.dynamic_decode(
                decoder, maximum_iterations=LENGTH + 1
            )
        self.said = outputs.sample_id
        self.global_step = tf.train.get_or_create_global_step()
        if is_training:
            loss = tf.contrib.seq2seq.sequence_loss(
                outputs.rnn_output,
                self.target,
                tf.ones([self.size, LENGTH + 1]),
            )
            tf.summary.scalar("loss", loss)
            self.summaries = tf.summary.merge_all()
            self.train_op = self._train(loss, flags)
        self.saver = tf.train.Saver()

    def _decoder(self, is_training, cell, memory, state, table, flags):
        seq2seq = tf.contrib.seq2seq
        attention = seq2seq.LuongAttention(flags.units, memory)
        cell = seq2seq.AttentionWrapper(
            cell, attention, attention_layer_size=flags.units
        )
        start = tf.fill([self.size], START)
        if is_training:
            ids = tf.concat([start[:, None], self.target[:, :-1]], 1)
            inputs = tf.nn.embedding_lookup(table, ids)
            lengths = tf.fill([self.size], LENGTH + 1)
            helper = seq2seq.TrainingHelper(inputs, lengths)
        else:
            helper = seq2seq.GreedyEmbeddingHelper(table, start, END)
        zero = cell.zero_state(self.size, tf.float32).clone(cell_state=state)
        output_layer = tf.layers.Dense(WORDS, name="output")
        return seq2seq.BasicDecoder(cell, helper, zero, output_layer)

    def _train(self, loss, flags):
        optimizer = tf.train.AdamOptimizer(flags.learning_rate)
        slopes, variables = zip(*optimizer.compute_gradients(loss))
        slopes, _ = tf.clip_by_global_norm(slopes, 5.0)
        pairs = zip(slopes, variables)
        return optimizer.apply_gradients(pairs, self.global_step)


def evaluate(model, checkpoint):
    with tf.Session(graph=model.graph) as session:
        model.saver.restore(session, checkpoint)
        source, target = make_batch(np.random.RandomState(2), 200)
        step, said = session.run(
            [model.global_step, model.said], {model.source: source}
        )
    length = said.shape[1]
    right = np.sum(said == target[:, :length]) / target.size
    print(f"step {step} accuracy {right:.9g}")


def main():
    flags = parse_flags()
    models = {}
    for is_training in (True, False):
        with tf.Graph().as_default():
            tf.set_random_seed(1)
            models[is_training] = Model(is_training, flags)
    model = models[True]
    checkpoint = tf.train.latest_checkpoint(flags.model_dir)
    with tf.Session(graph=model.graph) as session:
        if checkpoint:
            model.saver.restore(session, checkpoint)
            evaluate(models[False], checkpoint)
        else:
            with model.graph.as_default():
                session.run(tf.global_variables_initializer())
        random = np.random.RandomState(1)
        writer = tf.summary.FileWriter(flags.model_dir, session.graph)
        for _ in range(flags.steps):
            source, target = make_batch(random, flags.batch_size)
            summary, step, _ = session.run(
                [model.summaries, model.global_step, model.train_op],
                {model.source: source, model.target: target},
            )
            writer.add_summary(summary, step)
        writer.close()
        if flags.steps:
            path = os.path.join(flags.model_dir, "model")
            path = model.saver.save(session, path, model.global_step)
            evaluate(models[False], path)


if __name__ == "__main__":
    main()
