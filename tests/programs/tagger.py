"""Tags the words of sentences with a bidirectional LSTM.

A typical program for TensorFlow 1.13: embeddings, sequence lengths, tf.data,
checkpoints, summaries. The sentences are made up: a tag says whether the words
to the left and to the right are in the first half of the vocabulary.
"""

import argparse
import os

import numpy as np
import tensorflow as tf
from tensorflow.contrib.rnn import LSTMCell

WORDS, TAGS = 30, 4


def parse_flags():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model_dir", required=True)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--units", type=int, default=12)
    parser.add_argument("--learning_rate", type=float, default=0.02)
    return parser.parse_args()


def sentences(count, seed):
    random = np.random.RandomState(seed)
    for _ in range(count):
        words = random.randint(1, WORDS, size=random.randint(4, 10))
        is_low = np.pad(words < WORDS // 2, 1, "constant").astype(np.int32)
        yield words, is_low[:-2] + 2 * is_low[2:]


def dataset(count, seed, batch_size):
    data = tf.data.Dataset.from_generator(
        lambda: sentences(count, seed), (tf.int32, tf.int32), ([None], [None])
    )
    return data.padded_batch(batch_size, ([None], [None]))


def build(words, tags, is_training, flags):
    """The loss and the number of tags that are right, and of all tags."""
    lengths = tf.reduce_sum(tf.sign(words), 1)
    table = tf.get_variable("embedding", [WORDS, flags.units])
    inputs = tf.nn.embedding_lookup(table, words)
    inputs = tf.layers.dropout(inputs, 0.1, training=is_training)
    cells = [LSTMCell(flags.units) for _ in range(2)]
    outputs, _ = tf.nn.bidirectional_dynamic_rnn(
        cells[0], cells[1], inputs, lengths, dtype=tf.float32
    )
    logits = tf.layers.dense(tf.concat(outputs, 2), TAGS)
    weights = tf.sequence_mask(lengths, dtype=tf.float32)
    loss = tf.losses.sparse_softmax_cross_entropy(tags, logits, weights)
    tf.summary.scalar("loss", loss)
    guesses = tf.argmax(logits, 2, output_type=tf.int32)
    right = tf.reduce_sum(weights * tf.cast(tf.equal(guesses, tags), "float"))
    return loss, right, tf.reduce_sum(weights)


def main():
    flags = parse_flags()
    tf.set_random_seed(1)
    training = dataset(1000, 1, flags.batch_size).shuffle(10, 1).repeat()
    held_out = dataset(100, 2, 50)
    # One for each: TensorFlow 1.13 may hang where a generator that has not come
    # to its end is put out of an iterator by another one.
    iterators = [x.make_initializable_iterator() for x in (training, held_out)]
    handle = tf.placeholder(tf.string, [])
    words, tags = tf.data.Iterator.from_string_handle(
        handle, training.output_types, training.output_shapes
    ).get_next()
    is_training = tf.placeholder_with_default(False, [])
    loss, right, count = build(words, tags, is_training, flags)
    global_step = tf.train.get_or_create_global_step()
    optimizer = tf.train.AdamOptimizer(flags.learning_rate)
    train_op = optimizer.minimize(loss, global_step)
    summaries = tf.summary.merge_all()
    saver = tf.train.Saver()

    def evaluate(session):
        session.run(iterators[1].initializer)
        totals = np.zeros(3)
        try:
            while True:
                values = session.run([loss, right, count], {handle: handles[1]})
                values = np.array(values)
                totals += values * [values[2], 1, 1]
        except tf.errors.OutOfRangeError:
            step = session.run(global_step)
            mean, accuracy = totals[:2] / totals[2]
            print(f"step {step} loss {mean:.9g} accuracy {accuracy:.9g}")

    with tf.Session() as session:
        checkpoint = tf.train.latest_checkpoint(flags.model_dir)
        if checkpoint:
            saver.restore(session, checkpoint)
        else:
            session.run(tf.global_variables_initializer())
        handles = session.run([each.string_handle() for each in iterators])
        evaluate(session)
        session.run(iterators[0].initializer)
        writer = tf.summary.FileWriter(flags.model_dir, session.graph)
        for _ in range(flags.steps):
            summary, step, _ = session.run(
                [summaries, global_step, train_op],
                {is_training: True, handle: handles[0]},
            )
            writer.add_summary(summary, step)
        writer.close()
        if flags.steps:
            path = os.path.join(flags.model_dir, "model")
            saver.save(session, path, global_step)
            evaluate(session)


if __name__ == "__main__":
    main()
