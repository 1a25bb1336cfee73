"""Trains a small net into a folder, to be killed by test_abuse.py at any time.

    python killed_training.py FOLDER LAST_STEP

Says "start STEP" once the session is there, and "step STEP LOSS" after each
training step. Started again, it goes on from the folder's latest checkpoint.
"""

import sys

import numpy as np
from versions import tf

from awd_lstm_tf import WeightDropLSTMCell

SAVE_STEPS = 4


def run_past_hooks(session, fetches):
    """To the hooks, this is no step of training."""
    return session.run_step_fn(
        lambda step_context: step_context.session.run(fetches)
    )


def train(folder, last_step):
    inputs = tf.constant(np.random.RandomState(0).randn(4, 6, 3), tf.float32)
    cell = WeightDropLSTMCell(5, weight_drop_kr=0.5, use_vd=True)
    outputs, _ = tf.nn.dynamic_rnn(cell, inputs, dtype=tf.float32)
    guess = tf.layers.dense(outputs, 1)
    loss = tf.losses.mean_squared_error(tf.reduce_sum(inputs, 2, True), guess)
    step = tf.train.get_or_create_global_step()
    train_op = tf.train.AdamOptimizer(0.05).minimize(loss, step)
    with tf.control_dependencies([train_op]):
        done = step.read_value()
    mask = cell.mask
    with tf.train.MonitoredTrainingSession(
        checkpoint_dir=folder,
        save_checkpoint_secs=None,
        save_checkpoint_steps=SAVE_STEPS,
        save_summaries_steps=None,
        save_summaries_secs=None,
        log_step_count_steps=None,
    ) as session:
        now = run_past_hooks(session, step)
        print("start", now, flush=True)
        while now < last_step:
            run_past_hooks(session, cell.get_vd_update_op())
            _, now, value, used = session.run([train_op, done, loss, mask])
            assert set(np.unique(used)) <= {0, 2}, used
            print("step", now, value, flush=True)


if __name__ == "__main__":
    tf.logging.set_verbosity(tf.logging.ERROR)
    train(sys.argv[1], int(sys.argv[2]))
