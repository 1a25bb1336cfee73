"""A layer that is a whole-sequence LSTM with DropConnect on its kernel."""

import sys
import types

from awd_lstm_tf import (
    _checks,
    _dropped_kernel,
    _placing,
    _sequence_gradient,
    _versions,
    training,
)
from awd_lstm_tf._versions import rnn_cell, tf


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
        _refuse_other_cells_arguments(kwargs)
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
        _refuse_mask_per_step(weight_drop_kr, use_vd)
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
        depth = tf.TensorShape(inputs_shape).as_list()[-1]
        if depth is None:
            raise ValueError(
                "`inputs` must have a known depth, got None as their last "
                "dimension: give it by `set_shape`."
            )
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
            "inputs", _checks.tensor("inputs", inputs), 3
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
        _refuse_other_dtype(dtype, inputs)
        _checks.same_dtype(
            "WeightDropLSTMBlockFusedCell",
            self._kernel.dtype.base_dtype,
            inputs,
        )
        with _placing.as_a_loop():
            weights = [self._kernel_in_use(), self._bias] + self._peepholes()
        kernel, bias, *peepholes = map(tf.convert_to_tensor, weights)
        state = self._initial_state(initial_state, inputs)
        outputs, c, h = _sequence_gradient.run(
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
            if not isinstance(given, (tuple, list)) or len(given) != 2:
                raise ValueError(
                    "`initial_state` must be a tuple of c and h, got "
                    f"{given!r}."
                )
            return [self._state_part(part, inputs) for part in given]
        batch_size = _checks.size(inputs, 1)
        zeros = tf.zeros([batch_size, self._num_units], inputs.dtype)
        return [zeros, zeros]

    def _state_part(self, given, inputs):
        return _checks.of_shape(
            "initial_state",
            _checks.tensor("initial_state", given, inputs.dtype),
            batch_size=_checks.size(inputs, 1),
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
    """`[time * batch]`, 1 before a sequence's end, else 0; None: all are 1.

    Not bools, which GPUs do not take apart in 1.x, nor of int32, which they
    leave to the host.
    """
    if sequence_length is None:
        return None
    lengths = _checks.of_shape(
        "sequence_length",
        _checks.tensor("sequence_length", sequence_length),
        batch_size=_checks.size(inputs, 1),
    )
    lengths = tf.cast(lengths, tf.float32)
    steps = tf.cast(tf.range(tf.shape(inputs)[0]), tf.float32)
    alive = tf.reshape(tf.expand_dims(steps, 1) < lengths, [-1])
    return tf.cast(alive, inputs.dtype)


# LSTMCell's arguments that the layer does not have.
_ONLY_LSTM_CELLS = (
    "activation",
    "initializer",
    "input_bias",
    "is_quant",
    "num_proj",
    "num_proj_shards",
    "num_unit_shards",
    "proj_clip",
    "quant_delay",
    "state_is_tuple",
)


def _refuse_other_cells_arguments(given):
    if "use_peepholes" in given:
        raise TypeError(
            "`use_peepholes` must be left out of WeightDropLSTMBlockFusedCell: "
            "there, as in LSTMBlockFusedCell, it is called `use_peephole`."
        )
    for argument in _ONLY_LSTM_CELLS:
        if argument in given:
            raise TypeError(
                f"`{argument}` must be left out of WeightDropLSTMBlockFusedCell"
                f", got {given[argument]!r}: use WeightDropLSTMCell, which has "
                "it."
            )


def _refuse_mask_per_step(weight_drop_kr, use_vd):
    rate = _checks.keep_prob("weight_drop_kr", weight_drop_kr)
    drops = _checks.is_tensor(rate) or rate < 1.0
    if drops and not _checks.boolean("use_vd", use_vd):
        raise ValueError(
            "`use_vd` must be True with `weight_drop_kr` below 1.0 in "
            "WeightDropLSTMBlockFusedCell, got False: set it, or use "
            "WeightDropLSTMCell, which can draw a new mask at every time step."
        )


def _refuse_other_dtype(dtype, inputs):
    dtype = _checks.optional_floating("dtype", dtype)
    if dtype not in (None, inputs.dtype.base_dtype):
        raise TypeError(
            "`dtype` must be that of the inputs, "
            f"{inputs.dtype.base_dtype.name}, got {dtype.name}: leave it out, "
            "or cast the inputs."
        )
