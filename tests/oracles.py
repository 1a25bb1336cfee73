"""What tests compare with: stock LSTMCell on a kernel fed from outside.

None of this uses the library: a mask is fetched from the graph under test,
multiplied in numpy, and fed to a graph of stock cells built separately.
"""

import numpy as np
import versions
from tensorflow.core.protobuf import rewriter_config_pb2
from versions import nest, rnn_cell, tf

BATCH, TIME, DEPTH, UNITS = 2, 5, 3, 4


def inputs_value(dtype=np.float32, depth=DEPTH):
    return np.random.RandomState(0).randn(BATCH, TIME, depth).astype(dtype)


def dynamic(cells, inputs):
    cell = cells[0]
    return tf.nn.dynamic_rnn(cell, inputs, dtype=inputs.dtype)


def static(cells, inputs):
    outputs, state = tf.nn.static_rnn(
        cells[0],
        tf.unstack(inputs, axis=1),
        dtype=inputs.dtype,
        sequence_length=[TIME - 2, TIME],
    )
    return tf.stack(outputs, 1), state


def bidirectional(cells, inputs):
    outputs, state = tf.nn.bidirectional_dynamic_rnn(
        cells[0], cells[1], inputs, dtype=inputs.dtype
    )
    return tf.concat(outputs, -1), state


def stacked(cells, inputs):
    cell = rnn_cell.MultiRNNCell(list(cells))
    return tf.nn.dynamic_rnn(cell, inputs, dtype=inputs.dtype)


def as_built(**options):
    """A session's configuration, for graphs that are to be bit-equal.

    Grappler's arithmetic optimizer adds up the same terms in another order in
    another graph, for two of stock cells, too. Without that, the remapper of
    2.x takes sums of matrices of one number for those with a bias, which oneDNN
    then refuses, in stock cells, too.
    """
    config = tf.ConfigProto(**options)
    rewrites = config.graph_options.rewrite_options
    rewrites.arithmetic_optimization = rewriter_config_pb2.RewriterConfig.OFF
    if versions.VERSION >= (2,):
        rewrites.remapping = rewriter_config_pb2.RewriterConfig.OFF
    return config


# name: (how to unroll, number of cells)
LOOPS = {
    "dynamic_rnn": (dynamic, 1),
    "static_rnn": (static, 1),
    "bidirectional": (bidirectional, 2),
    "multi_3": (stacked, 3),
}


def kernels_of(graph):
    return [
        v
        for v in graph.get_collection(tf.GraphKeys.TRAINABLE_VARIABLES)
        if v.op.name.endswith("kernel")
    ]


def loss_of(*results):
    flat = nest.flatten(results)
    return tf.add_n([tf.reduce_sum(tf.square(x)) for x in flat])


class StockLSTM(object):
    """Stock LSTMCells in one of `LOOPS`, on kernels that are fed."""

    def __init__(self, loop, dtype=tf.float32, **cell_arguments):
        self._kernels = []
        unroll, count = LOOPS[loop]
        with tf.Graph().as_default() as graph:
            inputs = tf.constant(inputs_value(dtype.as_numpy_dtype))
            with tf.variable_scope("stock", custom_getter=self._getter):
                cells = [
                    rnn_cell.LSTMCell(UNITS, **cell_arguments)
                    for _ in range(count)
                ]
                outputs, state = unroll(cells, inputs)
            gradients = tf.gradients(loss_of(outputs, state), self._kernels)
            self._fetches = [outputs, state, gradients]
            initialize = tf.global_variables_initializer()
        self._session = tf.Session(graph=graph)
        self._session.run(initialize)

    def _getter(self, getter, name, *args, **kwargs):
        if not name.endswith("kernel"):
            return getter(name, *args, **kwargs)
        with tf.init_scope():  # out of the loop
            kernel = tf.placeholder(kwargs["dtype"], kwargs["shape"])
        self._kernels.append(kernel)
        return kernel

    def run(self, kernels):
        """Outputs, final state and kernel gradients for these kernels."""
        feeds = dict(zip(self._kernels, kernels))
        return self._session.run(self._fetches, feeds)


def same(left, right, bound=0.0):
    """Whether two structures of arrays agree, to `bound` of the largest."""
    left = nest.flatten(left)
    right = nest.flatten(right)
    assert len(left) == len(right)
    return all(
        np.max(np.abs(a - b), initial=0)
        <= bound * max(np.max(np.abs(b), initial=0), 1)
        for a, b in zip(left, right)
    )


def loops_around(op):
    """The number of while loops that an op of a v1 graph is in."""
    count, context = 0, op._get_control_flow_context()
    while context is not None:
        count += context.IsWhileContext()
        context = context.outer_context
    return count
