"""SGD that averages the weights once validation has stopped improving."""

import contextlib
import math

import numpy as np
from tensorflow.python.ops import variables

# From where it is: TensorFlow 1.14 and later note the use of its name in
# `tf.train`, at import.
from tensorflow.python.training import gradient_descent

from awd_lstm_tf import (
    _averages,
    _averages_saved,
    _checks,
    _placing,
    _validation_hook,
    _versions,
)
from awd_lstm_tf._versions import tf

# The two published triggers, by where they were published.
TRIGGERS = ("iclr", "arxiv")

_AVERAGE = "average"  # the slot


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
        learning_rate = _checked_rate(learning_rate)
        super(NTASGDOptimizer, self).__init__(learning_rate, use_locking, name)
        self._nonmono = _checks.integer("nonmono", nonmono, 1)
        self._trigger = _checks.one_of("trigger", trigger, TRIGGERS)
        self._averages = {}  # by graph

    # -----------------------------------------------------------------------
    # Training

    def _distributed_apply(self, *args, **kwargs):
        raise ValueError(
            "NTASGDOptimizer must be used without a DistributionStrategy, got "
            "one: train on one replica, or with parameter servers."
        )

    def _create_slots(self, var_list):
        if tf.executing_eagerly():
            raise ValueError(
                "NTASGDOptimizer needs a graph, got eager execution: build the "
                "model in a `tf.Graph`."
            )
        graph = tf.get_default_graph()
        if graph in self._averages:  # every step would count twice
            raise ValueError(
                "`apply_gradients` of NTASGDOptimizer must be called once in a "
                "graph, got a second call: give all gradients to one call, or "
                "use an optimizer for each."
            )
        # At the root, so that the names, which checkpoints and evaluation go
        # by, do not depend on the scopes around `minimize`.
        root = tf.VariableScope(reuse=False)
        with tf.name_scope(None), tf.variable_scope(root):
            pairs = [(var, self._make_average(var)) for var in var_list]
            state = self._make_state(var_list)
            with tf.name_scope(self._name + "/"):
                self._averages[graph] = _averages.Averages(
                    pairs, state, self._trigger
                )

    def _make_average(self, var):
        if var.dtype.base_dtype not in (tf.float32, tf.float64):
            raise TypeError(
                "NTASGDOptimizer must be given weights of float32 or float64, "
                f"got {var.op.name} of {var.dtype.base_dtype.name}, in which a "
                "mean of many soon stands still: keep float32 weights, and "
                "cast them where they are used."
            )
        with _versions.branches_of_ops():
            value = _versions.initialized_value(var)
            return self._get_or_make_slot(var, value, _AVERAGE, self._name)

    def _make_state(self, var_list):
        first = min(var_list, key=lambda var: var.name)

        def variable(name, value):
            return self._make_variable(f"{self._name}/{name}", value, first)

        return _averages.State(
            steps=variable("steps", np.int64(0)),
            trigger_step=variable("trigger_step", np.int64(-1)),
            checks=variable("checks", np.int64(0)),
            checked_step=variable("checked_step", np.int64(0)),
            recent=variable(
                "recent", np.full([self._nonmono], _averages.INFINITY)
            ),
            best=variable("best", _averages.INFINITY),
            swapped=variable("swapped", False),
        )

    def _make_variable(self, name, value, first):
        # A resource whatever its neighbours are: 1.x has no other bool variable
        # on a GPU, and the weights would be on the CPU for its sake; and no
        # other one is assigned in a function.
        with _averages.beside(first):
            variable = tf.Variable(
                value, name=name, trainable=False, use_resource=True
            )
        self._non_slot_dict[name, first.graph] = variable
        return variable

    def _prepare(self):
        averages = self._here("apply_gradients")
        averages.check_assignable()
        super(NTASGDOptimizer, self)._prepare()
        with tf.control_dependencies([averages.weights_in_place()]):
            rate = tf.identity(self._learning_rate_tensor)
        self._learning_rate_tensor = rate

    def _resource_apply_sparse_duplicate_indices(self, grad, handle, indices):
        # The stock method takes the raw `learning_rate`, which may be a
        # function or of another dtype.
        rate = tf.cast(self._learning_rate_tensor, grad.dtype)
        return handle.scatter_sub(tf.IndexedSlices(grad * rate, indices)).op

    def _finish(self, update_ops, name_scope):
        averages = self._here("apply_gradients")
        return averages.after_step(update_ops, self._use_locking, name_scope)

    # -----------------------------------------------------------------------
    # Ops that are there once the train op is

    def _in(self, graph, method):
        if graph not in self._averages:
            raise ValueError(
                f"`{method}` needs the averages, which do not exist in this "
                "graph yet: call `minimize` or `apply_gradients` first."
            )
        return self._averages[graph]

    def _here(self, method):
        return self._in(_placing.root_graph(), method)

    @property
    def averaging(self):
        """Scalar bool tensor: whether averaging has started."""
        return self._here("averaging").averaging

    @property
    def swap_in(self):
        """The op that lets weights and averages change places.

        For evaluation on the averages. Run again, it does nothing. Before
        averaging has started, the weights stay what they are. Until `swap_out`
        is run, training fails.
        """
        return self._here("swap_in").swap_in

    @property
    def swap_out(self):
        """The op that puts weights and averages back, if they were swapped."""
        return self._here("swap_out").swap_out

    @property
    def restart(self):
        """The op that begins fine-tuning.

        It sets the weights to the averages, forgets the reported losses, and
        starts to average with the next step.
        """
        return self._here("restart").restart

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
        averages = self._in(_checks.session(session).graph, "report()")
        loss = _checked_loss(validation_loss)
        return bool(_run(session, averages.reported, {averages.loss: loss}))

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
        averages = self._here("report_op()")
        with tf.name_scope(name, "report", [validation_loss]):
            return averages.report(tf.convert_to_tensor(validation_loss))

    @contextlib.contextmanager
    def averaged(self, session):
        """Evaluates on the averages: `with optimizer.averaged(session): ...`.

        The averages take the weights' place at the beginning and give it back
        at the end, to the bit. Before averaging has started nothing changes.
        Where they were in place already, as in a validation hook's `evaluate`,
        they stay. Training must not go on meanwhile.

        Args:
          session: a `tf.Session` or monitored session of the train op's graph.

        Raises:
          ValueError: if there is no train op.
        """
        averages = self._in(_checks.session(session).graph, "averaged()")
        nested = _run(session, averages.state.swapped)
        _run(session, averages.swap_in)
        try:
            yield
        finally:
            if not nested:
                _run(session, averages.swap_out)

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
        return _validation_hook.ValidationHook(
            self,
            self._here("validation_hook()"),
            _checks.function("evaluate", evaluate),
            _checks.integer("every_steps", every_steps, 1),
        )

    # -----------------------------------------------------------------------
    # Checkpoints

    def average(self, var):
        """The variable that holds the average of `var`; None if there is none.

        Before averaging has started, it holds `var` as the last step left it.

        Args:
          var: a variable that `minimize` trains.

        Raises:
          TypeError: for a variable in parts.
        """
        if isinstance(var, variables.PartitionedVariable):
            raise TypeError(
                "`var` must be a variable, got the parts of one, "
                f"'{var.name}': each has its average, ask for those of "
                "`list(var)`."
            )
        return self.get_slot(var, _AVERAGE)

    def average_name(self, var):
        """The name that the average of `var` has in checkpoints.

        Args:
          var: a variable; the train op need not be in this graph.
        """
        return f"{_averages_saved.name_of(var)}/{self._name}"

    def variables_to_restore(self, var_list=None, checkpoint=None):
        """What to restore for evaluation on the averages, in another graph.

        In that graph, make the model and an optimizer of the same name, but no
        train op.

        Args:
          var_list: the variables that were trained;
            `tf.trainable_variables()` if None.
          checkpoint: path prefix. If given, the right names are taken from the
            checkpoint, whoever wrote it, before averaging had started or later:
            `tf.train.Saver()`, a `swapping_saver()`, or a training without this
            optimizer. If None, it is the first, and averaging.

        Returns:
          A dict for `tf.train.Saver`, from names in the checkpoint to the
          global variables of this graph, but for the optimizer's own.

        Raises:
          tf.errors.NotFoundError: if there is no such checkpoint.
        """
        trained = tf.trainable_variables() if var_list is None else var_list
        trained = list(_averages_saved.parts(trained))
        if checkpoint is not None:
            reader = tf.train.load_checkpoint(checkpoint)
            if not _averages_saved.shown_by_averages(reader, self._name):
                trained = []
        own = self.variables()
        names = {}
        for var in tf.global_variables():
            if var in own:
                continue
            name = _averages_saved.name_of(var)
            average_name = self.average_name(var)
            if var in trained:
                if checkpoint is None or reader.has_tensor(average_name):
                    name = average_name
            _averages_saved.add_to(names, name, var)
        return names

    def swapping_saver(self, var_list=None, name="swapping_saver", **kwargs):
        """A saver that saves the averages under the names of their weights.

        So whatever restores the checkpoint with a plain `tf.train.Saver()` to
        evaluate or serve has what `averaged()` shows: the averages or, before
        averaging has started, the weights as they are. It is the same inside of
        `averaged()`. Training must go on with a swapping saver. (A plain one
        leaves the graph as after `swap_in`; training then fails until
        `swap_out` is run.) Make it after all other variables.

        Args:
          var_list: list of variables; all global variables, and what else
            `tf.train.Saver` saves, if None. With all averages and their
            weights, or with no average: what is restored then is both.
          name: of the saver.
          **kwargs: those of `tf.train.Saver`.

        Returns:
          A `tf.train.Saver`.

        Raises:
          ValueError: if there is no train op, or some averages are left out, or
            their weights.
        """
        averages = self._here("swapping_saver()")
        if var_list is None:
            var_list = tf.global_variables()
            var_list += tf.get_collection(tf.GraphKeys.SAVEABLE_OBJECTS)
        names = _averages_saved.swapped_names(var_list, averages)
        return tf.train.Saver(names, name=name, **kwargs)


def _run(session, fetches, feed_dict=None):
    # Past the hooks of a monitored session: to them, this is no step.
    if not hasattr(session, "run_step_fn"):
        return session.run(fetches, feed_dict)
    return session.run_step_fn(
        lambda step_context: step_context.session.run(fetches, feed_dict)
    )


def _checked_rate(value):
    """A number, a scalar float tensor, or a function that returns one."""
    if _checks.is_tensor(value):
        return _checks.scalar_tensor("learning_rate", value, "floating")
    return value if callable(value) else _checks.finite("learning_rate", value)


def _checked_loss(value):
    """A number that can be compared: anything but NaN."""
    if not _checks.is_number(value):
        raise TypeError(f"`validation_loss` must be a number, got {value!r}.")
    if math.isnan(value):
        raise ValueError(
            "`validation_loss` must be a number, got nan: validate on some "
            "data, or go on from the last good checkpoint with a lower "
            "learning rate."
        )
    return float(value)
