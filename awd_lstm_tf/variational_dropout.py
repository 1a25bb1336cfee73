"""Dropout whose mask holds over many steps."""

from awd_lstm_tf import _checks, diagnostics, masks
from awd_lstm_tf._versions import tf


class VariationalDropout(diagnostics.MaskDiagnostics):
    """Multiplies tensors with one dropout mask that holds until it is redrawn.

        y = x * mask,  mask entries 0 or 1 / keep_prob

    The mask is all ones until the update op is first run, and then constant
    until it is run again; with `auto_update` it is drawn once in every
    `session.run`. In loops it is read (or drawn) once, outside of the innermost
    one, so all steps and the gradient see the same mask.

    Example:

        dropout = awd_lstm_tf.VariationalDropout([20, 1, 650], keep_prob=0.6)
        outputs = dropout(outputs)  # [20, time, 650], one mask for all times
        ...
        session.run(dropout.get_update_mask_op())  # a new mask
        session.run(train_op)

    References:
      Gal, Ghahramani: "A Theoretically Grounded Application of Dropout in
      Recurrent Neural Networks", https://arxiv.org/abs/1512.05287, section 4.
    """

    def __init__(
        self,
        input_shape,
        keep_prob,
        dtype=tf.float32,
        seed=None,
        is_train=True,
        auto_update=False,
        updates_collections=None,
        name=None,
    ):
        """Makes the mask and its ops in the current graph.

        Args:
          input_shape: list of ints, the shape of the mask, which broadcasts
            against the inputs: a size of 1 shares the mask along a dimension.
            With `auto_update`, a size of None is that of the inputs, whatever
            it is in a run: `[None, 1, 650]` for batches of any size.
          keep_prob: float in (0, 1], or a scalar float tensor, which is read
            and checked each time the mask is drawn. 1.0: no mask.
          dtype: of the inputs.
          seed: int. With `tf.set_random_seed` it makes the masks reproducible.
          is_train: bool, or scalar bool tensor. False: the inputs pass
            unchanged.
          auto_update: draw a new mask in every `session.run`; there is no op
            to run and no variable.
          updates_collections: name, or list of names, of graph collections
            that the update op is added to, such as
            `tf.GraphKeys.UPDATE_OPS`.
          name: of the name scope; "variational_dropout" if None.

        Raises:
          ValueError: for a value out of its range.
          TypeError: for a value of the wrong kind.
        """
        auto_update = _checks.boolean("auto_update", auto_update)
        self._shape = _mask_shape(input_shape, auto_update)
        self._dtype = _checks.floating("dtype", dtype)
        with tf.name_scope(name, "variational_dropout") as scope:
            self._scope = scope
            self._mask = masks.Mask(
                keep_prob,
                masks.PER_RUN if auto_update else masks.VARIABLE,
                is_train=is_train,
                seed=seed,
                updates_collections=updates_collections,
            )
            self._mask.build(self._shape, self._dtype)

    @property
    def name(self):
        """The name of the scope that the mask is in."""
        return self._scope.rstrip("/")

    def __call__(self, inputs):
        """Returns `inputs * mask`.

        Args:
          inputs: a tensor that the mask broadcasts against.

        Returns:
          A tensor of the shape and dtype of `inputs`.

        Raises:
          ValueError: if the mask does not fit the shape of the inputs. (A size
            that is not known yet is checked in each run.)
          TypeError: if the inputs are not of the mask's dtype.
        """
        with tf.name_scope(self._scope):
            inputs = _checks.tensor("inputs", inputs)
            _checks.float_tensor("inputs", inputs)
            _checks.same_dtype("VariationalDropout", self._dtype, inputs)
            _check_broadcast(self._shape, inputs)
            if not self._mask.active:
                return inputs
            inputs = _checked_broadcast(self._shape, inputs)
            return inputs * self._mask.value_for(inputs)

    def get_update_mask_op(self):
        """Returns a list of the ops that redraw the mask.

        Returns:
          A list with one op, always the same; [] when there is nothing to run
          (`keep_prob` is 1.0, `is_train` is False, or `auto_update`).

        Raises:
          ValueError: if `keep_prob` is a tensor made inside of a loop.
        """
        return self._mask.update_ops("get_update_mask_op()")

    def get_reset_mask_op(self):
        """Returns a list of the ops that set the mask back to all ones."""
        return self._mask.reset_ops("get_reset_mask_op()")

    @property
    def mask(self):
        """The mask in use, of `input_shape`, to fetch; or None.

        None when nothing is dropped, and with `auto_update` before a call.
        """
        return self._mask.latest


def _mask_shape(value, auto_update):
    try:
        shape = tf.TensorShape(value)
    except (TypeError, ValueError):
        shape = tf.TensorShape(None)
    sizes = None if shape.ndims is None else shape.as_list()
    if sizes is None or (None in sizes and not auto_update):
        fix = "use 1 for a dimension along which the mask is shared"
        if sizes is not None:
            fix += ", or `auto_update=True`, which draws it for any size"
        raise ValueError(
            f"`input_shape` must be a list of known sizes, got {value!r}: "
            f"{fix}."
        )
    return sizes


_BROADCASTS = "`input_shape` must broadcast against the inputs, got "


def _check_broadcast(mask_shape, inputs):
    """The mask may fit the inputs without making them any larger."""
    shape = inputs.shape
    if shape.ndims is None:
        return
    padded = [1] * (shape.ndims - len(mask_shape)) + mask_shape
    fits = len(padded) == shape.ndims and all(
        size in (None, 1, have) or have is None
        for size, have in zip(padded, shape.as_list())
    )
    if not fits:
        raise ValueError(
            f"{_BROADCASTS}{mask_shape} for inputs of shape {shape}."
        )


def _checked_broadcast(mask_shape, inputs):
    """`inputs`, checked in each run for sizes that were not known before."""
    if inputs.shape.ndims is not None:
        sizes = zip(reversed(mask_shape), reversed(inputs.shape.as_list()))
        if all(size in (None, 1, have) for size, have in sizes):
            return inputs
    rank, actual = len(mask_shape), tf.shape(inputs)
    # With ones in front, for inputs of fewer dimensions than the mask.
    padded = tf.concat([tf.ones([rank], tf.int32), actual], 0)
    have = tf.slice(padded, [tf.size(padded) - rank], [rank])
    is_free = [size is None for size in mask_shape]
    need = tf.where(is_free, have, [size or 0 for size in mask_shape])
    fits = tf.reduce_all(tf.logical_or(tf.equal(need, 1), tf.equal(need, have)))
    fits = tf.logical_and(fits, tf.size(actual) >= rank)
    message = f"{_BROADCASTS}{mask_shape} for inputs of shape "
    return _checks.asserted(inputs, fits, message, actual)
