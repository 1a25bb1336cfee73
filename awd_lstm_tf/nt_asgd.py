"""SGD that averages the weights once validation has stopped improving."""

import collections
import contextlib
import warnings

import numpy as np

# These from where they are: TensorFlow 1.14 and later note the use of their
# names in `tf.train`, at import.
from tensorflow.python.ops import variables
from tensorflow.python.training import gradient_descent, session_run_hook
from tensorflow.python.training.saver import BaseSaverBuilder

from awd_lstm_tf import _checks, _versions
from awd_lstm_tf._versions import tf

# The two published triggers, by where they were published.
TRIGGERS = ("iclr", "arxiv")

_AVERAGE = "average"  # the slot
_INFINITY = np.float64(np.inf)

# After so many steps without a validation loss the train op says so, once.
_PATIENCE = 10000

# The optimizer's state beside the slots; the paper's letters. All of it is in
# global variables, so that every checkpoint carries it.
_State = collections.namedtuple(
    "_State",
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

# Ops that are built once, with the train op.
_Ops = collections.namedtuple(
    "_Ops", "loss report swap_in swap_out restart averaging"
)


class NTASGDOptimizer(gradient_descent.GradientDescentOptimizer):
    """SGD that starts to average its weights when validation stalls (NT-ASGD).

        w[k + 1] = w[k] - learning_rate * gradient(w[k])
        average = mean(w[T], ..., w[k])

    where `T` is the step at which a validation loss was reported that is worse
    than the lowest loss before the latest `nonmono` ones (trigger "iclr"), or
    than the lowest of these latest ones (trigger "arxiv"). Until then
    `average` is `w[k]`. Training goes on from the weights; the averages are
    what is evaluated and saved: `averaged()`, `swapping_saver()`,
    `variables_to_restore()`. With the averages, all state is in global
    variables, next to the weights as slots are. Weight decay is not included:
    add it to the loss.

    Example:

        optimizer = awd_lstm_tf.NTASGDOptimizer(learning_rate=30.0, nonmono=5)
        train_op = optimizer.minimize(loss)
        saver = optimizer.swapping_saver()  # saves averages as the weights
        for epoch in range(750):
            for _ in range(steps):
                session.run(train_op)
            with optimizer.averaged(session):
                validation_loss = evaluate(session)
            optimizer.report(session, validation_loss)
            saver.save(session, "model/lm", epoch)

    With `MonitoredTrainingSession` or an Estimator's `training_hooks`,
    `validation_hook(evaluate, every_steps)` does the inner part, and
    `tf.train.Scaffold(saver=optimizer.swapping_saver())` the saving.

    Fine-tuning, to begin after training: run `restart` once. It moves the
    weights to the averages, and averages anew from there. From then on,
    `report` returning True is the paper's criterion for the end.

    References:
      Merity, Keskar, Socher: "Regularizing and Optimizing LSTM Language
      Models", section 3 and algorithm 1: https://arxiv.org/abs/1708.02182
      (trigger "arxiv", called a misprint by the authors) and ICLR 2018,
      https://openreview.net/forum?id=SyyGPP0TZ (trigger "iclr"). The average
      begins with the weights that triggered it, as in the algorithm; the one of
      `torch.optim.ASGD`, which the authors used, begins two steps later.
    """

    def __init__(
        self,
        learning_rate,
        nonmono=5,
        trigger="iclr",
        use_locking=False,
        name="NTASGD",
    ):
        """Makes an optimizer.

        Args:
          learning_rate: float, scalar float tensor, or function that returns
            one, as for `tf.train.GradientDescentOptimizer`.
          nonmono: int >= 1, the paper's `n`, the number of reported losses that
            may go without improving.
          trigger: "iclr" or "arxiv". The first waits until the lowest loss is
            `nonmono` checks old; the second starts at the first rise, once
            there are more than `nonmono` checks.
          use_locking: as for `tf.train.GradientDescentOptimizer`.
          name: of the averages, behind the names of their weights, and of the
            scope of the other state.

        Raises:
          ValueError: for a value out of its range.
          TypeError: for a value of the wrong kind.
        """
        learning_rate = _checks.learning_rate(learning_rate)
        super(NTASGDOptimizer, self).__init__(learning_rate, use_locking, name)
        self._nonmono = _checks.integer("nonmono", nonmono, 1)
        self._trigger = _checks.one_of("trigger", trigger, TRIGGERS)
        self._states = {}  # by graph, as are the next two
        self._trained = {}
        self._ops = {}

    # -----------------------------------------------------------------------
    # Training

    def _distributed_apply(self, *args, **kwargs):
        _checks.no_strategy()

    def _create_slots(self, var_list):
        _checks.no_eager_optimizer(tf.executing_eagerly())
        graph = tf.get_default_graph()
        _checks.applied_once(graph in self._trained)
        # At the root, so that the names, which checkpoints and evaluation go
        # by, do not depend on the scopes around `minimize`.
        root = tf.VariableScope(reuse=False)
        with tf.name_scope(None), tf.variable_scope(root):
            for var in var_list:
                _checks.averageable(var.op.name, var.dtype)
                with _versions.branches_of_ops():
                    value = _versions.initialized_value(var)
                    self._get_or_make_slot(var, value, _AVERAGE, self._name)
            self._states[graph] = self._make_state(var_list)
            self._trained[graph] = list(var_list)
            with tf.name_scope(self._name + "/"):
                self._ops[graph] = self._make_ops()

    def _make_state(self, var_list):
        first = min(var_list, key=lambda var: var.name)

        def variable(name, value):
            return self._create_non_slot_variable(
                value, f"{self._name}/{name}", colocate_with=first
            )

        return _State(
            steps=variable("steps", np.int64(0)),
            trigger_step=variable("trigger_step", np.int64(-1)),
            checks=variable("checks", np.int64(0)),
            checked_step=variable("checked_step", np.int64(0)),
            recent=variable("recent", np.full([self._nonmono], _INFINITY)),
            best=variable("best", _INFINITY),
            swapped=self._make_swapped(f"{self._name}/swapped", first),
        )

    def _make_swapped(self, name, first):
        # A resource whatever its neighbours are: 1.x has no other bool variable
        # on a GPU, and the weights would be on the CPU for its sake.
        with _beside(first):
            variable = tf.Variable(
                False, name=name, trainable=False, use_resource=True
            )
        self._non_slot_dict[name, first.graph] = variable
        return variable

    @property
    def _state(self):
        return self._states[tf.get_default_graph()]

    def _pairs(self):
        return [
            (var, self.get_slot(var, _AVERAGE))
            for var in self._trained[tf.get_default_graph()]
        ]

    def _prepare(self):
        super(NTASGDOptimizer, self)._prepare()
        in_place = _checks.weights_in_place(self._state.swapped.read_value())
        with tf.control_dependencies([in_place]):
            rate = tf.identity(self._learning_rate_tensor)
        self._learning_rate_tensor = rate

    def _resource_apply_sparse_duplicate_indices(self, grad, handle, indices):
        # The stock method takes the raw `learning_rate`, which may be a
        # function or of another dtype.
        rate = tf.cast(self._learning_rate_tensor, grad.dtype)
        return handle.scatter_sub(tf.IndexedSlices(grad * rate, indices)).op

    def _finish(self, update_ops, name_scope):
        state = self._state
        with tf.control_dependencies(update_ops):
            steps = state.steps.read_value() + 1
            start = state.trigger_step.read_value()
            averages = [
                self._update_average(var, average, start >= 0, steps - start)
                for var, average in self._pairs()
            ]
        with tf.control_dependencies(averages):
            counted = state.steps.assign(steps, read_value=False)
            said = self._say_if_never_validated(steps)
        return tf.group(counted, said, name=name_scope)

    def _update_average(self, var, average, averaging, later_steps):
        # mean(w[T], ..., w[k]) from the mean before it, of k - T weights.
        with _beside(var):
            weights, mean = var.read_value(), average.read_value()
            count = tf.cast(later_steps + 1, mean.dtype)
            value = tf.cond(
                averaging,
                lambda: mean + (weights - mean) / count,
                lambda: weights,
            )
            return average.assign(value, self._use_locking, read_value=False)

    def _say_if_never_validated(self, steps):
        never = tf.equal(self._state.checks.read_value(), 0)
        message = _checks.NEVER_VALIDATED.format(_PATIENCE)
        return tf.cond(
            tf.logical_and(never, tf.equal(steps, _PATIENCE)),
            lambda: _versions.print_to_stderr("Warning: " + message),
            tf.no_op,
        )

    # -----------------------------------------------------------------------
    # Ops that are there once the train op is

    def _make_ops(self):
        loss = tf.placeholder(tf.float64, [], "validation_loss")
        return _Ops(
            loss=loss,
            report=self._report(loss),
            swap_in=self._swap(True, "swap_in"),
            swap_out=self._swap(False, "swap_out"),
            restart=self._restart(),
            averaging=tf.greater_equal(
                self._state.trigger_step, 0, name="averaging"
            ),
        )

    def _ops_of(self, graph, method):
        _checks.averages_exist(method, graph in self._ops)
        return self._ops[graph]

    @property
    def averaging(self):
        """Scalar bool tensor: whether averaging has started."""
        return self._ops_of(tf.get_default_graph(), "averaging").averaging

    @property
    def swap_in(self):
        """The op that lets weights and averages change places.

        For evaluation on the averages. Run again, it does nothing. Before
        averaging has started, the weights stay what they are. Until `swap_out`
        is run, training fails.
        """
        return self._ops_of(tf.get_default_graph(), "swap_in").swap_in

    @property
    def swap_out(self):
        """The op that puts weights and averages back, if they were swapped."""
        return self._ops_of(tf.get_default_graph(), "swap_out").swap_out

    @property
    def restart(self):
        """The op that begins fine-tuning.

        It sets the weights to the averages, forgets the reported losses, and
        starts to average with the next step.
        """
        return self._ops_of(tf.get_default_graph(), "restart").restart

    def _move(self, weights_from, average_from):
        # Index 0: the weights, 1: their average. Stacked, they are a copy: a
        # plain read of a variable can share its memory, and an assignment to
        # the one would show in the other.
        moves = []
        for var, average in self._pairs():
            with _beside(var):
                pair = tf.stack([var.read_value(), average.read_value()])
                moves += [
                    var.assign(pair[weights_from], read_value=False),
                    average.assign(pair[average_from], read_value=False),
                ]
        return moves

    def _assign(self, **values):
        return tf.group(
            *[
                getattr(self._state, name).assign(value, read_value=False)
                for name, value in sorted(values.items())
            ]
        )

    def _swap(self, target, name):
        state = self._state
        with tf.name_scope(name):
            swaps = tf.not_equal(state.swapped.read_value(), target)
            averaging = state.trigger_step.read_value() >= 0
            moves = self._move(
                # Before averaging has started, the weights are the averages.
                weights_from=_index(tf.logical_and(swaps, averaging)),
                average_from=1 - _index(swaps),
            )
            with tf.control_dependencies(moves):
                return state.swapped.assign(target, read_value=False)

    def _restart(self):
        state = self._state
        with tf.name_scope("restart"):
            in_place = tf.logical_not(state.swapped.read_value())
            averaging = state.trigger_step.read_value() >= 0
            source = _index(tf.logical_and(in_place, averaging))
            with tf.control_dependencies(self._move(source, source)):
                return self._assign(
                    trigger_step=state.steps.read_value(),
                    checks=0,
                    recent=np.full([self._nonmono], _INFINITY),
                    best=_INFINITY,
                    swapped=False,
                )

    # -----------------------------------------------------------------------
    # Validation

    def report(self, session, validation_loss):
        """Tells the optimizer a validation loss, and may start averaging.

        Args:
          session: a `tf.Session` or monitored session of the train op's graph.
          validation_loss: number, such as a mean loss or a perplexity.

        Returns:
          True if the loss fulfils the trigger: averaging starts now, if it has
          not before. (In fine-tuning: it is time to stop.)

        Raises:
          ValueError: if the loss is NaN, or there is no train op.
          TypeError: if the loss is not a number.
        """
        ops = self._ops_of(_checks.session(session).graph, "report()")
        loss = _checks.validation_loss(validation_loss)
        return bool(_run(session, ops.report, {ops.loss: loss}))

    def report_op(self, validation_loss, name=None):
        """The same, for a loss that is computed in the graph.

        Args:
          validation_loss: scalar float tensor.
          name: of the name scope.

        Returns:
          A scalar bool tensor. Running it reports the loss.

        Raises:
          ValueError: if there is no train op, or the tensor is not a scalar.
          TypeError: if the tensor is not of a floating dtype.
        """
        self._ops_of(tf.get_default_graph(), "report_op()")
        with tf.name_scope(name, "report", [validation_loss]):
            return self._report(tf.convert_to_tensor(validation_loss))

    def _report(self, loss):
        state = self._state
        loss = tf.cast(_checks.validation_loss_tensor(loss), tf.float64)
        old = _State(*[variable.read_value() for variable in state])
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
            moves = self._move(0, 1 - _index(starts))
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

    @contextlib.contextmanager
    def averaged(self, session):
        """Evaluates on the averages: `with optimizer.averaged(session): ...`.

        The averages take the weights' place at the beginning and give it back
        at the end, to the bit. Before averaging has started nothing changes.
        Must not be nested, nor should training go on meanwhile.

        Args:
          session: a `tf.Session` or monitored session of the train op's graph.

        Raises:
          ValueError: if there is no train op.
        """
        ops = self._ops_of(_checks.session(session).graph, "averaged()")
        _run(session, ops.swap_in)
        try:
            yield
        finally:
            _run(session, ops.swap_out)

    def validation_hook(self, evaluate, every_steps):
        """A hook that validates on the averages and reports the loss.

        It validates when the step after each `every_steps`-th one begins, so
        not after the last. A run that is killed and restored validates at the
        same steps. Not for training by several workers: another one would take
        the averages for the weights meanwhile. There, evaluate checkpoints in a
        process of their own (`variables_to_restore`), and have the chief
        `report` what comes out.

        Args:
          evaluate: function of a `tf.Session`, in which the weights are the
            averages; returns the loss. For an Estimator that evaluates
            checkpoints: `lambda session: estimator.evaluate(f)["loss"]`, with
            `save_checkpoints_steps` equal to `every_steps`, and the
            `swapping_saver()` in the `tf.train.Scaffold` of its
            EstimatorSpec, lest the checkpoint hold the raw weights.
          every_steps: int >= 1, the paper's logging interval `L`.

        Returns:
          A `tf.train.SessionRunHook`. Its session raises a RuntimeError when
          `evaluate` runs out of data.

        Raises:
          ValueError: if there is no train op, or `every_steps` is below 1.
          TypeError: for a value of the wrong kind.
        """
        graph = tf.get_default_graph()
        self._ops_of(graph, "validation_hook()")
        return _ValidationHook(
            self,
            self._states[graph],
            self.swap_out,
            _checks.function("evaluate", evaluate),
            _checks.integer("every_steps", every_steps, 1),
        )

    # -----------------------------------------------------------------------
    # Checkpoints

    def average(self, var):
        """The variable that holds the average of `var`; None if there is none.

        Args:
          var: a variable that `minimize` trains.
        """
        return self.get_slot(var, _AVERAGE)

    def average_name(self, var):
        """The name that the average of `var` has in checkpoints.

        Args:
          var: a variable; the train op need not be in this graph.
        """
        return f"{_name_in_checkpoint(var)}/{self._name}"

    def variables_to_restore(self, var_list=None, checkpoint=None):
        """What to restore for evaluation on the averages, in another graph.

        In that graph, make the model and an optimizer of the same name, but no
        train op.

        Args:
          var_list: the variables that were trained;
            `tf.trainable_variables()` if None.
          checkpoint: path prefix. If given, the right names are taken from the
            checkpoint, whoever wrote it: `tf.train.Saver()`, a
            `swapping_saver()`, or a training without this optimizer. If None,
            it is the first.

        Returns:
          A dict for `tf.train.Saver`, from names in the checkpoint to the
          global variables of this graph, but for the optimizer's own.

        Raises:
          tf.errors.NotFoundError: if there is no such checkpoint.
        """
        trained = tf.trainable_variables() if var_list is None else var_list
        has_average = self._finder(checkpoint)
        own = self.variables()
        names = {}
        for var in tf.global_variables():
            if var in own:
                continue
            name = _name_in_checkpoint(var)
            average_name = self.average_name(var)
            if var in trained and has_average(average_name):
                name = average_name
            _add_to(names, name, var)
        return names

    def _finder(self, checkpoint):
        if checkpoint is None:
            return lambda name: True
        reader = tf.train.load_checkpoint(checkpoint)
        swapped = f"{self._name}/swapped"
        if reader.has_tensor(swapped) and reader.get_tensor(swapped):
            return lambda name: False  # the averages have the weights' names
        return reader.has_tensor

    def swapping_saver(self, var_list=None, name="swapping_saver", **kwargs):
        """A saver that saves the averages under the names of their weights.

        So whatever restores the checkpoint with a plain `tf.train.Saver()` to
        evaluate or serve has the averages. Training must go on with a swapping
        saver. (A plain one leaves the graph as after `swap_in`; training then
        fails until `swap_out` is run.) Make it after all other variables.

        Args:
          var_list: list of variables; all global variables, and what else
            `tf.train.Saver` saves, if None.
          name: of the saver.
          **kwargs: those of `tf.train.Saver`.

        Returns:
          A `tf.train.Saver`.

        Raises:
          ValueError: if there is no train op.
        """
        graph = tf.get_default_graph()
        self._ops_of(graph, "swapping_saver()")
        if var_list is None:
            var_list = tf.global_variables()
            var_list += tf.get_collection(tf.GraphKeys.SAVEABLE_OBJECTS)
        saved_as = dict(self._pairs())
        saved_as.update({average: var for var, average in self._pairs()})
        swapped = self._states[graph].swapped
        names = {}
        for var in var_list:
            if var is swapped:
                names[var.op.name] = _Negated(var)
            else:
                _add_to(names, _name_in_checkpoint(var), saved_as.get(var, var))
        return tf.train.Saver(names, name=name, **kwargs)


class _ValidationHook(session_run_hook.SessionRunHook):
    """Validates when a multiple of `every_steps` has been passed."""

    def __init__(self, optimizer, state, swap_out, evaluate, every_steps):
        self._optimizer = optimizer
        self._state = state
        self._swap_out = swap_out
        self._evaluate = evaluate
        self._every_steps = every_steps

    def after_create_session(self, session, coord):
        # A checkpoint may have been written while the averages were in.
        session.run(self._swap_out)

    def before_run(self, run_context):
        # Not after the run: whether a checkpoint of this step was written by
        # then would depend on the order of hooks. What is due is told by state
        # in the checkpoint, so it is due again after a restart, if need be.
        session = run_context.session
        if self._due(session):
            with self._optimizer.averaged(session):
                try:
                    loss = self._evaluate(session)
                except tf.errors.OutOfRangeError as error:
                    _checks.data_in_evaluate(error)
            self._optimizer.report(session, loss)

    def end(self, session):
        steps, checks = session.run([self._state.steps, self._state.checks])
        if steps and not checks and not self._due(session):
            warnings.warn(_checks.NEVER_VALIDATED.format(steps), stacklevel=1)

    def _due(self, session):
        steps, checked = session.run(
            [self._state.steps, self._state.checked_step]
        )
        return steps // self._every_steps > checked // self._every_steps


class _Negated(BaseSaverBuilder.SaveableObject):
    """Saves and restores the opposite of a bool variable."""

    def __init__(self, variable):
        name = variable.op.name
        negated = tf.logical_not(variable.read_value())
        spec = BaseSaverBuilder.SaveSpec(negated, "", name)
        super(_Negated, self).__init__(variable, [spec], name)
        self._variable = variable

    def restore(self, restored_tensors, restored_shapes):
        return self._variable.assign(tf.logical_not(restored_tensors[0]))


def _run(session, fetches, feed_dict=None):
    # Past the hooks of a monitored session: to them, this is no step.
    if not hasattr(session, "run_step_fn"):
        return session.run(fetches, feed_dict)
    return session.run_step_fn(
        lambda step_context: step_context.session.run(fetches, feed_dict)
    )


def _beside(var):
    # On a parameter server, the weights need not travel.
    return tf.get_default_graph().colocate_with(var.op)


def _index(condition):
    return tf.cast(condition, tf.int32)


def _name_in_checkpoint(saved):
    if not isinstance(saved, variables.Variable):  # a SaveableObject
        return saved.name
    slices = saved._save_slice_info
    return slices.full_name if slices else saved.op.name


def _add_to(names, name, saved):
    # The slices of a partitioned variable are one tensor of the checkpoint.
    if getattr(saved, "_save_slice_info", None):
        names.setdefault(name, []).append(saved)
    else:
        names[name] = saved
