"""Weights and their averages, and the ops that act on both."""

import collections

import numpy as np

from awd_lstm_tf import _checks, _placing, _versions
from awd_lstm_tf._versions import tf

INFINITY = np.float64(np.inf)

# After so many steps without a validation loss the train op says so, once.
_PATIENCE = 10000

NEVER_VALIDATED = (
    "NTASGDOptimizer was told no validation loss in {} steps, so it does not "
    "average: call `report`, run `report_op`, or use `validation_hook`."
)

# The optimizer's state beside the averages; the paper's letters. All of it is
# in global variables, so that every checkpoint carries it.
State = collections.namedtuple(
    "State",
    [
        "steps",  # k, training steps taken
        "trigger_step",  # T, where averaging started; -1: not yet
        "checks",  # t, validation losses reported
        "checked_step",  # k at the latest of them
        "recent",  # the latest n losses, oldest first
        "best",  # the lowest loss before those
        "swapped",  # whether weights and averages have changed places
    ],
)


class Averages(object):
    """The averages of one graph. All ops are built at once, with the train op.

    Args:
      pairs: list of pairs of variables, a weight and its average.
      state: `State` of variables.
      trigger: "iclr" or "arxiv".
    """

    def __init__(self, pairs, state, trigger):
        self.pairs, self.state, self._trigger = pairs, state, trigger
        self._nonmono = state.recent.shape.as_list()[0]
        self.loss = tf.placeholder(tf.float64, [], "validation_loss")
        self.reported = self.report(self.loss)
        self.swap_in = self._swap(True, "swap_in")
        self.swap_out = self._swap(False, "swap_out")
        self.restart = self._restart()
        self.averaging = tf.greater_equal(
            state.trigger_step, 0, name="averaging"
        )

    # Training

    def check_assignable(self):
        """Refuses variables that the graph of a function cannot assign."""
        graph = tf.get_default_graph()
        for var, _ in self.pairs:
            is_reference = var.dtype != var.dtype.base_dtype
            if is_reference and graph is not _placing.outermost(graph):
                raise ValueError(
                    "NTASGDOptimizer must be given resource variables in a "
                    "function, and in a branch or loop of control flow v2, got "
                    f"{var.op.name}: make it with `use_resource=True`, or call "
                    "`tf.disable_control_flow_v2()` first."
                )

    def weights_in_place(self):
        """An op that fails a training step taken on the averages."""
        message = (
            "NTASGDOptimizer must not train while its averages are swapped in: "
            "run its `swap_out` first (a checkpoint of `swapping_saver()` is "
            "restored with a `swapping_saver()`)"
        )
        swapped = self.state.swapped.read_value()
        return tf.Assert(tf.logical_not(swapped), [message])

    def after_step(self, update_ops, use_locking, name):
        """The train op: what follows when `update_ops` changed the weights."""
        state = self.state
        with tf.control_dependencies(update_ops):
            steps = state.steps.read_value() + 1
            start = state.trigger_step.read_value()
            averages = [
                _updated(var, average, start >= 0, steps - start, use_locking)
                for var, average in self.pairs
            ]
        with tf.control_dependencies(averages):
            counted = state.steps.assign(steps, read_value=False)
            said = self._say_if_never_validated(steps)
        return tf.group(counted, said, name=name)

    def _say_if_never_validated(self, steps):
        never = tf.equal(self.state.checks.read_value(), 0)
        message = NEVER_VALIDATED.format(_PATIENCE)
        return tf.cond(
            tf.logical_and(never, tf.equal(steps, _PATIENCE)),
            lambda: _versions.print_to_stderr("Warning: " + message),
            tf.no_op,
        )

    # Changing places

    def places(self):
        """Which of a pair is shown for evaluation, and which one is trained.

        Two int tensors; 0: the weight's variable, 1: its average's. Before
        averaging has started, what is trained is shown, wherever it is. The
        other variable may hold what it was some time ago: weights that are
        loaded, or assigned by anything but the train op, are not copied.
        """
        swapped = self.state.swapped.read_value()
        averaging = self.state.trigger_step.read_value() >= 0
        return _index(tf.not_equal(averaging, swapped)), _index(swapped)

    def _move(self, weights_from, average_from):
        # Index 0: the weights, 1: their average. Stacked, they are a copy: a
        # plain read of a variable can share its memory, and an assignment to
        # the one would show in the other.
        moves = []
        for var, average in self.pairs:
            with beside(var):
                pair = tf.stack([var.read_value(), average.read_value()])
                moves += [
                    var.assign(pair[weights_from], read_value=False),
                    average.assign(pair[average_from], read_value=False),
                ]
        return moves

    def _assign(self, **values):
        return tf.group(
            *[
                getattr(self.state, name).assign(value, read_value=False)
                for name, value in sorted(values.items())
            ]
        )

    def _swap(self, target, name):
        with tf.name_scope(name):
            places = self.places()
            moves = self._move(*(places if target else reversed(places)))
            with tf.control_dependencies(moves):
                return self.state.swapped.assign(target, read_value=False)

    def _restart(self):
        with tf.name_scope("restart"):
            shown, _ = self.places()
            with tf.control_dependencies(self._move(shown, shown)):
                return self._assign(
                    trigger_step=self.state.steps.read_value(),
                    checks=0,
                    recent=np.full([self._nonmono], INFINITY),
                    best=INFINITY,
                    swapped=False,
                )

    # Validation

    def report(self, loss):
        """A bool tensor whose run reports a loss: does it start averaging?"""
        loss = tf.cast(_checked_loss(loss), tf.float64)
        old = State(*[variable.read_value() for variable in self.state])
        stalls = tf.logical_and(
            old.checks > self._nonmono, loss > self._bound(old)
        )
        starts = tf.logical_and(stalls, old.trigger_step < 0)
        trigger_step = tf.cond(
            starts, lambda: old.steps + 0, lambda: old.trigger_step + 0
        )
        # The oldest of the latest n losses makes room for the new one.
        best = tf.minimum(old.best, old.recent[0])
        recent = tf.concat([old.recent[1:], [loss]], 0)
        checks, checked_step = old.checks + 1, tf.identity(old.steps)
        with tf.control_dependencies(
            [stalls, trigger_step, checks, checked_step, recent, best]
        ):
            # Averaging begins with the weights as they are.
            moves = self._move(
                _index(tf.logical_and(starts, old.swapped)),
                _index(tf.logical_or(tf.logical_not(starts), old.swapped)),
            )
        with tf.control_dependencies(moves):
            assigned = self._assign(
                trigger_step=trigger_step,
                checks=checks,
                checked_step=checked_step,
                recent=recent,
                best=best,
            )
        with tf.control_dependencies([assigned]):
            return tf.identity(stalls, "stalls")

    def _bound(self, old):
        if self._trigger == "iclr":
            return old.best  # min(logs[:-n])
        return tf.reduce_min(old.recent)  # min(logs[-n:])


def beside(var):
    """For ops with a weight: on a parameter server, it need not travel."""
    return tf.get_default_graph().colocate_with(var.op)


def _updated(var, average, averaging, later_steps, use_locking):
    # mean(w[T], ..., w[k]) from the mean before it, of k - T weights.
    with beside(var):
        weights, mean = var.read_value(), average.read_value()
        count = tf.cast(later_steps + 1, mean.dtype)
        value = tf.cond(
            averaging,
            lambda: mean + (weights - mean) / count,
            lambda: weights,
        )
        return average.assign(value, use_locking, read_value=False)


def _checked_loss(value):
    _checks.scalar_tensor("validation_loss", value, "floating")
    value = _checks.scalar_at_run_time("validation_loss", value)
    message = "`validation_loss` must be a number, got "
    valid = tf.logical_not(tf.is_nan(value))
    return _checks.asserted(value, valid, message, value)


def _index(condition):
    return tf.cast(condition, tf.int32)
