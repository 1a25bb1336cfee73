"""Training or not: one switch for all of a graph; and hooks for sessions."""

import sys
import warnings
import weakref

import numpy as np
from tensorflow.python.framework import ops
from tensorflow.python.training import session_run_hook

from awd_lstm_tf import _checks, _placing, _versions
from awd_lstm_tf._versions import tf

# What stands for the switch in a config.
PHASE = "training_phase"


class _Phases(object):
    """Whose the switches in the memories of graphs are."""


_PHASES = _Phases()


def training_phase():
    """The switch between training and evaluation: one for each graph.

    False unless it is fed. Give it to whatever acts differently in training, as
    `is_train`, where the mode is not known when the graph is built: in cells
    that a library makes, and in Keras. Feed it in training: by hand, or by
    `TrainingPhaseHook`; Keras's `fit` does it by itself, since the switch is
    `tf.keras.backend.learning_phase()`.

    A config keeps it by name: a cell that is cloned, or loaded from a file, has
    the switch of the graph that it is made in.

    Returns:
      Scalar bool tensor; in one graph always the same.

    Raises:
      ValueError: in eager mode.

    Example:

        def cell_class(num_units):
            return awd_lstm_tf.WeightDropLSTMCell(
                num_units, weight_drop_kr=0.5, use_vd=True, auto_update=True,
                is_train=awd_lstm_tf.training_phase())
        ...
        estimator.train(input_fn, hooks=[awd_lstm_tf.TrainingPhaseHook()])
    """
    with ops.init_scope():
        if tf.executing_eagerly():
            raise ValueError(
                "`training_phase()` needs a graph, got eager execution: build "
                "the model in a `tf.Graph`."
            )
        phases = _placing.memory(tf.get_default_graph(), _PHASES)
        phase = _keras_phase()
        if _checks.is_tensor(phase):
            phases["keras"] = phase
            return phase
        if phase not in phases:  # no Keras, or a value that it was set to
            with tf.name_scope(None):
                phases[phase] = tf.placeholder_with_default(
                    bool(phase), [], name=PHASE
                )
        return phases[phase]


def _keras_phase():
    """Keras's learning phase here: tensor, 0 or 1; None where it has none."""
    backend = _versions.keras_backend()
    if backend is None:
        return None
    # Keras would keep every graph that has one, for ever.
    kept = getattr(backend, _KERAS_PHASES, None)
    if type(kept) in (dict, weakref.WeakKeyDictionary):
        setattr(backend, _KERAS_PHASES, _KeptByGraphs(kept))
    # What a call around this was told goes first, as for Keras's own layers.
    name = backend.__name__.replace("backend", "engine.base_layer_utils")
    layers = sys.modules.get(name)
    # Before 1.15, calls are told nothing.
    is_told = hasattr(layers, "CallContext")
    told = getattr(layers.call_context(), "training", None) if is_told else None
    return (
        int(told) if isinstance(told, (bool, int)) else backend.learning_phase()
    )


_KERAS_PHASES = "_GRAPH_LEARNING_PHASES"
_IN_GRAPH = object()


class _KeptByGraphs(weakref.WeakKeyDictionary):
    """Keras's dict of phases by graph, which does not keep graphs alive.

    A graph is held by its tensors, so a weak dict that holds these does hold
    its keys (test_training.py::test_graphs_of_keras_are_freed).
    """

    def __setitem__(self, graph, phase):
        if isinstance(phase, tf.Tensor):
            _placing.memory(graph, _PHASES)["keras"] = phase
            phase = _IN_GRAPH
        super(_KeptByGraphs, self).__setitem__(graph, phase)

    def __getitem__(self, graph):
        phase = super(_KeptByGraphs, self).__getitem__(graph)
        if phase is _IN_GRAPH:
            return _placing.memory(graph, _PHASES)["keras"]
        return phase

    def update(self, phases):
        for graph, phase in phases.items():
            self[graph] = phase


def is_phase(value):
    """Whether `value` is what `training_phase` returned, in whatever graph.

    It does not ask for that, which would make one.
    """
    graph = getattr(value, "graph", None)  # an eager tensor has none
    if graph is None or not isinstance(value, tf.Tensor):
        return False
    phases = _placing.memory(_placing.outermost(graph), _PHASES)
    return any(value is each for each in phases.values())


class NotKept(ValueError, NotImplementedError):
    """An argument that no config can hold.

    NotImplementedError, too, which tells `tf.train.Checkpoint` that there is no
    config to save beside the weights.
    """


def _is_phase_of_its_graph(value):
    if isinstance(value, tf.Tensor):
        with value.graph.as_default():
            training_phase()  # Keras's may have been taken from Keras alone
    return is_phase(value)


def kept_config(config):
    """`config`, whose tensors another graph cannot have, made fit to keep.

    Args:
      config: dict of the arguments that make a layer again.

    Returns:
      The dict, with the switch by its name.

    Raises:
      NotKept: for any other tensor.
    """
    kept = dict(config)
    for argument, value in config.items():
        if argument == "is_train" and _is_phase_of_its_graph(value):
            kept[argument] = PHASE
        elif _checks.is_tensor(value):
            fix = "give a Python value"
            if argument == "is_train":
                fix += ", or `awd_lstm_tf.training_phase()`"
            raise NotKept(
                f"`{argument}` must not be a tensor of this graph for a layer "
                f"to be made again from its config, got '{value.name}': {fix}."
            )
    return kept


def taken_config(config):
    """A config of `kept_config`, ready to make a layer in this graph."""
    if config.get("is_train") == PHASE:
        return dict(config, is_train=training_phase())
    return config


class TrainingPhaseHook(session_run_hook.SessionRunHook):
    """Feeds True to `training_phase()` in every run of a monitored session.

    For `tf.train.MonitoredTrainingSession(hooks=[...])` and
    `tf.estimator.Estimator.train(hooks=[...])`; sessions that evaluate or
    predict do without it. A run that feeds the switch itself is left alone.

    Example:

        estimator.train(input_fn, hooks=[awd_lstm_tf.TrainingPhaseHook()])
    """

    def begin(self):
        """Finds the switch of the graph."""
        self._phase = training_phase()

    def before_run(self, run_context):
        """Adds the feed."""
        given = run_context.original_args.feed_dict or {}
        if any(key is self._phase for key in given):
            return None
        return session_run_hook.SessionRunArgs(None, {self._phase: True})


class MaskUpdateHook(session_run_hook.SessionRunHook):
    """Redraws masks that are held, before every n-th step.

    The draws are runs of their own, of which no other hook sees anything: no
    step is counted for them, no summary written, no placeholder asked for. They
    are fed what `session.run` is, and not what other hooks feed: a keep rate
    from there is refused.

    Example:

        with tf.train.MonitoredTrainingSession(
            hooks=[awd_lstm_tf.MaskUpdateHook([cell, dropout])]
        ) as session:
            session.run(train_op)
    """

    def __init__(self, owners, every_steps=1):
        """Makes a hook.

        Args:
          owners: list of cells, layers, wrappers and dropouts of awd_lstm_tf,
            or one of them. Those without an op to run are left alone.
          every_steps: int, the number of global steps that a mask is held for;
            of runs, where the graph has no global step. A session begins with
            new masks.

        Raises:
          TypeError: for something that has no mask.
          ValueError: for `every_steps` below 1; when the session is made, for a
            mask that does not exist yet.
        """
        owners = owners if isinstance(owners, (list, tuple)) else [owners]
        self._owners = [
            _checks.mask_owner(owner, "one or a list") for owner in owners
        ]
        self._every = _checks.integer("every_steps", every_steps, 1)

    def begin(self):
        """Finds the ops and the global step."""
        self._ops = [op for each in self._owners for op in _update_ops(each)]
        self._step = tf.train.get_global_step()
        self._fed = _placeholders_of(self._ops)

    def after_create_session(self, session, coord):
        """Has the session begin with new masks, if it recovers, too."""
        self._runs, self._drawn_at = 0, None
        self._seen, self._still = None, 0

    def before_run(self, run_context):
        """Redraws the masks if it is time."""
        now = self._runs
        if self._step is not None and self._every > 1:
            now = run_context.session.run(self._step)
            self._warn_if_still(now)
        self._runs += 1
        drawn, self._drawn_with = self._drawn_at, None
        # A step that was restored may be one from before.
        if drawn is not None and 0 <= now - drawn < self._every:
            return None
        self._drawn_at = now
        # What is fed may be the keep rate.
        feeds = run_context.original_args.feed_dict
        try:
            self._drawn_with, _ = run_context.session.run(
                [self._fed, self._ops], feeds
            )
        except tf.errors.InvalidArgumentError as error:
            if "must feed a value" not in error.message:
                raise
            raise ValueError(_NOT_FED.format(self._fed[0].op.name)) from error
        return session_run_hook.SessionRunArgs(self._fed) if self._fed else None

    def after_run(self, run_context, run_values):
        """Refuses a keep rate that the step was fed, and the draw was not."""
        if not self._drawn_with:  # nothing was drawn, or with nothing fed
            return
        steps = zip(self._fed, self._drawn_with, run_values.results)
        for tensor, drawn_with, stepped_with in steps:
            if not np.array_equal(drawn_with, stepped_with):
                raise ValueError(_NOT_FED.format(tensor.op.name))

    def _warn_if_still(self, step):
        # `minimize` without a global step is a frequent slip.
        self._still = self._still + 1 if step == self._seen else 0
        self._seen = step
        if self._still == _STILL:
            warnings.warn(
                "MaskUpdateHook counts global steps, of which none was done "
                f"in {_STILL} runs, so that no mask is redrawn: pass "
                "`global_step` to `minimize`.",
                stacklevel=2,
            )


_STILL = 100
_NOT_FED = (
    "MaskUpdateHook draws in a run of its own, which is fed what `session.run` "
    "is, got '{}' fed by another hook: feed it in `session.run`, or let the "
    "keep rate be a variable."
)


def _placeholders_of(updates):
    """What is fed to ops, or can be."""
    behind = _placing.behind(updates)
    fed = [op for op in behind if op.type.startswith("Placeholder")]
    return [op.outputs[0] for op in sorted(fed, key=lambda op: op.name)]


def _update_ops(owner):
    if hasattr(owner, "get_vd_update_op"):
        return owner.get_vd_update_op()
    return owner.get_update_mask_op()
