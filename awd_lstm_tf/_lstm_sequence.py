"""An LSTM over a whole sequence, and its gradients, written for speed on CPUs.

Forward, the inputs of all time steps meet the kernel in one product, before a
loop that holds nothing but what recurs.

Backward, a loop carries nothing but the gradients of the gates. Those of the
kernel, the bias and the inputs follow from all of them in one product each.
"""

import collections

import numpy as np
from tensorflow.python.ops import gen_math_ops, gen_nn_ops

from awd_lstm_tf import _time_loop, _versions
from awd_lstm_tf._versions import tf

# From this many entries of a state on, a step's products are faster with all
# three matrices transposed (docs/speed.md).
_LARGE_STATE = 50000 if _versions.transposed_products_pay() else np.inf

_Peepholes = collections.namedtuple("_Peepholes", "i f o")

# What the backward pass needs to know of the forward pass, as series.
Saved = collections.namedtuple("Saved", "h c i j f o")


class Sequence(object):
    """One sequence through the LSTM, and its gradients.

    Args:
      inputs: `[time, batch, input_size]`.
      kernel: `[input_size + units, 4 * units]`.
      bias: `[4 * units]`.
      c: before the first step, `[batch, units]`.
      h: the same.
      peepholes: list of those of i, f and o, `[units]`, or of none.
      alive: `[time * batch]`, 1 where a row lies inside of its sequence, else
        0; None: all do.
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
        self._steps = _time_loop.Steps(inputs)
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
        self._bias = bias
        self._peepholes = _Peepholes(*peepholes) if peepholes else None
        self._forget_bias, self._cell_clip = forget_bias, cell_clip

    # Forward

    def forward(self, save):
        """Runs the sequence.

        Args:
          save: whether to keep what `backward` needs.

        Returns:
          Outputs, `[time, batch, units]`, zero past the end of a sequence, the
          last c and h; and `Saved`, or nothing.
        """
        sequences = [self._projected_inputs()]
        if self._alive is not None:
            sequences.append(self._alive)
        depths = [self._units] * (len(Saved._fields) if save else 1)
        (c, h), series = _time_loop.scan(
            self._forward_step(),
            list(self._state),
            sequences,
            self._steps,
            depths,
        )
        outputs = self._steps.by_time(
            self._if_alive(_time_loop.rows_of(series[0]))
        )
        return (outputs, c, h), Saved(*series) if save else ()

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
            c = _where(alive, c, c_prev)
            h = _where(alive, h, h_prev)
        return [c, h], Saved(h, c, i, j, f, o)

    def _if_alive(self, rows):
        if self._alive is None:
            return rows
        return _where(self._alive, rows, tf.zeros_like(rows))

    # Backward

    def backward(self, saved, d_outputs, d_state):
        """Gradients of inputs, kernel, bias, first c and h, and peepholes.

        Args:
          saved: `Saved`.
          d_outputs: gradient of the outputs, `[time, batch, units]`.
          d_state: gradients of the last c and h.
        """
        c_prev = _time_loop.delayed(self._state[0], saved.c)
        h_prev = _time_loop.delayed(self._state[1], saved.h)
        d_outputs = self._if_alive(tf.reshape(d_outputs, [-1, self._units]))
        sequences = [d_outputs, c_prev] + list(saved[1:])
        if self._alive is not None:
            sequences.append(self._alive)
        (d_c, d_h), (d_gates,) = _time_loop.scan(
            self._backward_step(),
            d_state,
            sequences,
            self._steps,
            [4 * self._units],
            reverse=True,
        )
        d_gates = _time_loop.rows_of(d_gates)
        stacked = tf.concat([self._inputs, _time_loop.rows_of(h_prev)], 1)
        d_inputs = tf.matmul(d_gates, self._input_kernel, transpose_b=True)
        return [
            self._steps.by_time(d_inputs),
            tf.matmul(stacked, d_gates, transpose_a=True),
            gen_nn_ops.bias_add_grad(d_gates),
            d_c,
            d_h,
        ] + self._d_peepholes(
            _time_loop.rows_of(c_prev), _time_loop.rows_of(saved.c), d_gates
        )

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
                _where(alive, d_c, none),
                _where(alive, d_h, none),
                *parts[1:-1],
            )
            d_h_prev = product(d_gates, kernel)
            d_state = [
                _where(alive, d_c_prev, d_c),
                _where(alive, d_h_prev, d_h),
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


def _where(alive, rows, otherwise):
    return tf.where(alive > 0, rows, otherwise)


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
