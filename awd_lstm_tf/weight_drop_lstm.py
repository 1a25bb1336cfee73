"""An LSTMCell with DropConnect on its kernel."""

import contextlib

import numpy as np

from awd_lstm_tf import (
    _checks,
    _dropped_kernel,
    _placing,
    _quantization,
    _versions,
    training,
)
from awd_lstm_tf._versions import rnn_cell, tf


class WeightDropLSTMCell(_dropped_kernel.DroppedKernel, rnn_cell.LSTMCell):
    """`tf.nn.rnn_cell.LSTMCell` with DropConnect on its kernel.

    One step computes, with a mask of entries 0 or `1 / weight_drop_kr`,

        gates = concat([inputs, h_prev]) @ (kernel * mask) + bias
        i, j, f, o = split(gates)  # input, new input, forget, output
        c = sigmoid(f + forget_bias) * c_prev + sigmoid(i) * tanh(j)
        h = sigmoid(o) * tanh(c)

    where everything but `* mask` is LSTMCell's own code. At a keep rate of 1.0
    (the default), and with `is_train=False`, this *is* LSTMCell: same
    variables, ops, outputs and gradients. Checkpoints pass both ways.

    How the mask is drawn:

    | weight_drop_kr | use_vd | auto_update | the mask |
    |---|---|---|---|
    | 1.0 | any | any | none |
    | < 1 | False | - | drawn anew at every time step |
    | < 1 | True | False | all ones until `get_vd_update_op()` is first run,
    then constant until it is run again |
    | < 1 | True | True | drawn once in every sequence and `session.run` |

    With `use_vd`, the product `kernel * mask` is computed once per sequence,
    outside of the loop over time, and forward and backward pass use the same
    mask. So weights must not be assigned inside of that loop.

    With `is_quant`, every tensor of the step is rounded to a grid of 8 or 16
    bits (see docs/quantization.md), so that the trained cell can run
    on integers alone (`awd_lstm_tf.tflite`). Inputs are then clipped to
    `[-1, 1)`, and the cell has the variables `kernel_quant/min` and
    `kernel_quant/max`, the range of its kernel.

    Example:

        cell = awd_lstm_tf.WeightDropLSTMCell(
            650, weight_drop_kr=0.5, use_vd=True, input_size=650)
        outputs, state = tf.nn.dynamic_rnn(cell, inputs, dtype=tf.float32)
        ...
        session.run(cell.get_vd_update_op())  # a new mask
        session.run(train_op)

    References:
      Merity, Keskar, Socher: "Regularizing and Optimizing LSTM Language
      Models", https://arxiv.org/abs/1708.02182, section 2 (the weight-dropped
      LSTM; there only the recurrent rows are dropped: `recurrent_only=True`).
      Gal, Ghahramani: "A Theoretically Grounded Application of Dropout in
      Recurrent Neural Networks", https://arxiv.org/abs/1512.05287, section 4
      (one mask for all time steps).
    """

    def __init__(
        self,
        num_units,
        use_peepholes=False,
        cell_clip=None,
        initializer=None,
        num_proj=None,
        proj_clip=None,
        num_unit_shards=None,
        num_proj_shards=None,
        forget_bias=1.0,
        state_is_tuple=True,
        activation=None,
        reuse=None,
        name=None,
        dtype=None,
        *,
        weight_drop_kr=1.0,
        use_vd=False,
        input_size=None,
        input_bias=0.0,
        is_quant=False,
        is_train=True,
        quant_delay=0,
        recurrent_only=False,
        auto_update=False,
        updates_collections=None,
        seed=None,
        **kwargs,
    ):
        """Makes a cell. Arguments not named here are those of LSTMCell.

        Args:
          num_units: int, number of units of the cell.
          weight_drop_kr: the keep rate of the kernel's weights: float in
            (0, 1], or a scalar float tensor, which is read and checked each
            time the mask is drawn.
          use_vd: True: the mask holds over many steps (variational dropout).
            False: standard dropout, a new mask at every time step, which is
            several times slower than LSTMCell.
          input_size: depth of the inputs. Lets the mask, and so
            `get_vd_update_op()`, exist before the cell is first called. Give
            `dtype`, too, unless it is float32.
          input_bias: float added to the input gate before its sigmoid, as
            `forget_bias` is to the forget gate. Positive values let new input
            in more easily at the start of training.
          is_quant: True: fake quantization. Needs float32 and tanh.
          is_train: bool, or scalar bool tensor. False: nothing is dropped, and
            the ranges of `is_quant` are frozen.
          quant_delay: int, the global step from which on training quantizes.
            Until then the cell computes what it does without `is_quant`. Having
            the choice at every step makes training from then on about a third
            slower than without a delay.
          recurrent_only: True: only the hidden-to-hidden rows of the kernel
            are dropped, as in the paper. False: all of it.
          auto_update: with `use_vd`, draw a new mask in every `session.run`;
            there is no op to run and no variable.
          updates_collections: name, or list of names, of graph collections
            that the update op is added to, such as
            `tf.GraphKeys.UPDATE_OPS`.
          seed: int. With `tf.set_random_seed` it makes the masks reproducible.
          **kwargs: those of LSTMCell.

        Raises:
          ValueError: for a value out of its range.
          TypeError: for a value of the wrong kind.
        """
        num_units = _checks.num_units(num_units)
        _refuse_other_cells_arguments(use_peepholes)
        _checks.optional_floating("dtype", dtype)
        with _versions.quiet():
            super(WeightDropLSTMCell, self).__init__(
                num_units,
                use_peepholes=use_peepholes,
                cell_clip=cell_clip,
                initializer=initializer,
                num_proj=num_proj,
                proj_clip=proj_clip,
                num_unit_shards=num_unit_shards,
                num_proj_shards=num_proj_shards,
                forget_bias=forget_bias,
                state_is_tuple=state_is_tuple,
                activation=activation,
                reuse=reuse,
                name=name,
                dtype=dtype,
                **kwargs,
            )
        self._given_name = name
        self._input_bias = _checks.finite("input_bias", input_bias)
        self._is_quant = _checks.boolean("is_quant", is_quant)
        if self._is_quant:
            _refuse_other_activations(self._activation)
        self._quant_delay = _checks.integer("quant_delay", quant_delay, 0)
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
        if self._input_size is not None:
            dtype = tf.as_dtype(self.dtype or tf.float32)
            self._build_cell_mask(self._input_size, dtype)

    def _make_unique_name(self, *args, **kwargs):
        # LSTMCell's default scope, so that variables and checkpoints are
        # LSTMCell's. A subclass is named after itself, as LSTMCell's are.
        names = super(WeightDropLSTMCell, self)._make_unique_name(
            *args, **kwargs
        )
        if type(self) is not WeightDropLSTMCell:
            return names
        return tuple(name.replace("weight_drop_", "", 1) for name in names)

    def _build_cell_mask(self, input_depth, dtype):
        recurrent_depth = self._num_proj or self._num_units
        self._build_mask(input_depth, recurrent_depth, self._num_units, dtype)

    def build(self, inputs_shape):
        """Creates LSTMCell's variables, and the mask.

        Args:
          inputs_shape: `[batch_size, input_size]`.
        """
        super(WeightDropLSTMCell, self).build(inputs_shape)
        depth = tf.TensorShape(inputs_shape).as_list()[-1]
        self._build_cell_mask(depth, self._kernel.dtype.base_dtype)
        if self._is_quant:
            keep_prob = self._weight_drop_config["weight_drop_kr"]
            self._quantizer = _quantization.CellQuantizer(
                self,
                self._is_train,
                self._quant_delay,
                keep_prob if self._mask.active else None,
            )

    @_versions.as_written
    def call(self, inputs, state):
        """Runs one step of LSTMCell with the masked kernel.

        Args:
          inputs: `[batch_size, input_size]`.
          state: `LSTMStateTuple` of `[batch_size, num_units]` and
            `[batch_size, output_size]`; concatenated if `state_is_tuple` is
            False.

        Returns:
          Outputs, `[batch_size, output_size]`, and the new state.
        """
        kernel = self._kernel_in_use()
        if self._is_quant:
            return self._quantizer.step(
                inputs,
                state,
                kernel,
                self._offset_bias(self._forget_bias),
                otherwise=lambda: self._float_call(kernel, inputs, state),
            )
        return self._float_call(kernel, inputs, state)

    def _float_call(self, kernel, inputs, state):
        with self._replaced(_kernel=kernel, _bias=self._bias_in_use()):
            output, state = super(WeightDropLSTMCell, self).call(inputs, state)
        if self._mask.active and self._num_proj is not None:
            # `tf.contrib.quantize` takes a projection and what follows it for a
            # layer of its own, but knows nothing of a split.
            (output,) = tf.split(output, 1, axis=1)
            if self._state_is_tuple:
                state = rnn_cell.LSTMStateTuple(state.c, output)
        return output, state

    def _once(self, name, make, inputs):
        return _placing.once_per_sequence(self, name, make, inputs)

    def _bias_in_use(self):
        if self._input_bias == 0.0:
            return self._bias
        return self._offset_bias(0.0)

    def _offset_bias(self, forget_bias):
        offsets = [self._input_bias, 0.0, forget_bias, 0.0]
        offsets = np.repeat(offsets, self._num_units)
        return self._once(
            f"bias {forget_bias}",
            lambda: (
                self._bias + tf.constant(offsets, self._bias.dtype.base_dtype)
            ),
            [self._bias],
        )

    @contextlib.contextmanager
    def _replaced(self, **tensors):
        # Past `__setattr__`, which would track them as the layer's weights.
        attributes = vars(self)
        before = {name: attributes[name] for name in tensors}
        attributes.update(tensors)
        try:
            yield
        finally:
            attributes.update(before)

    def get_config(self):
        """Returns the arguments to make this cell again.

        `name` is only there if it was given: otherwise the copy would not get
        LSTMCell's default scope. `training_phase()` is kept by its name.

        Raises:
          ValueError: for an argument that is any other tensor.
        """
        config = super(WeightDropLSTMCell, self).get_config()
        config.update(
            self._weight_drop_config,
            input_bias=self._input_bias,
            is_quant=self._is_quant,
            quant_delay=self._quant_delay,
        )
        del config["name"]
        if self._given_name is not None:
            config["name"] = self._given_name
        return training.kept_config(config)


def _refuse_other_cells_arguments(use_peepholes):
    # The second argument of BasicLSTMCell and LSTMBlockCell is forget_bias.
    if not isinstance(use_peepholes, (bool, np.bool_, type(None))):
        raise TypeError(
            "`use_peepholes`, the second argument, must be True or False, got "
            f"{use_peepholes!r}: for BasicLSTMCell(units, forget_bias) write "
            "WeightDropLSTMCell(units, forget_bias=...)."
        )


def _refuse_other_activations(activation):
    name = getattr(activation, "__name__", activation)
    if name != "tanh":
        raise ValueError(
            f"`activation` must be tanh with `is_quant`, got {name}: leave it "
            "out, or keep `is_quant=False`."
        )
