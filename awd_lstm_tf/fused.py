"""A whole-sequence LSTM with DropConnect on its kernel, made for speed on CPUs.

Forward, the inputs of all time steps meet the kernel in one product, before a
loop that holds nothing but what recurs.

Backward, a loop carries nothing but the gradients of the gates. Those of the
kernel, the bias and the inputs follow from all of them in one product each.

A tensor over time is a "series" here: either its rows, `[time * batch, depth]`,
the form that products need, whose blocks of `batch` rows are the steps; or a
list of these blocks, which is what an unrolled loop makes and takes, so that
nothing need be copied between two loops.
"""

import collections
import sys
import types

import numpy as np
from tensorflow.python.framework import ops, tensor_util
from tensorflow.python.ops import gen_math_ops, gen_nn_ops

from awd_lstm_tf import (
    _checks,
    _dropped_kernel,
    _placing,
    _versions,
    training,
)
from awd_lstm_tf._versions import rnn_cell, tf

# A loop over time of known length is unrolled up to this length: a step then
# costs no loop ops, which is a quarter of it at 200 units. Longer ones would
# take seconds to build.
_LONGEST_UNROLLED = 100

# From this many entries of a state on, a step's products are faster with all
# three matrices transposed (docs/speed.md).
_LARGE_STATE = 50000 if _versions.transposed_products_pay() else np.inf


# ---------------------------------------------------------------------------
# Loops over time


class _Steps(object):
    """The time and batch size of `inputs`, `[time, batch, depth]`."""

    def __init__(self, inputs):
        self._sizes = [
            static if static is not None else tf.shape(inputs)[axis]
            for axis, static in enumerate(inputs.shape.as_list()[:2])
        ]
        self.time = self._sizes[0]
        self.known = not _checks.is_tensor(self.time)

    def by_time(self, rows):
        """Rows as `[time, batch, depth]`; what is left of a shape stays."""
        # No -1 for a size: where there are no elements, it cannot be told.
        return tf.reshape(rows, self._sizes + rows.shape.as_list()[1:])


def _scan(step, carry, sequences, steps, depths, reverse=False):
    """Runs `step` over time, first to last or, with `reverse`, last to first.

    Args:
      step: function of the carry and a list of this step's part of each of
        `sequences`, `[batch, depth]`. Returns the new carry, and a list of
        outputs, `[batch, depth]`.
      carry: list of tensors, for the first step.
      sequences: list of series.
      steps: `_Steps`.
      depths: list of ints, the depths of the outputs to keep. An unrolled loop
        keeps all: what nobody uses is not computed there.
      reverse: bool.

    Returns:
      The last carry, and the outputs as series, in the order of time.
    """
    if steps.known and 0 < steps.time <= _LONGEST_UNROLLED:
        return _unrolled(step, carry, sequences, steps, reverse)
    return _looped(step, carry, sequences, steps, depths, reverse)


def _unrolled(step, carry, sequences, steps, reverse):
    parts = list(zip(*[_blocks(series, steps) for series in sequences]))
    outputs = []
    for part in reversed(parts) if reverse else parts:
        carry, output = step(carry, part)
        outputs.append(output)
    if reverse:
        outputs.reverse()
    return carry, [list(blocks) for blocks in zip(*outputs)]


def _looped(step, carry, sequences, steps, depths, reverse):
    time = steps.time
    shapes = [part.shape for part in carry]
    reads = [
        tf.TensorArray(rows.dtype, time).unstack(steps.by_time(rows))
        for rows in map(_rows, sequences)
    ]
    writes = [
        tf.TensorArray(carry[0].dtype, time, element_shape=[None, depth])
        for depth in depths
    ]

    def body(count, carry, writes):
        at = time - 1 - count if reverse else count
        carry, outputs = step(carry, [array.read(at) for array in reads])
        for part, shape in zip(carry, shapes):
            part.set_shape(shape)
        writes = [array.write(at, x) for array, x in zip(writes, outputs)]
        return count + 1, carry, writes

    _, carry, writes = tf.while_loop(
        lambda count, *_: count < time,
        body,
        (0, carry, writes),
        parallel_iterations=1,
        # A GradientTape in a function goes the way of the ops themselves.
        back_prop=_placing.in_function(),
    )
    # Not `stack`, which at zero steps needs to know the batch size.
    return carry, [array.concat() for array in writes]


def _blocks(series, steps):
    if isinstance(series, list):
        return series
    return tf.unstack(steps.by_time(series))  # mostly without copying


def _rows(series):
    return tf.concat(series, 0) if isinstance(series, list) else series


def _delayed(first, series):
    """`series` one step later: `first`, and all but the last of it."""
    if isinstance(series, list):
        return [first] + series[:-1]
    return tf.concat([first, series], 0)[: tf.shape(series)[0]]


# ---------------------------------------------------------------------------
# The recurrence

_Peepholes = collections.namedtuple("_Peepholes", "i f o")

# What the backward pass needs to know of the forward pass, as series.
_Saved = collections.namedtuple("_Saved", "h c i j f o")


class _Sequence(object):
    """One sequence through the LSTM, and its gradients.

    Args:
      inputs: `[time, batch, input_size]`.
      kernel: `[input_size + units, 4 * units]`.
      bias: `[4 * units]`.
      c: before the first step, `[batch, units]`.
      h: the same.
      peepholes: `_Peepholes` of `[units]`, or None.
      alive: bool `[time * batch]`, whether a row lies inside of its sequence;
        None: all do.
      forget_bias: float.
      cell_clip: float or None.
    """

    def __init__(
        self,
        inputs,
        kernel,
        bias,
        c,
        h,
        peepholes,
        alive,
        forget_bias,
        cell_clip,
    ):
        self._steps = _Steps(inputs)
        self._state, self._units = (c, h), bias.shape.as_list()[0] // 4
        depth = kernel.shape.as_list()[0] - self._units
        entries = c.shape.num_elements()
        self._large = entries is not None and entries >= _LARGE_STATE
        self._alive = alive
        # Whatever padding holds, NaN even, does not come into products.
        self._inputs = self._if_alive(tf.reshape(inputs, [-1, depth]))
        self._input_kernel, self._recurrent_kernel = _parted(
            kernel, depth, self._units
        )
        self._bias, self._peepholes = bias, peepholes
        self._forget_bias, self._cell_clip = forget_bias, cell_clip

    # Forward

    def forward(self, save):
        """Runs the sequence.

        Args:
          save: whether to keep what `backward` needs.

        Returns:
          Outputs, `[time, batch, units]`, zero past the end of a sequence, the
          last c and h; and `_Saved`, or nothing.
        """
        sequences = [self._projected_inputs()]
        if self._alive is not None:
            sequences.append(self._alive)
        depths = [self._units] * (len(_Saved._fields) if save else 1)
        (c, h), series = _scan(
            self._forward_step(),
            list(self._state),
            sequences,
            self._steps,
            depths,
        )
        outputs = self._steps.by_time(self._if_alive(_rows(series[0])))
        return (outputs, c, h), _Saved(*series) if save else ()

    def _projected_inputs(self):
        offsets = np.repeat([0.0, 0.0, self._forget_bias, 0.0], self._units)
        bias = self._bias + tf.constant(offsets, self._bias.dtype)
        return tf.nn.bias_add(tf.matmul(self._inputs, self._input_kernel), bias)

    def _forward_step(self):
        product, kernel = tf.matmul, self._recurrent_kernel
        if self._large:
            product, kernel = _by_transposed, _transposed(kernel)

        def step(state, parts):
            gates = parts[0] + product(state[1], kernel)
            return self._step(gates, state, *parts[1:])

        return step

    def _step(self, gates, state, alive=None):
        c_prev, h_prev = state
        i, j, f, o = tf.split(gates, 4, 1)  # input, new input, forget, output
        if self._peepholes:
            i += self._peepholes.i * c_prev
            f += self._peepholes.f * c_prev
        i, j, f = tf.sigmoid(i), tf.tanh(j), tf.sigmoid(f)
        c = f * c_prev + i * j
        if self._cell_clip is not None:
            c = tf.clip_by_value(c, -self._cell_clip, self._cell_clip)
        if self._peepholes:
            o += self._peepholes.o * c
        o = tf.sigmoid(o)
        h = o * tf.tanh(c)
        if alive is not None:
            c = tf.where(alive, c, c_prev)
            h = tf.where(alive, h, h_prev)
        return [c, h], _Saved(h, c, i, j, f, o)

    def _if_alive(self, rows):
        if self._alive is None:
            return rows
        return tf.where(self._alive, rows, tf.zeros_like(rows))

    # Backward

    def backward(self, saved, d_outputs, d_state):
        """Gradients of inputs, kernel, bias, first c and h, and peepholes.

        Args:
          saved: `_Saved`.
          d_outputs: gradient of the outputs, `[time, batch, units]`.
          d_state: gradients of the last c and h.
        """
        c_prev = _delayed(self._state[0], saved.c)
        h_prev = _delayed(self._state[1], saved.h)
        d_outputs = self._if_alive(tf.reshape(d_outputs, [-1, self._units]))
        sequences = [d_outputs, c_prev] + list(saved[1:])
        if self._alive is not None:
            sequences.append(self._alive)
        (d_c, d_h), (d_gates,) = _scan(
            self._backward_step(),
            d_state,
            sequences,
            self._steps,
            [4 * self._units],
            reverse=True,
        )
        d_gates = _rows(d_gates)
        stacked = tf.concat([self._inputs, _rows(h_prev)], 1)
        d_inputs = tf.matmul(d_gates, self._input_kernel, transpose_b=True)
        return [
            self._steps.by_time(d_inputs),
            tf.matmul(stacked, d_gates, transpose_a=True),
            gen_nn_ops.bias_add_grad(d_gates),
            d_c,
            d_h,
        ] + self._d_peepholes(_rows(c_prev), _rows(saved.c), d_gates)

    def _backward_step(self):
        product, kernel = _by_transposed, self._recurrent_kernel
        if not self._large:
            product, kernel = tf.matmul, _transposed(kernel)

        def step(state, parts):
            d_c, d_h = state[0], state[1] + parts[0]
            if self._alive is None:
                d_c_prev, d_gates = self._d_step(d_c, d_h, *parts[1:])
                return [d_c_prev, product(d_gates, kernel)], [d_gates]
            # Past its end, a sequence's state stays as it is: so do gradients.
            alive, none = parts[-1], tf.zeros_like(d_c)
            d_c_prev, d_gates = self._d_step(
                tf.where(alive, d_c, none),
                tf.where(alive, d_h, none),
                *parts[1:-1],
            )
            d_h_prev = product(d_gates, kernel)
            d_state = [
                tf.where(alive, d_c_prev, d_c),
                tf.where(alive, d_h_prev, d_h),
            ]
            return d_state, [d_gates]

        return step

    def _d_step(self, d_c, d_h, c_prev, c, i, j, f, o):
        """Gradients of the c before a step, and of its gates, in one tensor."""
        sigmoid_grad, tanh_grad = (
            gen_math_ops.sigmoid_grad,
            gen_math_ops.tanh_grad,
        )
        tanh_c = tf.tanh(c)
        d_o = sigmoid_grad(o, d_h * tanh_c)
        d_c += tanh_grad(tanh_c, d_h * o)
        if self._peepholes:
            d_c += d_o * self._peepholes.o
        if self._cell_clip is not None:
            # Of c as it was before clipping; as tf.clip_by_value has it, the
            # bounds themselves let gradients pass.
            inside = tf.abs(f * c_prev + i * j) <= self._cell_clip
            d_c *= tf.cast(inside, c.dtype)
        d_i = sigmoid_grad(i, d_c * j)
        d_j = tanh_grad(j, d_c * i)
        d_f = sigmoid_grad(f, d_c * c_prev)
        d_c *= f
        if self._peepholes:
            d_c += d_i * self._peepholes.i + d_f * self._peepholes.f
        return d_c, tf.concat([d_i, d_j, d_f, d_o], 1)

    def _d_peepholes(self, c_prev, c, d_gates):
        if not self._peepholes:
            return []
        d_i, _, d_f, d_o = tf.split(d_gates, 4, 1)
        products = [d_i * c_prev, d_f * c_prev, d_o * c]
        return [tf.reduce_sum(product, 0) for product in products]


def _parted(kernel, depth, units):
    """The inputs' rows of the kernel, and the recurrent ones."""
    # As a vector: TensorFlow cuts a vector without copying, but a matrix only
    # if its rows are multiples of 64 bytes.
    flat, border = tf.reshape(kernel, [-1]), depth * 4 * units
    return (
        tf.reshape(flat[:border], [depth, 4 * units]),
        tf.reshape(flat[border:], [units, 4 * units]),
    )


def _transposed(matrix):
    # As a batch of one: Grappler would hand a plain transpose over to the
    # matmuls of an unrolled loop, which are 3 times slower with it.
    return tf.squeeze(tf.transpose(tf.expand_dims(matrix, 0), [0, 2, 1]), 0)


def _by_transposed(rows, matrix):
    """`rows @ transpose(matrix)`, all three of them transposed."""
    return _transposed(tf.matmul(matrix, _transposed(rows)))


# ---------------------------------------------------------------------------
# The gradient
#
# It is that of an op which passes on all that the gradient needs: the results,
# what they were made of, and what the forward pass saved. The op is told by a
# name that graphs on disk bear, so the name stays as it is, and a graph that is
# imported has its gradient once `awd_lstm_tf` is.

GRADIENT = "AwdLstmTfSequence"
_SECOND_ORDER = "AwdLstmTfSecondOrder"

_NO_CLIP = -1.0  # as in LSTMBlockFusedCell

# What an input of the op says: settings, how many tensors follow, and sizes,
# which tensors may have lost on the way (control flow v2).
_Header = collections.namedtuple(
    "_Header",
    "forget_bias cell_clip peepholes alive blocks time batch depth units",
)
_UNKNOWN = -1


def _marked(gradient, tensors):
    """`tensors`, through an op with the gradient that is called so."""
    graph = tf.get_default_graph()
    with graph.gradient_override_map({"IdentityN": gradient}):
        return tf.identity_n(tensors)


def _run(tensors, peepholes, alive, save, forget_bias, cell_clip):
    """Outputs, c and h of a sequence, with the gradient of `_Sequence`.

    Args:
      tensors: list of inputs, kernel, bias, c and h.
      peepholes: list of three tensors, or none.
      alive: bool tensor or None.
      save: whether to keep what the gradient needs. Otherwise it runs the
        sequence once more.
      forget_bias: float.
      cell_clip: float or None.
    """
    results, saved = _sequence(
        tensors, peepholes, alive, forget_bias, cell_clip
    ).forward(save)
    series = [each if isinstance(each, list) else [each] for each in saved]
    header = _Header(
        forget_bias,
        _NO_CLIP if cell_clip is None else cell_clip,
        len(peepholes),
        int(alive is not None),
        len(series[0]) if series else 0,
        *[
            _UNKNOWN if size is None else size
            for size in tensors[0].shape.as_list()
            + tensors[4].shape.as_list()[1:]
        ],
    )
    header = tf.constant(header, tf.float64, name="settings")
    known = list(tensors) + list(peepholes)
    known += [alive] if alive is not None else []
    known += [block for blocks in series for block in blocks]
    return _marked(GRADIENT, list(results) + [header] + known)[: len(results)]


def _sequence(tensors, peepholes, alive, forget_bias, cell_clip):
    peepholes = _Peepholes(*peepholes) if peepholes else None
    return _Sequence(*tensors, peepholes, alive, forget_bias, cell_clip)


@ops.RegisterGradient(GRADIENT)
def _gradient(op, d_outputs, d_c, d_h, *_):
    results = 3
    header = _header_of(op.inputs[results])
    tensors, peepholes, alive, series = _parts(header, op.inputs[results + 1 :])
    clip = None if header.cell_clip == _NO_CLIP else header.cell_clip
    sequence = _sequence(tensors, peepholes, alive, header.forget_bias, clip)
    if not header.blocks:
        _, series = sequence.forward(True)
    gradients = sequence.backward(_Saved(*series), d_outputs, [d_c, d_h])
    gradients = _marked(_SECOND_ORDER, gradients)
    passed = len(op.inputs) - results - 1 - len(gradients)
    return [None] * (results + 1) + gradients + [None] * passed


def _header_of(tensor):
    values = tensor_util.constant_value(tensor)
    if values is None:
        raise ValueError(
            f"'{tensor.op.name}' must be the constant that "
            "WeightDropLSTMBlockFusedCell made for its gradient, got "
            f"{tensor.op.type}: what rewrote this graph must leave constants."
        )
    floats = _Header._fields[:2]
    return _Header(
        *[
            value if name in floats else int(value)
            for name, value in zip(_Header._fields, values.tolist())
        ]
    )


def _parts(header, known):
    """What the gradient's op was given, as lists: see `_run`."""
    known = iter(known)
    sizes = [header.time, header.batch, header.depth, header.units]
    time, batch, depth, units = [
        None if size == _UNKNOWN else size for size in sizes
    ]

    def take(*shape):
        # In the gradient of a user's loop this is where tensors come over from
        # the forward pass: into a loop of ours they cannot
        # (test_fused.py::test_in_a_users_loop).
        tensor = tf.identity(next(known))
        tensor.set_shape(shape)
        return tensor

    tensors = [
        take(time, batch, depth),
        take(depth + units, 4 * units),
        take(4 * units),
        take(batch, units),
        take(batch, units),
    ]
    peepholes = [take(units) for _ in range(header.peepholes)]
    alive = take(None) if header.alive else None
    rows = batch if header.blocks > 1 else None
    series = [
        [take(rows, units) for _ in range(header.blocks)]
        for _ in _Saved._fields
    ]
    if header.blocks == 1:
        series = [block for (block,) in series]
    return tensors, peepholes, alive, series


@ops.RegisterGradient(_SECOND_ORDER)
def _refuse_second_order(*_):
    raise NotImplementedError(
        "Gradients of gradients must not go through "
        "WeightDropLSTMBlockFusedCell, which has none of second order: use "
        "WeightDropLSTMCell in tf.nn.static_rnn."
    )


# ---------------------------------------------------------------------------
# The layer


class WeightDropLSTMBlockFusedCell(
    _dropped_kernel.DroppedKernel, _versions.Layer
):
    """`WeightDropLSTMCell` over a whole sequence: same results, less time.

    Outputs, final state and gradients are those of `WeightDropLSTMCell` under
    `tf.nn.dynamic_rnn`, to float rounding, for the same mask:

        i, j, f, o = split([inputs[t], h] @ (kernel * mask) + bias)
        c = sigmoid(f + forget_bias + w_f * c) * c
            + sigmoid(i + w_i * c) * tanh(j)
        c = clip(c, -cell_clip, cell_clip)
        h = sigmoid(o + w_o * c) * tanh(c)
        outputs[t] = h

    (without the `w`s, unless `use_peephole`). Called, and named, like
    `tf.contrib.rnn.LSTMBlockFusedCell`, whose variables it has: checkpoints
    pass both ways, and to and from `LSTMCell`s in `dynamic_rnn`, for which the
    layer must be made with `name="lstm_cell"` and called in
    `tf.variable_scope("rnn")`.

    Where the stock layer departs from LSTMCell, this one does not: its gradient
    respects `cell_clip`, and float64, lists of inputs and sequences of no steps
    work.

    Gradients of its gradients are not supported: asking for them is an error.
    Neither is standard dropout, `weight_drop_kr` below 1 without `use_vd`: that
    needs a new mask at every step, as `WeightDropLSTMCell` has it.

    Unless `is_train=False`, sequences of unknown time, and very long ones, are
    run in a loop that keeps what gradients need, also if none are taken.

    Example:

        lstm = awd_lstm_tf.WeightDropLSTMBlockFusedCell(
            650, weight_drop_kr=0.5, use_vd=True, auto_update=True)
        outputs, state = lstm(inputs, dtype=tf.float32)  # inputs by time

    References:
      Merity, Keskar, Socher: "Regularizing and Optimizing LSTM Language
      Models", https://arxiv.org/abs/1708.02182, section 2.
    """

    def __init__(
        self,
        num_units,
        forget_bias=1.0,
        cell_clip=None,
        use_peephole=False,
        reuse=None,
        dtype=None,
        name="lstm_fused_cell",
        *,
        weight_drop_kr=1.0,
        use_vd=False,
        input_size=None,
        recurrent_only=False,
        auto_update=False,
        is_train=True,
        updates_collections=None,
        seed=None,
        **kwargs,
    ):
        """Makes a layer.

        Args:
          num_units: int, number of units.
          forget_bias: float, added to the forget gate before its sigmoid.
          cell_clip: float that c is clipped to, both ways. None, 0 or less: no
            clipping, as in LSTMBlockFusedCell.
          use_peephole: bool, whether the gates see c. None: False.
          reuse: bool, whether to use the variables of a layer of this name.
          dtype: of the variables; None: that of the first inputs.
          name: of the layer and its variable scope.
          weight_drop_kr: the keep rate of the kernel's weights: float in
            (0, 1], or a scalar float tensor.
          use_vd: must be True if weights are dropped: the mask holds for whole
            sequences.
          input_size: depth of the inputs. Lets the mask, and so
            `get_vd_update_op()`, exist before the layer is first called.
          recurrent_only: True: only the hidden-to-hidden rows of the kernel
            are dropped, as in the paper. False: all of it.
          auto_update: draw a new mask in every `session.run`; there is no op
            to run and no variable.
          is_train: bool, or scalar bool tensor. False: nothing is dropped.
          updates_collections: name, or list of names, of graph collections
            that the update op is added to.
          seed: int. With `tf.set_random_seed` it makes the masks reproducible.
          **kwargs: `trainable`, and others of `tf.layers.Layer`.

        Raises:
          ValueError: for a value out of its range.
          TypeError: for a value of the wrong kind.
        """
        _checks.fused_arguments(kwargs)
        dtype = _checks.optional_floating("dtype", dtype)
        super(WeightDropLSTMBlockFusedCell, self).__init__(
            _reuse=reuse, name=name, dtype=dtype, **kwargs
        )
        self._num_units = _checks.num_units(num_units)
        self._forget_bias = _checks.finite("forget_bias", forget_bias)
        clips = cell_clip is not None
        clips = clips and _checks.finite("cell_clip", cell_clip) > 0
        self._cell_clip = cell_clip if clips else None
        self._use_peephole = use_peephole is not None and _checks.boolean(
            "use_peephole", use_peephole
        )
        _checks.mask_per_sequence(weight_drop_kr, use_vd)
        self._init_weight_drop(
            weight_drop_kr,
            use_vd,
            input_size,
            is_train,
            recurrent_only,
            auto_update,
            updates_collections,
            seed,
        )
        self.input_spec = _versions.InputSpec(ndim=3)
        if self._input_size is not None:
            self._build_layer_mask(self._input_size, dtype or tf.float32)

    @property
    def __class__(self):
        # What a program that has the stock layers imported may ask for by
        # `isinstance`; `tf.contrib` is not imported for that.
        return _stock_kind(type(self))

    @property
    def num_units(self):
        """Number of units, the depth of the outputs."""
        return self._num_units

    def _build_layer_mask(self, depth, dtype):
        units = self._num_units
        self._build_mask(depth, units, units, tf.as_dtype(dtype))

    def build(self, inputs_shape):
        """Creates LSTMCell's variables, and the mask.

        Args:
          inputs_shape: `[time, batch_size, input_size]`.
        """
        depth = _checks.known_depth(tf.TensorShape(inputs_shape).as_list()[-1])
        units = self._num_units
        self._kernel = self.add_weight("kernel", [depth + units, 4 * units])
        self._bias = self.add_weight(
            "bias", [4 * units], initializer=tf.zeros_initializer()
        )
        if self._use_peephole:
            self._w_i_diag = self.add_weight("w_i_diag", [units])
            self._w_f_diag = self.add_weight("w_f_diag", [units])
            self._w_o_diag = self.add_weight("w_o_diag", [units])
        self._build_layer_mask(depth, self._kernel.dtype.base_dtype)
        self.built = True

    def __call__(self, inputs, *args, **kwargs):
        """Runs the layer on a sequence, see `call`."""
        sequence = _checks.float_tensor(
            "inputs", _checks.tensor("inputs", inputs)
        )
        outputs, state = super(WeightDropLSTMBlockFusedCell, self).__call__(
            sequence, *args, **kwargs
        )
        if isinstance(inputs, list):
            outputs = tf.unstack(outputs, len(inputs))
        return outputs, state

    @_versions.as_written
    def call(
        self, inputs, initial_state=None, dtype=None, sequence_length=None
    ):
        """Runs the LSTM on a sequence.

        Args:
          inputs: `[time, batch_size, input_size]`, or a list of `time` tensors
            `[batch_size, input_size]`.
          initial_state: tuple of c and h, `[batch_size, num_units]` each; None:
            zeros.
          dtype: of the initial state and the outputs, which must be that of
            `inputs`; None: that.
          sequence_length: int `[batch_size]`, the number of steps of each
            sequence; None: all of them. Past its end, a sequence's outputs are
            zero and its state stays as it is.

        Returns:
          Outputs, `[time, batch_size, num_units]` (a list, if `inputs` are
          one), and the final state, an `LSTMStateTuple` of `c` and `h`.
        """
        _checks.inputs_dtype(dtype, inputs)
        _checks.same_dtype(
            "WeightDropLSTMBlockFusedCell",
            self._kernel.dtype.base_dtype,
            inputs,
        )
        weights = [self._kernel_in_use(), self._bias] + self._peepholes()
        kernel, bias, *peepholes = map(tf.convert_to_tensor, weights)
        state = self._initial_state(initial_state, inputs)
        outputs, c, h = _run(
            [inputs, kernel, bias, *state],
            peepholes,
            _alive(sequence_length, inputs),
            save=self._is_train is not False,
            forget_bias=self._forget_bias,
            cell_clip=self._cell_clip,
        )
        return outputs, rnn_cell.LSTMStateTuple(c, h)

    def _initial_state(self, given, inputs):
        if given is not None:
            parts = _checks.initial_state(given)
            return [self._state_part(part, inputs) for part in parts]
        batch = inputs.shape.as_list()[1]
        if batch is None:
            batch = tf.shape(inputs)[1]
        zeros = tf.zeros([batch, self._num_units], inputs.dtype)
        return [zeros, zeros]

    def _state_part(self, given, inputs):
        return _checks.of_shape(
            "initial_state",
            _checks.tensor("initial_state", given, inputs.dtype),
            batch_size=inputs.shape.as_list()[1],
            num_units=self._num_units,
        )

    def _peepholes(self):
        if not self._use_peephole:
            return []
        return [self._w_i_diag, self._w_f_diag, self._w_o_diag]

    def get_config(self):
        """Returns the arguments to make this layer again.

        `training_phase()` is kept by its name.

        Raises:
          ValueError: for an argument that is any other tensor.
        """
        config = super(WeightDropLSTMBlockFusedCell, self).get_config()
        config.update(
            self._weight_drop_config,
            num_units=self._num_units,
            forget_bias=self._forget_bias,
            cell_clip=self._cell_clip,
            use_peephole=self._use_peephole,
        )
        return training.kept_config(config)


_STOCK_KINDS = {
    "lstm_ops": "LSTMBlockWrapper",
    "fused_rnn_cell": "FusedRNNCell",
}
_stock_kinds = {}


def _stock_kind(kind):
    """`kind` with the stock layers' base classes, if they are imported."""
    bases = []
    for module, name in _STOCK_KINDS.items():
        module = f"tensorflow.contrib.rnn.python.ops.{module}"
        bases.append(getattr(sys.modules.get(module), name, None))
    bases = tuple(filter(None, bases))
    if not bases or issubclass(kind, bases):
        return kind
    if (kind, bases) not in _stock_kinds:
        made = types.new_class(kind.__name__, (kind,) + bases)
        made.__module__, made.__abstractmethods__ = kind.__module__, frozenset()
        _stock_kinds[kind, bases] = made
    return _stock_kinds[kind, bases]


def _alive(sequence_length, inputs):
    """Bool `[time * batch]`: is the step before its sequence's end? Or None."""
    if sequence_length is None:
        return None
    lengths = _checks.of_shape(
        "sequence_length",
        _checks.tensor("sequence_length", sequence_length),
        batch_size=inputs.shape.as_list()[1],
    )
    lengths = tf.cast(lengths, tf.int32)
    steps = tf.range(tf.shape(inputs)[0])
    return tf.reshape(tf.expand_dims(steps, 1) < lengths, [-1])
