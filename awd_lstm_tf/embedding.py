"""Dropout on whole rows of an embedding matrix."""

import numpy as np
from tensorflow.python.ops import variables

from awd_lstm_tf import _checks, masks
from awd_lstm_tf._versions import tf


def embedding_dropout(
    params,
    ids,
    keep_prob,
    is_train=True,
    seed=None,
    partition_strategy="mod",
    name=None,
):
    """`tf.nn.embedding_lookup` in a matrix with some of its rows dropped.

        embedding_lookup(params * mask, ids), mask [rows, 1]: 0 or 1 / keep_prob

    A dropped row is a word that is missing from the whole batch: an id has one
    fate wherever it occurs. The mask is drawn once in every `session.run`, also
    when this is called inside of a loop. Only the rows that `ids` name are
    scaled, the matrix is not touched: weights tied to it are not dropped.

    Ids that should share their fate must be looked up in one call.

    Args:
      params: as in `tf.nn.embedding_lookup`: float tensor or variable
        `[rows, ...]`, a partitioned variable, or a list of parts.
      ids: int32 or int64 tensor of any shape.
      keep_prob: float in (0, 1], or scalar float tensor, which is read and
        checked at each draw; 0.9 in the paper. 1.0: nothing is dropped.
      is_train: bool, or scalar bool tensor. False: nothing is dropped.
      seed: int. With `tf.set_random_seed` it makes the draws reproducible.
      partition_strategy: "mod" or "div", as in `tf.nn.embedding_lookup`; "div"
        for a partitioned variable.
      name: of the name scope.

    Returns:
      The rows, `ids.shape + params.shape[1:]`.

    Raises:
      ValueError: for a value out of its range, or an unknown number of rows.
      TypeError: for a value of the wrong kind.

    Example:

        embedding = tf.get_variable("embedding", [10000, 400])
        inputs = awd_lstm_tf.embedding_dropout(
            embedding, ids, keep_prob=0.9, is_train=is_train)
        outputs, _ = tf.nn.dynamic_rnn(cell, inputs, dtype=tf.float32)

    References:
      Merity, Keskar, Socher: "Regularizing and Optimizing LSTM Language
      Models", https://arxiv.org/abs/1708.02182, section 4.3.
      Gal, Ghahramani: "A Theoretically Grounded Application of Dropout in
      Recurrent Neural Networks", https://arxiv.org/abs/1512.05287, section 4.2.
    """
    with tf.name_scope(name, "embedding_dropout", [ids]):
        ids = _checks.tensor("ids", ids)
        _checks.integer_tensor_argument("ids", ids)
        _checks.one_of("partition_strategy", partition_strategy, _STRATEGIES)
        shapes = _shapes(params)
        mask = masks.Mask(keep_prob, masks.PER_RUN, is_train, seed)
        rows = tf.nn.embedding_lookup(params, ids, partition_strategy)
        _checks.float_tensor("params", rows)
        if not mask.active:
            return rows
        count = sum(map(_known_rows, shapes))
        mask.build([count], rows.dtype)
        scale = tf.gather(mask.value(), ids)
        for _ in range(shapes[0].ndims - 1):
            scale = tf.expand_dims(scale, -1)
        return rows * scale


_STRATEGIES = ("mod", "div")


def _shapes(params):
    """The shapes of the parts of an embedding matrix."""
    if isinstance(params, variables.PartitionedVariable):
        params = list(params)
    parts = params if isinstance(params, (list, tuple)) else [params]
    shapes = [
        part.shape
        if _checks.is_tensor(part)
        else tf.TensorShape(np.shape(part))
        for part in parts
    ]
    if not shapes or any(shape.ndims == 0 for shape in shapes):
        raise ValueError(
            f"`params` must be a matrix or a list of its parts, got {params!r}."
        )
    return shapes


def _known_rows(shape):
    if not shape.ndims or shape.as_list()[0] is None:
        raise ValueError(
            f"`params` must have a known number of rows, got shape {shape}."
        )
    return shape.as_list()[0]
