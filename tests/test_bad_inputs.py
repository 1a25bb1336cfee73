"""Wrong calls of everything public, and the exact sentence each is answered.

One table: a call, the kind of error, the whole sentence. What goes wrong only
when a graph is run is in a table of its own. (Not here: what a model must be
like to be converted, in test_tflite.py; eager mode, in test_weight_drop_lstm;
a TensorFlow that is missing or too new, in test_packaging.py.)
"""

import numpy as np
import pytest
from versions import rnn_cell, tf

import awd_lstm_tf
from awd_lstm_tf import (
    MaskUpdateHook,
    NTASGDOptimizer,
    VariationalDropout,
    WeightDropLSTMBlockFusedCell,
    WeightDropLSTMCell,
    WeightDropWrapper,
    activation_regularization,
    embedding_dropout,
    mask_summaries,
    quantization,
    temporal_activation_regularization,
    tflite,
)
from awd_lstm_tf.training import NotKept

UNITS, DEPTH, BATCH, TIME = 4, 3, 2, 5
keras = tf.keras.layers
NAN, INF = float("nan"), float("inf")
DROP = dict(weight_drop_kr=0.5, use_vd=True)


class Thing(object):
    """Something that is not what it should be, with a name to quote."""

    def __repr__(self):
        return "<a thing>"


def cell(num_units=UNITS, **arguments):
    return WeightDropLSTMCell(num_units, **arguments)


def called_cell(dtype=tf.float32, depth=DEPTH, **arguments):
    made = cell(**arguments)
    return made(tf.ones([1, depth], dtype), made.zero_state(1, dtype))


def fused(num_units=UNITS, **arguments):
    return WeightDropLSTMBlockFusedCell(num_units, **arguments)


def called_fused(inputs=None, arguments=None, **call):
    if inputs is None:
        inputs = tf.zeros([TIME, BATCH, DEPTH])
    return fused(**(arguments or {}))(inputs, **call)


def dropout(input_shape=(DEPTH,), keep_prob=0.5, **arguments):
    return VariationalDropout(input_shape, keep_prob, **arguments)


def called_dropout(inputs, *args, **arguments):
    return dropout(*args, **arguments)(inputs)


class Callable(Thing):
    """The same, but it can be called."""

    def __call__(self):
        return self


def wrapper(layer=None, **arguments):
    layer = layer or tf.layers.Dense(UNITS)
    return WeightDropWrapper(layer, **dict(DROP, **arguments))


def hides_a_kernel():
    """A layer with a kernel that is found in no attribute of its own."""

    class Box(object):
        pass

    class Hides(tf.layers.Dense):
        def build(self, inputs_shape):
            super(Hides, self).build(inputs_shape)
            self.box, self.built = Box(), False
            self.box.kernel = self.add_variable("hidden/kernel", [UNITS])

    return Hides(UNITS)


def cuts_a_kernel():
    """A layer that makes what it multiplies by when it is built."""

    class Cuts(tf.layers.Dense):
        def build(self, inputs_shape):
            super(Cuts, self).build(inputs_shape)
            self.built = False
            self.out = self.add_variable("out/kernel", [UNITS, UNITS])
            self.halves = [self.out[:2], self.out[2:]]

        def call(self, inputs):
            outputs = super(Cuts, self).call(inputs)
            return tf.matmul(outputs, tf.concat(self.halves, 0))

    return Cuts(UNITS)


def gotten_normalized():
    def normalized(getter, *args, **kwargs):
        return tf.identity(getter(*args, **kwargs), name="normalized")

    with tf.variable_scope("net", custom_getter=normalized):
        wrapper(lambda: tf.get_variable("kernel", [UNITS]))()


def called_twice(layer):
    layer(tf.ones([1, DEPTH]))
    wrapper(layer)(tf.ones([1, DEPTH]))


def called_in_a_loop(layer):
    ones = tf.ones([1, UNITS])
    tf.while_loop(lambda _: True, wrapper(layer), [ones])


def of_unknown_kernel():
    initial = tf.placeholder(tf.float32)
    return tf.get_variable("kernel", initializer=initial, validate_shape=False)


def embedded(params=((1.0,), (2.0,)), ids=(0,), keep_prob=0.5, **arguments):
    params = np.array(params) if isinstance(params, tuple) else params
    return embedding_dropout(params, ids, keep_prob, **arguments)


def of_another_graph(dtype=tf.float32):
    with tf.Graph().as_default():
        return tf.placeholder(dtype, [], "other")


def made_in_a_loop(use):
    """What `use` makes of a float tensor that is made inside of a loop."""
    found = []

    def step(time):
        found.append(use(tf.cast(time, tf.float32) / 4 + 0.5))
        return time + 1

    tf.while_loop(lambda time: time < 2, step, [0])
    return found[0]


def optimizer(learning_rate=0.5, **arguments):
    return NTASGDOptimizer(learning_rate, **arguments)


def trained():
    """An optimizer with a train op."""
    made = optimizer()
    made.minimize(tf.get_variable("w", initializer=1.0))
    return made


def minimized_twice(made):
    weight = tf.get_variable("w", initializer=1.0)
    return [made.minimize(weight), made.minimize(2 * weight)]


class Step(object):
    """A step of a quantized cell, to convert, with some of it replaced."""

    def __init__(self, batch=1, **arguments):
        made = cell(is_quant=True, is_train=False, **arguments)
        sizes = dict(inputs=DEPTH, c=UNITS, h=made.output_size)
        self.inputs, self.c, self.h = (
            tf.placeholder(tf.float32, [batch, sizes[name]], name)
            for name in ("inputs", "c", "h")
        )
        _, (new_c, new_h) = made(self.inputs, (self.c, self.h))
        self.new_c = tf.identity(new_c, "new_c")
        self.new_h = tf.identity(new_h, "new_h")

    def convert(self, **replaced):
        ends = dict(
            session=tf.Session(),
            inputs=[self.inputs],
            outputs=[self.new_h],
            states=[(self.c, self.new_c), (self.h, self.new_h)],
        )
        return tflite.convert(**dict(ends, **replaced))


def converted(replace=lambda step: {}, **arguments):
    step = Step(**arguments)
    return step.convert(**replace(step))


# ---------------------------------------------------------------------------
# The table: call, error, sentence

CELL = [
    (
        lambda: cell("4"),
        TypeError,
        "`num_units` must be an integer, got '4'.",
    ),
    (
        lambda: cell(None),
        TypeError,
        "`num_units` must be an integer, got None.",
    ),
    (
        lambda: cell(2.5),
        TypeError,
        "`num_units` must be an integer, got 2.5.",
    ),
    (
        lambda: cell(True),
        TypeError,
        "`num_units` must be an integer, got True.",
    ),
    (
        lambda: cell(0),
        ValueError,
        "`num_units` must be at least 1, got 0.",
    ),
    (
        lambda: cell(weight_drop_kr=1.5),
        ValueError,
        "`weight_drop_kr` must be in (0, 1], got 1.5.",
    ),
    (
        lambda: cell(weight_drop_kr=0),
        ValueError,
        "`weight_drop_kr` must be in (0, 1], got 0.",
    ),
    (
        lambda: cell(weight_drop_kr=-3.0),
        ValueError,
        "`weight_drop_kr` must be in (0, 1], got -3.0.",
    ),
    (
        lambda: cell(weight_drop_kr=NAN),
        ValueError,
        "`weight_drop_kr` must be in (0, 1], got nan.",
    ),
    (
        lambda: cell(weight_drop_kr="0.5"),
        TypeError,
        "`weight_drop_kr` must be a float in (0, 1] or a scalar float tensor, "
        "got '0.5'.",
    ),
    (
        lambda: cell(weight_drop_kr=True),
        TypeError,
        "`weight_drop_kr` must be a float in (0, 1] or a scalar float tensor, "
        "got True.",
    ),
    (
        lambda: cell(weight_drop_kr=None),
        TypeError,
        "`weight_drop_kr` must be a float in (0, 1] or a scalar float tensor, "
        "got None.",
    ),
    (
        lambda: cell(weight_drop_kr=[0.5]),
        TypeError,
        "`weight_drop_kr` must be a float in (0, 1] or a scalar float tensor, "
        "got [0.5].",
    ),
    (
        lambda: cell(weight_drop_kr=np.complex64(0.5)),
        TypeError,
        "`weight_drop_kr` must be a float in (0, 1] or a scalar float tensor, "
        f"got {np.complex64(0.5)!r}.",
    ),
    (
        lambda: cell(weight_drop_kr=tf.ones([2])),
        ValueError,
        "`weight_drop_kr` must be a scalar, got a tensor of shape (2,).",
    ),
    (
        lambda: cell(weight_drop_kr=tf.constant(1)),
        TypeError,
        "`weight_drop_kr` must be a floating tensor, got dtype int32.",
    ),
    (
        lambda: called_cell(tf.float16, weight_drop_kr=1e-6, use_vd=True),
        ValueError,
        "`weight_drop_kr` must be in [1/65504, 1] with float16, got 1e-06: "
        "raise it, or use float32.",
    ),
    (
        lambda: called_cell(weight_drop_kr=of_another_graph(), use_vd=True),
        ValueError,
        "`weight_drop_kr` must be of the graph that it is used in, got a "
        "tensor of another graph: make it in the same `tf.Graph`.",
    ),
    (
        lambda: made_in_a_loop(
            lambda rate: cell(weight_drop_kr=rate, use_vd=True, input_size=1)
        ).get_vd_update_op(),
        ValueError,
        "`weight_drop_kr` must be made outside of the loop for a mask that is "
        "drawn outside of it, got a tensor made inside: move it out.",
    ),
    (
        lambda: cell(use_vd="yes"),
        TypeError,
        "`use_vd` must be True or False, got 'yes'.",
    ),
    (
        lambda: cell(auto_update=True),
        ValueError,
        "`auto_update` must go with `use_vd=True`, got `use_vd=False`: set "
        "both, or leave `auto_update` out.",
    ),
    (
        lambda: cell(auto_update="no", **DROP),
        TypeError,
        "`auto_update` must be True or False, got 'no'.",
    ),
    (
        lambda: cell(recurrent_only=1),
        TypeError,
        "`recurrent_only` must be True or False, got 1.",
    ),
    (
        lambda: cell(is_train=None),
        TypeError,
        "`is_train` must be True, False or a scalar bool tensor, got None.",
    ),
    (
        lambda: cell(is_train=tf.constant(1.0)),
        TypeError,
        "`is_train` must be a bool tensor, got dtype float32.",
    ),
    (
        lambda: cell(is_train=tf.constant([True])),
        ValueError,
        "`is_train` must be a scalar, got a tensor of shape (1,).",
    ),
    (
        lambda: called_cell(is_train=of_another_graph(tf.bool), **DROP),
        ValueError,
        "`is_train` must be of the graph that it is used in, got a tensor of "
        "another graph: make it in the same `tf.Graph`.",
    ),
    (
        lambda: cell(input_size=0),
        ValueError,
        "`input_size` must be at least 1, got 0.",
    ),
    (
        lambda: cell(input_size=2.5),
        TypeError,
        "`input_size` must be an integer, got 2.5.",
    ),
    (
        lambda: called_cell(depth=5, input_size=3, **DROP),
        ValueError,
        "`input_size` must be the depth of the inputs, got `input_size=3` and "
        "inputs of depth 5.",
    ),
    (
        lambda: called_cell(depth=5, input_size=3),
        ValueError,
        "`input_size` must be the depth of the inputs, got `input_size=3` and "
        "inputs of depth 5.",
    ),
    (
        lambda: called_cell(tf.float64, input_size=3, **DROP),
        ValueError,
        "`dtype` must be given with `input_size` when the weights are not "
        "float32, got weights of float64: pass `dtype=tf.float64`.",
    ),
    (
        lambda: cell(input_size=3, dtype=tf.int32, **DROP),
        TypeError,
        "`dtype` must be a floating dtype, got int32.",
    ),
    (
        lambda: cell(input_bias=INF),
        ValueError,
        "`input_bias` must be finite, got inf.",
    ),
    (
        lambda: cell(input_bias="1"),
        TypeError,
        "`input_bias` must be a number, got '1'.",
    ),
    (
        lambda: cell(seed="a"),
        TypeError,
        "`seed` must be an integer, got 'a'.",
    ),
    (
        lambda: cell(seed=0.5),
        TypeError,
        "`seed` must be an integer, got 0.5.",
    ),
    (
        lambda: cell(updates_collections=3, **DROP),
        TypeError,
        "`updates_collections` must be a name or a list of names, got 3.",
    ),
    (
        lambda: cell(updates_collections=["a", True], **DROP),
        TypeError,
        "`updates_collections` must be a name or a list of names, got "
        "['a', True].",
    ),
    (
        lambda: cell(**DROP).get_vd_update_op(),
        ValueError,
        "`get_vd_update_op()` needs the mask, whose shape is not known yet: "
        "pass `input_size`, or call the cell first.",
    ),
    (
        lambda: cell(**DROP).get_vd_reset_op(),
        ValueError,
        "`get_vd_reset_op()` needs the mask, whose shape is not known yet: "
        "pass `input_size`, or call the cell first.",
    ),
    (
        lambda: cell(is_quant=1),
        TypeError,
        "`is_quant` must be True or False, got 1.",
    ),
    (
        lambda: cell(UNITS, use_peepholes=1.0),
        TypeError,
        "`use_peepholes`, the second argument, must be True or False, got 1.0: "
        "for BasicLSTMCell(units, forget_bias) write WeightDropLSTMCell(units, "
        "forget_bias=...).",
    ),
    (
        lambda: WeightDropLSTMCell(UNITS, 0),
        TypeError,
        "`use_peepholes`, the second argument, must be True or False, got 0: "
        "for BasicLSTMCell(units, forget_bias) write WeightDropLSTMCell(units, "
        "forget_bias=...).",
    ),
    (
        lambda: cell(weight_drop_kr=tf.constant(0.5, name="rate")).get_config(),
        ValueError,
        "`weight_drop_kr` must not be a tensor of this graph for a layer to be "
        "made again from its config, got 'rate:0': give a Python value.",
    ),
    (
        lambda: cell(
            is_train=tf.constant(True, name="mode"), **DROP
        ).get_config(),
        ValueError,
        "`is_train` must not be a tensor of this graph for a layer to be made "
        "again from its config, got 'mode:0': give a Python value, or "
        "`awd_lstm_tf.training_phase()`.",
    ),
    (
        lambda: cell(quant_delay=-1),
        ValueError,
        "`quant_delay` must be at least 0, got -1.",
    ),
    (
        lambda: cell(is_quant=True, quant_delay=0.5),
        TypeError,
        "`quant_delay` must be an integer, got 0.5.",
    ),
    (
        lambda: cell(is_quant=True, activation=tf.nn.relu),
        ValueError,
        "`activation` must be tanh with `is_quant`, got relu: leave it out, or "
        "keep `is_quant=False`.",
    ),
    (
        lambda: called_cell(tf.float64, is_quant=True),
        TypeError,
        "`dtype` must be float32 with `is_quant`, got float64.",
    ),
]

FUSED = [
    (
        lambda: fused("4"),
        TypeError,
        "`num_units` must be an integer, got '4'.",
    ),
    (
        lambda: fused(0),
        ValueError,
        "`num_units` must be at least 1, got 0.",
    ),
    (
        lambda: fused(weight_drop_kr=0.5),
        ValueError,
        "`use_vd` must be True with `weight_drop_kr` below 1.0 in "
        "WeightDropLSTMBlockFusedCell, got False: set it, or use "
        "WeightDropLSTMCell, which can draw a new mask at every time step.",
    ),
    (
        lambda: fused(weight_drop_kr=1.5, use_vd=True),
        ValueError,
        "`weight_drop_kr` must be in (0, 1], got 1.5.",
    ),
    (
        lambda: fused(cell_clip=NAN),
        ValueError,
        "`cell_clip` must be finite, got nan.",
    ),
    (
        lambda: fused(cell_clip="a"),
        TypeError,
        "`cell_clip` must be a number, got 'a'.",
    ),
    (
        lambda: fused(forget_bias=None),
        TypeError,
        "`forget_bias` must be a number, got None.",
    ),
    (
        lambda: fused(use_peephole=1),
        TypeError,
        "`use_peephole` must be True or False, got 1.",
    ),
    (
        lambda: fused(input_size=-1, **DROP),
        ValueError,
        "`input_size` must be at least 1, got -1.",
    ),
    (
        lambda: fused(auto_update=True),
        ValueError,
        "`auto_update` must go with `use_vd=True`, got `use_vd=False`: set "
        "both, or leave `auto_update` out.",
    ),
    (
        lambda: fused(dtype="floaty"),
        TypeError,
        "`dtype` must be a floating dtype, got 'floaty'.",
    ),
    (
        lambda: fused(use_peepholes=True),
        TypeError,
        "`use_peepholes` must be left out of WeightDropLSTMBlockFusedCell: "
        "there, as in LSTMBlockFusedCell, it is called `use_peephole`.",
    ),
    (
        lambda: fused(num_proj=3),
        TypeError,
        "`num_proj` must be left out of WeightDropLSTMBlockFusedCell, got 3: "
        "use WeightDropLSTMCell, which has it.",
    ),
    (
        lambda: fused(is_quant=True),
        TypeError,
        "`is_quant` must be left out of WeightDropLSTMBlockFusedCell, got "
        "True: use WeightDropLSTMCell, which has it.",
    ),
    (
        lambda: called_fused(Thing()),
        TypeError,
        "`inputs` must be a tensor, got <a thing>.",
    ),
    (
        lambda: called_fused(np.ones([TIME, BATCH, DEPTH], np.int32)),
        TypeError,
        "`inputs` must be of a floating dtype, got int32.",
    ),
    (
        lambda: called_fused(tf.placeholder(tf.float32)),
        ValueError,
        "`inputs` must have at least 3 dimensions, got a tensor of shape "
        "<unknown>.",
    ),
    (
        lambda: called_fused(tf.placeholder(tf.float32, [TIME, BATCH, None])),
        ValueError,
        "`inputs` must have a known depth, got None as their last dimension: "
        "give it by `set_shape`.",
    ),
    (
        lambda: called_fused(arguments=dict(DROP, input_size=2)),
        ValueError,
        "`input_size` must be the depth of the inputs, got `input_size=2` and "
        "inputs of depth 3.",
    ),
    (
        lambda: called_fused(arguments=dict(dtype=tf.float64)),
        TypeError,
        "`dtype` of WeightDropLSTMBlockFusedCell is float64, got inputs of "
        "float32: pass `dtype=tf.float32`.",
    ),
    (
        lambda: called_fused(dtype=tf.float64),
        TypeError,
        "`dtype` must be that of the inputs, float32, got float64: leave it "
        "out, or cast the inputs.",
    ),
    (
        lambda: called_fused(initial_state=1),
        ValueError,
        "`initial_state` must be a tuple of c and h, got 1.",
    ),
    (
        lambda: called_fused(initial_state=tf.zeros([BATCH, 2 * UNITS])),
        ValueError,
        "`initial_state` must be a tuple of c and h, got <tf.Tensor 'zeros:0' "
        "shape=(2, 8) dtype=float32>.",
    ),
    (
        lambda: called_fused(initial_state=[np.zeros([3, UNITS])] * 2),
        ValueError,
        "`initial_state` must be of shape [batch_size=2, num_units=4], got a "
        "tensor of shape (3, 4).",
    ),
    (
        lambda: called_fused(initial_state=[tf.zeros([2, 4], tf.float64)] * 2),
        TypeError,
        "`initial_state` must be a tensor of dtype float32, got <tf.Tensor "
        "'zeros:0' shape=(2, 4) dtype=float64>.",
    ),
    (
        lambda: called_fused(sequence_length=3),
        ValueError,
        "`sequence_length` must be of shape [batch_size=2], got a tensor of "
        "shape ().",
    ),
    (
        lambda: called_fused(sequence_length=[1, 2, 3]),
        ValueError,
        "`sequence_length` must be of shape [batch_size=2], got a tensor of "
        "shape (3,).",
    ),
    (
        lambda: fused(**DROP).get_vd_update_op(),
        ValueError,
        "`get_vd_update_op()` needs the mask, whose shape is not known yet: "
        "pass `input_size`, or call the cell first.",
    ),
]

DROPOUT = [
    (
        lambda: dropout(keep_prob=1.5),
        ValueError,
        "`keep_prob` must be in (0, 1], got 1.5.",
    ),
    (
        lambda: dropout(keep_prob=0),
        ValueError,
        "`keep_prob` must be in (0, 1], got 0.",
    ),
    (
        lambda: dropout(keep_prob=NAN),
        ValueError,
        "`keep_prob` must be in (0, 1], got nan.",
    ),
    (
        lambda: dropout(keep_prob="half"),
        TypeError,
        "`keep_prob` must be a float in (0, 1] or a scalar float tensor, got "
        "'half'.",
    ),
    (
        lambda: dropout(keep_prob=1e-6, dtype=tf.float16),
        ValueError,
        "`keep_prob` must be in [1/65504, 1] with float16, got 1e-06: raise "
        "it, or use float32.",
    ),
    (
        lambda: dropout(keep_prob=of_another_graph()),
        ValueError,
        "`keep_prob` must be of the graph that it is used in, got a tensor of "
        "another graph: make it in the same `tf.Graph`.",
    ),
    (
        lambda: made_in_a_loop(
            lambda rate: dropout(keep_prob=rate)
        ).get_update_mask_op(),
        ValueError,
        "`keep_prob` must be made outside of the loop for a mask that is drawn "
        "outside of it, got a tensor made inside: move it out.",
    ),
    (
        lambda: dropout([None, 3]),
        ValueError,
        "`input_shape` must be a list of known sizes, got [None, 3]: use 1 for "
        "a dimension along which the mask is shared, or `auto_update=True`, "
        "which draws it for any size.",
    ),
    (
        lambda: dropout(None),
        ValueError,
        "`input_shape` must be a list of known sizes, got None: use 1 for a "
        "dimension along which the mask is shared.",
    ),
    (
        lambda: dropout("abc"),
        ValueError,
        "`input_shape` must be a list of known sizes, got 'abc': use 1 for a "
        "dimension along which the mask is shared.",
    ),
    (
        lambda: dropout([-1, 3]),
        ValueError,
        "`input_shape` must be a list of known sizes, got [-1, 3]: use 1 for a "
        "dimension along which the mask is shared.",
    ),
    (
        lambda: called_dropout(np.ones([2, 3], np.int32)),
        TypeError,
        "`inputs` must be of a floating dtype, got int32.",
    ),
    (
        lambda: dropout(dtype=tf.int32),
        TypeError,
        "`dtype` must be a floating dtype, got int32.",
    ),
    (
        lambda: dropout(dtype=None),
        TypeError,
        "`dtype` must be a floating dtype, got None.",
    ),
    (
        lambda: dropout(auto_update=1),
        TypeError,
        "`auto_update` must be True or False, got 1.",
    ),
    (
        lambda: dropout(is_train="no"),
        TypeError,
        "`is_train` must be True, False or a scalar bool tensor, got 'no'.",
    ),
    (
        lambda: dropout(seed=0.5),
        TypeError,
        "`seed` must be an integer, got 0.5.",
    ),
    (
        lambda: dropout(updates_collections={"a": 1}),
        TypeError,
        "`updates_collections` must be a name or a list of names, got "
        "{'a': 1}.",
    ),
    (
        lambda: called_dropout(None),
        TypeError,
        "`inputs` must be a tensor, got None.",
    ),
    (
        lambda: called_dropout(tf.zeros([3]), [4]),
        ValueError,
        "`input_shape` must broadcast against the inputs, got [4] for inputs "
        "of shape (3,).",
    ),
    (
        lambda: called_dropout(tf.zeros([3]), [2, 3]),
        ValueError,
        "`input_shape` must broadcast against the inputs, got [2, 3] for "
        "inputs of shape (3,).",
    ),
    (
        lambda: called_dropout(tf.zeros([3], tf.float64)),
        TypeError,
        "`dtype` of VariationalDropout is float32, got inputs of float64: pass "
        "`dtype=tf.float64`.",
    ),
]

SUMMARIES = [
    (
        lambda: mask_summaries(3),
        TypeError,
        "`owners` must be cells, layers, wrappers or dropouts of awd_lstm_tf, "
        "each an argument of its own, got 3: of what holds such ones, give "
        "those.",
    ),
    (
        lambda: mask_summaries([]),
        TypeError,
        "`owners` must be cells, layers, wrappers or dropouts of awd_lstm_tf, "
        "each an argument of its own, got []: of what holds such ones, give "
        "those.",
    ),
]

HOOKS = [
    (
        lambda: MaskUpdateHook(3),
        TypeError,
        "`owners` must be cells, layers, wrappers or dropouts of awd_lstm_tf, "
        "one or a list, got 3: of what holds such ones, give those.",
    ),
    (
        lambda: MaskUpdateHook([rnn_cell.DropoutWrapper]),
        TypeError,
        "`owners` must be cells, layers, wrappers or dropouts of awd_lstm_tf, "
        f"one or a list, got {rnn_cell.DropoutWrapper!r}: of what holds such "
        "ones, give those.",
    ),
    (
        lambda: MaskUpdateHook(cell(**DROP), 0),
        ValueError,
        "`every_steps` must be at least 1, got 0.",
    ),
    (
        lambda: MaskUpdateHook(cell(**DROP), 0.5),
        TypeError,
        "`every_steps` must be an integer, got 0.5.",
    ),
    (
        lambda: MaskUpdateHook(cell(**DROP)).begin(),
        ValueError,
        "`get_vd_update_op()` needs the mask, whose shape is not known yet: "
        "pass `input_size`, or call the cell first.",
    ),
]

WRAPPER = [
    (
        lambda: wrapper(weight_drop_kr=0.0),
        ValueError,
        "`weight_drop_kr` must be in (0, 1], got 0.0.",
    ),
    (
        lambda: wrapper(weight_drop_kr="half"),
        TypeError,
        "`weight_drop_kr` must be a float in (0, 1] or a scalar float tensor, "
        "got 'half'.",
    ),
    (
        lambda: wrapper(use_vd=False, auto_update=True),
        ValueError,
        "`auto_update` must go with `use_vd=True`, got `use_vd=False`: set "
        "both, or leave `auto_update` out.",
    ),
    (
        lambda: wrapper(use_vd=1),
        TypeError,
        "`use_vd` must be True or False, got 1.",
    ),
    (
        lambda: wrapper(is_train="no"),
        TypeError,
        "`is_train` must be True, False or a scalar bool tensor, got 'no'.",
    ),
    (
        lambda: wrapper(seed=0.5),
        TypeError,
        "`seed` must be an integer, got 0.5.",
    ),
    (
        lambda: wrapper(updates_collections=3),
        TypeError,
        "`updates_collections` must be a name or a list of names, got 3.",
    ),
    (
        lambda: wrapper(names=3),
        TypeError,
        "`names` must be a regular expression or a function from a name to a "
        "bool, got 3.",
    ),
    (
        lambda: wrapper(names="("),
        TypeError,
        "`names` must be a regular expression or a function from a name to a "
        "bool, got '('.",
    ),
    (
        lambda: WeightDropWrapper(Thing(), 0.5),
        TypeError,
        "`layer` must be a cell, a layer or a function of TensorFlow 1.x, got "
        "<a thing>.",
    ),
    (
        lambda: wrapper(name="mine"),
        TypeError,
        "`name` must be left out for a layer that is not of tf.keras, got "
        "'mine'.",
    ),
    (
        lambda: wrapper(tf.nn.rnn_cell.GRUCell(UNITS), name="mine"),
        TypeError,
        "`name` must be left out for a layer that is not of tf.keras, got "
        "'mine'.",
    ),
    (
        lambda: wrapper(recurrent_only=True),
        TypeError,
        "`recurrent_only` must be left out for a wrapper, got True: choose by "
        "`names`, such as `names='recurrent'`.",
    ),
    (
        lambda: WeightDropWrapper(rnn_cell.GRUCell, 0.5),
        TypeError,
        "`layer` must be a layer, got the class "
        f"{rnn_cell.GRUCell!r}: make one of it.",
    ),
    (
        lambda: wrapper().get_vd_update_op(),
        ValueError,
        "`get_vd_update_op()` needs the masks, which are made when the wrapper "
        "is called: call it first.",
    ),
    (
        lambda: wrapper().get_vd_reset_op(),
        ValueError,
        "`get_vd_reset_op()` needs the masks, which are made when the wrapper "
        "is called: call it first.",
    ),
    (
        lambda: wrapper(names="w_gates")(tf.ones([1, DEPTH])),
        ValueError,
        "`names` must choose a trainable variable of the layer, got 'w_gates' "
        "and ['dense/bias', 'dense/kernel']: name what is to be dropped.",
    ),
    (
        lambda: wrapper(tf.identity)(1.0),
        ValueError,
        "`names` must choose a trainable variable of the layer, got "
        "'(kernel|weights)(_\\\\d+)?$' and no variable: name what is to be "
        "dropped.",
    ),
    (
        lambda: wrapper(hides_a_kernel())(tf.ones([1, DEPTH])),
        ValueError,
        "`names` must choose variables that the layer has in attributes, in "
        "lists or dicts of these, or gets in its call, got "
        "'hides/hidden/kernel', which it hides: leave it out.",
    ),
    (
        lambda: wrapper(cuts_a_kernel())(tf.ones([1, DEPTH])),
        ValueError,
        "`names` must choose variables that the layer reads when it is "
        "called, got 'cuts/out/kernel', of which it uses what it made of it "
        "before, such as when it was built: leave it out.",
    ),
    (
        lambda: called_twice(cuts_a_kernel()),
        ValueError,
        "`names` must choose variables that the layer reads when it is "
        "called, got 'cuts/out/kernel', of which it uses what it made of it "
        "before, such as when it was built: leave it out.",
    ),
    (
        lambda: called_in_a_loop(cuts_a_kernel()),
        ValueError,
        "`names` must choose variables that the layer reads when it is "
        "called, got 'cuts/out/kernel', of which it uses what it made of it "
        "before, such as when it was built: leave it out.",
    ),
    (
        gotten_normalized,
        TypeError,
        "`custom_getter` must leave 'net/kernel' a variable, got Tensor("
        f'"normalized:0", shape=({UNITS},), dtype=float32): change only '
        "what it is meant for, by name or `trainable`.",
    ),
    (
        lambda: wrapper(of_unknown_kernel)(),
        ValueError,
        "`names` must choose variables of known shape, got 'kernel:0' of shape "
        "<unknown>: leave it out.",
    ),
    (
        lambda: wrapper(Callable()).get_config(),
        ValueError,
        "`layer` must be of tf.keras.layers for a wrapper to be made again "
        "from its config, got <a thing>: wrap such a layer, or do not copy, "
        "save or make bidirectional by Keras what holds it.",
    ),
    (
        lambda: wrapper(keras.Dense(UNITS), names=len).get_config(),
        ValueError,
        "`names` must be a string for a layer to be made again from its "
        "config, got <built-in function len>.",
    ),
    (
        lambda: wrapper(
            keras.Dense(UNITS), weight_drop_kr=tf.constant(0.5, name="rate")
        ).get_config(),
        ValueError,
        "`weight_drop_kr` must not be a tensor of this graph for a layer to be "
        "made again from its config, got 'rate:0': give a Python value.",
    ),
]

EMBEDDING = [
    (
        lambda: embedded(None),
        ValueError,
        "`params` must be a matrix or a list of its parts, got None.",
    ),
    (
        lambda: embedded([]),
        ValueError,
        "`params` must be a matrix or a list of its parts, got [].",
    ),
    (
        lambda: embedded(1.0),
        ValueError,
        "`params` must be a matrix or a list of its parts, got 1.0.",
    ),
    (
        lambda: embedded(np.ones([4, 2], np.int32)),
        TypeError,
        "`params` must be of a floating dtype, got int32.",
    ),
    (
        lambda: embedded(tf.placeholder(tf.float32, [None, 3])),
        ValueError,
        "`params` must have a known number of rows, got shape (?, 3).",
    ),
    (
        lambda: embedded(ids=[1.0]),
        TypeError,
        "`ids` must be int32 or int64, got float32.",
    ),
    (
        lambda: embedded(ids=None),
        TypeError,
        "`ids` must be a tensor, got None.",
    ),
    (
        lambda: embedded(keep_prob=0.0),
        ValueError,
        "`keep_prob` must be in (0, 1], got 0.0.",
    ),
    (
        lambda: embedded(keep_prob=None),
        TypeError,
        "`keep_prob` must be a float in (0, 1] or a scalar float tensor, got "
        "None.",
    ),
    (
        lambda: embedded(np.ones([4, 2], np.float16), keep_prob=1e-6),
        ValueError,
        "`keep_prob` must be in [1/65504, 1] with float16, got 1e-06: raise "
        "it, or use float32.",
    ),
    (
        lambda: embedded(is_train="no"),
        TypeError,
        "`is_train` must be True, False or a scalar bool tensor, got 'no'.",
    ),
    (
        lambda: embedded(seed=0.5),
        TypeError,
        "`seed` must be an integer, got 0.5.",
    ),
    (
        lambda: embedded(partition_strategy="rows"),
        ValueError,
        "`partition_strategy` must be 'mod' or 'div', got 'rows'.",
    ),
]


def penalties(function, rate):
    """Wrong calls of AR or TAR, whose rate has this name."""
    outputs = np.ones([BATCH, TIME, UNITS])
    return [
        (
            lambda: function(outputs, -0.5),
            ValueError,
            f"`{rate}` must be at least 0, got -0.5.",
        ),
        (
            lambda: function(outputs, NAN),
            ValueError,
            f"`{rate}` must be finite, got nan.",
        ),
        (
            lambda: function(outputs, "a"),
            TypeError,
            f"`{rate}` must be a number, got 'a'.",
        ),
        (
            lambda: function(outputs, np.complex64(1)),
            TypeError,
            f"`{rate}` must be a number, got {np.complex64(1)!r}.",
        ),
        (
            lambda: function(outputs, tf.ones([2])),
            ValueError,
            f"`{rate}` must be a scalar, got a tensor of shape (2,).",
        ),
        (
            lambda: function(outputs, tf.constant(1)),
            TypeError,
            f"`{rate}` must be a floating tensor, got dtype int32.",
        ),
        (
            lambda: function(Thing(), 1.0),
            TypeError,
            "`outputs` must be a tensor, got <a thing>.",
        ),
        (
            lambda: function((tf.ones([2, 3]), tf.ones([2, 3])), 1.0),
            TypeError,
            "`outputs` must be one tensor, got a tuple of 2: use "
            "`tf.concat(pair, -1)` for the pair of a bidirectional RNN, "
            "`tf.stack(steps, 1)` for a list of steps.",
        ),
        (
            lambda: function(np.ones([3, 2], np.int32), 1.0),
            TypeError,
            "`outputs` must be of a floating dtype, got int32.",
        ),
        (
            lambda: function(np.ones([3]), 1.0, sequence_length=[1, 2, 3]),
            ValueError,
            "`outputs` must have at least 2 dimensions, got a tensor of shape "
            "(3,).",
        ),
        (
            lambda: function(outputs, 1.0, sequence_length=[1]),
            ValueError,
            "`sequence_length` must be of shape [batch_size=2], got a tensor "
            "of shape (1,).",
        ),
        (
            lambda: function(outputs, 1.0, sequence_length=[[1, 2]]),
            ValueError,
            "`sequence_length` must be of shape [batch_size=2], got a tensor "
            "of shape (1, 2).",
        ),
        (
            lambda: function(outputs, 1.0, sequence_length=[1.0, 2.0]),
            TypeError,
            "`sequence_length` must be int32 or int64, got float32.",
        ),
        (
            lambda: function(outputs, 1.0, time_major=1),
            TypeError,
            "`time_major` must be True or False, got 1.",
        ),
    ]


def too_early(method, call):
    """An optimizer's method that needs the train op, without one."""
    return (
        lambda: call(optimizer(), tf.Session()),
        ValueError,
        f"`{method}` needs the averages, which do not exist in this graph yet: "
        "call `minimize` or `apply_gradients` first.",
    )


OPTIMIZER = [
    (
        lambda: optimizer().minimize(
            tf.get_variable("w", initializer=np.float16(1.0))
        ),
        TypeError,
        "NTASGDOptimizer must be given weights of float32 or float64, got w of "
        "float16, in which a mean of many soon stands still: keep float32 "
        "weights, and cast them where they are used.",
    ),
    (
        lambda: optimizer("fast"),
        TypeError,
        "`learning_rate` must be a number, got 'fast'.",
    ),
    (
        lambda: optimizer(None),
        TypeError,
        "`learning_rate` must be a number, got None.",
    ),
    (
        lambda: optimizer(NAN),
        ValueError,
        "`learning_rate` must be finite, got nan.",
    ),
    (
        lambda: optimizer(tf.ones([2])),
        ValueError,
        "`learning_rate` must be a scalar, got a tensor of shape (2,).",
    ),
    (
        lambda: optimizer(tf.constant(1)),
        TypeError,
        "`learning_rate` must be a floating tensor, got dtype int32.",
    ),
    (
        lambda: optimizer(nonmono=0),
        ValueError,
        "`nonmono` must be at least 1, got 0.",
    ),
    (
        lambda: optimizer(nonmono=2.5),
        TypeError,
        "`nonmono` must be an integer, got 2.5.",
    ),
    (
        lambda: optimizer(trigger="paper"),
        ValueError,
        "`trigger` must be 'iclr' or 'arxiv', got 'paper'.",
    ),
    (
        lambda: trained().report(tf.Session(), NAN),
        ValueError,
        "`validation_loss` must be a number, got nan: validate on some data, "
        "or go on from the last good checkpoint with a lower learning rate.",
    ),
    (
        lambda: trained().report(tf.Session(), "low"),
        TypeError,
        "`validation_loss` must be a number, got 'low'.",
    ),
    (
        lambda: trained().report(1.0, 1.0),
        TypeError,
        "`session` must be a tf.Session, got 1.0.",
    ),
    (
        lambda: trained().averaged(Thing()).__enter__(),
        TypeError,
        "`session` must be a tf.Session, got <a thing>.",
    ),
    (
        lambda: trained().report_op(tf.zeros([2])),
        ValueError,
        "`validation_loss` must be a scalar, got a tensor of shape (2,).",
    ),
    (
        lambda: optimizer().average(
            tf.get_variable(
                "w", [4, 2], partitioner=tf.fixed_size_partitioner(2)
            )
        ),
        TypeError,
        "`var` must be a variable, got the parts of one, 'w': each has its "
        "average, ask for those of `list(var)`.",
    ),
    (
        lambda: trained().report_op(1),
        TypeError,
        "`validation_loss` must be a floating tensor, got dtype int32.",
    ),
    (
        lambda: trained().validation_hook(3, 10),
        TypeError,
        "`evaluate` must be a function, got 3.",
    ),
    (
        lambda: trained().validation_hook(len, 0),
        ValueError,
        "`every_steps` must be at least 1, got 0.",
    ),
    (
        lambda: minimized_twice(optimizer()),
        ValueError,
        "`apply_gradients` of NTASGDOptimizer must be called once in a graph, "
        "got a second call: give all gradients to one call, or use an "
        "optimizer for each.",
    ),
    (
        lambda: optimizer()._distributed_apply(None, []),
        ValueError,
        "NTASGDOptimizer must be used without a DistributionStrategy, got one: "
        "train on one replica, or with parameter servers.",
    ),
    (
        lambda: trained().swapping_saver(tf.global_variables()[1:]),
        ValueError,
        "`var_list` of `swapping_saver` must hold all averages, and their "
        "weights, or no average, got some without w: add it, or leave the "
        "averages out.",
    ),
    too_early("report()", lambda o, session: o.report(session, 1.0)),
    too_early("report_op()", lambda o, _: o.report_op(1.0)),
    too_early("averaged()", lambda o, session: o.averaged(session).__enter__()),
    too_early("swapping_saver()", lambda o, _: o.swapping_saver()),
    too_early("validation_hook()", lambda o, _: o.validation_hook(len, 1)),
    too_early("averaging", lambda o, _: o.averaging),
    too_early("swap_in", lambda o, _: o.swap_in),
    too_early("swap_out", lambda o, _: o.swap_out),
    too_early("restart", lambda o, _: o.restart),
]

QUANTIZATION = [
    (
        lambda: quantization.clipped_share("abc"),
        TypeError,
        "`inputs` must be of a floating dtype, got string.",
    ),
    (
        lambda: quantization.clipped_share(None),
        TypeError,
        "`inputs` must be a tensor, got None.",
    ),
]

CONVERT = [
    (
        lambda: converted(lambda step: dict(session=None)),
        TypeError,
        "`session` must be a tf.Session, got None.",
    ),
    (
        lambda: converted(lambda step: dict(inputs=step.inputs)),
        TypeError,
        "`inputs` must be a list, got <tf.Tensor 'inputs:0' shape=(1, 3) "
        "dtype=float32>.",
    ),
    (
        lambda: converted(lambda step: dict(outputs=None)),
        TypeError,
        "`outputs` must be a list, got None.",
    ),
    (
        lambda: converted(lambda step: dict(states=(step.c, step.new_c))),
        TypeError,
        "`states` must hold pairs of an input and an output tensor, got "
        "<tf.Tensor 'c:0' shape=(1, 4) dtype=float32>.",
    ),
    (
        lambda: converted(lambda step: dict(states=["abc"])),
        TypeError,
        "`states` must hold pairs of an input and an output tensor, got 'abc'.",
    ),
    (
        lambda: converted(lambda step: dict(inputs=["inputs:0"])),
        TypeError,
        "`inputs` must hold tensors, got 'inputs:0'.",
    ),
    (
        lambda: converted(lambda step: dict(inputs=[of_another_graph()])),
        ValueError,
        "`inputs` must be of the session's graph, got 'other' of another.",
    ),
    (
        lambda: converted(
            lambda step: dict(
                inputs=[step.inputs, tf.placeholder(tf.float64, [1], "more")]
            )
        ),
        TypeError,
        "`inputs` must be of dtype float32 or int32 or int64, got 'more' of "
        "float64.",
    ),
    (
        lambda: converted(lambda step: dict(outputs=[], states=[])),
        ValueError,
        "`outputs` must not be empty, got [].",
    ),
    (
        lambda: converted(lambda step: dict(inputs=[step.inputs, step.h])),
        ValueError,
        "`inputs` and `states` must hold each tensor once, got 'h' twice.",
    ),
    (
        lambda: converted(lambda step: dict(outputs=[step.new_h] * 2)),
        ValueError,
        "`outputs` must hold each tensor once, got 'new_h' twice.",
    ),
    (
        lambda: converted(lambda step: dict(outputs=[step.inputs])),
        ValueError,
        "`outputs` and `states` must not put out what is put in, got 'inputs': "
        "wrap it in tf.identity.",
    ),
    (
        lambda: converted(
            lambda step: dict(outputs=[tf.split(step.new_h, 2, 1)[1]])
        ),
        ValueError,
        "`outputs` must bear op names, got 'split:1', not the first output of "
        "its op: wrap it in tf.identity.",
    ),
    (
        lambda: converted(batch=None),
        ValueError,
        "`inputs` must be of known shapes, got 'inputs' of shape (?, 3): build "
        "the graph with the batch size given.",
    ),
    (
        lambda: converted(
            lambda step: dict(
                states=[(step.c, step.new_h), (step.h, step.new_c)]
            ),
            num_proj=5,
        ),
        ValueError,
        "`states` must be pairs of one shape, got 'c' of shape (1, 4) and "
        "'new_h' of shape (1, 5).",
    ),
    (
        lambda: converted(lambda step: dict(form="int8")),
        ValueError,
        "`form` must be 'uint8' or 'int16x8', got 'int8'.",
    ),
    (
        lambda: converted(lambda step: dict(check=1)),
        TypeError,
        "`check` must be True or False, got 1.",
    ),
]

TABLE = dict(
    WeightDropLSTMCell=CELL,
    WeightDropLSTMBlockFusedCell=FUSED,
    VariationalDropout=DROPOUT,
    WeightDropWrapper=WRAPPER,
    MaskUpdateHook=HOOKS,
    TrainingPhaseHook=[],  # takes nothing
    training_phase=[],  # nor does this; eager mode: test_training.py
    mask_summaries=SUMMARIES,
    embedding_dropout=EMBEDDING,
    activation_regularization=penalties(activation_regularization, "alpha"),
    temporal_activation_regularization=penalties(
        temporal_activation_regularization, "beta"
    ),
    NTASGDOptimizer=OPTIMIZER,
    quantization=QUANTIZATION,
    tflite=CONVERT,
)


def rows(table):
    return [
        pytest.param(*row, id=f"{name}-{number}")
        for name, of_name in table.items()
        for number, row in enumerate(of_name)
    ]


@pytest.mark.parametrize("call, error, sentence", rows(TABLE))
def test_sentence(call, error, sentence):
    with pytest.raises(error) as caught:
        call()
    assert type(caught.value) in (error, NotKept)
    said = str(caught.value).replace("(None, ", "(?, ")  # shapes of 2.x
    assert said == sentence.replace("(None, ", "(?, ")


@pytest.mark.smoke
def test_everything_public_is_in_the_table():
    assert set(TABLE) == set(awd_lstm_tf.__all__)


# ---------------------------------------------------------------------------
# What only a run can tell


def fetched(tensor):
    # First the variables: a read of one that is not set fails, too.
    runs = [tf.global_variables_initializer(), tensor]
    return lambda session: [session.run(each) for each in runs]


def rate(value, dtype=tf.float32):
    """A number that is known only when the graph is run."""
    return tf.placeholder_with_default(tf.constant(value, dtype), [])


def of_unknown_shape(value, rank=None):
    """A value whose sizes are known only when the graph is run."""
    shape = None if rank is None else [None] * rank
    return tf.placeholder_with_default(value, shape)


def drawn_cell(value, dtype=tf.float32):
    made = cell(
        weight_drop_kr=rate(value), use_vd=True, input_size=3, dtype=dtype
    )
    return fetched(made.get_vd_update_op())


def trained_while_swapped():
    made = optimizer()
    step = made.minimize(tf.get_variable("w", initializer=1.0))
    runs = [tf.global_variables_initializer(), made.swap_in, step]
    return lambda session: [session.run(op) for op in runs]


def stepped_on_nan():
    output, _ = called_cell(is_quant=True)
    (kernel,) = [v for v in tf.trainable_variables() if "kernel" in v.name]
    start = tf.global_variables_initializer()

    def run(session):
        session.run(start)
        kernel.load(np.full(kernel.shape.as_list(), np.nan), session)
        session.run(output)

    return run


RUN_TIME = dict(
    WeightDropLSTMCell=[
        (
            lambda: drawn_cell(1.5),
            "assertion failed: [`weight_drop_kr` must be in (0, 1], got ] "
            "[1.5]",
        ),
        (
            lambda: drawn_cell(0.0),
            "assertion failed: [`weight_drop_kr` must be in (0, 1], got ] [0]",
        ),
        (
            lambda: drawn_cell(NAN),
            "assertion failed: [`weight_drop_kr` must be in (0, 1], got ] "
            "[nan]",
        ),
        (
            lambda: drawn_cell(1e-6, tf.float16),
            "assertion failed: [`weight_drop_kr` must be in [1/65504, 1] with "
            "float16, got ] [1e-06]",
        ),
        (
            stepped_on_nan,
            "A kernel with `is_quant` must be finite, got NaN or infinity : "
            "Tensor had NaN values",
        ),
    ],
    WeightDropLSTMBlockFusedCell=[
        (
            lambda: fetched(
                called_fused(
                    initial_state=[of_unknown_shape(np.zeros([1, 4], "f"))] * 2
                )[0]
            ),
            "assertion failed: [`initial_state` must be of shape [batch_size, "
            "num_units], got and wanted:] [1 4] [2 4]",
        ),
        (
            lambda: fetched(
                called_fused(
                    tf.placeholder_with_default(
                        np.zeros([5, 2, 3], "f"), [None, None, 3]
                    ),
                    initial_state=[tf.zeros([1, 4])] * 2,
                )[0]
            ),
            "assertion failed: [`initial_state` must be of shape [batch_size, "
            "num_units], got and wanted:] [1 4] [2 4]",
        ),
        (
            lambda: fetched(
                called_fused(sequence_length=of_unknown_shape([3], 1))[0]
            ),
            "assertion failed: [`sequence_length` must be of shape "
            "[batch_size], got and wanted:] [1] [2]",
        ),
    ],
    VariationalDropout=[
        (
            lambda: fetched(
                called_dropout(
                    tf.zeros([3]),
                    auto_update=True,
                    is_train=of_unknown_shape([True]),
                )
            ),
            "assertion failed: [`is_train` must be a scalar, got a tensor of "
            "shape ] [1]",
        ),
        (
            lambda: fetched(
                dropout(
                    keep_prob=of_unknown_shape(np.ones([1, 1], "f"))
                ).get_update_mask_op()
            ),
            "assertion failed: [`keep_prob` must be a scalar, got a tensor of "
            "shape ] [1 1]",
        ),
        (
            lambda: fetched(dropout(keep_prob=rate(-1.0)).get_update_mask_op()),
            "assertion failed: [`keep_prob` must be in (0, 1], got ] [-1]",
        ),
        (
            lambda: fetched(
                dropout(keep_prob=rate(1e-6, tf.float16), auto_update=True)(
                    tf.zeros([3])
                )
            ),
            "assertion failed: [`keep_prob` must be in [1/65504, 1] with "
            "float16, got ]",
        ),
        (
            lambda: fetched(
                called_dropout(
                    of_unknown_shape(np.ones([1, 5, 3], np.float32), 3),
                    [4, 1, 3],
                    auto_update=True,
                )
            ),
            "assertion failed: [`input_shape` must broadcast against the "
            "inputs, got [4, 1, 3] for inputs of shape ] [1 5 3]",
        ),
        (
            lambda: fetched(  # a last, smaller batch
                called_dropout(
                    of_unknown_shape(np.ones([3, 5, 2], np.float32), 3),
                    [4, 1, 2],
                )
            ),
            "assertion failed: [`input_shape` must broadcast against the "
            "inputs, got [4, 1, 2] for inputs of shape ] [3 5 2]",
        ),
        (
            lambda: fetched(
                called_dropout(
                    of_unknown_shape(np.ones([5, 3], np.float32)),
                    [1, 1, 3],
                    is_train=tf.placeholder_with_default(False, []),
                )
            ),
            "assertion failed: [`input_shape` must broadcast against the "
            "inputs, got [1, 1, 3] for inputs of shape ] [5 3]",
        ),
    ],
    embedding_dropout=[
        (
            lambda: fetched(embedded(keep_prob=rate(1.5))),
            "assertion failed: [`keep_prob` must be in (0, 1], got ] [1.5]",
        ),
    ],
    activation_regularization=[
        (
            lambda: fetched(activation_regularization([1.0], rate(-1.0))),
            "assertion failed: [`alpha` must be at least 0, got ] [-1]",
        ),
        (
            lambda: fetched(
                activation_regularization(
                    [1.0], of_unknown_shape(np.ones([1], "f"))
                )
            ),
            "assertion failed: [`alpha` must be a scalar, got a tensor of "
            "shape ] [1]",
        ),
        (
            lambda: fetched(
                activation_regularization(
                    of_unknown_shape(np.ones([4, 6, 3]), 3),
                    1.0,
                    sequence_length=[5],
                )
            ),
            "assertion failed: [`sequence_length` must be of shape "
            "[batch_size], got and wanted:] [1] [4]",
        ),
    ],
    temporal_activation_regularization=[
        (
            lambda: fetched(
                temporal_activation_regularization(
                    np.ones([6, 1, 3]),
                    1.0,
                    time_major=True,
                    sequence_length=of_unknown_shape([5, 6], 1),
                )
            ),
            "assertion failed: [`sequence_length` must be of shape "
            "[batch_size], got and wanted:] [2] [1]",
        ),
    ],
    NTASGDOptimizer=[
        (
            lambda: fetched(
                trained().report_op(of_unknown_shape(np.ones([2], "f")))
            ),
            "assertion failed: [`validation_loss` must be a scalar, got a "
            "tensor of shape ] [2]",
        ),
        (
            lambda: fetched(trained().report_op(rate(NAN))),
            "assertion failed: [`validation_loss` must be a number, got ] "
            "[nan]",
        ),
        (
            trained_while_swapped,
            "assertion failed: [NTASGDOptimizer must not train while its "
            "averages are swapped in: run its `swap_out` first (a checkpoint "
            "of `swapping_saver()` is restored with a `swapping_saver()`)]",
        ),
    ],
)


@pytest.mark.parametrize("make, sentence", rows(RUN_TIME))
def test_sentence_at_run_time(make, sentence):
    """An InvalidArgumentError that begins with the sentence."""
    run = make()
    with tf.Session() as session:
        with pytest.raises(tf.errors.InvalidArgumentError) as caught:
            run(session)
    # 2.x says first where in the graph it was.
    assert sentence in caught.value.message
