"""A loop over time, unrolled where it is short.

A tensor over time is a "series" here: either its rows, `[time * batch, depth]`,
the form that products need, whose blocks of `batch` rows are the steps; or a
list of these blocks, which is what an unrolled loop makes and takes, so that
nothing need be copied between two loops.
"""

from awd_lstm_tf import _checks, _placing
from awd_lstm_tf._versions import tf

# A loop over time of known length is unrolled up to this length: a step then
# costs no loop ops, which is a quarter of it at 200 units. Longer ones would
# take seconds to build.
_LONGEST_UNROLLED = 100


class Steps(object):
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


def scan(step, carry, sequences, steps, depths, reverse=False):
    """Runs `step` over time, first to last or, with `reverse`, last to first.

    Args:
      step: function of the carry and a list of this step's part of each of
        `sequences`, `[batch, depth]`. Returns the new carry, and a list of
        outputs, `[batch, depth]`.
      carry: list of tensors, for the first step.
      sequences: list of series.
      steps: `Steps`.
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
        for rows in map(rows_of, sequences)
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


def rows_of(series):
    return tf.concat(series, 0) if isinstance(series, list) else series


def delayed(first, series):
    """`series` one step later: `first`, and all but the last of it."""
    if isinstance(series, list):
        return [first] + series[:-1]
    return tf.concat([first, series], 0)[: tf.shape(series)[0]]
