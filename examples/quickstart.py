"""Train, then evaluate, with one class swapped.

python examples/quickstart.py    # some seconds
"""

import numpy as np
import tensorflow as tf

import awd_lstm_tf

tf = getattr(tf.compat, "v1", tf)  # where TensorFlow 2 keeps 1

with tf.Graph().as_default(), tf.Session() as session:
    inputs = tf.placeholder(tf.float32, [20, 35, 100])  # [batch, time, depth]
    is_train = awd_lstm_tf.training_phase()  # False, unless it is fed
    cell = awd_lstm_tf.WeightDropLSTMCell(  # was: tf.nn.rnn_cell.LSTMCell(200)
        200,
        weight_drop_kr=0.5,
        use_vd=True,
        auto_update=True,  # a mask for each sequence, in the run that uses it
        recurrent_only=True,
        is_train=is_train,
    )
    outputs, state = tf.nn.dynamic_rnn(cell, inputs, dtype=tf.float32)
    loss = tf.reduce_mean((outputs[:, 1:, :100] - inputs[:, :-1]) ** 2)
    train_op = tf.train.AdamOptimizer(0.01).minimize(loss)

    session.run(tf.global_variables_initializer())
    batch = np.random.RandomState(0).uniform(-0.5, 0.5, [20, 35, 100])
    for step in range(30):
        session.run(train_op, {inputs: batch, is_train: True})
        if step % 10 == 9:
            value = session.run(loss, {inputs: batch})  # nothing is dropped
            print(f"step {step + 1}: loss {value:.4f}")
