"""training_phase, its hook and its way through configs; MaskUpdateHook."""

import gc
import itertools
import subprocess
import sys
import weakref

import grids
import numpy as np
import oracles
import pytest
import versions
from versions import tf

from awd_lstm_tf import (
    MaskUpdateHook,
    TrainingPhaseHook,
    VariationalDropout,
    WeightDropLSTMBlockFusedCell,
    WeightDropLSTMCell,
    WeightDropWrapper,
    mask_summaries,
    training_phase,
)

UNITS, DEPTH = oracles.UNITS, oracles.DEPTH
HELD = dict(weight_drop_kr=0.5, use_vd=True)
DRAWN = dict(HELD, auto_update=True)

backend = tf.keras.backend


# ---------------------------------------------------------------------------
# The switch


@pytest.mark.smoke
def test_phase_is_one_in_a_graph_and_false_unless_fed(open_session):
    phase = training_phase()
    assert training_phase() is phase
    assert phase.dtype == tf.bool and phase.shape.ndims == 0
    session = open_session()
    assert session.run([phase, phase]) == [False, False]
    assert session.run(phase, {phase: True})
    with tf.Graph().as_default():
        assert training_phase() is not phase
        assert training_phase().graph is tf.get_default_graph()
    assert training_phase() is phase


def test_another_switch_is_given_no_phase_beside_it():
    is_train = tf.placeholder_with_default(False, [])
    before = len(tf.get_default_graph().get_operations())
    VariationalDropout([3], 0.5, is_train=is_train, auto_update=True)
    assert len(tf.get_default_graph().get_operations()) == before


@versions.needs_2
def test_a_tensor_of_an_eager_function_may_be_the_switch():
    program = versions.IMPORT.partition("\n")[0] + (
        "\nimport tensorflow, awd_lstm_tf\n"
        "@tensorflow.function\n"
        "def call(x, is_train):\n"
        "    drop = awd_lstm_tf.VariationalDropout([3], 1, is_train=is_train)\n"
        "    return drop(x)\n"
        "assert call(tf.ones([3]), tf.constant(True)).shape == [3]\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True)


def test_phase_is_that_of_keras():
    with tf.Graph().as_default():
        assert backend.learning_phase() is training_phase()
    with tf.Graph().as_default():
        assert training_phase() is backend.learning_phase()


@pytest.mark.parametrize("value", [0, 1])
def test_phase_is_what_keras_was_set_to(value, open_session):
    backend.set_learning_phase(value)
    try:
        phase = training_phase()
        assert training_phase() is phase
        session = open_session()
        assert session.run(phase) == bool(value)
        assert not session.run(phase, {phase: False})
    finally:
        backend.clear_session()


def in_loop(make):
    return tf.while_loop(
        lambda time, _: time < 2,
        lambda time, _: (time + 1, make()),
        (0, tf.constant(True)),
    )[1]


def in_cond(make):
    yes = tf.placeholder_with_default(True, [])
    return tf.cond(yes, make, lambda: tf.constant(True))


def in_scope(make):
    with tf.name_scope("inner"), tf.control_dependencies([tf.constant(1)]):
        return make()


@pytest.mark.parametrize("place", [in_loop, in_cond, in_scope])
def test_phase_asked_for_first_inside_of_something(place, open_session):
    found = []

    def make():
        found.append(training_phase())
        return tf.identity(found[-1])

    value = place(make)
    phase = training_phase()
    assert all(each is phase for each in found)
    session = open_session()
    assert not session.run(value)
    assert session.run(value, {phase: True})


@pytest.mark.parametrize("place", [in_loop, in_cond])
def test_phase_with_control_flow_v2(place, open_session, control_flow_v2):
    test_phase_asked_for_first_inside_of_something(place, open_session)


def test_phase_in_a_function(open_session):
    if not hasattr(tf, "function"):
        pytest.skip("needs tf.function (TensorFlow 1.14)")
    value = tf.function(lambda: tf.identity(training_phase()))()
    session = open_session()
    assert not session.run(value)
    assert session.run(value, {training_phase(): True})


EAGER = f"""
{versions.IMPORT.partition("tf.disable")[0]}
tf.enable_eager_execution()
import awd_lstm_tf
cell = awd_lstm_tf.WeightDropLSTMCell(4)
outputs, _ = cell(tf.ones([1, 3]), cell.zero_state(1, tf.float32))
print(outputs.shape)
for refused in (
    awd_lstm_tf.training_phase,
    lambda: awd_lstm_tf.WeightDropLSTMCell(4, weight_drop_kr=0.5),
):
    try:
        refused()
    except ValueError as error:
        print(error)
with tf.Graph().as_default():
    print(awd_lstm_tf.training_phase().dtype)
"""


def test_eager_mode_has_no_phase_and_no_weight_drop():
    answer = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", EAGER],
        stdout=subprocess.PIPE,
        check=True,
    )
    assert answer.stdout.decode().splitlines() == [
        "(1, 4)",
        "`training_phase()` needs a graph, got eager execution: build the "
        "model in a `tf.Graph`.",
        "`weight_drop_kr` below 1.0 needs a graph, got eager execution: call "
        "`tf.disable_eager_execution()` (of `tf.compat.v1`) first, build the "
        "model in a `tf.Graph`, or keep the rate at 1.0.",
        "<dtype: 'bool'>",
    ]


@pytest.mark.parametrize(
    "first",
    [training_phase, lambda: backend.learning_phase()],
    ids=["ours", "keras"],
)
def test_graphs_of_keras_are_freed(first):
    backend.clear_session()

    def build():
        with tf.Graph().as_default() as graph:
            first()
            training_phase()
            tf.keras.layers.Dense(2)(tf.ones([1, 3]))
        return weakref.ref(graph)

    training_phase()  # from now on
    graphs = [build() for _ in range(3)]
    gc.collect()
    assert [graph() for graph in graphs] == [None] * 3


# ---------------------------------------------------------------------------
# Configs


MAKE = {
    "cell": lambda **given: WeightDropLSTMCell(UNITS, **given),
    "fused": lambda **given: WeightDropLSTMBlockFusedCell(UNITS, **given),
    "wrapper": lambda **given: WeightDropWrapper(
        tf.keras.layers.Dense(UNITS), **given
    ),
    "wrapped_cell": lambda **given: WeightDropWrapper(
        tf.keras.layers.GRUCell(UNITS), **given
    ),
}


@pytest.mark.parametrize("kind", sorted(MAKE))
def test_config_keeps_the_phase_by_name(kind):
    owner = MAKE[kind](is_train=training_phase(), **DRAWN)
    config = owner.get_config()
    assert config["is_train"] == "training_phase"
    with tf.Graph().as_default():
        phase = training_phase()
        twin = type(owner).from_config(config)
        assert twin._weight_drop_config["is_train"] is phase
        assert twin.get_config() == config


@pytest.mark.parametrize("kind", sorted(MAKE))
def test_config_keeps_a_phase_that_keras_was_set_to(kind):
    backend.set_learning_phase(0)
    owner = MAKE[kind](is_train=training_phase(), **DRAWN)
    backend.clear_session()
    assert owner.get_config()["is_train"] == "training_phase"


@pytest.mark.parametrize("kind", sorted(MAKE))
@pytest.mark.parametrize("argument", ["weight_drop_kr", "is_train"])
def test_config_of_another_tensor_is_refused(argument, kind):
    values = dict(weight_drop_kr=tf.constant(0.5), is_train=tf.constant(True))
    given = {argument: values[argument]}
    owner = MAKE[kind](**dict(DRAWN, **given))
    with pytest.raises(ValueError, match=f"`{argument}` must not be a tensor"):
        owner.get_config()


def keras_model(layer):
    inputs = tf.keras.layers.Input([oracles.TIME, DEPTH])
    model = tf.keras.Model(inputs, tf.keras.layers.Dense(1)(layer(inputs)))
    model.compile("sgd", "mse")
    return model


LAYERS = {
    "cell": lambda: tf.keras.layers.RNN(
        MAKE["cell"](is_train=training_phase(), **DRAWN)
    ),
    "wrapped_cell": lambda: tf.keras.layers.RNN(
        MAKE["wrapped_cell"](is_train=training_phase(), **DRAWN)
    ),
    "wrapped_layer": lambda: WeightDropWrapper(
        tf.keras.layers.LSTM(UNITS), is_train=training_phase(), **DRAWN
    ),
}
CUSTOM = dict(
    WeightDropLSTMCell=WeightDropLSTMCell, WeightDropWrapper=WeightDropWrapper
)


def cloned(model, tmp_path):
    clone = tf.keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    return clone


def from_json(model, tmp_path):
    copy = tf.keras.models.model_from_json(model.to_json())
    copy.set_weights(model.get_weights())
    return copy


def loaded(model, tmp_path):
    path = str(tmp_path / "model.h5")
    model.save(path)
    return tf.keras.models.load_model(path)


ROADS = dict(cloned=cloned, from_json=from_json, loaded=loaded)


@pytest.mark.parametrize(
    "kind, road", grids.singles(sorted(LAYERS), sorted(ROADS))
)
def test_copies_of_keras_models_drop_in_training_alone(kind, road, tmp_path):
    backend.clear_session()
    inputs = oracles.inputs_value()
    model = keras_model(LAYERS[kind]())
    need = model.predict(inputs)
    with tf.keras.utils.custom_object_scope(CUSTOM):
        copy = ROADS[road](model, tmp_path)
    assert np.array_equal(model.predict(inputs), need)
    assert np.allclose(copy.predict(inputs), need, atol=1e-6)
    in_training = backend.function(
        copy.inputs + [training_phase()], copy.outputs
    )
    one, other = in_training([inputs, True]), in_training([inputs, True])
    assert not np.allclose(one[0], other[0])
    backend.clear_session()


def test_both_ways_of_keras():
    backend.clear_session()
    inputs = oracles.inputs_value()
    with tf.keras.utils.custom_object_scope(CUSTOM):
        both = tf.keras.layers.Bidirectional(LAYERS["cell"]())
    model = keras_model(both)
    assert np.array_equal(model.predict(inputs), model.predict(inputs))
    backend.clear_session()


def varies(outputs, fed):
    """Whether two runs differ, so that something is dropped."""
    session = backend.get_session()
    session.run(tf.global_variables_initializer())
    feeds = {} if fed is None else {training_phase(): fed}
    one, other = (session.run(outputs, feeds) for _ in range(2))
    return not np.allclose(one, other)


@pytest.mark.parametrize("kind", sorted(LAYERS))
def test_a_phase_that_is_set_later_is_followed(kind):
    backend.clear_session()
    inputs = tf.constant(oracles.inputs_value())
    layer = LAYERS[kind]()
    found = [layer(inputs)]
    for phase in (1, 0):
        backend.set_learning_phase(phase)
        found.append(layer(inputs))
    assert [varies(outputs, None) for outputs in found] == [False, True, False]
    backend.clear_session()


@pytest.mark.skipif(
    versions.VERSION < (1, 15), reason="tells no cell of `training` (1.15)"
)
@pytest.mark.parametrize("kind", sorted(LAYERS))
def test_the_argument_of_a_call_is_followed(kind):
    backend.clear_session()
    model = keras_model(LAYERS[kind]())
    inputs = tf.constant(oracles.inputs_value())
    told = {value: model(inputs, training=value) for value in (True, False)}
    for value, outputs in told.items():
        for fed in (True, False):
            assert varies(outputs, fed) == value
    backend.clear_session()


@pytest.mark.skipif(
    versions.VERSION < (1, 14), reason="needs tf.distribute (1.14)"
)
@pytest.mark.parametrize("kind", ["cell", "wrapped_layer"])
def test_fit_of_mirrored_keras_drops(kind):
    backend.clear_session()
    values = oracles.inputs_value()
    batch = values, np.ones([len(values), 1], np.float32)
    with tf.distribute.MirroredStrategy(["/cpu:0"]).scope():
        inputs = tf.keras.layers.Input(values.shape[1:])
        outputs = tf.keras.layers.Dense(1)(LAYERS[kind]()(inputs))
        model = tf.keras.Model(inputs, outputs)
        model.compile(tf.keras.optimizers.SGD(0.0), "mse")
    data = tf.data.Dataset.from_tensor_slices(batch).repeat()
    data = data.batch(len(values), drop_remainder=True)
    losses = model.fit(data, epochs=3, steps_per_epoch=1, verbose=0)
    assert len(set(np.round(losses.history["loss"], 6))) == 3
    backend.clear_session()


# ---------------------------------------------------------------------------
# TrainingPhaseHook


def test_hook_feeds_the_phase():
    phase, other = training_phase(), tf.placeholder(tf.float32, [])
    tf.train.get_or_create_global_step()
    with tf.train.MonitoredTrainingSession(
        hooks=[TrainingPhaseHook()]
    ) as session:
        assert session.run(phase)
        assert session.run([phase], {other: 2.0}) == [True]
        assert not session.run(phase, {phase: False})  # the user's own
    with tf.train.MonitoredTrainingSession() as session:
        assert not session.run(phase)


class Recorder(tf.train.SessionRunHook):
    """What a tensor was in each run of a session."""

    def __init__(self, tensor):
        self._tensor, self.seen = tensor, []

    def before_run(self, run_context):
        return tf.train.SessionRunArgs(self._tensor)

    def after_run(self, run_context, run_values):
        self.seen.append(run_values.results)


def test_hook_in_an_estimator_whose_library_makes_the_cell(tmp_path):
    recorders = {}

    def cell_class(num_units):
        return WeightDropLSTMCell(num_units, is_train=training_phase(), **DRAWN)

    def model_fn(features, labels, mode):
        cell = cell_class(UNITS)
        _, state = tf.nn.dynamic_rnn(cell, features, dtype=tf.float32)
        recorders[mode] = Recorder(cell.kept_fraction)
        guess = tf.layers.dense(state.h, 1)
        if mode == tf.estimator.ModeKeys.PREDICT:
            return tf.estimator.EstimatorSpec(mode, guess)
        loss = tf.losses.mean_squared_error(labels, guess)
        optimizer = tf.train.AdamOptimizer()
        return tf.estimator.EstimatorSpec(
            mode,
            loss=loss,
            train_op=optimizer.minimize(loss, tf.train.get_global_step()),
            training_hooks=[recorders[mode]],
            evaluation_hooks=[recorders[mode]],
        )

    def data():
        pairs = tf.ones([4, 5, DEPTH]), tf.ones([4, 1])
        return tf.data.Dataset.from_tensors(pairs)

    estimator = tf.estimator.Estimator(model_fn, str(tmp_path))
    hook = TrainingPhaseHook()
    for _ in range(2):  # a hook can be used again, in another graph
        estimator.train(lambda: data().repeat(), hooks=[hook], steps=2)
        assert all(0 < kept < 1 for kept in recorders["train"].seen)
    evaluations = [estimator.evaluate(data)["loss"] for _ in range(2)]
    guesses = [list(estimator.predict(data)) for _ in range(2)]
    assert recorders["eval"].seen == [1]
    assert evaluations[0] == evaluations[1]
    assert np.array_equal(*guesses)


# ---------------------------------------------------------------------------
# MaskUpdateHook


class Net(object):
    """Owners of masks, and a train op that needs a placeholder."""

    def __init__(self, rate=0.5, step=True, **arguments):
        arguments = dict(use_vd=True, weight_drop_kr=rate, **arguments)
        self.inputs = tf.placeholder(tf.float32, [2, oracles.TIME, DEPTH])
        cell = WeightDropLSTMCell(UNITS, **arguments)
        fused = WeightDropLSTMBlockFusedCell(UNITS, **arguments)
        dense = WeightDropWrapper(tf.layers.Dense(UNITS), **arguments)
        dropout = VariationalDropout([oracles.TIME, UNITS], rate)
        outputs, _ = tf.nn.dynamic_rnn(cell, self.inputs, dtype=tf.float32)
        outputs, _ = fused(outputs)
        outputs = dropout(dense(outputs))
        self.owners = [cell, fused, dense, dropout]
        loss = tf.reduce_mean(tf.square(outputs))
        tf.summary.scalar("loss", loss)
        self.step = tf.train.get_or_create_global_step() if step else None
        self.train_op = tf.train.GradientDescentOptimizer(0.1).minimize(
            loss, self.step
        )
        (kernel,) = dense.masks.values()
        self.masks = [cell.mask, fused.mask, kernel, dropout.mask]
        self.feed = {self.inputs: oracles.inputs_value()}


def runs(session, net, count):
    """The masks of `count` steps, each as a tuple of bytes."""
    seen = []
    for _ in range(count):
        drawn, _ = session.run([net.masks, net.train_op], net.feed)
        seen.append(tuple(mask.tobytes() for mask in drawn))
    return seen


def lengths_of_runs(seen):
    """For how many steps each mask was held."""
    changes = [i for i in range(1, len(seen)) if seen[i] != seen[i - 1]]
    ends = [0, *changes, len(seen)]
    return [after - before for before, after in zip(ends, ends[1:])]


@pytest.mark.parametrize("every, step", [(1, True), (3, True), (3, False)])
def test_masks_are_redrawn_every_n_steps(every, step, tmp_path):
    net = Net(step=step)
    hooks = [MaskUpdateHook(net.owners, every)]
    directory = str(tmp_path) if step else None
    with tf.train.MonitoredTrainingSession(
        hooks=hooks,
        checkpoint_dir=directory,
        save_summaries_steps=1 if step else None,
        save_summaries_secs=None,
        log_step_count_steps=None,
    ) as session:
        seen = runs(session, net, 7)
        if step:
            # Other hooks have counted the steps, and nothing else.
            assert session.run(net.step, net.feed) == 7
    assert lengths_of_runs(seen) == [every] * (7 // every) + [1] * (
        7 % every > 0
    )
    # All owners have a mask of zeros and twos, from the first step on.
    for mask in seen[0]:
        assert set(np.unique(np.frombuffer(mask, np.float32))) == {0, 2}


def test_a_session_begins_with_new_masks(tmp_path):
    net = Net()
    for _ in range(2):  # the second goes on at step 3
        with tf.train.MonitoredTrainingSession(
            hooks=[MaskUpdateHook(net.owners, 100)],
            checkpoint_dir=str(tmp_path),
            save_summaries_steps=None,
            save_summaries_secs=None,
        ) as session:
            seen = runs(session, net, 3)
        assert lengths_of_runs(seen) == [3]
        assert np.any(np.frombuffer(seen[0][0], np.float32) == 0)


class Preempted(tf.train.SessionRunHook):
    """Loses the session, and what it holds, once, after some runs."""

    def __init__(self, resets, after):
        self._resets, self._left = resets, after

    def after_run(self, run_context, run_values):
        self._left -= 1
        if not self._left:
            run_context.session.run(self._resets)
            raise tf.errors.AbortedError(None, None, "preempted")


@pytest.mark.parametrize("saved_every", [1, 3])
def test_a_session_that_recovers_begins_with_new_masks(saved_every, tmp_path):
    net = Net()
    resets = [
        op
        for owner in net.owners
        for op in (
            owner.get_vd_reset_op()
            if hasattr(owner, "get_vd_reset_op")
            else owner.get_reset_mask_op()
        )
    ]
    with tf.train.MonitoredTrainingSession(
        hooks=[Preempted(resets, 5), MaskUpdateHook(net.owners, 100)],
        checkpoint_dir=str(tmp_path),
        save_checkpoint_steps=saved_every,
        save_summaries_steps=None,
        save_summaries_secs=None,
    ) as session:
        seen = runs(session, net, 8)
    assert len(seen) == 8
    for mask in itertools.chain(*seen):
        assert set(np.unique(np.frombuffer(mask, np.float32))) == {0, 2}


def test_a_step_from_before_has_new_masks():
    net = Net()
    again = net.step.assign(0)

    def go_back(step_context):
        step_context.session.run(again)

    with tf.train.MonitoredTrainingSession(
        hooks=[MaskUpdateHook(net.owners, 2)]
    ) as session:
        seen = runs(session, net, 3)
        session.run_step_fn(go_back)
        seen += runs(session, net, 3)
    assert lengths_of_runs(seen) == [2, 1, 2, 1]


def test_a_global_step_that_stands_still_is_noticed():
    net = Net()
    with tf.train.MonitoredTrainingSession(
        hooks=[MaskUpdateHook(net.owners, 2)]
    ) as session:
        for _ in range(100):  # as for gradients of many batches in one step
            session.run(net.masks, net.feed)
        with pytest.warns(UserWarning, match="none was done in 100 runs"):
            session.run(net.masks, net.feed)


def rate_to_feed(default):
    if default is None:
        return tf.placeholder(tf.float32, [], "rate")
    return tf.placeholder_with_default(default, [], "rate")


@pytest.mark.parametrize("default", [None, 1.0])
def test_a_keep_rate_that_is_fed(default):
    rate = rate_to_feed(default)
    net = Net(rate)
    with tf.train.MonitoredTrainingSession(
        hooks=[MaskUpdateHook(net.owners)]
    ) as session:
        net.feed[rate] = 0.25
        drawn = session.run(net.masks, net.feed)
    assert set(np.unique(drawn[0])) == {0, 4}


@pytest.mark.parametrize("default", [None, 1.0])
def test_a_keep_rate_that_another_hook_feeds_is_refused(default):
    rate = rate_to_feed(default)
    net = Net(rate)
    hooks = [
        tf.train.FeedFnHook(lambda: {rate: 0.25}),
        MaskUpdateHook(net.owners),
    ]
    sentence = "got 'rate' fed by another hook: feed it in `session.run`"
    with tf.train.MonitoredTrainingSession(hooks=hooks) as session:
        with pytest.raises(ValueError, match=sentence):
            session.run(net.train_op, net.feed)


def test_an_owner_alone_and_owners_with_nothing_to_run():
    cell = WeightDropLSTMCell(UNITS, input_size=DEPTH, **HELD)
    mask = cell.mask
    idle = [
        VariationalDropout([3], 1.0),
        WeightDropLSTMCell(UNITS, **DRAWN),
        WeightDropWrapper(tf.layers.Dense(2), 0.5, is_train=False),
    ]
    with tf.train.MonitoredTrainingSession(
        hooks=[MaskUpdateHook(cell), MaskUpdateHook(idle)]
    ) as session:
        assert np.any(session.run(mask) == 0)


def test_both_hooks_beside_summaries_of_masks(tmp_path):
    net = Net(is_train=training_phase())
    tf.summary.merge(mask_summaries(*net.owners))
    hooks = [TrainingPhaseHook(), MaskUpdateHook(net.owners)]
    with tf.train.MonitoredTrainingSession(
        hooks=hooks,
        checkpoint_dir=str(tmp_path),
        save_summaries_steps=1,
        save_summaries_secs=None,
        log_step_count_steps=None,
    ) as session:
        seen = runs(session, net, 4)
    assert lengths_of_runs(seen) == [1] * 4
    (path,) = tmp_path.glob("events*")
    events = [
        [value.simple_value for value in event.summary.value]
        for event in tf.train.summary_iterator(str(path))
        if "changed" in str(event.summary)
    ]
    assert len(events) == 4
    assert all(1 in values for values in events)
