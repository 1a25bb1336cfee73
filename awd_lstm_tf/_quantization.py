"""Fake quantization: training an LSTM that will run on integers alone.

A fake-quant op rounds a float tensor to the values that an integer tensor can
hold, and lets gradients pass as if it had not (but for values out of range).
Activations have the fixed ranges below, chosen so that `awd_lstm_tf.tflite` can
turn each op into an integer op of TFLite that computes the same. Only the
kernels' ranges are learned.

| tensor | bits | range |
|---|---|---|
| inputs, `h` | 8 | `[-1, 1)` |
| kernels | 8, symmetric | `max(abs(kernel))` |
| gates before their sigmoid or tanh | 16 | `[-8, 8)` |
| sigmoid, tanh, `i * j` | 16 | `[-1, 1)` |
| `f * c`, `c` | 16 | `[-16, 16)` |

References:
  Jacob et al.: "Quantization and Training of Neural Networks for Efficient
  Integer-Arithmetic-Only Inference", https://arxiv.org/abs/1712.05877,
  sections 2 and 3.
"""

import collections

from awd_lstm_tf import _checks, _placing
from awd_lstm_tf._versions import rnn_cell, tf

# What the variables that hold a kernel's range are called, after the kernel.
_LOW, _HIGH = "_quant/min", "_quant/max"


class Grid(collections.namedtuple("Grid", "limit bits")):
    """The `2**bits` evenly spaced values of `[-limit, limit)`, 0 among them."""

    @property
    def step(self):
        """The distance between two neighbours."""
        return 2.0 * self.limit / 2**self.bits

    def __call__(self, value):
        """Rounds `value` to the grid, clipping what is out of range."""
        return tf.fake_quant_with_min_max_args(
            value, -self.limit, self.limit - self.step, num_bits=self.bits
        )


HIDDEN = Grid(1.0, 8)  # the inputs, h, and what they are concatenated to
GATE = Grid(8.0, 16)
UNIT = Grid(1.0, 16)
CELL = Grid(16.0, 16)

# A peephole's product with `c`, in [-16, 16), must be back on GATE without an
# op that rescales 16 bits (TFLite has none): so a quarter of the weight is
# multiplied, and the product doubled twice by additions, which saturate.
_QUARTER_PEEPHOLE = Grid(GATE.limit / CELL.limit, 16)


class KernelRange(object):
    """The learned range of a kernel: two variables in the cell's scope.

    They enter checkpoints and `cell.non_trainable_weights`. Both are 0 until
    the first training step.

    Args:
      cell: the layer that gets the variables.
      kernel_name: what the kernel is called in the cell's scope; the variables
        are then `<kernel_name>_quant/min` and `<kernel_name>_quant/max`.
    """

    def __init__(self, cell, kernel_name):
        self._low = self._variable(cell, kernel_name + _LOW)
        self._high = self._variable(cell, kernel_name + _HIGH)

    @staticmethod
    def _variable(cell, name):
        variable = cell.add_weight(
            name,
            shape=[],
            dtype=tf.float32,
            initializer=tf.zeros_initializer(),
            trainable=False,
            # Under a MirroredStrategy each replica learns the same value.
            synchronization=tf.VariableSynchronization.ON_READ,
            aggregation=tf.VariableAggregation.MEAN,
        )
        return _checks.assignable(name, variable)

    def bound(self, kernel, is_train):
        """The range's upper end (the lower one is its negative).

        Args:
          kernel: float32 tensor or variable, with nothing dropped.
          is_train: bool or scalar bool tensor. True: learns, that is, assigns
            the kernel's largest absolute value to the variables.

        Returns:
          Scalar float32 tensor.
        """
        if is_train is False:
            return self._frozen(kernel)
        if is_train is True:
            return self._learned(kernel)
        return tf.cond(
            is_train,
            lambda: self._learned(kernel),
            lambda: self._frozen(kernel),
        )

    def _learned(self, kernel):
        largest = _largest(kernel)
        assigned = [self._low.assign(-largest), self._high.assign(largest)]
        with tf.control_dependencies(assigned):
            return tf.identity(largest)

    def _frozen(self, kernel):
        # A range never learned clips nothing; `tflite.convert` refuses it.
        high = tf.convert_to_tensor(self._high)
        return tf.cond(high > 0, lambda: high, lambda: _largest(kernel))


def _largest(kernel):
    # Fake quant would turn NaN into a number, and training would go on.
    kernel = tf.check_numerics(
        tf.stop_gradient(tf.convert_to_tensor(kernel)),
        "A kernel with `is_quant` must be finite, got NaN or infinity",
    )
    # 0 would be no range at all.
    return tf.maximum(tf.reduce_max(tf.abs(kernel)), 1e-6)


def quantize_kernel(kernel, bound):
    """Rounds `kernel` to the 255 values of `[-bound, bound]`, 0 among them.

    Args:
      kernel: float32 tensor.
      bound: positive scalar tensor.

    Returns:
      A tensor shaped like `kernel`.
    """
    # Wider by some float32 roundings, lest the largest weight lie outside and
    # get no gradient (test_quantization.py::test_largest_weight_gets_gradient).
    bound = bound * (1 + 2**-20)
    return tf.fake_quant_with_min_max_vars(
        kernel, -bound, bound, num_bits=8, narrow_range=True
    )


def quantized_lstm_step(
    inputs,
    c,
    h,
    kernel,
    bias,
    peepholes=(None, None, None),
    projection=None,
    cell_clip=None,
    proj_clip=None,
):
    """One step of an LSTM, every tensor rounded to its grid.

        i, j, f, o = split(concat([x, h]) @ kernel + bias)
        c = sigmoid(f + w_f * c) * c + sigmoid(i + w_i * c) * tanh(j)
        h = (sigmoid(o + w_o * c) * tanh(c)) @ projection

    This is LSTMCell's step with fake quant after each op, so that each has an
    integer op of TFLite that does the same.

    Args:
      inputs: `[batch_size, input_size]`; clipped to `[-1, 1)`.
      c: `[batch_size, num_units]`.
      h: `[batch_size, output_size]`.
      kernel: `[input_size + output_size, 4 * num_units]`, from
        `quantize_kernel`.
      bias: `[4 * num_units]`, `forget_bias` included.
      peepholes: `(w_i, w_f, w_o)`, each `[num_units]` or None; clipped to
        `[-2, 2)`.
      projection: `[num_units, output_size]`, from `quantize_kernel`, or None.
        What it projects to is clipped to `[-1, 1)`.
      cell_clip: None, or the largest absolute value of `c`.
      proj_clip: None, or the largest absolute value of a projected `h`.

    Returns:
      The new `c` and `h`.
    """
    c, h = CELL(c), HIDDEN(h)
    inputs_and_h = tf.concat([HIDDEN(inputs), h], 1)
    gates = GATE(tf.nn.bias_add(tf.matmul(inputs_and_h, kernel), bias))
    # i: input gate, j: new input, f: forget gate, o: output gate
    i, j, f, o = tf.split(gates, 4, axis=1)
    w_i, w_f, w_o = peepholes
    forget, let_in = _sigmoid(_peep(f, w_f, c)), _sigmoid(_peep(i, w_i, c))
    c = CELL(CELL(forget * c) + UNIT(let_in * _tanh(j)))
    c = _clip(c, cell_clip, CELL)
    h = HIDDEN(_sigmoid(_peep(o, w_o, c)) * _tanh(c))
    if projection is not None:
        h = _clip(HIDDEN(tf.matmul(h, projection)), proj_clip, HIDDEN)
    return c, h


def _sigmoid(gate):
    return UNIT(tf.sigmoid(gate))


def _tanh(value):
    return UNIT(tf.tanh(value))


def _peep(gate, weight, c):
    if weight is None:
        return gate
    weight = tf.convert_to_tensor(weight)  # it may be partitioned
    quarter = GATE(_QUARTER_PEEPHOLE(0.25 * weight) * c)
    half = GATE(quarter + quarter)
    return GATE(gate + GATE(half + half))


def _clip(value, limit, grid):
    """Clips by additions that saturate: TFLite clips no 16-bit integers."""
    if limit is None or limit >= grid.limit:
        return value
    size = value.shape[1:].as_list()
    for end, sign in ((grid.limit - grid.step, 1), (grid.limit, -1)):
        # Up to the end of the grid, where it saturates, and back.
        for shift in (sign * (end - limit), sign * (limit - end)):
            value = grid(value + grid(tf.constant(shift, tf.float32, size)))
    return value


class CellQuantizer(object):
    """What `is_quant` adds to an LSTMCell: ranges, and a step on grids.

    The weights stay the cell's; the quantizer gives it the variables for their
    ranges, and computes `quantized_lstm_step` with them.

    Args:
      cell: the LSTMCell, with its variables made.
      is_train: bool or scalar bool tensor. False: the ranges are frozen.
      delay: int, the global step from which on training quantizes.
      keep_prob: the rate that the kernel's weights are kept at, and divided by,
        in training: float or scalar tensor; None where none are dropped.

    Raises:
      TypeError: if the cell is not one of float32.
    """

    def __init__(self, cell, is_train=True, delay=0, keep_prob=None):
        _checks.quantizable_dtype(cell._kernel.dtype.base_dtype)
        self._cell, self._is_train, self._delay = cell, is_train, delay
        self._keep_prob = keep_prob
        cell.built = False  # a built layer only looks up variables
        self._range = KernelRange(cell, "kernel")
        if cell._num_proj is not None:
            self._projection_range = KernelRange(cell, "projection/kernel")
        cell.built = True

    def step(self, inputs, state, kernel, bias, otherwise):
        """One step of the cell; of floats while training does not quantize.

        Args:
          inputs: `[batch_size, input_size]`.
          state: as the cell's.
          kernel: the kernel in use, masked or not.
          bias: `[4 * num_units]`, `forget_bias` included.
          otherwise: a function without arguments: the step of floats.

        Returns:
          Outputs and the new state, as the cell's `call`.
        """
        if self._delay == 0 or self._is_train is False:
            return self._quantized(inputs, state, kernel, bias)
        started = self._once("started", self._started, [self._is_train])
        return tf.cond(
            started,
            lambda: self._quantized(inputs, state, kernel, bias),
            otherwise,
        )

    def _started(self):
        step = tf.train.get_or_create_global_step()
        reached = tf.greater_equal(step, tf.cast(self._delay, step.dtype))
        return tf.logical_or(reached, tf.logical_not(self._is_train))

    def _quantized(self, inputs, state, kernel, bias):
        cell = self._cell
        if not cell._state_is_tuple:
            state = tf.split(state, [cell._num_units, cell.output_size], 1)
        c, h = quantized_lstm_step(
            inputs,
            *state,
            kernel=self._kernel(kernel),
            bias=bias,
            peepholes=self._peepholes(),
            projection=self._projection(),
            cell_clip=cell._cell_clip,
            proj_clip=cell._proj_clip,
        )
        if cell._state_is_tuple:
            return h, rnn_cell.LSTMStateTuple(c, h)
        return h, tf.concat([c, h], 1)

    def _kernel(self, kernel):
        # The range is that of the kernel itself, with nothing dropped.
        bound = self._bound("bound", self._range, self._cell._kernel)
        return self._once(
            "kernel",
            lambda: quantize_kernel(kernel, bound * self._largest_factor()),
            [kernel, bound, self._is_train, self._keep_prob],
        )

    def _largest_factor(self):
        """The largest number that a mask multiplies a weight with."""
        if self._keep_prob is None:
            return 1.0
        largest = 1.0 / tf.cast(self._keep_prob, tf.float32)
        if self._is_train is True:
            return largest
        return tf.where(self._is_train, largest, 1.0)

    def _projection(self):
        if self._cell._num_proj is None:
            return None
        kernel = self._cell._proj_kernel
        bound = self._bound("projection bound", self._projection_range, kernel)
        return self._once(
            "projection",
            lambda: quantize_kernel(kernel, bound),
            [kernel, bound],
        )

    def _bound(self, name, learned_range, kernel):
        return self._once(
            name,
            lambda: learned_range.bound(kernel, self._is_train),
            [kernel, self._is_train],
        )

    def _once(self, name, make, inputs):
        return _placing.once_per_sequence(self, name, make, inputs)

    def _peepholes(self):
        cell = self._cell
        if not cell._use_peepholes:
            return None, None, None
        return cell._w_i_diag, cell._w_f_diag, cell._w_o_diag
