"""How a dropout mask is drawn: which entries are kept, and by what factor."""

import collections

import numpy as np

from awd_lstm_tf import _checks, _placing, _versions
from awd_lstm_tf._versions import tf

_LEVELS = 2**16  # values of one draw of 16 bits
_LANES = 4  # entries served by one 64-bit draw
_BYTES = 8  # in a word of 64 bits


class Drawn(collections.namedtuple("Drawn", "kept scale")):
    """A mask as it is held: which entries are kept, and what by.

    `kept` is bool, a quarter of the memory of a float mask; `scale` is a
    scalar of the mask's dtype.
    """

    def dense(self):
        """The mask: `scale` where `kept`, else 0."""
        return tf.cast(self.kept, self.scale.dtype) * self.scale

    def when(self, dropping):
        """This mask where the scalar bool `dropping` is True, else all ones.

        By logic, not `tf.cond`: a cond would move the bools of a GPU to the
        host, and a tool that walks the graph may refuse all conds.
        """
        return Drawn(
            _or_all(self.kept, dropping), _or_one(self.scale, dropping)
        )


def _or_all(kept, dropping):
    if dropping is True:
        return kept
    return tf.logical_or(kept, tf.logical_not(dropping))


def _or_one(factor, dropping):
    if dropping is True:
        return factor
    return tf.where(dropping, factor, tf.ones_like(factor))


def whole(shape, dtype):
    """The mask that drops nothing."""
    return Drawn(tf.ones(shape, tf.bool), tf.ones([], dtype))


def draw(shape, keep_prob, seed, dropping=True):
    """Which entries of a new mask are kept.

    An entry is, when 16 random bits lie below a threshold, so one 64-bit
    draw serves four entries. A mask's own keep rate is thus a multiple of
    `2**-16`; which of the two nearest ones is itself drawn, once per mask, so
    that the expected value of every entry is 1 at any `keep_prob`.

    Args:
      shape: list of ints.
      keep_prob: float, or scalar float tensor, in (0, 1].
      seed: op-level seed, see `tf.set_random_seed`.
      dropping: bool, or scalar bool tensor: whether a mask is called for. If
        not, all is kept, and nothing is drawn.

    Returns:
      Bools.
    """
    rounds_to_none = _checks.is_tensor(keep_prob) or keep_prob * _LEVELS < 1
    keep_prob = _rate(keep_prob)
    # How many of the values of a lane are kept. In float64, where the
    # sum is exact enough; rounding up past the last level would drop it all.
    rounding = tf.random_uniform([], dtype=tf.float64, seed=seed)
    levels = tf.floor(tf.cast(keep_prob, tf.float64) * _LEVELS + rounding)
    levels = tf.minimum(levels, _LEVELS)
    if _placing.in_xla():  # which has no bitcast from one size to another
        kept = tf.random_uniform(shape, seed=seed) * _LEVELS < tf.cast(
            levels, tf.float32
        )
    else:
        # The largest int16 kept: at a rate of 1.0, the largest there is; at no
        # level there is none so low.
        last = tf.cast(tf.maximum(levels, 1) - (2**15 + 1), tf.int16)
        kept = _fitted(_lanes(shape, seed, dropping) <= last, shape)
        if rounds_to_none:
            kept = tf.logical_and(kept, levels > 0)
    return _or_all(kept, dropping)


def scale(keep_prob, dtype, dropping=True):
    """The factor of what `draw` keeps, a scalar."""
    factor = tf.cast(1 / _rate(keep_prob), dtype)
    return _or_one(factor, dropping)


def _rate(keep_prob):
    if not _checks.is_tensor(keep_prob):
        keep_prob = np.float64(keep_prob)  # exact scale for float64 masks, too
    return tf.stop_gradient(tf.convert_to_tensor(keep_prob, name="keep"))


def _lanes(shape, seed, dropping):
    """Random int16, at least as many as `shape` holds, in a row."""
    count = [-(-_size(shape) // _LANES)]

    def words():
        least, limit = tf.int64.min, tf.int64.max
        return tf.random_uniform(count, least, limit, tf.int64, seed=seed)

    if dropping is not True:
        words_or_none = tf.cond(
            dropping, words, lambda: tf.zeros(count, tf.int64)
        )
    else:
        words_or_none = words()
    return tf.reshape(tf.bitcast(words_or_none, tf.int16), [-1])


def _fitted(flat, shape):
    # Bools or floats: of int16 and uint8 a GPU has no slices in 1.x.
    size = _size(shape)
    if flat.shape.as_list() != [size]:
        flat = flat[:size]
    return tf.reshape(flat, shape)


def _size(shape):
    if _checks.is_tensor(shape):
        return tf.reduce_prod(shape)
    return int(np.prod(shape, dtype=np.int64))


def packed(bools):
    """`bools` of a known shape, eight to a word of int64.

    Words and no bytes: variables, stacks and lists of words are in the memory
    of a GPU in all versions. Under XLA, which has no bitcast from one size to
    another, they stay bools.
    """
    if _placing.in_xla():
        return bools
    flat = tf.reshape(bools, [-1])
    missing = -flat.shape.num_elements() % _BYTES
    if missing:
        flat = tf.concat([flat, tf.ones([missing], tf.bool)], 0)
    return tf.bitcast(
        tf.reshape(tf.cast(flat, tf.uint8), [-1, _BYTES]), tf.int64
    )


def unpacked(words, shape, dtype):
    """What `packed` made of bools of `shape`, list of ints or tensor."""
    if words.dtype == tf.bool:
        return tf.cast(words, dtype)
    flat = tf.cast(tf.bitcast(words, tf.uint8), dtype)
    return _fitted(tf.reshape(flat, [-1]), shape)


def packed_ones(shape):
    """`packed` of nothing but True."""
    words = -(-_size(shape) // _BYTES)
    return tf.fill([words], np.frombuffer(b"\1" * _BYTES, np.int64)[0])


def draw_by_key(key, shape, keep_prob, dtype):
    """The mask of `shape` that `key` stands for: the same at each call.

    Args:
      key: int32 `[2]`.
      shape: int32 vector.
      keep_prob: float, or scalar float tensor, in (0, 1].
      dtype: of the mask.

    Returns:
      A `Drawn`.
    """
    keep_prob = _rate(keep_prob)
    uniform = _versions.stateless_random_uniform(shape, key, tf.float32)
    kept = uniform < tf.cast(keep_prob, tf.float32)
    return Drawn(kept, tf.cast(1 / keep_prob, dtype))
