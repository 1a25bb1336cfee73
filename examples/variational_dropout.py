"""One dropout mask over all steps of a `tf.while_loop`, drawn in three ways.

    python examples/variational_dropout.py

A loop adds up a dropped row of ones; since all its steps use one mask, an
entry of the sum is either 0 or the number of steps times 1 / keep_prob.
"""

import tensorflow as tf

import awd_lstm_tf

tf = getattr(tf.compat, "v1", tf)  # where TensorFlow 2 keeps 1
STEPS = 4
KEEP_PROB = 0.5


def loop(dropout):
    """`[5]`: the sum over the steps of a loop of `dropout(ones)`."""

    def step(time, total):
        return time + 1, total + dropout(tf.ones([5]))

    return tf.while_loop(lambda t, _: t < STEPS, step, (0, tf.zeros([5])))[1]


def by_session_run():
    """The plainest: the mask holds until the op is run again."""
    dropout = awd_lstm_tf.VariationalDropout([5], KEEP_PROB)
    total = loop(dropout)
    with tf.Session() as session:
        print("never drawn:", session.run(total))
        for _ in range(2):
            session.run(dropout.get_update_mask_op())
            print("a new mask: ", session.run(total))
            print("held:       ", session.run(total))


def by_control_dependencies():
    """A new mask in every run: what is built inside comes after the update."""
    dropout = awd_lstm_tf.VariationalDropout([5], KEEP_PROB)
    with tf.control_dependencies(dropout.get_update_mask_op()):
        total = loop(dropout)
    with tf.Session() as session:
        for _ in range(3):
            print("a new mask: ", session.run(total))


def by_update_ops():
    """A new mask after every training step, together with batch norm's updates.

    This is the wiring for an Estimator. Each step trains with the mask that the
    step before it drew, forward and backward.
    """
    dropout = awd_lstm_tf.VariationalDropout(
        [5], KEEP_PROB, updates_collections=tf.GraphKeys.UPDATE_OPS
    )
    weight = tf.get_variable("weight", [], initializer=tf.ones_initializer())
    total = weight * loop(dropout)
    loss = tf.reduce_sum(tf.square(total - STEPS))
    with tf.control_dependencies(tf.get_collection(tf.GraphKeys.UPDATE_OPS)):
        train_op = tf.train.GradientDescentOptimizer(0.001).minimize(loss)
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        for _ in range(3):
            print("one step:   ", session.run([total, train_op])[0])


def main():
    """Runs the three, each in a graph of its own."""
    for example in (by_session_run, by_control_dependencies, by_update_ops):
        print(f"\n{example.__name__}: {example.__doc__.splitlines()[0]}")
        with tf.Graph().as_default():
            example()


if __name__ == "__main__":
    tf.logging.set_verbosity(tf.logging.ERROR)
    main()
