"""How a dropout mask is drawn: which entries are kept, and by what factor."""

import numpy as np

from awd_lstm_tf import _checks, _placing, _versions
from awd_lstm_tf._versions import tf

_DIGITS = 16  # after the binary point of a keep rate
_OWN = 8  # digits that every entry has random bits of its own for
_WORD = 64  # entries in a word
# The entries of each byte, that of the lowest bit first.
_ENTRIES = np.arange(256)[:, None] >> np.arange(8) & 1


class Drawn(object):
    """A mask as it is held: which entries are kept, and what by.

    Attributes:
      kept: int64 `[words]`, a bit for each entry; or bool of the mask's shape.
      scale: scalar of the mask's dtype.
      shape: list of ints, or int32 vector, of the mask.
      tensors: `kept` and `scale`.
    """

    def __init__(self, kept, scale, shape):
        self.kept, self.scale, self.shape = kept, scale, shape
        self.tensors = kept, scale

    def dense(self):
        """The mask: `scale` where `kept`, else 0."""
        return ones_where(self.kept, self.shape, self.scale.dtype) * self.scale

    def when(self, dropping):
        """This mask where the scalar bool `dropping` is True, else all ones.

        By logic, not `tf.cond`: a tool that walks the graph may refuse all
        conds.
        """
        kept = _or_all(self.kept, dropping)
        return Drawn(kept, _or_one(self.scale, dropping), self.shape)


def _or_all(kept, dropping):
    if dropping is True:
        return kept
    if kept.dtype == tf.bool:
        return tf.logical_or(kept, tf.logical_not(dropping))
    return tf.bitwise.bitwise_or(kept, tf.cast(dropping, tf.int64) - 1)


def _or_one(factor, dropping):
    if dropping is True:
        return factor
    return tf.where(dropping, factor, tf.ones_like(factor))


def whole(shape, dtype):
    """The mask that drops nothing."""
    return Drawn(all_kept(shape), tf.ones([], dtype), shape)


def all_kept(shape):
    """The words of a mask of `shape`, list of ints, that keeps all entries."""
    return tf.fill([_words(shape)], np.int64(-1))


def draw(shape, keep_prob, seed, dropping=True):
    """Which entries of a new mask are kept.

    An entry is, when a random number below 1 is less than the rate. Both are
    compared digit by digit, from the last to the first, which takes one logical
    op a digit for the 64 entries of a word: after a digit of 1 all are kept
    whose random digit is 0, and those that were kept, after a digit of 0 only
    those that were kept and whose random digit is 0.

    The last 8 of 16 digits decide for one entry in 256, so eight entries share
    the random bits of those: it correlates them by `2**-16` at a rate of 0.5,
    and by less than `2**-11` between 0.01 and 0.99. What is left of the rate
    after 16 digits is itself drawn, once per mask, so that the expected value
    of every entry is 1 at any `keep_prob`.

    Args:
      shape: list of ints.
      keep_prob: float, or scalar float tensor, in (0, 1].
      seed: op-level seed, see `tf.set_random_seed`.
      dropping: bool, or scalar bool tensor: whether a mask is called for. If
        not, all is kept, and nothing is drawn.

    Returns:
      Words, int64, with a bit for each entry, and more.
    """
    digits, rest = _digits(keep_prob)
    kept = np.int64(0)
    if _checks.is_tensor(rest) or rest > 0:
        rounding = tf.random_uniform([], dtype=tf.float64, seed=seed)
        kept = -tf.cast(rounding < rest, tf.int64)

    def words():
        return _compared(digits, kept, _words(shape), seed)

    if dropping is True:
        return words()
    return tf.cond(dropping, words, lambda: all_kept(shape))


def _digits(keep_prob):
    """The binary digits of a rate, the last one first, and what is left.

    Each is 0 or -1, a word of it: an int, or int64 `[1]`.
    """
    if _checks.is_tensor(keep_prob):
        levels = tf.cast(_rate(keep_prob), tf.float64) * 2**_DIGITS
        # All digits of 1 and a rest of 1: a rate of 1.0.
        least = tf.minimum(tf.floor(levels), 2**_DIGITS - 1)
        least_bits = _bits(tf.cast(least, tf.int64), _DIGITS)
        return _cut(-least_bits, [1] * _DIGITS), levels - least
    levels = np.float64(keep_prob) * 2**_DIGITS
    least = min(int(levels), 2**_DIGITS - 1)
    digits = [-(least >> digit & 1) for digit in range(_DIGITS)]
    if levels == least:
        digits = digits[digits.index(-1) :]  # nothing is kept before a 1
    return digits, levels - least


def _compared(digits, kept, words, seed):
    """Words with a bit set for each random number below `digits`."""
    own, shared = digits[-_OWN:], digits[:-_OWN]
    sizes = [words] * len(own) + [words // _OWN] * len(shared)
    least, limit = tf.int64.min, tf.int64.max
    bits = tf.random_uniform([sum(sizes)], least, limit, tf.int64, seed=seed)
    bits = _cut(bits, sizes)
    for digit, row in zip(shared, bits[len(own) :]):
        kept = _after(digit, row, kept)
    if shared:
        kept = tf.tile(kept, [_OWN])
    for digit, row in zip(own, bits):
        kept = _after(digit, row, kept)
    return kept


def _cut(vector, sizes):
    """Its parts of `sizes`, ints, one after the other."""
    # Not `tf.split`: of int64, it has no kernel for a GPU. Nor
    # `vector[begin:end]`, which is twice the ops.
    tensors = {size: tf.constant([size]) for size in set(sizes)}
    begins = np.cumsum([0] + sizes)
    return [
        tf.slice(vector, [begin], tensors[size])
        for begin, size in zip(begins, sizes)
    ]


def _bits(words, count):
    """The last `count` bits of each word, on an axis more, the lowest first."""
    shifted = tf.bitwise.right_shift(words[..., None], np.arange(count))
    return tf.bitwise.bitwise_and(shifted, np.int64(1))


def _after(digit, bits, kept):
    if _checks.is_tensor(digit):
        bits = tf.bitwise.bitwise_xor(bits, digit)
        kept = tf.bitwise.bitwise_xor(kept, digit)
        kept = tf.bitwise.bitwise_and(bits, kept)
        return tf.bitwise.bitwise_xor(kept, digit)
    of_bits = tf.bitwise.bitwise_or if digit else tf.bitwise.bitwise_and
    return of_bits(bits, kept)


def scale(keep_prob, dtype, dropping=True):
    """The factor of what `draw` keeps, a scalar."""
    factor = tf.cast(1 / _rate(keep_prob), dtype)
    return _or_one(factor, dropping)


def _rate(keep_prob):
    if not _checks.is_tensor(keep_prob):
        keep_prob = np.float64(keep_prob)  # exact scale for float64 masks, too
    return tf.stop_gradient(tf.convert_to_tensor(keep_prob, name="keep"))


def _size(shape):
    if _checks.is_tensor(shape):
        return tf.reduce_prod(shape)
    return int(np.prod(shape, dtype=np.int64))


def _words(shape):
    # Random bits are shared by words, in whole groups.
    return _OWN * -(-_size(shape) // (_OWN * _WORD))


def ones_where(kept, shape, dtype):
    """1 where an entry is kept, else 0.

    Args:
      kept: words, or bools.
      shape: list of ints, or int32 vector.
      dtype: of the result.

    Returns:
      `shape`.
    """
    if kept.dtype == tf.bool:
        return tf.cast(kept, dtype)
    size = _size(shape)
    kept = kept[: -(-size // _WORD)]
    if _placing.in_xla():  # which has no bitcast from one size to another
        entries = tf.cast(_bits(kept, _WORD), dtype)
    else:
        # The fastest way from bits to floats that TensorFlow has on a CPU.
        table = tf.constant(_ENTRIES.astype(dtype.as_numpy_dtype))
        octets = tf.cast(tf.bitcast(kept, tf.uint8), tf.int32)
        entries = tf.gather(table, octets)
    return tf.reshape(tf.reshape(entries, [-1])[:size], shape)


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
    return Drawn(kept, tf.cast(1 / keep_prob, dtype), shape)
