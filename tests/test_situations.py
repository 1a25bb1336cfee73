"""Owners of masks in the situations that programs put them in.

One table of owners (`situations.ROWS`), and all of them in every situation: a
new owner of a mask is a new row there, and what it does wrong is found here.
"""

import collections
import gc
import itertools
import pickle
import random
import re
import resource
import subprocess
import sys
import weakref

import grids
import numpy as np
import pytest
import situations
import versions
from situations import (
    BATCH,
    ROADS,
    ROWS,
    Net,
    Program,
    Road,
    Saved,
    Situation,
    as_in,
    check,
    check_program,
    drop_arguments,
    inputs_value,
    placeholder,
    prime,
    rows_and_modes,
    session_of,
    tf,
)

import awd_lstm_tf

# A row of each class that owns masks; the other rows differ in what is wrapped.
CLASSES = {"cell", "fused", "dropout"}


def each(names, *more):
    """A test for each; but those of `CLASSES` and `more` are slow."""
    quick = CLASSES | set(more)
    assert quick <= set(ROWS)
    return pytest.mark.parametrize(
        "name",
        grids.some_slow(zip(names), quick.__contains__),
    )


def every_row(*more):
    return each(ROWS, *more)


def every_held(*more):
    return each([name for name, _ in rows_and_modes("held")], *more)


def mode_of(name):
    """Held, where a row has that."""
    modes = ROWS[name].modes
    return "held" if "held" in modes else modes[0]


def situation_of(
    name,
    mode=None,
    wiring="before",
    loop="single",
    road="plain",
    resource=True,
    seed=17,
):
    mode = mode or mode_of(name)
    if mode != "held":
        wiring = mode
    return Situation(name, mode, wiring, loop, road, resource, seed)


# ---------------------------------------------------------------------------
# Copied, imported, in a function, in a tower, made by a library

ROAD_TESTS = dict(
    plain=dict(wiring="together", loop="while_loop", resource=False),
    copied=dict(wiring="before"),
    imported=dict(wiring="minimize", loop="dynamic_rnn", resource=False),
    function=dict(wiring="around"),
    tower=dict(wiring="UPDATE_OPS"),
    library=dict(wiring="around", loop="cond"),
)


def has_road(name, road):
    row = ROWS[name]
    return road != "copied" or row.configured or row.deep


some_modes = pytest.mark.parametrize(
    "name, mode",
    grids.some_slow(
        rows_and_modes("standard", "auto"),
        lambda name, mode: (
            name in CLASSES | {"wrapped_cell"}
            or (name, mode)
            in [("wrapped_keras", "standard"), ("wrapped_function", "auto")]
        ),
    ),
)


@pytest.mark.parametrize(
    "name, road",
    grids.some_slow(
        [pair for pair in itertools.product(ROWS, ROADS) if has_road(*pair)],
        lambda name, road: (
            name in CLASSES
            or (list(ROWS).index(name) + list(ROADS).index(road)) % 2
        ),
    ),
)
def test_road(name, road):
    check(situation_of(name, road=road, **ROAD_TESTS[road]))


@some_modes
def test_mode(name, mode):
    check(situation_of(name, mode, loop="dynamic_rnn"))


# TensorFlow 1.x has no gradient of a lookup in nested loops.
@each([name for name in ROWS if name != "embedding"])
def test_nested_loops_that_wait(name):
    check(situation_of(name, wiring="around", loop="nested"))


def test_fused_layer_on_a_sequence():
    for wiring in ("before", "around"):
        check(situation_of("fused", wiring=wiring, loop="sequence"))


@pytest.mark.usefixtures("control_flow_v2")
@every_row("wrapped_cell")
def test_control_flow_v2(name):
    check(situation_of(name, wiring="around", loop="dynamic_rnn"))


@pytest.mark.usefixtures("control_flow_v2")
@some_modes
def test_control_flow_v2_of_modes(name, mode):
    check(situation_of(name, mode, loop="static_rnn"))


def is_whole(program, session):
    """Whether a run has nothing dropped, if it does not draw."""
    x = inputs_value(3)
    got = session.run(program.fetches, {**program.feeds, program.x: x})
    values = dict(zip([v.name for v in program.variables], got["values"]))
    row = ROWS[program.situation.row]
    return all(row.is_whole(values, used) for used in program.compare(got, x))


def draw(program, session):
    program.run(session, inputs_value(3))


@every_row("wrapped_keras")
def test_library_made_and_not_told_to_train(name):
    """With `training_phase()` not fed, results are stock's."""
    (program,) = situations.build(situation_of(name, road="library"))
    program.feeds.clear()
    with session_of(program.graph) as session:
        program.initialize(session)
        draw(program, session)
        assert is_whole(program, session)


@pytest.mark.parametrize(
    "name, mode",
    grids.some_slow(
        rows_and_modes(),
        lambda name, mode: (
            (name in CLASSES and mode == mode_of(name))
            or (name, mode) in [("cell", "auto"), ("wrapped_cell", "standard")]
        ),
    ),
)
def test_scalars_whose_shape_only_a_run_knows(name, mode):
    """As of `tf.placeholder(tf.bool)`, or of `tf.py_func`."""
    loop = "single" if mode == "standard" else "dynamic_rnn"
    situation = situation_of(name, mode, loop=loop)
    with as_in(situation) as graph:
        is_train, rate = tf.placeholder(tf.bool), tf.placeholder(tf.float32)
        drop = drop_arguments(situation, is_train)
        owner = ROWS[name].make(**dict(drop, weight_drop_kr=rate))
        program = Road(situation, bare=False).of(
            owner, {is_train: True, rate: situations.RATE}
        )
    with session_of(graph) as session:
        program.initialize(session)
        check_program(program, session)
        fed = dict(program.feeds)
        for argument, rule, value in (
            (is_train, "is_train` must be a scalar", [True]),
            (rate, "` must be a scalar", [situations.RATE]),
        ):
            program.feeds[argument] = value
            with pytest.raises(tf.errors.InvalidArgumentError, match=rule):
                draw(program, session)
            program.feeds.update(fed)
        program.feeds[is_train] = False
        draw(program, session)
        assert is_whole(program, session)


# ---------------------------------------------------------------------------
# Imported


def saved_net(name, wiring="before"):
    """A net in a graph of its own, as `Saved`."""
    situation = situation_of(name, wiring=wiring, road="imported")
    with as_in(situation):
        road = Road(situation, bare=False)
        owner, x = road.owner(), placeholder(situation.seed)
        net = Net(ROWS[name], owner, situation.loop, x)
        updates = ROWS[name].updates(owner) if situation.mode == "held" else []
        return Saved(situation, net, x, updates)


@every_row("wrapped_layer")
def test_imported_twice_beside_one_that_was_built(name):
    saved = saved_net(name)
    situation = situation_of(name, seed=3)
    with as_in(situation):
        programs = Road(situation, bare=False).plain()
        programs += [saved.taken("one"), saved.taken("two")]
    # As written, the last has all variables.
    with session_of(programs[0].graph) as session:
        programs[-1].initialize(session)
        for program in programs:
            check_program(program, session)


@every_held("wrapped_layer")
def test_each_import_has_a_mask_of_its_own(name, server):
    """In one graph; and in another one, on the same server."""
    saved = saved_net(name)
    with as_in(situation_of(name)) as graph:
        first, second = [saved.taken(scope) for scope in ("one", "two")]
    with session_of(graph) as session:
        second.initialize(session)
        draw(first, session)
        assert not is_whole(first, session)
        assert is_whole(second, session)
    for _ in range(2):
        with as_in(situation_of(name)) as graph:
            program = saved.taken()
        with session_of(graph, server.target) as session:
            program.initialize(session)
            assert is_whole(program, session)
            draw(program, session)
            assert not is_whole(program, session)
    # What forgets the variables, forgets the masks.
    tf.Session.reset(server.target)
    with session_of(graph, server.target) as session:
        program.initialize(session)
        assert is_whole(program, session)


@pytest.mark.slow
def test_imported_in_another_process(tmp_path):
    paths = []
    for name in ROWS:
        paths.append(str(tmp_path / name))
        with open(paths[-1], "wb") as file:
            pickle.dump(saved_net(name, "minimize"), file)
    command = [sys.executable, "-W", "ignore", situations.__file__, *paths]
    run = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert run.returncode == 0, run.stderr.decode()[-2000:]
    assert run.stdout.decode().endswith(f"checked {len(ROWS)}\n")


# ---------------------------------------------------------------------------
# Function


@every_row("embedding")
def test_gradients_inside_a_function(name):
    situation = situation_of(name, wiring="around", road="function")
    row = ROWS[name]
    with as_in(situation):
        owner = Road(situation, bare=False).owner()
        x = placeholder(situation.seed)
        prime(row, owner)
        updates = row.updates(owner) if situation.mode == "held" else []
        made = []

        @situations.function
        def compute(x):
            variables = tf.trainable_variables()
            with tf.GradientTape() as tape:
                tape.watch([x] + variables)
                made.append(Net(row, owner, situation.loop, x))
                loss = situations.loss_of(made[-1].results)
            gradients = tape.gradient(loss, variables + [x])
            gradients = list(map(tf.convert_to_tensor, gradients))
            return [made[-1].results, made[-1].used, gradients]

        with tf.control_dependencies(updates):
            results, used, gradients = compute(x)
        program = Program(
            situation,
            results,
            used,
            made[-1].names,
            x,
            tf.trainable_variables(),
            updates,
            gradients=gradients,
        )
    with session_of(program.graph) as session:
        program.initialize(session)
        check_program(program, session)


# ---------------------------------------------------------------------------
# Server


@pytest.fixture(scope="module")
def server():
    return tf.train.Server.create_local_server()


@every_held("wrapped_cell")
def test_second_graph_on_a_server(name, server, monkeypatch):
    row = ROWS[name]
    for units in (4, 4, 6):  # as it was, again, and of another shape
        monkeypatch.setattr(situations, "UNITS", units)
        monkeypatch.setattr(situations, "DEPTH", units + 3)
        situation = situation_of(name)
        with as_in(situation) as graph:
            owner = row.make(**drop_arguments(situation))
            out = prime(row, owner)
            masks, updates = row.public(owner), row.updates(owner)
            initialize = tf.global_variables_initializer()
        with session_of(graph, server.target) as session:
            session.run(initialize)
            before, _ = session.run([masks, out])
            assert before and all(np.all(mask == 1) for mask in before)
            session.run(updates)
            assert all(np.any(mask == 0) for mask in session.run(masks))
            session.run(row.resets(owner))
            assert all(np.all(mask == 1) for mask in session.run(masks))
            session.run(updates)


# ---------------------------------------------------------------------------
# Hooks, and Estimator


@every_held("wrapped_function")
def test_hooks_in_a_monitored_session(name, tmp_path):
    """Masks are redrawn every second step, for training alone."""
    situation = situation_of(name, wiring="hook", road="library")
    with as_in(situation) as graph:
        owner = ROWS[name].make(
            **drop_arguments(situation, awd_lstm_tf.training_phase())
        )
        x = tf.placeholder(
            tf.float32, [BATCH, situations.TIME, situations.DEPTH]
        )
        net = Net(ROWS[name], owner, "single", x)
        variables = situations.trained_by(net.results)
        program = Program(
            situation, net.results, net.used, net.names, x, variables, []
        )
        step = tf.train.get_or_create_global_step()
        program.fetches["step"] = tf.assign_add(step, 1)
        # What any summary would do, and a run of a hook's own does not stand.
        summary = tf.summary.scalar("loss", situations.loss_of(net.results))
        hooks = [
            tf.train.SummarySaverHook(
                1, output_dir=str(tmp_path), summary_op=summary
            ),
            awd_lstm_tf.MaskUpdateHook(owner, every_steps=2),
            awd_lstm_tf.TrainingPhaseHook(),
        ]

        def run(count, hooks):
            scaffold = tf.train.Scaffold(
                init_fn=lambda scaffold, session: program.initialize(session)
            )
            found = []
            with tf.train.SingularMonitoredSession(hooks, scaffold) as session:
                for number in range(count):
                    x = inputs_value(number)
                    got = program.run(session, x)
                    found += program.compare(got, x)
            values = dict(zip([v.name for v in variables], got["values"]))
            return found, values

        with graph.as_default():
            found, values = run(4, hooks)
            assert not ROWS[name].is_whole(values, found[0])
            changes = [
                not situations.equal(*pair) for pair in zip(found, found[1:])
            ]
            assert changes == [False, True, False]
            (found,), values = run(1, [])
            assert ROWS[name].is_whole(values, found)


class Recorder(tf.train.SessionRunHook):
    """Keeps what `fetches` is at each run."""

    def __init__(self, fetches):
        self._fetches, self.seen = fetches, []

    def before_run(self, run_context):
        return tf.train.SessionRunArgs(self._fetches)

    def after_run(self, run_context, run_values):
        self.seen.append(run_values.results)


class Model(object):
    """An Estimator's model that has all owners, made by a library."""

    def __init__(self):
        self.names, self.variables, self.recorder = {}, {}, None

    def _net(self, name, x):
        situation = situation_of(name)
        phase = awd_lstm_tf.training_phase()
        with tf.variable_scope(name, use_resource=True):
            owner = ROWS[name].make(**drop_arguments(situation, phase))
            net = Net(ROWS[name], owner, "single", x)
        self.names[name] = net.names
        self.variables[name] = [
            v.name for v in situations.trained_by(net.results)
        ]
        return owner, net

    def __call__(self, features, labels, mode):
        made = {name: self._net(name, features) for name in ROWS}
        predictions = {name: net.results[0] for name, (_, net) in made.items()}
        if mode == "infer":
            return tf.estimator.EstimatorSpec(mode, predictions=predictions)
        loss = situations.loss_of(list(predictions.values()))
        step = tf.train.get_or_create_global_step()
        train = tf.train.GradientDescentOptimizer(0.01).minimize(loss, step)
        owners = [
            owner
            for name, (owner, _) in made.items()
            if mode_of(name) == "held"
        ]
        self.recorder = Recorder(
            {name: net.used for name, (_, net) in made.items()}
        )
        return tf.estimator.EstimatorSpec(
            mode,
            loss=loss,
            train_op=train,
            training_hooks=[
                awd_lstm_tf.MaskUpdateHook(owners),
                awd_lstm_tf.TrainingPhaseHook(),
                self.recorder,
            ],
        )


def batches(seed=5):
    return tf.data.Dataset.from_tensors(inputs_value(seed)).repeat()


@pytest.mark.skipif(not hasattr(tf, "estimator"), reason="no tf.estimator")
def test_estimator(tmp_path):
    model = Model()
    config = tf.estimator.RunConfig(
        str(tmp_path),
        tf_random_seed=5,
        session_config=situations.run_config(),
        save_summary_steps=1,
    )
    estimator = tf.estimator.Estimator(model, config=config)
    estimator.train(batches, steps=3)
    seen = model.recorder.seen
    assert len(seen) == 3
    for name in ROWS:
        for each in seen:
            assert any(np.any(part == 0) for part in each[name]), name
        zeros = [[part == 0 for part in each[name]] for each in seen]
        for one, other in zip(zeros, zeros[1:]):
            assert not all(map(np.array_equal, one, other)), name

    x, loss = inputs_value(5), 0
    (first,), (second,) = [
        list(
            itertools.islice(
                estimator.predict(one_batch, yield_single_examples=False), 1
            )
        )
        for _ in range(2)
    ]
    for name, row in ROWS.items():
        values = collections.OrderedDict(
            (each, estimator.get_variable_value(each[:-2]))
            for each in model.variables[name]
        )
        whole = row.whole(values, model.names[name])
        stock = [value for value, _ in row.factors(values, whole)]
        results, _, _ = situations.oracle(name, "single").run(x, [stock])
        situations.assert_close(name, [first[name]], results[:1])
        assert np.array_equal(first[name], second[name])
        loss += np.sum(np.square(results[0], dtype=np.float64))
    evaluation = estimator.evaluate(batches, steps=1)
    assert abs(evaluation["loss"] - loss) < 1e-4 * loss


def one_batch():
    return tf.data.Dataset.from_tensors(inputs_value(5))


# ---------------------------------------------------------------------------
# An owner that outlives a graph


def outcomes(name, bare):
    """How it goes with one owner in three graphs, one after the other."""
    situation = situation_of(name)
    with as_in(situation):
        owner = Road(situation, bare).owner()
    found = []
    for _ in range(2):
        with as_in(situation):
            try:
                program = Road(situation, bare).of(owner)
            except (ValueError, RuntimeError) as error:
                found.append(type(error))
                continue
        with session_of(program.graph) as session:
            program.initialize(session)
            if not bare:
                check_program(program, session)
        found.append(None)
    return found


@every_row("wrapped_layer")
def test_made_outside_of_the_graphs_that_it_is_used_in(name):
    """Where stock's layer can be used in a second graph, ours is right."""
    ours, stock = outcomes(name, bare=False), outcomes(name, bare=True)
    assert [a is None for a in ours] == [b is None for b in stock]


# ---------------------------------------------------------------------------
# What walks a graph


@every_row("wrapped_cell")
def test_check_numerics(name):
    (program,) = situations.build(situation_of(name, road="library"))
    with program.graph.as_default():
        program.fetches["check"] = tf.add_check_numerics_ops()
    with session_of(program.graph) as session:
        program.initialize(session)
        check_program(program, session)


def by_custom_gradient(call):
    @tf.custom_gradient
    def compute(x):
        y = call(x)

        def gradient(d_y, variables=None):
            d_x = tf.gradients(y, [x], d_y)
            return d_x, tf.gradients(y, variables, d_y) if variables else []

        return y, gradient

    return compute


def by_recomputing(call):
    return tf.contrib.layers.recompute_grad(call)


@pytest.mark.parametrize(
    "name, mode, around, called_before",
    grids.some_slow(
        [
            pair + (around, called_before)
            for pair in rows_and_modes()
            for around in (by_custom_gradient, by_recomputing)
            for called_before in (False, True)
        ],
        lambda name, mode, around, called_before: (
            (mode, around, called_before)
            == (mode_of(name), by_recomputing, True)
            or (name, called_before) == ("cell", True)
        ),
    ),
)
def test_gradient_of_a_users_own(name, mode, around, called_before):
    """Right, or refused; and only what draws at every call is refused."""
    if around is by_recomputing and versions.VERSION >= (2,):
        pytest.skip("needs tf.contrib")
    situation = situation_of(name, mode)
    row = ROWS[name]
    with as_in(situation):
        owner = Road(situation, bare=False).owner()
        x = placeholder(situation.seed)
        if called_before:
            prime(row, owner)
        first = []

        def call(x):
            with situations.Uses() as uses:
                out, state = row.step(owner, x, situations.zero_state(row))
            first.append(uses.found)
            return tf.concat([out] + state, 1)

        sizes = [row.sizes[-1]] + list(row.sizes)
        out, *state = tf.split(around(call)(x[:, 0]), sizes, 1)
        try:
            program = Program(
                situation,
                [out[:, None]] + state,
                [each[None] for _, each in first[0]],
                [key for key, _ in first[0]],
                x,
                tf.trainable_variables(),
                row.updates(owner) if mode == "held" else [],
            )
        except NotImplementedError as error:
            assert is_of_ours(error)
            assert mode == "standard" or not row.once
            return
    with session_of(program.graph) as session:
        program.initialize(session)
        check_program(program, session)


HOUSE = re.compile(r"`[^`]+` (must|needs|below) ")


def is_of_ours(error):
    """Whether the error is a sentence in the house form."""
    return bool(HOUSE.search(str(error)))


@pytest.mark.parametrize(
    "name, mode",
    grids.some_slow(rows_and_modes(), lambda name, mode: mode == mode_of(name)),
)
def test_defun_is_refused(name, mode):
    from tensorflow.python.framework import function

    row, situation = ROWS[name], situation_of(name, mode)
    with as_in(situation):
        owner = Road(situation, bare=False).owner()

        @function.Defun(tf.float32)
        def compute(x):
            x.set_shape([BATCH, situations.DEPTH])
            return row.step(owner, x, situations.zero_state(row))[0]

        with pytest.raises(NotImplementedError, match="in a Defun") as info:
            compute(tf.zeros([BATCH, situations.DEPTH]))
        assert is_of_ours(info.value)


@pytest.mark.parametrize(
    "name, mode",
    grids.some_slow(
        rows_and_modes(),
        lambda name, mode: (
            mode == "auto"
            and name in ("cell", "fused", "dropout", "wrapped_function")
        ),
    ),
)
def test_xla(name, mode):
    if not versions.has_xla():
        pytest.skip("this build of TensorFlow has no XLA")
    row, situation = ROWS[name], situation_of(name, mode)
    with as_in(situation):
        owner = Road(situation, bare=False).owner()
        x = placeholder(situation.seed)
        prime(row, owner)
        updates = row.updates(owner) if mode == "held" else []
        names = []

        def call(x):
            net = Net(row, owner, "single", x)
            names[:] = net.names
            loss = situations.loss_of(net.results)
            gradients = tf.gradients(loss, tf.trainable_variables() + [x])
            gradients = list(map(tf.convert_to_tensor, gradients))
            return net.results + net.used + gradients

        found = list(versions.compiled(call, [x]))
        count, uses = len(row.sizes) + 1, len(row.shapes)
        program = Program(
            situation,
            found[:count],
            found[count : count + uses],
            names,
            x,
            tf.trainable_variables(),
            updates,
            gradients=found[count + uses :],
        )
    with session_of(program.graph) as session:
        program.initialize(session)
        check_program(program, session)


# ---------------------------------------------------------------------------
# Freed


def built_and_run(name, mode):
    situation = situation_of(name, mode, road="library")
    (program,) = situations.build(situation)
    with session_of(program.graph) as session:
        program.initialize(session)
        program.run(session, inputs_value(0))
    return weakref.ref(program.graph)


@every_row("wrapped_keras")
def test_graph_is_freed(name):
    graphs = [built_and_run(name, mode) for mode in ROWS[name].modes]
    gc.collect()
    assert [graph() for graph in graphs] == [None] * len(graphs)


# ---------------------------------------------------------------------------
# Keras

KERAS_CLASSES = dict(
    WeightDropLSTMCell=awd_lstm_tf.WeightDropLSTMCell,
    WeightDropWrapper=awd_lstm_tf.WeightDropWrapper,
)


def by_switch(mode):
    return dict(situations.DROPS[mode], is_train=awd_lstm_tf.training_phase())


def keras_cell(mode):
    cell = awd_lstm_tf.WeightDropLSTMCell(situations.UNITS, **by_switch(mode))
    return tf.keras.layers.RNN(cell), cell


def keras_wrapped_cell(mode):
    cell = tf.keras.layers.LSTMCell(situations.UNITS)
    cell = awd_lstm_tf.WeightDropWrapper(cell, **by_switch(mode))
    return tf.keras.layers.RNN(cell), cell


def keras_wrapped_rnn(mode):
    layer = tf.keras.layers.SimpleRNN(situations.UNITS)
    layer = awd_lstm_tf.WeightDropWrapper(layer, **by_switch(mode))
    return layer, layer


def keras_wrapped_layer(mode):
    layer = tf.keras.layers.Conv1D(situations.UNITS, 2)
    layer = awd_lstm_tf.WeightDropWrapper(layer, **by_switch(mode))
    return layer, layer


# What makes a layer and its owner of a mask, and the stock layer.
KERAS = dict(
    cell=(
        keras_cell,
        lambda: tf.keras.layers.RNN(
            situations.rnn_cell.LSTMCell(situations.UNITS)
        ),
    ),
    wrapped_cell=(
        keras_wrapped_cell,
        lambda: tf.keras.layers.RNN(tf.keras.layers.LSTMCell(situations.UNITS)),
    ),
    wrapped_rnn=(
        keras_wrapped_rnn,
        lambda: tf.keras.layers.SimpleRNN(situations.UNITS),
    ),
    wrapped_layer=(
        keras_wrapped_layer,
        lambda: tf.keras.layers.Conv1D(situations.UNITS, 2),
    ),
)


def keras_model(layer):
    inputs = tf.keras.layers.Input([situations.TIME, situations.DEPTH])
    hidden = tf.keras.layers.Flatten()(layer(inputs))
    model = tf.keras.Model(inputs, tf.keras.layers.Dense(1)(hidden))
    model.compile("sgd", "mse")
    return model


def keras_owner(model):
    """The owner of a mask in a model of `keras_model`."""
    layer = model.layers[1]
    return getattr(layer, "cell", layer)


def assert_drops_in_training_alone(model, expected):
    x = inputs_value(5)
    for _ in range(2):
        assert np.array_equal(model.predict(x), expected)
    backend = tf.keras.backend
    session = backend.get_session()
    session.run(keras_owner(model).get_vd_update_op())
    phase = awd_lstm_tf.training_phase()
    (trained,) = session.run(model.outputs, {model.inputs[0]: x, phase: True})
    assert np.max(np.abs(trained - expected)) > 1e-3
    assert np.array_equal(model.predict(x), expected)


@pytest.fixture
def keras():
    tf.keras.backend.clear_session()
    yield tf.keras
    tf.keras.backend.clear_session()


def by_clone(keras, model, folder):
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    return clone


def by_json(keras, model, folder):
    again = keras.models.model_from_json(model.to_json(), KERAS_CLASSES)
    again.set_weights(model.get_weights())
    return again


def by_file(keras, model, folder):
    path = str(folder / "model.h5")
    model.save(path)
    return keras.models.load_model(path, KERAS_CLASSES)


@pytest.mark.parametrize(
    "name, mode, again",
    grids.some_slow(
        itertools.product(
            KERAS, ["held", "auto"], [by_clone, by_json, by_file]
        ),
        lambda name, mode, again: (
            (mode, again) == ("held", by_file)
            if name in ("cell", "wrapped_rnn")
            else (mode, again) == ("auto", by_clone)
        ),
    ),
)
def test_keras_copies(name, mode, again, keras, tmp_path):
    ours, stock = KERAS[name]
    with keras.utils.custom_object_scope(KERAS_CLASSES):
        model = keras_model(ours(mode)[0])
        twin = keras_model(stock())
        twin.set_weights(model.get_weights())
        expected = twin.predict(inputs_value(5))
        assert_drops_in_training_alone(model, expected)
        assert_drops_in_training_alone(again(keras, model, tmp_path), expected)


@pytest.mark.parametrize(
    "name",
    grids.some_slow(
        zip(["cell", "wrapped_cell", "wrapped_rnn"]),
        lambda name: name != "wrapped_cell",
    ),
)
def test_keras_bidirectional(name, keras):
    ours, stock = KERAS[name]
    with keras.utils.custom_object_scope(KERAS_CLASSES):
        layer = ours("auto")[0]
        if name == "wrapped_rnn":
            both = keras.layers.Bidirectional(layer.layer)
            both = awd_lstm_tf.WeightDropWrapper(both, **by_switch("auto"))
        else:
            both = keras.layers.Bidirectional(layer)
        model = keras_model(both)
    # Stock's cell is copied, too, and Keras has one of its name.
    scope = {"LSTMCell": situations.rnn_cell.LSTMCell} if name == "cell" else {}
    with keras.utils.custom_object_scope(scope):
        twin = keras_model(keras.layers.Bidirectional(stock()))
    twin.set_weights(model.get_weights())
    x = inputs_value(5)
    expected = twin.predict(x)
    for _ in range(2):
        assert np.array_equal(model.predict(x), expected)
    feeds = {model.inputs[0]: x, awd_lstm_tf.training_phase(): True}
    session = keras.backend.get_session()
    halves = model.layers[1].output
    one, other = [
        np.split(session.run(halves, feeds), 2, axis=-1) for _ in range(2)
    ]
    for a, b in zip(one, other):  # each half has masks of its own
        assert np.max(np.abs(a - b)) > 1e-3


@pytest.mark.skipif(not hasattr(tf, "estimator"), reason="no tf.estimator")
@pytest.mark.parametrize(
    "name",
    grids.some_slow(
        zip(KERAS),
        lambda name: name in ("cell", "wrapped_layer"),
    ),
)
def test_keras_to_estimator(name, keras, tmp_path):
    ours, _ = KERAS[name]
    model = keras_model(ours("auto")[0])
    expected = model.predict(inputs_value(5))
    estimator = keras.estimator.model_to_estimator(
        model, custom_objects=KERAS_CLASSES, model_dir=str(tmp_path)
    )

    def batch():
        x = inputs_value(5)
        return tf.data.Dataset.from_tensors({model.input_names[0]: x})

    for _ in range(2):
        found = [list(each.values())[0] for each in estimator.predict(batch)]
        # The graph is another, and so may be its rounding; a weight dropped is
        # five digits more.
        np.testing.assert_allclose(np.stack(found), expected, rtol=0, atol=1e-6)


# ---------------------------------------------------------------------------
# Readers and writers of weights

WEIGHTED = [
    name
    for name, _ in rows_and_modes("held")
    if name not in ("dropout", "embedding")
]


class Weights(object):
    """A layer of this graph, ours or stock's, called and with its mask drawn.

    `values` are its weights' at the start, the same for both.
    """

    def __init__(self, name, bare):
        row, situation = ROWS[name], situation_of(name)
        self.owner = Road(situation, bare).owner()
        prime(row, self.owner)
        self.layer = self.owner
        if not hasattr(self.owner, "trainable_weights"):
            self.list = tf.trainable_variables()
        else:
            self.list = list(self.owner.trainable_weights)
            assert len(self.list) == len(tf.trainable_variables())
        random = np.random.RandomState(0)
        shapes = [v.shape.as_list() for v in self.list]
        self.values = [random.uniform(-1, 1, shape) for shape in shapes]
        self.others = [random.uniform(-1, 1, shape) for shape in shapes]
        self.gradients = [
            tf.constant(random.uniform(-1, 1, shape), tf.float32)
            for shape in shapes
        ]
        self.step = tf.train.get_or_create_global_step()
        self.draw = [] if bare else row.updates(self.owner)

        # Its gradients are known, with a mask and without.
        self.loss = tf.add_n(
            [
                tf.reduce_sum(gradient * variable)
                for gradient, variable in zip(self.gradients, self.list)
            ]
        )


def by_optimizer(optimizer):
    """A reader and writer: three steps with this optimizer."""

    def trained(weights):
        made = optimizer(weights)
        steps = made.minimize(weights.loss, weights.step, weights.list)

        def use(session, folder):
            for _ in range(3):
                session.run(weights.draw)
                session.run(steps)
            return session.run(made.variables() + weights.list)

        return use

    return trained


def nt_asgd(weights):
    optimizer = awd_lstm_tf.NTASGDOptimizer(0.1)
    steps = optimizer.minimize(weights.loss, weights.step, weights.list)

    def use(session, folder):
        for between in (optimizer.restart, optimizer.swap_in):
            for _ in range(3):
                session.run(weights.draw)
                session.run(steps)
            session.run(between)
        averaged = session.run(weights.list)
        session.run(optimizer.swap_out)
        return averaged + session.run(weights.list)

    return use


def averages(weights):
    average = tf.train.ExponentialMovingAverage(0.5)
    optimizer = tf.train.GradientDescentOptimizer(0.1)
    with tf.control_dependencies(
        [optimizer.minimize(weights.loss, weights.step, weights.list)]
    ):
        steps = average.apply(weights.list)
    shadows = [average.average(variable) for variable in weights.list]

    def use(session, folder):
        for _ in range(3):
            session.run(weights.draw)
            session.run(steps)
        return session.run(shadows + weights.list)

    return use


def averaging_optimizer(weights):
    opt = tf.contrib.opt
    optimizer = opt.MovingAverageOptimizer(
        tf.train.GradientDescentOptimizer(0.1), 0.5
    )
    steps = optimizer.minimize(weights.loss, weights.step, weights.list)
    saver = optimizer.swapping_saver()

    def use(session, folder):
        for _ in range(3):
            session.run(weights.draw)
            session.run(steps)
        path = saver.save(session, str(folder / "averages"))
        reader = tf.train.load_checkpoint(path)
        return session.run(weights.list) + [
            reader.get_tensor(v.op.name) for v in weights.list
        ]

    return use


def momentum_w(weights):
    return tf.contrib.opt.MomentumWOptimizer(0.1, 0.1, 0.9)


def adam_w(weights):
    return tf.contrib.opt.AdamWOptimizer(0.1, 0.1)


def clip_and_assign(weights):
    clipped = [
        tf.assign(v, tf.clip_by_norm(v, 0.5, axes=[0])) for v in weights.list
    ]

    def use(session, folder):
        session.run(weights.draw)
        session.run(clipped)
        return session.run(weights.list)

    return use


def assign_to_another(weights):
    copies = [
        tf.get_variable(f"copy{number}", v.shape)
        for number, v in enumerate(weights.list)
    ]
    assign = [tf.assign(*pair) for pair in zip(copies, weights.list)]
    back = [tf.assign(v, 2 * other) for v, other in zip(weights.list, copies)]

    def use(session, folder):
        session.run(weights.draw)
        session.run(assign)
        session.run(back)
        return session.run(copies + weights.list)

    return use


def saver(weights):
    saver = tf.train.Saver(weights.list)
    others = [
        tf.assign(v, tf.constant(other, tf.float32))
        for v, other in zip(weights.list, weights.others)
    ]

    def use(session, folder):
        session.run(weights.draw)
        path = saver.save(session, str(folder / "saver"))
        session.run(others)
        changed = session.run(weights.list)
        session.run(weights.draw)
        saver.restore(session, path)
        reader = tf.train.load_checkpoint(path)
        saved = [reader.get_tensor(v.op.name) for v in weights.list]
        return saved + changed + session.run(weights.list)

    return use


def checkpoint(weights):
    if isinstance(weights.layer, tf.keras.layers.Layer) or hasattr(
        weights.layer, "layer"
    ):
        layer = getattr(weights.layer, "layer", weights.layer)
    else:
        layer = weights.layer
    if not hasattr(layer, "weights"):  # a function
        return lambda session, folder: []
    objects = tf.train.Checkpoint(layer=layer)

    def use(session, folder):
        session.run(weights.draw)
        path = objects.save(str(folder / "objects"), session)
        names = tf.train.load_checkpoint(path).get_variable_to_shape_map()
        reader = tf.train.load_checkpoint(path)
        return [
            reader.get_tensor(name)
            for name in sorted(names)
            if name.startswith("layer/") and "CONFIG_JSON" not in name
        ]

    return use


def get_and_set(weights):
    layer = weights.layer
    if not hasattr(layer, "get_weights"):
        return lambda session, folder: []

    def use(session, folder):
        tf.keras.backend.set_session(session)
        session.run(weights.draw)
        got = layer.get_weights()
        layer.set_weights([-value for value in got])
        return got + session.run(weights.list) + layer.get_weights()

    return use


READERS = dict(
    nt_asgd=nt_asgd,
    averages=averages,
    averaging_optimizer=averaging_optimizer,
    momentum_w=by_optimizer(momentum_w),
    adam_w=by_optimizer(adam_w),
    clip_and_assign=clip_and_assign,
    assign_to_another=assign_to_another,
    saver=saver,
    checkpoint=checkpoint,
    get_and_set=get_and_set,
)
CONTRIB = ("averaging_optimizer", "momentum_w", "adam_w")


def read_and_written(name, bare, folder):
    """What each of `READERS` makes of a layer's weights."""
    with as_in(situation_of(name)) as graph:
        weights = Weights(name, bare)
        uses = {
            reader: make(weights)
            for reader, make in READERS.items()
            if reader not in CONTRIB or hasattr(tf, "contrib")
        }
        initialize = tf.global_variables_initializer()
        feeds = {
            v.initial_value: value
            for v, value in zip(weights.list, weights.values)
        }
        found = {}
        with session_of(graph) as session:
            for reader, use in uses.items():
                # Twice: an average begins with its variable as it is in the
                # middle of the first.
                session.run(initialize, feeds)
                session.run(initialize, feeds)
                found[reader] = use(session, folder)
            if not bare:
                masks = session.run(ROWS[name].public(weights.owner))
                assert masks and all(np.any(mask == 0) for mask in masks)
        return found


@each(WEIGHTED, "wrapped_layer")
def test_readers_and_writers_of_weights(name, tmp_path):
    """To the bit what they make of stock's, with a mask drawn all the time."""
    ours = read_and_written(name, False, tmp_path)
    stock = read_and_written(name, True, tmp_path)
    for reader in ours:
        assert len(ours[reader]) == len(stock[reader]), reader
        for one, other in zip(ours[reader], stock[reader]):
            assert np.array_equal(one, other), reader


# ---------------------------------------------------------------------------
# Memory


def resident():
    """Megabytes that this process has in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(tf, "estimator"), reason="no tf.estimator")
def test_estimator_keeps_no_memory(tmp_path):
    model = Model()
    config = tf.estimator.RunConfig(
        str(tmp_path), session_config=situations.run_config()
    )
    estimator = tf.estimator.Estimator(model, config=config)
    sizes = []
    for _ in range(25):
        estimator.train(batches, steps=1)
        gc.collect()
        sizes.append(resident())
    # The first few have TensorFlow load what it needs.
    assert sizes[-1] - sizes[4] < 20, sizes


# ---------------------------------------------------------------------------
# Any situation

CHUNKS, IN_CHUNK = 20, 50


def random_situation(draws):
    """One of all that there are."""
    while True:
        name, road = draws.choice(list(ROWS)), draws.choice(ROADS)
        if has_road(name, road):
            break
    mode = draws.choice(ROWS[name].modes)
    loops = list(situations.LOOPS)
    if name == "fused":
        loops.append("sequence")
    return situation_of(
        name,
        mode,
        draws.choice(situations.WIRINGS),
        draws.choice(loops),
        road,
        resource=road == "function" or draws.random() < 0.5,
        seed=draws.randrange(2**16),
    )


def runs_on_stock(situation):
    """Whether TensorFlow can do it at all, with stock's layer."""
    try:
        programs = situations.build(situation, bare=True)
        with session_of(programs[0].graph) as session:
            programs[-1].initialize(session)
            for program in programs:
                program.run(session, inputs_value(0))
    except Exception:
        return False
    return True


def outcome(situation):
    """What comes of it: "right", a sentence of ours, or what stock's gets.

    Raises:
      Whatever is wrong.
    """
    try:
        check(situation)
    except AssertionError:
        raise
    except Exception as error:
        if is_of_ours(error):
            return HOUSE.search(str(error)).string.partition(", got ")[0]
        if runs_on_stock(situation):
            raise
        return f"{type(error).__name__} as with stock layers"
    return "right"


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_any_situation(chunk, seed, record_property):
    """None is wrong; what is refused is refused in sentences of ours."""
    draws = random.Random(seed * CHUNKS + chunk)
    found, wrong = collections.Counter(), []
    for _ in range(IN_CHUNK):
        situation = random_situation(draws)
        try:
            found[outcome(situation)] += 1
        except Exception as error:
            wrong.append(f"{situation}: {type(error).__name__}: {error}"[:500])
    record_property("found", dict(found))
    print("\n".join(f"{count} {what}" for what, count in found.items()))
    assert not wrong, "\n".join(wrong)
    assert found["right"] >= 0.8 * IN_CHUNK  # the others are refused
