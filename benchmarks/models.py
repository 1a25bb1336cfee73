"""What the benchmarks measure: one LSTM layer in a training step, by row.

A row is one way of building the layer. Its training step takes trainable inputs
`[time, batch, depth]` (a real model's come from an embedding), the mean square
of the outputs as loss, and gradient descent on everything. Its forward pass is
a graph of its own, with `is_train=False` and without gradients.
"""

import collections
import os
import sys
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# MKL's threads would spin on after each step, in the turns of others.
os.environ.setdefault("KMP_BLOCKTIME", "0")
warnings.filterwarnings("ignore")

import numpy as np  # noqa: E402

sys.path.insert(0, os.path.join(os.path.dirname(__file__), os.pardir))

import awd_lstm_tf  # noqa: E402
from awd_lstm_tf import _versions  # noqa: E402
from awd_lstm_tf._versions import rnn_cell, tf  # noqa: E402

tf.logging.set_verbosity(tf.logging.ERROR)
ON_2 = _versions.VERSION >= (2,)
if tf.executing_eagerly():  # who has graphs already has chosen which
    tf.disable_v2_behavior()

Size = collections.namedtuple("Size", "batch time depth units")

SIZES = {
    "small": Size(20, 35, 200, 200),
    "medium": Size(20, 35, 650, 650),
    "paper": Size(80, 70, 400, 1150),
}
KEEP_RATE = 0.5


def session_config(threads=0, grappler=True):
    """A session's settings: number of threads (0: all), graph rewriting."""
    config = tf.ConfigProto(
        intra_op_parallelism_threads=threads,
        inter_op_parallelism_threads=threads,
    )
    rewrite = config.graph_options.rewrite_options
    rewrite.disable_meta_optimizer = not grappler
    return config


# ---------------------------------------------------------------------------
# The layers. Each maps inputs to outputs, [time, batch, depth or units].


def _unrolled(cell, inputs):
    outputs, _ = tf.nn.dynamic_rnn(
        cell, inputs, dtype=tf.float32, time_major=True
    )
    return outputs


def lstm_cell(inputs, size, is_train):
    return _unrolled(rnn_cell.LSTMCell(size.units), inputs)


def lstm_block_cell(inputs, size, is_train):
    return _unrolled(tf.contrib.rnn.LSTMBlockCell(size.units), inputs)


def lstm_block_fused_cell(inputs, size, is_train):
    layer = tf.contrib.rnn.LSTMBlockFusedCell(size.units)
    return layer(inputs, dtype=tf.float32)[0]


def block_lstm_v2(inputs, size, is_train):
    """The op that 2.x has in place of 1.x's BlockLSTM; it has no layer."""
    kernel = tf.get_variable(
        "kernel", [size.depth + size.units, 4 * size.units]
    )
    zeros, no_peepholes = tf.zeros([size.batch, size.units]), [0.0] * size.units
    return tf.raw_ops.BlockLSTMV2(
        seq_len_max=tf.constant(size.time, tf.int64),
        x=inputs,
        cs_prev=zeros,
        h_prev=zeros,
        w=kernel,
        wci=no_peepholes,
        wcf=no_peepholes,
        wco=no_peepholes,
        b=tf.get_variable("bias", initializer=[0.0] * 4 * size.units),
    ).h


def keras_lstm(inputs, size, is_train):
    layer = tf.keras.layers.LSTM(
        size.units, return_sequences=True, time_major=True
    )
    return layer(inputs)


def _weight_drop(make, size, is_train, keep_rate=KEEP_RATE, **arguments):
    return make(
        size.units,
        weight_drop_kr=keep_rate,
        input_size=size.depth,
        is_train=is_train,
        **arguments,
    )


def cell_off(inputs, size, is_train):
    return _unrolled(awd_lstm_tf.WeightDropLSTMCell(size.units), inputs)


def cell_use_vd(inputs, size, is_train):
    cell = _weight_drop(
        awd_lstm_tf.WeightDropLSTMCell, size, is_train, use_vd=True
    )
    with tf.control_dependencies(cell.get_vd_update_op()):
        return _unrolled(cell, inputs)


def cell_auto_update(inputs, size, is_train):
    cell = _weight_drop(
        awd_lstm_tf.WeightDropLSTMCell,
        size,
        is_train,
        use_vd=True,
        auto_update=True,
    )
    return _unrolled(cell, inputs)


def cell_standard(inputs, size, is_train):
    cell = _weight_drop(awd_lstm_tf.WeightDropLSTMCell, size, is_train)
    return _unrolled(cell, inputs)


def cell_standard_more_digits(inputs, size, is_train):
    # A mask takes as many random bits as its rate has binary digits.
    cell = _weight_drop(awd_lstm_tf.WeightDropLSTMCell, size, is_train, 0.7)
    return _unrolled(cell, inputs)


def _fused(inputs, size, is_train, **arguments):
    layer = _weight_drop(
        awd_lstm_tf.WeightDropLSTMBlockFusedCell,
        size,
        is_train,
        use_vd=True,
        **arguments,
    )
    with tf.control_dependencies(layer.get_vd_update_op()):
        return layer(inputs, dtype=tf.float32)[0]


def fused_use_vd(inputs, size, is_train):
    return _fused(inputs, size, is_train)


def fused_auto_update(inputs, size, is_train):
    return _fused(inputs, size, is_train, auto_update=True)


def fused_recurrent_only(inputs, size, is_train):
    return _fused(inputs, size, is_train, auto_update=True, recurrent_only=True)


def fused_off(inputs, size, is_train):
    layer = awd_lstm_tf.WeightDropLSTMBlockFusedCell(
        size.units, is_train=is_train
    )
    return layer(inputs, dtype=tf.float32)[0]


STOCK = collections.OrderedDict(
    [("BlockLSTMV2", block_lstm_v2), ("tf.keras LSTM", keras_lstm)]
    if ON_2
    else [
        ("LSTMBlockCell", lstm_block_cell),
        ("LSTMBlockFusedCell", lstm_block_fused_cell),
    ]
)
ROWS = collections.OrderedDict(
    [
        ("LSTMCell", lstm_cell),
        *STOCK.items(),
        ("cell, no weight drop", cell_off),
        ("cell, use_vd", cell_use_vd),
        ("cell, auto_update", cell_auto_update),
        ("cell, standard", cell_standard),
        ("cell, standard, rate 0.7", cell_standard_more_digits),
        ("fused, no weight drop", fused_off),
        ("fused, use_vd", fused_use_vd),
        ("fused, auto_update", fused_auto_update),
        ("fused, recurrent_only", fused_recurrent_only),
    ]
)
BASE = "LSTMCell"

# Those measured where each takes long.
MAIN_ROWS = [
    BASE,
    *([*STOCK] if ON_2 else ["LSTMBlockFusedCell"]),
    "cell, use_vd",
    "cell, auto_update",
    "fused, no weight drop",
    "fused, use_vd",
    "fused, auto_update",
]


# ---------------------------------------------------------------------------
# The steps


def _inputs(size):
    shape = [size.time, size.batch, size.depth]
    values = np.random.RandomState(0).randn(*shape).astype(np.float32)
    return tf.get_variable("inputs", initializer=values)


def training_step(row, size):
    """An op that trains the row's layer by one step."""
    outputs = ROWS[row](_inputs(size), size, True)
    loss = tf.reduce_mean(tf.square(outputs))
    return tf.train.GradientDescentOptimizer(0.1).minimize(loss)


def forward_pass(row, size):
    """A small tensor that needs all of the row's outputs."""
    outputs = ROWS[row](tf.stop_gradient(_inputs(size)), size, False)
    return outputs[-1, -1, :1]


def runner(make, threads=0, grappler=True):
    """A function that runs, once, what `make()` returns: an op or a tensor."""
    with tf.Graph().as_default() as graph:
        fetch = make()
        initialize = tf.global_variables_initializer()
    session = tf.Session(graph=graph, config=session_config(threads, grappler))
    session.run(initialize)
    return session.make_callable(fetch)
