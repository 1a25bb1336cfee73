"""Penalties on what an RNN puts out: AR and TAR."""

from awd_lstm_tf import _checks
from awd_lstm_tf._versions import tf


def activation_regularization(
    outputs, alpha, time_major=False, sequence_length=None, name=None
):
    """AR: pulls the outputs of an RNN towards zero.

        alpha * mean(outputs ** 2)

    Args:
      outputs: float tensor; in the paper, of the last layer after dropout.
        With `sequence_length`: `[batch_size, time, ...]`.
      alpha: number >= 0, or scalar float tensor; 2.0 in the paper. 0: no op.
      time_major: whether `outputs` are `[time, batch_size, ...]`.
      sequence_length: `[batch_size]`, int32 or int64: the mean is over the
        steps before the end of each sequence. None: over all.
      name: of the name scope.

    Returns:
      A scalar of the dtype of `outputs`, to be added to the loss. 0 if there is
      no step to average over.

    Raises:
      ValueError: for a negative `alpha`, or shapes that do not fit.
      TypeError: for a value of the wrong kind.

    Example:

        outputs, _ = tf.nn.dynamic_rnn(cell, inputs, dtype=tf.float32)
        dropped = tf.nn.dropout(outputs, keep_prob=0.6)
        loss += awd_lstm_tf.activation_regularization(dropped, alpha=2.0)

    References:
      Merity, Keskar, Socher: "Regularizing and Optimizing LSTM Language
      Models", https://arxiv.org/abs/1708.02182, section 4.6. Its L2 is the mean
      square, as in the authors' code, not the norm.
    """
    with tf.name_scope(name, "activation_regularization", [outputs]):
        alpha = _checks.non_negative("alpha", alpha)
        time_major = _checks.boolean("time_major", time_major)
        outputs = _one_tensor(outputs)
        _checks.float_tensor(
            "outputs", outputs, 0 if sequence_length is None else 2
        )
        lengths = _lengths(sequence_length, outputs, time_major)
        return _penalty(alpha, outputs, lengths, time_major)


def temporal_activation_regularization(
    outputs, beta, time_major=False, sequence_length=None, name=None
):
    """TAR: pulls the outputs of an RNN at successive steps together.

        beta * mean((outputs[t + 1] - outputs[t]) ** 2)

    Args:
      outputs: float tensor `[batch_size, time, ...]`; in the paper, of the last
        layer before dropout.
      beta: number >= 0, or scalar float tensor; 1.0 in the paper. 0: no op.
      time_major: whether `outputs` are `[time, batch_size, ...]`.
      sequence_length: `[batch_size]`, int32 or int64: the mean is over pairs of
        steps that both lie before the end of their sequence. None: over all.
      name: of the name scope.

    Returns:
      A scalar of the dtype of `outputs`, to be added to the loss. 0 if there is
      no pair to average over.

    Raises:
      ValueError: for a negative `beta`, or shapes that do not fit.
      TypeError: for a value of the wrong kind.

    Example:

        outputs, _ = tf.nn.dynamic_rnn(
            cell, inputs, lengths, dtype=tf.float32)
        loss += awd_lstm_tf.temporal_activation_regularization(
            outputs, beta=1.0, sequence_length=lengths)

    References:
      Merity, Keskar, Socher: "Regularizing and Optimizing LSTM Language
      Models", https://arxiv.org/abs/1708.02182, section 4.6. Its L2 is the mean
      square, as in the authors' code, not the norm.
    """
    with tf.name_scope(name, "temporal_activation_regularization", [outputs]):
        beta = _checks.non_negative("beta", beta)
        time_major = _checks.boolean("time_major", time_major)
        outputs = _one_tensor(outputs)
        _checks.float_tensor("outputs", outputs, 2)
        lengths = _lengths(sequence_length, outputs, time_major)
        if time_major:
            changes = outputs[1:] - outputs[:-1]
        else:
            changes = outputs[:, 1:] - outputs[:, :-1]
        pairs = None if lengths is None else lengths - 1
        return _penalty(beta, changes, pairs, time_major)


def _one_tensor(outputs):
    """A tensor, not what some RNNs return: a pair, or a list of steps."""
    listed = isinstance(outputs, (list, tuple))
    if listed and any(map(_checks.is_tensor, outputs)):
        raise TypeError(
            f"`outputs` must be one tensor, got a {type(outputs).__name__} of "
            f"{len(outputs)}: use `tf.concat(pair, -1)` for the pair of a "
            "bidirectional RNN, `tf.stack(steps, 1)` for a list of steps."
        )
    return _checks.tensor("outputs", outputs)


def _lengths(sequence_length, outputs, time_major):
    if sequence_length is None:
        return None
    lengths = _checks.tensor("sequence_length", sequence_length)
    _checks.integer_tensor_argument("sequence_length", lengths)
    batch_size = _checks.size(outputs, 1 if time_major else 0)
    return _checks.of_shape("sequence_length", lengths, batch_size=batch_size)


def _penalty(rate, values, lengths, time_major):
    dtype = values.dtype
    if not _checks.is_tensor(rate) and rate == 0.0:
        return tf.zeros([], dtype)
    if dtype.size < tf.float32.size:  # a sum of squares soon overflows
        values = tf.cast(values, tf.float32)
    if _checks.is_tensor(rate):
        rate = tf.cast(rate, values.dtype)
    return tf.cast(rate * _mean_square(values, lengths, time_major), dtype)


def _mean_square(values, lengths, time_major):
    count = tf.size(values)
    if lengths is not None:
        valid = _valid_steps(lengths, values, time_major)
        count = tf.count_nonzero(valid, dtype=tf.int32)
        count *= tf.reduce_prod(tf.shape(values)[2:])
        for _ in range(values.shape.ndims - 2):
            valid = tf.expand_dims(valid, -1)
        # Not a product: past the end there may be anything, NaN even.
        valid = tf.logical_and(valid, tf.ones_like(values, tf.bool))
        values = tf.where(valid, values, tf.zeros_like(values))
    count = tf.cast(tf.maximum(count, 1), values.dtype)
    return tf.reduce_sum(tf.square(values)) / count


def _valid_steps(lengths, values, time_major):
    steps = tf.shape(values)[0 if time_major else 1]
    valid = tf.sequence_mask(lengths, steps)
    return tf.transpose(valid) if time_major else valid
