"""WeightDropLSTMBlockFusedCell against stock LSTMCell in dynamic_rnn."""

import copy
import itertools
import subprocess
import sys

import grids
import numpy as np
import oracles
import pytest
import versions
from versions import tf

import awd_lstm_tf
from awd_lstm_tf import WeightDropLSTMCell, _lstm_sequence, _time_loop
from awd_lstm_tf.fused import WeightDropLSTMBlockFusedCell

TIME, BATCH, DEPTH, UNITS = 4, 3, 5, 6

# Arguments of the layer, and those of LSTMCell that mean the same.
ARGUMENTS = {
    "default": ({}, {}),
    "forget_bias": (dict(forget_bias=-0.5), dict(forget_bias=-0.5)),
    "peephole": (dict(use_peephole=True), dict(use_peepholes=True)),
    "cell_clip": (dict(cell_clip=0.3), dict(cell_clip=0.3)),
    "all": (
        dict(use_peephole=True, cell_clip=0.3, forget_bias=0.0),
        dict(use_peepholes=True, cell_clip=0.3, forget_bias=0.0),
    ),
}
LENGTHS = {"whole": None, "ragged": [2, TIME, 0]}
DROP = dict(weight_drop_kr=0.5, use_vd=True)
EPSILON = {"float16": 5e-3, "float32": 3e-6, "float64": 1e-12}


UNROLLINGS = ["unrolled", "looped", "unknown"]


def unroll(how, monkeypatch):
    """Says how the layer gets through time; True where shapes are unknown."""
    if how == "looped":
        monkeypatch.setattr(_time_loop, "_LONGEST_UNROLLED", 0)
    return how == "unknown"


@pytest.fixture(params=UNROLLINGS)
def unrolling(request, monkeypatch):
    """All ways to get through time; True where shapes are unknown."""
    return unroll(request.param, monkeypatch)


class Problem(object):
    """Random inputs, state and weights, and a loss that weighs all results."""

    def __init__(self, dtype="float64", unknown=False, time=TIME):
        random = np.random.RandomState(0)

        def draw(*shape):
            return random.randn(*shape).astype(dtype)

        self.inputs = self._tensor(draw(time, BATCH, DEPTH), unknown)
        state = draw(BATCH, UNITS), draw(BATCH, UNITS)
        self.state = [  # of unknown rank, as what is fed often is
            tf.placeholder_with_default(part, None if unknown else part.shape)
            for part in state
        ]
        self._kernel = 0.5 * draw(DEPTH + UNITS, 4 * UNITS)
        self._others = draw(4 * UNITS)
        self._weights = draw(time, BATCH, UNITS), draw(2, BATCH, UNITS)
        self.dtype = dtype

    @staticmethod
    def _tensor(value, unknown):
        shape = [None] * (value.ndim - 1) + [value.shape[-1]]
        shape = shape if unknown else value.shape
        return tf.placeholder_with_default(value, shape)

    def state_tuple(self):
        return tf.nn.rnn_cell.LSTMStateTuple(*self.state)

    def loss(self, outputs, state):
        by_outputs, by_state = self._weights
        return tf.reduce_sum(outputs * by_outputs) + tf.reduce_sum(
            tf.stack(state) * by_state
        )

    def values(self, outputs, state, *more, kernel_factor=1.0):
        """Outputs, state, gradients of everything, and `more`, by name."""
        weights = {v.op.name.split("/")[-1]: v for v in tf.global_variables()}
        sources = dict(weights, x=self.inputs, c=self.state[0], h=self.state[1])
        names = sorted(sources)
        loss = self.loss(outputs, state)
        gradients = tf.gradients(loss, [sources[name] for name in names])
        fetches = dict(zip(names, gradients), outputs=outputs, state=state)
        with tf.Session() as session:
            session.run(tf.global_variables_initializer())
            for name, variable in weights.items():
                value = self._others[: variable.shape.as_list()[0]]
                if name == "kernel":
                    value = self._kernel * kernel_factor
                variable.load(value, session)
            results = session.run([fetches] + list(more))
        return results if more else results[0]


def lstm_cell(problem, lengths=None, kernel_factor=1.0, **arguments):
    """What stock LSTMCell in dynamic_rnn makes of the problem."""
    cell = tf.nn.rnn_cell.LSTMCell(UNITS, **arguments)
    outputs, state = tf.nn.dynamic_rnn(
        cell,
        problem.inputs,
        sequence_length=lengths,
        initial_state=problem.state_tuple(),
        time_major=True,
    )
    return problem.values(outputs, state, kernel_factor=kernel_factor)


def stock_values(dtype="float64", **arguments):
    with tf.Graph().as_default():
        return lstm_cell(Problem(dtype), **arguments)


def layer_of(**arguments):
    return WeightDropLSTMBlockFusedCell(UNITS, **arguments)


def assert_same(have, want, epsilon=1e-12):
    assert sorted(have) == sorted(want)
    for name in want:
        assert oracles.same(have[name], want[name], epsilon), name


# ---------------------------------------------------------------------------
# The same results as LSTMCell's


@pytest.mark.parametrize(
    "arguments, lengths, unrolling",
    grids.singles(list(ARGUMENTS), list(LENGTHS), UNROLLINGS),
    indirect=["unrolling"],
)
def test_equals_lstm_cell(arguments, lengths, unrolling):
    ours, stocks = ARGUMENTS[arguments]
    lengths = LENGTHS[lengths]
    problem = Problem(unknown=unrolling)
    results = layer_of(**ours)(
        problem.inputs, problem.state_tuple(), sequence_length=lengths
    )
    assert_same(
        problem.values(*results), stock_values(lengths=lengths, **stocks)
    )


def test_products_of_large_states(unrolling, monkeypatch):
    monkeypatch.setattr(_lstm_sequence, "_LARGE_STATE", 1)
    problem = Problem(unknown=unrolling)
    results = layer_of()(problem.inputs, problem.state_tuple())
    assert_same(problem.values(*results), stock_values())


@pytest.mark.smoke
@pytest.mark.parametrize("dtype", sorted(EPSILON))
def test_dtypes(dtype):
    problem = Problem(dtype)
    results = layer_of()(problem.inputs, problem.state_tuple(), dtype)
    have = problem.values(*results)
    assert have["kernel"].dtype == have["outputs"].dtype == dtype
    assert_same(have, stock_values(dtype), EPSILON[dtype])


@pytest.mark.skipif(
    versions.VERSION < (1, 15), reason="LSTMCell has no bfloat16, either"
)
def test_bfloat16():
    """Of results that the loss does not use, 1.x has no gradient there."""
    inputs = np.random.RandomState(0).rand(TIME, BATCH, DEPTH)
    found = []
    for dtype in (tf.float32, tf.bfloat16):
        initializer = tf.constant_initializer(0.125)
        with tf.variable_scope(dtype.name, initializer=initializer):
            layer = layer_of()
            outputs, _ = layer(tf.cast(tf.constant(inputs), dtype))
        gradients = tf.gradients(outputs, layer.trainable_weights)
        found.append([tf.cast(each, tf.float32) for each in gradients])
    with tf.Session() as session:
        want, have = session_of_variables(session, found)
    assert oracles.same(have, want, 0.05)


@pytest.mark.smoke
@pytest.mark.parametrize("recurrent_only", [False, True])
@pytest.mark.parametrize("auto_update", [False, True])
def test_equals_lstm_cell_with_the_same_mask(auto_update, recurrent_only):
    problem = Problem()
    layer = layer_of(
        auto_update=auto_update,
        recurrent_only=recurrent_only,
        input_size=DEPTH,
        dtype=tf.float64,
        seed=1,
        **DROP,
    )
    with tf.control_dependencies(layer.get_vd_update_op()):
        results = layer(problem.inputs, problem.state_tuple())
    have, mask = problem.values(*results, layer.mask)
    assert set(np.unique(mask[DEPTH:])) == {0.0, 2.0}
    assert set(np.unique(mask[:DEPTH])) == {1.0} if recurrent_only else {0, 2}
    want = stock_values(kernel_factor=mask)
    want["kernel"] = want["kernel"] * mask
    assert_same(have, want)


def test_shares_everything_with_our_cell():
    problem = Problem()
    layer = layer_of(input_size=DEPTH, dtype=tf.float64, **DROP)
    outputs, _ = layer(problem.inputs)
    with tf.Session() as session:
        session.run(
            [tf.global_variables_initializer(), layer.get_vd_update_op()]
        )
        kernel, mask, want = session.run(
            [layer.variables[0], layer.mask, outputs]
        )
    with tf.Graph().as_default(), tf.Session() as session:
        cell = WeightDropLSTMCell(UNITS)
        inputs = Problem().inputs
        outputs, _ = tf.nn.dynamic_rnn(
            cell, inputs, dtype=tf.float64, time_major=True
        )
        session.run(tf.global_variables_initializer())
        cell.variables[0].load(kernel * mask, session)
        assert oracles.same(session.run(outputs), want, 1e-12)


@pytest.mark.parametrize(
    "name", [pytest.param("default", marks=pytest.mark.slow), "all"]
)
def test_gradients_are_those_of_finite_differences(name):
    # What is fed for a resource is not what a layer reads.
    tf.get_variable_scope().set_use_resource(False)
    problem = Problem()
    layer = layer_of(**ARGUMENTS[name][0])
    results = layer(
        problem.inputs,
        problem.state_tuple(),
        sequence_length=LENGTHS["ragged"],
    )
    loss = problem.loss(*results)
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        for source in [problem.inputs] + problem.state + layer.variables:
            shape = source.shape.as_list()
            value = np.random.RandomState(1).randn(*shape)
            error = tf.test.compute_gradient_error(
                source, shape, loss, [], x_init_value=value, delta=1e-6
            )
            assert error < 1e-6, source.name


# ---------------------------------------------------------------------------
# Ways of calling it


def test_lists():
    problem = Problem()
    layer = layer_of()
    outputs, state = layer(tf.unstack(problem.inputs), problem.state_tuple())
    assert isinstance(outputs, list) and len(outputs) == TIME
    assert_same(problem.values(tf.stack(outputs), state), stock_values())


def test_without_initial_state(unrolling):
    problem = Problem(unknown=unrolling)
    layer = layer_of()
    zeros = tf.zeros_like(problem.state[0])
    given = layer(problem.inputs, (zeros, zeros))
    with tf.Session() as session:
        results = session_of_variables(session, [layer(problem.inputs), given])
    assert oracles.same(*results)


def session_of_variables(session, fetches):
    session.run(tf.global_variables_initializer())
    return session.run(fetches)


def test_no_steps():
    for unknown in (False, True):
        problem = Problem(unknown=unknown, time=0)
        with tf.variable_scope("unknown" if unknown else "known"):
            outputs, state = layer_of()(problem.inputs, problem.state_tuple())
        values = problem.values(outputs, state)
        assert values["outputs"].shape == (0, BATCH, UNITS)
        assert values["x"].shape == (0, BATCH, DEPTH)
        assert not values["kernel"].any() and not values["bias"].any()
        with tf.Session() as session:
            assert oracles.same(values["state"], session.run(problem.state))


def test_padding_may_hold_anything():
    inputs = np.random.randn(TIME, BATCH, DEPTH)
    lengths = LENGTHS["ragged"]
    padded = np.where(
        np.arange(TIME)[:, None, None] < np.reshape(lengths, [1, -1, 1]),
        inputs,
        np.nan,
    )
    layer = layer_of()
    results = []
    for value in (inputs, padded):
        outputs, state = layer(tf.constant(value), sequence_length=lengths)
        gradients = tf.gradients(tf.reduce_sum(outputs), layer.variables)
        results.append([outputs, state, gradients])
    with tf.Session() as session:
        assert oracles.same(*session_of_variables(session, results))


def _reversed(by_time, lengths):
    if lengths is None:
        return tf.reverse(by_time, [0])
    return tf.reverse_sequence(by_time, lengths, 0, 1)


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=list(LENGTHS))
def test_time_reversed(lengths):
    problem = Problem()
    backwards = tf.contrib.rnn.TimeReversedFusedRNN(layer_of())
    results = backwards(
        problem.inputs, problem.state_tuple(), sequence_length=lengths
    )
    have = problem.values(*results)
    with tf.Graph().as_default():
        problem = Problem()
        outputs, state = tf.nn.dynamic_rnn(
            tf.nn.rnn_cell.LSTMCell(UNITS),
            _reversed(problem.inputs, lengths),
            sequence_length=lengths,
            initial_state=problem.state_tuple(),
            time_major=True,
        )
        outputs = _reversed(outputs, lengths)
        assert_same(have, problem.values(outputs, state))


def test_second_use_of_the_variables():
    problem = Problem()
    first = layer_of()
    want = first(problem.inputs)
    again = first(problem.inputs)
    other = layer_of(reuse=True)(problem.inputs)
    assert len(tf.global_variables()) == 2
    with tf.Session() as session:
        results = session_of_variables(session, [want, again, other])
    assert oracles.same(results[0], results[1])
    assert oracles.same(results[0], results[2])
    layer_of()(problem.inputs)
    assert len(tf.global_variables()) == 4


@pytest.mark.parametrize(
    "is_train, unrolling",
    grids.singles([True, False], UNROLLINGS[::-1]),
    indirect=["unrolling"],
)
def test_in_a_users_loop(is_train, unrolling):
    """A sequence per iteration, with gradients through all of them."""
    # Not in float64: TensorFlow 1.13 loses that dtype with unknown shapes.
    problem = Problem("float32", unrolling)
    layer = layer_of(is_train=is_train, use_peephole=True)
    c, h = layer(problem.inputs, problem.state_tuple())[1]
    want = layer(problem.inputs, (c, h))
    _, c, h, outputs = tf.while_loop(
        lambda count, *_: count < 2,
        lambda count, c, h, _: tuple(
            versions.nest.flatten(
                [count + 1, layer(problem.inputs, (c, h))[::-1]]
            )
        ),
        (0, *problem.state, tf.zeros_like(want[0])),
    )
    have = problem.values(outputs, (c, h))
    assert_same(have, problem.values(*want), EPSILON["float32"])


# ---------------------------------------------------------------------------
# Variables and checkpoints


@pytest.mark.smoke
@pytest.mark.parametrize("use_peephole", [False, True])
def test_variables_are_those_of_the_stock_layer(use_peephole):
    described = []
    for make in (
        tf.contrib.rnn.LSTMBlockFusedCell,
        WeightDropLSTMBlockFusedCell,
    ):
        with tf.Graph().as_default():
            layer = make(UNITS, use_peephole=use_peephole)
            layer(tf.zeros([TIME, BATCH, DEPTH]), dtype=tf.float32)
            described.append(
                [(v.name, v.shape, v.dtype) for v in layer.trainable_weights]
            )
    assert described[0] == described[1]


def _stock_cell(inputs):
    cell = tf.nn.rnn_cell.LSTMCell(UNITS, use_peepholes=True)
    return tf.nn.dynamic_rnn(cell, inputs, dtype=tf.float32, time_major=True)


def _our_cell(inputs):
    cell = WeightDropLSTMCell(UNITS, use_peepholes=True, **DROP)
    return tf.nn.dynamic_rnn(cell, inputs, dtype=tf.float32, time_major=True)


def _layer(make, inputs):
    with tf.variable_scope("rnn"):
        return make(inputs, dtype=tf.float32)


def _stock_layer(inputs):
    stock = tf.contrib.rnn.LSTMBlockFusedCell
    return _layer(stock(UNITS, use_peephole=True, name="lstm_cell"), inputs)


def _our_layer(inputs):
    layer = layer_of(use_peephole=True, name="lstm_cell", **DROP)
    return _layer(layer, inputs)


def test_checkpoints_pass_between_all_four(tmpdir):
    everyone = [_stock_cell, _our_cell, _our_layer]
    if versions.VERSION < (2,):
        everyone.insert(2, _stock_layer)
    want = None
    for number, writer in enumerate(everyone):
        reader = everyone[(number + 1) % len(everyone)]
        path = str(tmpdir.join("checkpoint%d" % number))
        for build, restore in ((writer, False), (reader, True)):
            with tf.Graph().as_default(), tf.Session() as session:
                tf.set_random_seed(number)
                inputs = tf.constant(oracles.inputs_value(depth=DEPTH))
                outputs = build(inputs)
                saver = tf.train.Saver()
                if restore:
                    saver.restore(session, path)
                    have = session.run(outputs)
                    assert oracles.same(have, want, 1e-6)
                else:
                    session.run(tf.global_variables_initializer())
                    want = session.run(outputs)
                    saver.save(session, path)


# ---------------------------------------------------------------------------
# As lenient as the stock layer, and of its kind


@pytest.mark.parametrize(
    "arguments",
    [dict(cell_clip=0), dict(cell_clip=-1.0), dict(use_peephole=None)],
    ids=str,
)
def test_takes_what_the_stock_layer_takes(arguments):
    make = tf.contrib.rnn.LSTMBlockFusedCell
    inputs = 30 * np.random.randn(TIME, BATCH, DEPTH)  # lets c grow
    inputs = tf.constant(inputs, tf.float32)
    want, want_state = make(UNITS, **arguments)(inputs, dtype=tf.float32)
    have, state = layer_of(reuse=True, **arguments)(inputs)
    with tf.Session() as session:
        values = session_of_variables(
            session, [[have, state], [want, want_state]]
        )
    assert oracles.same(*values, 1e-5)
    assert np.abs(values[0][1].c).max() > 1


def printed(program, *arguments):
    """The lines that another process prints."""
    answer = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, *arguments],
        stdout=subprocess.PIPE,
        check=True,
    )
    return answer.stdout.decode().splitlines()


KIND = f"""
import sys
{versions.IMPORT}
import awd_lstm_tf
ours = awd_lstm_tf.WeightDropLSTMBlockFusedCell
layer = ours(4)
found = [isinstance(layer, kind) for kind in (tf.layers.Layer, ours)]
found += [isinstance(layer, tf.nn.rnn_cell.RNNCell)]
layer(tf.ones([2, 3, 4]))
found += ["tensorflow.contrib.rnn" in sys.modules]
for name in ("LSTMBlockWrapper", "FusedRNNCell", "LSTMBlockFusedCell"):
    found.append(isinstance(layer, getattr(tf.contrib.rnn, name)))
print(found + [type(layer) is ours, isinstance(layer, ours)])
"""


@versions.needs_contrib
def test_is_of_the_stock_base_classes_without_their_import():
    is_layer, is_contrib = [True, True, False], [True, True, False]
    found = [*is_layer, False, *is_contrib, True, True]
    assert printed(KIND)[-1] == str(found)  # tf.contrib says a few lines, too


SHAPES = f"""
{versions.IMPORT}
tf.compat.v1.enable_v2_tensorshape()
import awd_lstm_tf
drop = dict(weight_drop_kr=0.5, use_vd=True)
x = tf.ones([5, 2, 3])
results = [awd_lstm_tf.WeightDropLSTMBlockFusedCell(4, **drop)(x)[0]]
rnn = lambda cell: tf.nn.dynamic_rnn(cell, x, dtype=tf.float32)[0]
for more in (dict(), dict(recurrent_only=True), dict(num_proj=2)):
    with tf.variable_scope(None, "net"):
        cell = awd_lstm_tf.WeightDropLSTMCell(4, **drop, **more)
        results.append(rnn(cell))
cell = awd_lstm_tf.WeightDropWrapper(tf.nn.rnn_cell.GRUCell(4), **drop)
results.append(rnn(cell))
dropout = awd_lstm_tf.VariationalDropout
results.append(dropout([None, 1, 3], 0.5, auto_update=True)(x))
results.append(dropout([3], 0.5)(x))
results.append(awd_lstm_tf.embedding_dropout(tf.ones([9, 2]), [1, 2], 0.5))
penalty = dict(sequence_length=[1, 2, 2, 0, 1])
results.append(awd_lstm_tf.activation_regularization(x, 1.0, **penalty))
temporal = awd_lstm_tf.temporal_activation_regularization
results.append(temporal(x, 1.0, **penalty))
step = awd_lstm_tf.NTASGDOptimizer(0.1).minimize(
    sum(tf.reduce_sum(each) for each in results))
with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    session.run(step)
    print(len(session.run(results)))
"""


@pytest.mark.skipif(
    versions.VERSION < (1, 13), reason="has no enable_v2_tensorshape (1.13)"
)
def test_everything_works_with_tensorshape_v2():
    assert printed(SHAPES) == ["10"]


# ---------------------------------------------------------------------------
# The mask


def test_a_new_mask_with_every_update():
    inputs = tf.ones([TIME, BATCH, DEPTH])
    layer = layer_of(input_size=DEPTH, updates_collections="updates", **DROP)
    outputs, _ = layer(inputs)
    (update,) = layer.get_vd_update_op()
    assert tf.get_collection("updates") == [update]
    with tf.Session() as session:
        first = session_of_variables(session, outputs)
        assert (session.run(layer.mask) == 1).all()
        session.run(update)
        second = session.run(outputs)
        assert oracles.same(second, session.run(outputs))
        assert not oracles.same(second, first, 1e-3)
        session.run(layer.get_vd_reset_op())
        assert oracles.same(session.run(outputs), first)


def test_masked_once_per_sequence():
    layer = layer_of(auto_update=True, **DROP)
    layer(tf.ones([TIME, BATCH, DEPTH]))
    kinds = [op.type for op in tf.get_default_graph().get_operations()]
    draws = [kind for kind in kinds if kind == "RandomUniformInt"]
    assert len(draws) == 1


@pytest.mark.parametrize("as_tensor", [False, True])
def test_evaluation_drops_nothing(as_tensor):
    problem = Problem()
    is_train = tf.constant(False) if as_tensor else False
    layer = layer_of(is_train=is_train, auto_update=True, **DROP)
    results = layer(problem.inputs, problem.state_tuple())
    assert_same(problem.values(*results), stock_values())
    assert (layer.mask is None) != as_tensor


def test_dropped_weights_get_no_gradient():
    layer = layer_of(auto_update=True, **DROP)
    outputs, _ = layer(tf.random_normal([TIME, BATCH, DEPTH]))
    (gradient,) = tf.gradients(outputs, layer.trainable_weights[:1])
    with tf.Session() as session:
        fetches = [gradient, layer.mask]
        gradient, mask = session_of_variables(session, fetches)
    assert ((gradient == 0) == (mask == 0)).all()


# ---------------------------------------------------------------------------
# What is kept for the backward pass


def _arrays_written(monkeypatch, is_train):
    monkeypatch.setattr(_time_loop, "_LONGEST_UNROLLED", 0)
    with tf.Graph().as_default() as graph:
        layer_of(is_train=is_train)(tf.zeros([TIME, BATCH, DEPTH]))
        graph = graph.as_graph_def()
    kinds = [node.op for node in graph.node]
    for body in graph.library.function:  # control flow v2
        kinds += [node.op for node in body.node_def]
    return kinds.count("TensorArrayWriteV3") + kinds.count("TensorListSetItem")


def test_evaluation_keeps_nothing_for_a_backward_pass(monkeypatch):
    assert _arrays_written(monkeypatch, False) == 1  # the outputs
    assert _arrays_written(monkeypatch, True) == 6


def test_evaluation_has_gradients(unrolling):
    problem = Problem(unknown=unrolling)
    layer = layer_of(is_train=False)
    results = layer(problem.inputs, problem.state_tuple())
    assert_same(problem.values(*results), stock_values())


# ---------------------------------------------------------------------------
# The gradient elsewhere: in an imported graph, in functions, in XLA


IMPORT = f"""
import sys
import numpy as np
{versions.IMPORT}
import awd_lstm_tf
for path in sys.argv[1:]:
    tf.reset_default_graph()
    tf.train.import_meta_graph(path + ".meta")
    loss = tf.get_collection("loss")[0]
    sources = tf.get_collection("sources")
    gradients = tf.gradients(loss, sources)
    with tf.Session() as session:
        tf.train.Saver().restore(session, path)
        np.savez(path, *session.run(gradients))
"""
IMPORTED = {
    "evaluation": dict(is_train=False),
    "all": dict(use_peephole=True, cell_clip=0.3, forget_bias=0.5),
}


def saved_graph(path, unknown, name):
    """Writes a graph with a loss; returns the gradients that it has here."""
    # Of a resource, each reader has a tensor of its own.
    tf.get_variable_scope().set_use_resource(False)
    problem = Problem("float32", unknown)
    layer = layer_of(**IMPORTED[name])
    results = layer(
        problem.inputs,
        problem.state_tuple(),
        sequence_length=LENGTHS["ragged"] if name == "all" else None,
    )
    loss = problem.loss(*results)
    sources = [problem.inputs, *problem.state]
    sources += [tf.convert_to_tensor(v) for v in layer.variables]
    for source in sources:
        tf.add_to_collection("sources", source)
    tf.add_to_collection("loss", loss)
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        tf.train.Saver().save(session, path)
        return session.run(tf.gradients(loss, sources))


@pytest.mark.slow
def test_imported_graphs_have_the_same_gradients(monkeypatch, tmp_path):
    want = {}
    for how, name in itertools.product(UNROLLINGS, IMPORTED):
        path = str(tmp_path / (how + "_" + name))
        with tf.Graph().as_default(), monkeypatch.context() as patch:
            want[path] = saved_graph(path, unroll(how, patch), name)
    printed(IMPORT, *want)
    for path, gradients in want.items():
        with np.load(path + ".npz") as have:
            have = [have["arr_%d" % at] for at in range(len(gradients))]
        assert oracles.same(have, gradients, 1e-6), path


def in_a_function(call, *arguments):
    """The results of a function of TensorFlow's, in a graph."""
    make = versions.function()
    return make(call)(*arguments)


@pytest.mark.parametrize("tape", [False, True], ids=["gradients", "tape"])
def test_in_a_function(tape, unrolling):
    if tape and versions.VERSION < (1, 15):
        pytest.skip("needs gradients of loops by tapes (TensorFlow 1.15)")
    problem = Problem("float32", unrolling)
    layer = layer_of(use_peephole=True, cell_clip=0.3)
    layer.build(problem.inputs.shape)
    sources = [problem.inputs, *problem.state]
    want = layer(problem.inputs, problem.state_tuple())
    want = [want, tf.gradients(problem.loss(*want), sources)]

    def call(inputs, c, h):
        state = tf.nn.rnn_cell.LSTMStateTuple(c, h)
        if not tape:
            results = layer(inputs, state)
            loss = problem.loss(*results)
            return results, tf.gradients(loss, [inputs, c, h])
        with tf.GradientTape() as watched:
            watched.watch([inputs, c, h])
            results = layer(inputs, state)
            loss = problem.loss(*results)
        return results, watched.gradient(loss, [inputs, c, h])

    have = in_a_function(call, *sources)
    outside = in_a_function(lambda *given: layer(given[0], given[1:]), *sources)
    outside = [outside, tf.gradients(problem.loss(*outside), sources)]
    with tf.Session() as session:
        have, want, outside = session_of_variables(
            session, [have, want, outside]
        )
    assert oracles.same(have, want, 1e-5)
    assert oracles.same(outside, want, 1e-5)


AUTO = dict(DROP, auto_update=True)
DRAWS = {
    "fused": lambda x: layer_of(**AUTO)(x)[0],
    "cell": lambda x: tf.nn.static_rnn(
        WeightDropLSTMCell(UNITS, **AUTO), tf.unstack(x), dtype=tf.float32
    )[0],
    "standard": lambda x: tf.nn.static_rnn(
        WeightDropLSTMCell(UNITS, weight_drop_kr=0.5),
        tf.unstack(x),
        dtype=tf.float32,
    )[0],
    "wrapper": lambda x: awd_lstm_tf.WeightDropWrapper(
        tf.layers.Dense(UNITS), **AUTO
    )(x),
    "dropout": lambda x: awd_lstm_tf.VariationalDropout(
        [DEPTH], 0.5, auto_update=True
    )(x),
    "embedding": lambda x: awd_lstm_tf.embedding_dropout(x[0], [0, 1], 0.5),
}


@pytest.mark.parametrize("name", sorted(DRAWS))
def test_masks_are_drawn_in_xla(name):
    if versions.VERSION < (2,):
        pytest.importorskip("tensorflow.contrib.compiler.xla")
    inputs = tf.ones([TIME, BATCH, DEPTH])
    with tf.variable_scope("net", use_resource=True):
        outputs = versions.compiled(DRAWS[name], [inputs])
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        seen = {np.array(session.run(outputs)).tobytes() for _ in range(10)}
    assert len(seen) > 1


# ---------------------------------------------------------------------------
# Errors, and the rest of a layer's interface


def test_second_order_gradients_are_refused(unrolling):
    problem = Problem(unknown=unrolling)
    layer = layer_of()
    outputs, _ = layer(problem.inputs, problem.state_tuple())
    for source in [problem.inputs] + problem.state + layer.variables:
        (first,) = tf.gradients(tf.square(outputs), source)
        with pytest.raises(NotImplementedError, match="second order"):
            tf.gradients(tf.square(first), source)


def test_config_makes_the_same_layer_again():
    arguments = dict(
        num_units=UNITS,
        forget_bias=0.5,
        cell_clip=2.0,
        use_peephole=True,
        name="named",
        weight_drop_kr=0.25,
        use_vd=True,
        input_size=DEPTH,
        recurrent_only=True,
        auto_update=True,
        is_train=False,
        updates_collections="updates",
        seed=3,
    )
    layer = WeightDropLSTMBlockFusedCell(**arguments)
    config = layer.get_config()
    assert {key: config[key] for key in arguments} == arguments
    assert layer.num_units == UNITS
    twin = WeightDropLSTMBlockFusedCell.from_config(config)
    assert twin.get_config() == config
    assert copy.deepcopy(layer).get_config() == config
