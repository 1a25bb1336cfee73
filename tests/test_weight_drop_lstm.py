"""WeightDropLSTMCell against stock LSTMCell."""

import copy
import functools
import itertools
import random
import re

import grids
import numpy as np
import oracles
import pytest
import versions
from versions import tf

from awd_lstm_tf import WeightDropLSTMCell

DEPTH, UNITS = oracles.DEPTH, oracles.UNITS
ROWS = DEPTH + UNITS

# The ways of drawing, all with weights to drop.
MODES = {
    "standard": dict(weight_drop_kr=0.5),
    "use_vd": dict(weight_drop_kr=0.5, use_vd=True),
    "auto_update": dict(weight_drop_kr=0.5, use_vd=True, auto_update=True),
}

# LSTMCell's arguments, each away from its default.
ARGUMENTS = {
    "default": {},
    "peepholes": dict(use_peepholes=True),
    "cell_clip": dict(cell_clip=0.1),
    "initializer": dict(initializer=tf.constant_initializer(0.3)),
    "num_proj": dict(num_proj=3),
    "proj_clip": dict(num_proj=3, proj_clip=0.01),
    "num_unit_shards": dict(num_unit_shards=2),
    "num_proj_shards": dict(num_proj=4, num_proj_shards=2),
    "forget_bias": dict(forget_bias=0.25),
    "state_is_tuple": dict(state_is_tuple=False),
    "activation": dict(activation=tf.nn.relu),
    "name": dict(name="other"),
    "trainable": dict(trainable=False),
    "all": dict(
        use_peepholes=True,
        cell_clip=0.2,
        num_proj=3,
        proj_clip=0.1,
        forget_bias=0.0,
        state_is_tuple=False,
        activation=tf.nn.relu,
        initializer=tf.random_normal_initializer(stddev=0.5),
    ),
}


def session_of(graph=None):
    session = tf.Session(graph=graph, config=oracles.as_built())
    with session.graph.as_default():
        session.run(tf.global_variables_initializer())
    return session


class Model(object):
    """A loss, its gradients and their values, in a graph of its own."""

    def __init__(self, make_cell, loop="dynamic_rnn", dtype=tf.float32):
        unroll, count = oracles.LOOPS[loop]
        with tf.Graph().as_default() as self.graph:
            tf.set_random_seed(3)
            random.seed(3)  # Keras's, where variables are resources
            inputs = tf.constant(oracles.inputs_value(dtype.as_numpy_dtype))
            self.cells = [make_cell() for _ in range(count)]
            self.outputs, self.state = unroll(self.cells, inputs)
            self.variables = tf.global_variables()
            self.loss = oracles.loss_of(self.outputs, self.state)
            gradients = tf.gradients(self.loss, [inputs] + self.variables)
            self.gradients = [g for g in gradients if g is not None]

    def values(self):
        with session_of(self.graph) as session:
            return session.run(
                [self.outputs, self.state, self.gradients, self.variables]
            )


def stock(arguments):
    return lambda: tf.nn.rnn_cell.LSTMCell(UNITS, **arguments)


@functools.lru_cache(maxsize=None)
def run_stock(name, loop="dynamic_rnn"):
    """Text of the graph of an LSTMCell of ARGUMENTS, and its values."""
    model = Model(stock(ARGUMENTS[name]), loop)
    return graph_text(model), model.values()


def ours(arguments, **own):
    return lambda: WeightDropLSTMCell(UNITS, **dict(arguments, **own))


# At keep rate 1.0, and with is_train=False, it is LSTMCell


def graph_text(model):
    """Names included; but `zero_state` names a scope after the class."""
    alike = functools.partial(re.sub, "(?i)weightdrop(?=lstmcellzero)", "")
    graph = model.graph.as_graph_def()
    # Control flow v2: functions in any order, and counted in one process.
    functions = sorted(
        re.sub("_[0-9]+", "", alike(str(each)))
        for each in graph.library.function
    )
    graph.ClearField("library")
    counted = "_(cond|body|true|false|grad)_[0-9]+"
    text = re.sub(counted, r"_\1", alike(str(graph)))
    return text + "".join(functions)


EQUAL = [
    (mode, arguments, loop)
    for mode, arguments, loop in itertools.product(
        [None] + sorted(MODES), sorted(ARGUMENTS), sorted(oracles.LOOPS)
    )
    if loop == "dynamic_rnn" or arguments in ("default", "all")
]
# Arguments that make another state, without a mode; all of them in each loop.
QUICK = [
    (None, arguments, "dynamic_rnn")
    for arguments in ("default", "num_proj", "state_is_tuple", "trainable")
]
QUICK += [(None, "all", loop) for loop in ("bidirectional", "dynamic_rnn")]
QUICK += zip(sorted(MODES), ["default"] * 3, ["dynamic_rnn"] * 3)
QUICK += zip(
    sorted(MODES), ["all"] * 3, ["bidirectional", "multi_3", "static_rnn"]
)


@pytest.mark.parametrize("mode, arguments, loop", grids.thinned(EQUAL, QUICK))
def test_is_lstm_cell(mode, arguments, loop):
    own = dict(MODES[mode], is_train=False) if mode else {}
    mine = Model(ours(ARGUMENTS[arguments], **own), loop)
    text, values = run_stock(arguments, loop)
    assert graph_text(mine) == text
    if mode is None:  # the same graph gives the same values
        assert oracles.same(mine.values(), values)
    for cell in mine.cells:
        assert cell.mask is None
        assert cell.get_vd_update_op() == cell.get_vd_reset_op() == []
        assert cell.kept_fraction is None and cell.mask_changed is None


# Of those that change the graph that the mask is in.
CHANGING = "peepholes num_proj state_is_tuple all"


@pytest.mark.parametrize(
    "arguments, mode",
    grids.thinned(
        list(itertools.product(sorted(ARGUMENTS), sorted(MODES))),
        list(zip(CHANGING.split(), itertools.cycle(sorted(MODES)))),
    ),
)
def test_is_train_tensor_switches_at_run_time(arguments, mode):
    _, expected = run_stock(arguments)
    arguments = ARGUMENTS[arguments]
    own = dict(MODES[mode], input_size=DEPTH)

    def make():
        is_train = tf.placeholder_with_default(False, [], "is_train")
        return WeightDropLSTMCell(
            UNITS, **dict(arguments, is_train=is_train, **own)
        )

    mine = Model(make)
    fetches = [mine.outputs, mine.state, mine.gradients, mine.variables]
    with session_of(mine.graph) as session:
        for variable, value in zip(mine.variables, expected[3]):
            session.run(variable.initializer, {variable.initial_value: value})
        session.run(mine.cells[0].get_vd_update_op())
        assert oracles.same(session.run(fetches), expected)
        train = session.run(mine.outputs, {"is_train:0": True})
        assert not np.allclose(train, expected[0])


@pytest.mark.smoke
def test_constructor_takes_lstm_cells_arguments_by_position():
    arguments = (
        UNITS,
        True,
        0.5,
        tf.zeros_initializer(),
        3,
        0.5,
        None,
        None,
        0.5,
        False,
        tf.nn.relu,
        None,
        "cell",
        tf.float64,
    )
    theirs = tf.nn.rnn_cell.LSTMCell(*arguments).get_config()
    mine = WeightDropLSTMCell(*arguments).get_config()
    assert {key: mine[key] for key in theirs} == theirs
    with pytest.raises(TypeError, match="positional"):
        WeightDropLSTMCell(*(arguments + (0.5,)))


# The masked kernel


@pytest.mark.smoke
@pytest.mark.parametrize(
    "arguments, mode",
    grids.singles(
        ["default", "peepholes", "num_proj", "all"], ["use_vd", "auto_update"]
    ),
)
def test_masked_step_is_lstm_cell_on_the_masked_kernel(mode, arguments):
    arguments = ARGUMENTS[arguments]
    mine = Model(ours(arguments, input_size=DEPTH, **MODES[mode]))
    cell = mine.cells[0]
    kernel = [v for v in mine.variables if v.op.name.endswith("cell/kernel")][0]
    with mine.graph.as_default():
        kernel_gradient = tf.gradients(mine.loss, kernel)[0]
    theirs = Model(stock(arguments))
    with session_of(mine.graph) as session:
        session.run(cell.get_vd_update_op())
        mask, weights, *values = session.run(
            [
                cell.mask,
                mine.variables,
                mine.outputs,
                mine.state,
                kernel_gradient,
            ]
        )
    with theirs.graph.as_default(), session_of(theirs.graph) as session:
        at = mine.variables.index(kernel)
        weights[at] = weights[at] * mask
        for variable, value in zip(theirs.variables, weights):
            variable.load(value, session)
        kernel_gradient = tf.gradients(theirs.loss, theirs.variables[at])[0]
        expected = session.run([theirs.outputs, theirs.state, kernel_gradient])
    expected[2] = expected[2] * mask
    assert oracles.same(values, expected, 1e-5)
    assert 0.2 < np.mean(mask == 0) < 0.8


@pytest.mark.parametrize("mode", ["use_vd", "auto_update"])
@pytest.mark.parametrize("num_proj", [None, 2])
def test_recurrent_only_drops_recurrent_rows(num_proj, mode):
    mine = Model(
        ours(
            dict(num_proj=num_proj, input_size=DEPTH),
            recurrent_only=True,
            **MODES[mode],
        )
    )
    cell = mine.cells[0]
    with session_of(mine.graph) as session:
        session.run(cell.get_vd_update_op())
        mask, gradient, kernel, outputs = session.run(
            [
                cell.mask,
                mine.gradients[1],
                cell.trainable_weights[0],
                mine.outputs,
            ]
        )
    assert (
        mask.shape == kernel.shape == (DEPTH + (num_proj or UNITS), 4 * UNITS)
    )
    assert np.all(mask[:DEPTH] == 1)
    assert set(np.unique(mask[DEPTH:])) == {0, 2}
    assert np.all(gradient[mask == 0] == 0)


def test_whole_kernel_is_dropped_by_default():
    mine = Model(ours({}, input_size=DEPTH, **MODES["auto_update"]))
    with session_of(mine.graph) as session:
        mask = session.run(mine.cells[0].mask)
    assert np.any(mask[:DEPTH] == 0) and np.any(mask[DEPTH:] == 0)


def test_standard_dropout_of_a_single_step():
    with tf.variable_scope("scope"):
        cell = WeightDropLSTMCell(UNITS, weight_drop_kr=0.5)
        inputs = tf.ones([2, DEPTH])
        outputs, state = cell(inputs, cell.zero_state(2, tf.float32))
        kernel = cell.trainable_weights[0]
        gradient = tf.gradients(oracles.loss_of(outputs, state), kernel)[0]
    seen = set()
    with session_of() as session:
        for _ in range(20):
            values = session.run([cell.mask, kernel, outputs, gradient])
            mask, weights, out, slope = values
            seen.add(mask.tobytes())
            gates = np.ones([2, DEPTH]) @ (weights * mask)[:DEPTH]
            i, j, _, o = np.split(gates, 4, 1)
            expected = sigmoid(o) * np.tanh(sigmoid(i) * np.tanh(j))
            assert np.allclose(out, expected, atol=1e-6)
            assert np.all(slope[mask == 0] == 0)
    assert len(seen) == 20


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_standard_dropout_draws_at_every_step():
    cell = WeightDropLSTMCell(UNITS, weight_drop_kr=0.5)
    inputs = tf.ones([1, DEPTH])
    steps = tf.map_fn(
        lambda _: cell(inputs, cell.zero_state(1, tf.float32))[0],
        tf.zeros([20]),
    )
    gradient = tf.gradients(tf.reduce_sum(steps), cell.trainable_weights[0])[0]
    assert cell.mask is None  # drawn in the loop: no fetch reaches it
    with session_of() as session:
        values, slope = session.run([steps, gradient])
    assert len({v.tobytes() for v in values}) == 20
    assert np.all(slope[DEPTH:] == 0)  # the state is zero
    assert np.count_nonzero(slope[:DEPTH]) > 6 * UNITS


def test_expected_gates_are_those_of_the_whole_kernel(seed):
    """The mean over masks of a linear function of the kernel is unbiased."""
    tf.set_random_seed(seed)
    cell = WeightDropLSTMCell(
        UNITS, weight_drop_kr=0.3, use_vd=True, auto_update=True
    )
    cell(tf.ones([1, DEPTH]), cell.zero_state(1, tf.float32))
    with session_of() as session:
        mean = np.mean([session.run(cell.mask) for _ in range(2000)], axis=0)
    sigma = np.sqrt((1 / 0.3 - 1) / 2000)
    assert np.max(np.abs(mean - 1)) < 5 * sigma


@pytest.mark.parametrize("own", [{}, dict(MODES["use_vd"])])
def test_input_bias_is_added_to_the_input_gate(own):
    shifted = np.repeat([0.7, 0.0, 0.0, 0.0], UNITS).astype(np.float32)
    mine = Model(ours({}, input_bias=0.7, **own))
    theirs = Model(stock({}))
    _, _, gradients, weights = mine.values()
    with session_of(theirs.graph) as session:
        for variable, value in zip(theirs.variables, weights):
            if variable.op.name.endswith("bias"):
                value = value + shifted
            variable.load(value, session)
        expected = session.run([theirs.outputs, theirs.state, theirs.gradients])
    assert oracles.same(mine.values()[:2], expected[:2], 1e-6)
    assert oracles.same(gradients, expected[2], 1e-6)


@versions.needs_1  # the stock cell of 2.x takes ints alone
@pytest.mark.parametrize(
    "mode, recurrent_only",
    grids.singles([None, *sorted(MODES)], [False, True]),
)
def test_sizes_may_be_whole_floats_as_in_lstm_cell(mode, recurrent_only):
    """LSTMCell takes `num_proj=4.0`, and makes a 4 of it when it is built."""
    own = dict(MODES[mode], recurrent_only=recurrent_only) if mode else {}
    results = []
    for size in (UNITS, float(UNITS)):
        arguments = dict(num_proj=size, input_size=DEPTH)
        with tf.Graph().as_default() as graph:
            tf.set_random_seed(1)
            cell = WeightDropLSTMCell(size, seed=2, **own, **arguments)
            inputs = tf.constant(oracles.inputs_value())
            outputs = oracles.dynamic([cell], inputs)
            with session_of(graph) as session:
                session.run(cell.get_vd_update_op())
                results.append(session.run(outputs))
    if mode != "standard":  # in which steps side by side take turns in drawing
        assert oracles.same(*results)


# A tensor keep rate


@pytest.mark.parametrize("mode", sorted(MODES))
def test_keep_rate_tensor_is_read_at_each_draw(mode):
    rate = tf.placeholder_with_default(1.0, [])
    own = dict(MODES[mode], weight_drop_kr=rate, input_size=DEPTH)
    cell = WeightDropLSTMCell(UNITS, **own)
    inputs = tf.ones([1, DEPTH])
    outputs = cell(inputs, cell.zero_state(1, tf.float32))[0]
    plain = tf.nn.rnn_cell.LSTMCell(UNITS, name="lstm_cell", reuse=True)
    expected = plain(inputs, plain.zero_state(1, tf.float32))[0]
    with session_of() as session:
        session.run(cell.get_vd_update_op())
        mask, *values = session.run([cell.mask, outputs, expected])
        assert np.all(mask == 1) and np.array_equal(*values)
        feed = {rate: 0.25}
        session.run(cell.get_vd_update_op(), feed)
        assert set(np.unique(session.run(cell.mask, feed))) == {0, 4}


@pytest.mark.parametrize("value", [0.0, -1.0, 1.5, np.nan])
@pytest.mark.parametrize("mode", sorted(MODES))
def test_keep_rate_tensor_is_checked_at_run_time(mode, value):
    rate = tf.placeholder(tf.float32, [])
    own = dict(MODES[mode], weight_drop_kr=rate, input_size=DEPTH)
    cell = WeightDropLSTMCell(UNITS, **own)
    outputs = cell(tf.ones([1, DEPTH]), cell.zero_state(1, tf.float32))[0]
    with session_of() as session:
        with pytest.raises(
            tf.errors.InvalidArgumentError,
            match=r"`weight_drop_kr` must be in \(0, 1\], got",
        ):
            fetches = cell.get_vd_update_op() or outputs
            session.run(fetches, {rate: value})


def test_keep_rate_variable():
    rate = tf.get_variable("rate", [], initializer=tf.constant_initializer(0.5))
    cell = WeightDropLSTMCell(
        UNITS, weight_drop_kr=rate, use_vd=True, input_size=DEPTH
    )
    with session_of() as session:
        session.run(cell.get_vd_update_op())
        assert set(np.unique(session.run(cell.mask))) == {0, 2}
        rate.load(1.0, session)
        session.run(cell.get_vd_update_op())
        assert np.all(session.run(cell.mask) == 1)


# Variables and checkpoints


NAMES = {  # golden: LSTMCell's own, in its order
    "default": ["kernel", "bias"],
    "peepholes": ["kernel", "bias", "w_f_diag", "w_i_diag", "w_o_diag"],
    "num_proj": ["kernel", "bias", "projection/kernel"],
}


@pytest.mark.smoke
@pytest.mark.parametrize("arguments", sorted(NAMES))
@pytest.mark.parametrize("use_resource", [False, True])
def test_weights_are_those_of_lstm_cell(arguments, use_resource):
    with tf.variable_scope("scope", use_resource=use_resource):
        cell = WeightDropLSTMCell(
            UNITS, **dict(ARGUMENTS[arguments], **MODES["use_vd"])
        )
        outputs, _ = cell(tf.ones([1, DEPTH]), cell.zero_state(1, tf.float32))
    names = ["scope/lstm_cell/" + name for name in NAMES[arguments]]
    assert [w.op.name for w in cell.weights] == names
    assert [w.op.name for w in cell.trainable_weights] == names
    assert [v.op.name for v in tf.global_variables()] == names
    assert all(g is not None for g in tf.gradients(outputs, cell.weights[:1]))


def test_second_default_cell_gets_lstm_cells_next_name():
    for _ in range(2):
        cell = WeightDropLSTMCell(UNITS, **MODES["use_vd"])
        cell(tf.ones([1, DEPTH]), cell.zero_state(1, tf.float32))
    names = [v.op.name for v in tf.trainable_variables()]
    assert names[2:] == ["lstm_cell_1/kernel", "lstm_cell_1/bias"]


def test_subclass_is_named_after_itself_as_lstm_cells_are():
    class MyCell(WeightDropLSTMCell):
        pass

    cell = MyCell(UNITS)
    cell(tf.ones([1, DEPTH]), cell.zero_state(1, tf.float32))
    assert cell.weights[0].op.name == "my_cell/kernel"


@pytest.mark.smoke
@pytest.mark.parametrize(
    "from_stock, mode", grids.singles([True, False], sorted(MODES))
)
def test_checkpoints_pass_both_ways(from_stock, mode, tmp_path):
    makers = [stock({}), ours({}, input_size=DEPTH, **MODES[mode])]
    if not from_stock:
        makers.reverse()
    first, second = Model(makers[0]), Model(makers[1])
    with first.graph.as_default(), session_of(first.graph) as session:
        train(first, session, 3)
        path = tf.train.Saver().save(session, str(tmp_path / "model"))
        saved = session.run(first.variables)
    with second.graph.as_default(), tf.Session() as session:
        tf.train.Saver().restore(session, path)
        assert oracles.same(session.run(second.variables), saved)
        before = session.run(second.loss)
        train(second, session, 20)
        assert session.run(second.loss) < before  # trained on from there


def train(model, session, steps):
    optimizer = tf.train.GradientDescentOptimizer(0.1)
    step = optimizer.minimize(model.loss)
    updates = [
        op
        for cell in model.cells
        for op in getattr(cell, "get_vd_update_op", list)()
    ]
    for _ in range(steps):
        session.run(updates)
        session.run(step)


# Configuration and copies


@pytest.mark.parametrize("name", [None, "given"])
def test_config_round_trip(name):
    own = dict(
        weight_drop_kr=0.7,
        use_vd=True,
        input_size=DEPTH,
        input_bias=0.5,
        recurrent_only=True,
        auto_update=True,
        updates_collections=["a"],
        seed=3,
        is_train=True,
        quant_delay=5,
        is_quant=False,
    )
    cell = WeightDropLSTMCell(UNITS, use_peepholes=True, name=name, **own)
    config = cell.get_config()
    twin = WeightDropLSTMCell.from_config(config)
    assert twin.get_config() == config
    assert {key: config[key] for key in own} == own
    assert ("name" in config) == (name is not None)
    names = []
    for each in (cell, twin):
        with tf.Graph().as_default():
            each = type(each).from_config(each.get_config())
            each(tf.ones([1, DEPTH]), each.zero_state(1, tf.float32))
            names.append([w.name for w in each.weights])
    assert names[0] == names[1]


@pytest.mark.parametrize(
    "argument, value", [("weight_drop_kr", 0.5), ("is_train", True)]
)
def test_config_loses_no_tensor(argument, value):
    arguments = dict(weight_drop_kr=0.5, use_vd=True)
    arguments[argument] = tf.constant(value, name="given")
    cell = WeightDropLSTMCell(UNITS, **arguments)
    with pytest.raises(ValueError, match=f"`{argument}` must not .*given:0"):
        cell.get_config()


def test_deepcopy_shares_tensors_that_were_given():
    rate, is_train = tf.constant(0.25), tf.placeholder(tf.bool, [])
    cell = WeightDropLSTMCell(
        UNITS,
        weight_drop_kr=rate,
        is_train=is_train,
        use_vd=True,
        input_size=DEPTH,
    )
    twin = copy.deepcopy(cell)
    twin(tf.ones([1, DEPTH]), twin.zero_state(1, tf.float32))
    with session_of() as session:
        session.run(twin.get_vd_update_op())
        on, off, others = (
            session.run(each.mask, {is_train: value})
            for each, value in ((twin, True), (twin, False), (cell, True))
        )
    assert set(np.unique(on)) == {0, 4}
    assert np.all(off == 1) and np.all(others == 1)


@pytest.mark.parametrize("mode", sorted(MODES))
def test_deepcopy_has_a_mask_of_its_own(mode):
    cell = WeightDropLSTMCell(
        UNITS, input_size=DEPTH, name="one", **MODES[mode]
    )
    twin = copy.deepcopy(cell)
    updates = cell.get_vd_update_op(), twin.get_vd_update_op()
    assert not set(updates[0]) & set(updates[1])
    inputs, zero = tf.ones([1, DEPTH]), cell.zero_state(1, tf.float32)
    with tf.variable_scope("a"):
        cell(inputs, zero)
    with tf.variable_scope("b"):
        twin(inputs, zero)
    with session_of() as session:
        session.run(updates[0])
        first, second = session.run([cell.mask, twin.mask])
    assert not np.array_equal(first, second)
    if mode == "use_vd":
        assert np.all(second == 1)


# In TensorFlow's own harnesses


def estimator_model(features, labels, mode):
    training = mode == tf.estimator.ModeKeys.TRAIN
    cell = WeightDropLSTMCell(
        UNITS,
        weight_drop_kr=0.5,
        use_vd=True,
        is_train=training,
        updates_collections=tf.GraphKeys.UPDATE_OPS,
    )
    _, state = tf.nn.dynamic_rnn(cell, features["x"], dtype=tf.float32)
    guess = tf.layers.dense(state.h, 1)[:, 0]
    if mode == tf.estimator.ModeKeys.PREDICT:
        return tf.estimator.EstimatorSpec(mode, {"guess": guess})
    loss = tf.losses.mean_squared_error(labels, guess)
    updates = tf.get_collection(tf.GraphKeys.UPDATE_OPS)
    assert len(updates) == training
    with tf.control_dependencies(updates):
        train_op = tf.train.AdamOptimizer(0.03).minimize(
            loss, tf.train.get_or_create_global_step()
        )
    return tf.estimator.EstimatorSpec(mode, loss=loss, train_op=train_op)


@pytest.mark.smoke
def test_estimator(tmp_path):
    x = np.random.RandomState(0).randn(32, 6, DEPTH).astype(np.float32)
    y = x[:, :, 0].sum(1)

    def feed():
        data = tf.data.Dataset.from_tensor_slices(({"x": x}, y))
        return data.repeat().batch(16)

    config = tf.estimator.RunConfig(tf_random_seed=1)
    estimator = tf.estimator.Estimator(
        estimator_model, str(tmp_path / "model"), config
    )
    estimator.train(feed, steps=1)
    before = estimator.evaluate(feed, steps=2)["loss"]
    estimator.train(feed, steps=150)
    after = estimator.evaluate(feed, steps=2)
    again = estimator.evaluate(feed, steps=2)
    assert after["loss"] < 0.7 * before
    assert after["loss"] == again["loss"]  # nothing is dropped
    assert not any("mask" in n for n in estimator.get_variable_names())
    guesses = [
        p["guess"]
        for p in itertools.islice(
            estimator.predict(feed, yield_single_examples=True), 16
        )
    ]
    receiver = tf.estimator.export.build_raw_serving_input_receiver_fn(
        {"x": tf.placeholder(tf.float32, [None, 6, DEPTH])}
    )
    path = estimator.export_savedmodel(str(tmp_path / "export"), receiver)
    serve = versions.load_predictor(path)
    assert np.array_equal(serve({"x": x[:16]})["guess"], guesses)


@pytest.mark.smoke
def test_saved_model_with_an_is_train_placeholder(tmp_path):
    is_train = tf.placeholder_with_default(False, [])
    cell = WeightDropLSTMCell(
        UNITS,
        weight_drop_kr=0.5,
        use_vd=True,
        input_size=DEPTH,
        is_train=is_train,
    )
    x = tf.placeholder(tf.float32, [1, DEPTH])
    y = cell(x, cell.zero_state(1, tf.float32))[0]
    feed = {x: np.ones([1, DEPTH])}
    with session_of() as session:
        session.run(cell.get_vd_update_op())
        expected = session.run(y, feed)
        path = str(tmp_path / "saved")
        tf.saved_model.simple_save(session, path, {"x": x}, {"y": y})
    with tf.Graph().as_default():
        serve = versions.load_predictor(path)
        assert np.array_equal(serve({"x": feed[x]})["y"], expected)


def test_frozen_graph_equals_the_live_one():
    cell = WeightDropLSTMCell(UNITS, is_train=False, **MODES["use_vd"])
    inputs = tf.placeholder(tf.float32, [2, oracles.TIME, DEPTH], "inputs")
    outputs = tf.nn.dynamic_rnn(cell, inputs, dtype=tf.float32)[0]
    outputs = tf.identity(outputs, "outputs")
    feed = {"inputs:0": oracles.inputs_value()}
    with session_of() as session:
        live = session.run(outputs, feed)
        frozen = tf.graph_util.convert_variables_to_constants(
            session, session.graph_def, ["outputs"]
        )
    with tf.Graph().as_default(), tf.Session() as session:
        tf.import_graph_def(frozen, name="")
        assert np.array_equal(session.run("outputs:0", feed), live)


def test_training_graph_and_evaluation_graph_share_variables():
    def network(is_train, reuse):
        with tf.variable_scope("model", reuse=reuse):
            cell = WeightDropLSTMCell(
                UNITS, is_train=is_train, input_size=DEPTH, **MODES["use_vd"]
            )
            x = tf.constant(oracles.inputs_value())
            return cell, tf.nn.dynamic_rnn(cell, x, dtype=tf.float32)[0]

    cell, trained = network(True, False)
    _, evaluated = network(False, True)
    assert len(tf.global_variables()) == 2
    with session_of() as session:
        before = session.run([trained, evaluated])
        session.run(cell.get_vd_update_op())
        after = session.run([trained, evaluated])
    assert np.array_equal(before[1], after[1])
    assert not np.allclose(before[0], after[0])


def test_update_on_a_finalized_graph_of_three_cells():
    cells = [WeightDropLSTMCell(UNITS, **MODES["use_vd"]) for _ in range(3)]
    x = tf.constant(oracles.inputs_value())
    tf.nn.dynamic_rnn(tf.nn.rnn_cell.MultiRNNCell(cells), x, dtype=tf.float32)
    used = [cell.mask for cell in cells]
    session = session_of()
    tf.get_default_graph().finalize()
    with session:
        session.run([cell.get_vd_update_op() for cell in cells])
        masks = session.run(used)
    assert all(np.any(mask == 0) for mask in masks)
    assert not np.array_equal(masks[1], masks[2])


@versions.needs_keras_2
@pytest.mark.smoke
@pytest.mark.parametrize("mode", sorted(MODES))
def test_keras_rnn_layer(mode):
    cell = WeightDropLSTMCell(UNITS, input_size=DEPTH, **MODES[mode])
    x = tf.constant(oracles.inputs_value())
    outputs = tf.keras.layers.RNN(cell, return_sequences=True)(x)
    slopes = tf.gradients(tf.reduce_sum(outputs), cell.trainable_weights)
    with session_of() as session:
        first = session.run(outputs)
        session.run(cell.get_vd_update_op())
        second = session.run([outputs, slopes])[0]
    assert not np.allclose(first, second)
