"""WeightDropWrapper: stock layers against themselves on kernels times masks."""

import copy
import functools
import itertools
import re

import grids
import numpy as np
import oracles
import pytest
import versions
from versions import tf

import awd_lstm_tf
from awd_lstm_tf import WeightDropWrapper, masks

UNITS = 4
HELD = dict(weight_drop_kr=0.5, use_vd=True)
DRAWN = dict(HELD, auto_update=True)

cells, keras = versions.rnn_cell, tf.keras.layers


# ---------------------------------------------------------------------------
# Layers, and ways of calling them


def inputs():
    return tf.constant(oracles.inputs_value())


def dynamic(cell, inputs):
    return tf.nn.dynamic_rnn(cell, inputs, dtype=tf.float32)[0]


def static(cell, inputs):
    return tf.nn.static_rnn(
        cell,
        tf.unstack(inputs, axis=1),
        dtype=tf.float32,
        sequence_length=[oracles.TIME - 2, oracles.TIME],
    )[0]


def one_of_two(cell, inputs):
    other = cells.BasicRNNCell(UNITS)
    outputs, _ = tf.nn.bidirectional_dynamic_rnn(
        cell, other, inputs, dtype=tf.float32
    )
    return outputs[0]


def called(layer, inputs):
    return layer(inputs)


def by_time(layer, inputs):
    return layer(tf.transpose(inputs, [1, 0, 2]), dtype=tf.float32)[0]


def keras_rnn(cell, inputs):
    return keras.RNN(cell)(inputs)


def stack():
    first = cells.DropoutWrapper(cells.GRUCell(UNITS))
    return cells.MultiRNNCell([first, cells.LSTMCell(UNITS, num_proj=2)])


def attention():
    return tf.contrib.rnn.AttentionCellWrapper(
        cells.BasicLSTMCell(UNITS), 3, state_is_tuple=True
    )


def keras_stack():
    return keras.StackedRNNCells([keras.GRUCell(UNITS), keras.LSTMCell(UNITS)])


def keras_model():
    return tf.keras.Sequential([keras.Dense(UNITS), keras.Dense(2)])


def conv_lstm():
    cut = keras.Reshape([oracles.TIME, oracles.DEPTH, 1, 1])
    return tf.keras.Sequential([cut, keras.ConvLSTM2D(2, 1)])


def function(inputs):
    return tf.layers.dense(tf.contrib.layers.fully_connected(inputs, UNITS), 2)


# name: (what makes it, how it is called, how many kernels it has)
LAYERS = {
    "gru": (lambda: cells.GRUCell(UNITS), dynamic, 2),
    "gru_static": (lambda: cells.GRUCell(UNITS), static, 2),
    "gru_one_of_two": (lambda: cells.GRUCell(UNITS), one_of_two, 2),
    "basic_lstm": (lambda: cells.BasicLSTMCell(UNITS), dynamic, 1),
    "lstm": (lambda: cells.LSTMCell(UNITS, num_proj=2), dynamic, 2),
    "block_lstm": (lambda: tf.contrib.rnn.LSTMBlockCell(UNITS), dynamic, 1),
    "fused": (lambda: tf.contrib.rnn.LSTMBlockFusedCell(UNITS), by_time, 1),
    "layer_norm": (
        lambda: tf.contrib.rnn.LayerNormBasicLSTMCell(UNITS),
        dynamic,
        1,
    ),
    "stack": (stack, dynamic, 4),
    "attention": (attention, dynamic, 4),
    "dense": (lambda: tf.layers.Dense(UNITS), called, 1),
    "convolution": (lambda: tf.layers.Conv1D(UNITS, 2), called, 1),
    "function": (lambda: function, called, 2),
    "keras_dense": (lambda: keras.Dense(UNITS), called, 1),
    "keras_lstm": (lambda: keras.LSTM(UNITS), called, 2),
    "keras_cell": (lambda: keras.GRUCell(UNITS), keras_rnn, 2),
    "keras_stack": (keras_stack, keras_rnn, 4),
    "keras_both_ways": (
        lambda: keras.Bidirectional(keras.GRU(UNITS)),
        called,
        4,
    ),
    "keras_over_time": (
        lambda: keras.TimeDistributed(keras.Dense(UNITS)),
        called,
        1,
    ),
    "keras_model": (keras_model, called, 2),
}
if versions.VERSION >= (1, 15):  # 1.13: as in test_bad_inputs.py
    LAYERS["keras_conv_lstm"] = (conv_lstm, called, 2)
FEW = ["gru", "gru_static", "attention", "function", "keras_lstm"]


def kernels():
    """The kernels that `LAYERS` counts."""
    return [
        variable
        for variable in tf.trainable_variables()
        if re.search("(kernel|weights)(_1)?$", variable.op.name)
        and "basic_rnn_cell" not in variable.name
    ]


def loss_of(outputs):
    return tf.reduce_sum(tf.square(tf.stack(outputs)))


def initialized(session):
    session.run(tf.global_variables_initializer())
    return session


def dense(units=UNITS, **arguments):
    return tf.layers.Dense(units, use_bias=False, **arguments)


def get_kernel(shape=(50,), name="kernel", **arguments):
    """A function to wrap, which gets a kernel of ones and returns it."""

    def get():
        ones = tf.ones_initializer()
        return tf.get_variable(name, shape, initializer=ones, **arguments)

    return get


class Wrapped(object):
    """A wrapped layer, called, and what is seen of it in one run."""

    def __init__(self, name, **arguments):
        self.name = name
        make, call, self.count = LAYERS[name]
        self.wrapper = WeightDropWrapper(make(), **arguments)
        with tf.variable_scope("net"):
            self.outputs = call(self.wrapper, inputs())
        self.weights = tf.trainable_variables()
        gradients = tf.gradients(loss_of(self.outputs), kernels())
        self.seen = [self.outputs, gradients]

    def assert_masked(self, session):
        """One run: outputs and gradients are those of the stock layer."""
        have, values, drawn = session.run(
            [self.seen, self.weights, self.wrapper.masks]
        )
        assert len(drawn) == self.count
        assert all(set(np.unique(mask)) == {0, 2} for mask in drawn.values())
        outputs, gradients = stock(self.name, times(drawn, values))
        masked = [
            gradient * drawn[kernel.name]
            for kernel, gradient in zip(kernels(), gradients)
        ]
        assert oracles.same(have, [outputs, masked], 1e-5)


def times(drawn, values):
    """The values of all weights, times masks by name."""
    names = [weight.name for weight in tf.trainable_variables()]
    return [value * drawn.get(name, 1) for name, value in zip(names, values)]


def stock(name, values):
    """Outputs and kernel gradients of a stock layer on given weights."""
    make, call, _ = LAYERS[name]
    with tf.Graph().as_default(), tf.Session() as session:
        with tf.variable_scope("net"):
            outputs = call(make(), inputs())
        gradients = tf.gradients(loss_of(outputs), kernels())
        initialized(session)
        for variable, value in zip(tf.trainable_variables(), values):
            variable.load(value, session)
        return session.run([outputs, gradients])


# ---------------------------------------------------------------------------
# What is computed


# Slow are those that differ from another of their kind in their equations.
SISTERS = (
    *("basic_lstm", "convolution", "gru_one_of_two", "gru_static"),
    *("keras_both_ways", "keras_cell", "keras_over_time", "keras_stack"),
)


@pytest.mark.smoke
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name,
            marks=[pytest.mark.slow] * (name in SISTERS)
            + [versions.needs_keras_2] * ("keras" in name),
        )
        for name in sorted(LAYERS)
    ],
)
def test_stock_layer_on_masked_kernels(name, open_session, seed):
    made = Wrapped(name, seed=seed, **HELD)
    session = initialized(open_session())
    updates = made.wrapper.get_vd_update_op()
    assert len(updates) == made.count
    first = session.run(made.outputs)
    need, _ = stock(name, session.run(made.weights))
    assert oracles.same(first, need, 1e-6)  # never drawn
    session.run(updates)
    made.assert_masked(session)
    assert not oracles.same(session.run(made.outputs), first)
    session.run(made.wrapper.get_vd_reset_op())
    assert oracles.same(session.run(made.outputs), first)


some_of_the_few = grids.some_slow(
    zip(FEW), lambda name: name not in ("attention", "gru_static")
)


@pytest.mark.parametrize("name", some_of_the_few)
def test_auto_update(name, open_session, seed):
    made = Wrapped(name, seed=seed, **DRAWN)
    assert made.wrapper.get_vd_update_op() == []
    assert made.wrapper.get_vd_reset_op() == []
    session = initialized(open_session())
    made.assert_masked(session)
    one, other = session.run(made.outputs), session.run(made.outputs)
    assert not oracles.same(one, other)


def test_standard_dropout_draws_at_each_call(open_session):
    drop = WeightDropWrapper(get_kernel(), 0.5)

    def step(time, seen):
        with tf.variable_scope("net", reuse=tf.AUTO_REUSE):
            w, bare = drop(), get_kernel()()
        gradient = tf.gradients(w * w, bare)[0]
        return time + 1, seen.write(time, tf.stack([w, gradient]))

    seen = tf.TensorArray(tf.float32, 3)
    seen = tf.while_loop(lambda t, _: t < 3, step, (0, seen))[1].stack()
    assert drop.get_vd_update_op() == [] and drop.masks == {}
    values = initialized(open_session()).run(seen)
    assert len({each.tobytes() for each in values}) == 3
    assert set(np.unique(values[:, 0])) == {0, 2}
    # The derivative of (w * mask)^2 is 2 * w * mask^2, at w = 1.
    assert np.array_equal(values[:, 1], 4 * values[:, 0])


@pytest.mark.parametrize(
    "name, auto_update",
    grids.singles(["gru", "lstm", "attention", "keras_lstm"], [False, True]),
)
def test_masked_once_outside_the_loop(name, auto_update):
    made = Wrapped(name, **dict(HELD, auto_update=auto_update))
    products = [
        op
        for op in tf.get_default_graph().get_operations()
        if op.name.split("/")[-1].startswith("masked_kernel")
    ]
    assert len(products) == made.count
    assert not any(oracles.loops_around(op) for op in products)


def test_forward_and_backward_agree_when_updated_in_the_same_run(open_session):
    x = np.random.RandomState(1).randn(6, 5).astype(np.float32)
    layer = dense(7)
    drop = WeightDropWrapper(layer, **HELD)
    y = drop(tf.constant(x))
    gradient = tf.gradients(loss_of(y), layer.kernel)[0]
    session = initialized(open_session())
    fetches = [y, gradient, layer.kernel, drop.masks, drop.get_vd_update_op()]
    seen = set()
    for _ in range(10):
        value, slope, w, drawn, _ = session.run(fetches)
        (mask,) = drawn.values()
        seen.add(mask.tobytes())
        np.testing.assert_allclose(value, x @ (w * mask), atol=1e-5)
        np.testing.assert_allclose(slope, 2 * x.T @ value * mask, atol=1e-4)
    assert len(seen) == 10


def test_ordering_is_that_of_the_call_not_of_the_build(open_session):
    layer = dense(50)
    drop = WeightDropWrapper(layer, **HELD)
    drop(tf.ones([1, 2]))  # built here, waiting for nothing
    with tf.control_dependencies(drop.get_vd_update_op()):
        after = drop(tf.ones([1, 2]))
    (variable,) = tf.get_collection(masks.MASKS)
    session = initialized(open_session())
    for _ in range(10):
        value = session.run(after)
        held, w = session.run([variable, layer.kernel])
        bits = held[:, None] >> np.arange(64) & 1
        kept = bits.flat[: w.size].reshape(w.shape)
        expected = (w * kept / 0.5).sum(0, keepdims=True)
        np.testing.assert_allclose(value, expected, atol=1e-6)


@versions.not_in_v2_flow("stock layers of nested loops are lost outside")
@pytest.mark.parametrize("auto_update", [False, True])
def test_built_in_a_nested_loop_and_called_everywhere(
    auto_update, open_session
):
    layer = dense(oracles.DEPTH)
    drop = WeightDropWrapper(layer, **dict(HELD, auto_update=auto_update))
    x = inputs()

    def twice(make, value):
        return tf.while_loop(
            lambda t, _: t < 2, lambda t, v: (t + 1, make(v)), (0, value)
        )[1]

    nested = twice(lambda v: twice(drop, v), x)
    other = tf.cond(
        tf.placeholder_with_default(False, []),
        lambda: drop(x) + 1,
        lambda: drop(x),
    )
    outside = drop(x)
    session = initialized(open_session())
    session.run(drop.get_vd_update_op())
    values = session.run([nested, other, outside, drop.masks, layer.kernel])
    mask, kernel = values[3][layer.kernel.name], values[4]
    once = oracles.inputs_value() @ (kernel * mask)
    assert oracles.same(values[1], once, 1e-5)
    assert oracles.same(values[2], once, 1e-5)
    if not auto_update:  # else a new mask in each turn of the outer loop
        masked = np.linalg.matrix_power(kernel * mask, 4)
        assert oracles.same(values[0], oracles.inputs_value() @ masked, 1e-5)


@pytest.mark.parametrize("name", FEW)
def test_control_flow_v2(name, open_session, seed, control_flow_v2):
    test_stock_layer_on_masked_kernels(name, open_session, seed)


# ---------------------------------------------------------------------------
# is_train, keep rates


@pytest.mark.parametrize(
    "name, why",
    grids.singles(["gru", "stack", "dense", "function"], ["mode", "rate"]),
)
@versions.not_in_v2_flow("functions and seeds are numbered anew in a graph")
def test_nothing_to_drop_is_the_stock_graph(name, why):
    keep_rate, is_train = (0.5, False) if why == "mode" else (1.0, True)
    make, call, _ = LAYERS[name]
    drop = WeightDropWrapper(
        make(), keep_rate, use_vd=True, is_train=is_train, names="none at all"
    )

    def nodes(layer):
        with tf.Graph().as_default() as graph, tf.variable_scope("net"):
            call(layer, inputs())
            return graph.as_graph_def()

    assert nodes(drop) == nodes(make())
    assert drop.masks == {}
    assert drop.kept_fraction is None and drop.mask_changed is None
    assert drop.get_vd_update_op() == drop.get_vd_reset_op() == []


@pytest.mark.parametrize(
    "name, auto_update",
    grids.some_slow(
        itertools.product(FEW, [False, True]),
        lambda name, auto_update: (
            (name, auto_update)
            in [("gru", True), ("function", False), ("keras_lstm", True)]
        ),
    ),
)
def test_is_train_tensor_and_keep_rate_tensor(name, auto_update, open_session):
    is_train = tf.placeholder(tf.bool, [])
    rate = tf.placeholder_with_default(0.5, [])
    arguments = dict(auto_update=auto_update, is_train=is_train)
    made = Wrapped(name, weight_drop_kr=rate, use_vd=True, **arguments)
    updates = made.wrapper.get_vd_update_op()
    session = initialized(open_session())
    session.run(updates)
    off = session.run(made.outputs, {is_train: False})
    need, _ = stock(name, session.run(made.weights))
    assert oracles.same(off, need, 1e-6)
    on = session.run(made.outputs, {is_train: True})
    assert not oracles.same(on, off)
    session.run(updates, {rate: 1.0})
    whole = session.run(made.outputs, {is_train: True, rate: 1.0})
    assert oracles.same(whole, off)


def test_switch_of_the_graph(open_session):
    phase = awd_lstm_tf.training_phase()
    made = Wrapped("gru", is_train=phase, **DRAWN)
    session = initialized(open_session())
    need, _ = stock("gru", session.run(made.weights))
    assert oracles.same(session.run(made.outputs), need, 1e-6)
    on = session.run(made.outputs, {phase: True})
    assert not oracles.same(on, need)


# ---------------------------------------------------------------------------
# The variables are the stock ones


@pytest.mark.parametrize(
    "name, resource",
    grids.some_slow(
        itertools.product(sorted(LAYERS), [False, True]),
        lambda name, resource: (
            name not in SISTERS and resource == (len(name) % 2 == 0)
        ),
    ),
)
def test_names_and_kinds_are_stock(name, resource):
    make, call, _ = LAYERS[name]

    def described(layer):
        with tf.Graph().as_default():
            with tf.variable_scope("net", use_resource=resource):
                call(layer, inputs())
            own = getattr(layer, "trainable_weights", [])
            return [
                [(variable_name(name, v), type(v)) for v in found]
                for found in (tf.global_variables(), own)
            ]

    wrapped = described(WeightDropWrapper(make(), **HELD))
    assert wrapped == described(make())


def variable_name(layer_name, variable):
    # In Keras layers have names of their own, numbered on in each graph.
    full = variable.name
    return full.split("/")[-1] if "keras" in layer_name else full


@pytest.mark.parametrize("resource", [False, True])
def test_checkpoints_pass_both_ways(resource, tmp_path):
    def outputs_of(make, path, restore):
        with tf.Graph().as_default(), tf.Session() as session:
            with tf.variable_scope("net", use_resource=resource):
                outputs = dynamic(make(), inputs())
            saver = tf.train.Saver()
            if restore:
                saver.restore(session, path)
            else:
                initialized(session)
                saver.save(session, path)
            return session.run(outputs)

    def stock_cell():
        return cells.GRUCell(UNITS)

    def wrapped():  # its masks are never drawn: ones
        return WeightDropWrapper(cells.GRUCell(UNITS), **HELD)

    for writer, reader in ((stock_cell, wrapped), (wrapped, stock_cell)):
        path = str(tmp_path / writer.__name__)
        saved = outputs_of(writer, path, restore=False)
        assert np.array_equal(saved, outputs_of(reader, path, restore=True))


@pytest.mark.parametrize("resource", [False, True])
def test_weights_of_a_layer_are_saved_and_trained(resource, open_session):
    x = tf.constant(np.random.RandomState(0).randn(50, 3), tf.float32)
    need = tf.reduce_sum(x, 1, keepdims=True)
    with tf.variable_scope("net", use_resource=resource):
        layer = WeightDropWrapper(dense(1), **DRAWN)
        loss = tf.losses.mean_squared_error(need, layer(x))
    train_op = tf.train.GradientDescentOptimizer(0.05).minimize(
        loss, var_list=layer.trainable_weights
    )
    session = initialized(open_session())
    before = session.run(layer.kernel)
    for _ in range(50):
        session.run(train_op)
    after = session.run(tf.trainable_variables()[0])
    assert np.array_equal(after, session.run(layer.kernel))  # fetched bare
    assert np.abs(after - 1).max() < np.abs(before - 1).max()


@pytest.mark.parametrize(
    "make", [cells.GRUCell, keras.GRUCell], ids=["cell", "keras"]
)
def test_object_based_checkpoint_holds_the_weights(
    make, open_session, tmp_path
):
    cell = WeightDropWrapper(make(UNITS), **HELD)
    (keras_rnn if make is keras.GRUCell else dynamic)(cell, inputs())
    session = initialized(open_session())
    weights = tf.trainable_variables()
    before = session.run(weights)
    checkpoint = tf.train.Checkpoint(cell=cell)
    path = checkpoint.save(str(tmp_path / "model"), session)
    session.run([variable.assign(variable + 1) for variable in weights])
    assert not oracles.same(session.run(weights), before)
    checkpoint.restore(path).assert_consumed().run_restore_ops(session)
    assert oracles.same(session.run(weights), before)


@pytest.mark.parametrize(
    "name",
    grids.some_slow(
        zip([*FEW, "dense", "fused"]),
        lambda name: name not in ("attention", "gru_static"),
    ),
)
def test_the_layer_outside_of_the_wrapper_is_stock(name, open_session):
    make, call, _ = LAYERS[name]
    layer, x = make(), inputs()
    drop = WeightDropWrapper(layer, **HELD)
    with tf.variable_scope("net"):
        masked = call(drop, x)
    count = len(tf.trainable_variables())
    with tf.variable_scope("net", reuse=True):
        bare = call(layer, x)
    assert len(tf.trainable_variables()) == count
    session = initialized(open_session())
    session.run(drop.get_vd_update_op())
    need, _ = stock(name, session.run(tf.trainable_variables()))
    assert oracles.same(session.run(bare), need, 1e-6)
    assert not oracles.same(session.run(masked), need)


class KeptKernel(object):
    """A module that gets its kernel when it is first called, and keeps it."""

    kernel = None

    def __call__(self, inputs):
        if self.kernel is None:
            self.kernel = tf.get_variable("kernel", [oracles.DEPTH, UNITS])
        return tf.tensordot(inputs, self.kernel, 1)


class Lazy(object):
    """A module that makes its layer when it is first called, and keeps it."""

    layer = None

    def __call__(self, inputs):
        if self.layer is None:
            self.layer = dense()
        return self.layer(inputs)


def closure():
    """A function that keeps its layer where no attribute shows it."""
    made = []

    def call(inputs):
        if not made:
            made.append(dense())
        return made[0](inputs)

    return call


@pytest.mark.parametrize("make", [KeptKernel, Lazy, closure])
def test_what_is_made_in_a_call_is_stock_after_it(make, open_session):
    layer = make()
    drop = WeightDropWrapper(layer, **HELD)
    x = inputs()
    first, bare, again = drop(x), layer(x), drop(x)
    (kernel,) = tf.trainable_variables()
    session = initialized(open_session())
    session.run(drop.get_vd_update_op())
    masked, plain, masked_again, w, drawn = session.run(
        [first, bare, again, kernel, drop.masks]
    )
    values, mask = oracles.inputs_value(), drawn[kernel.name]
    assert len(drawn) == 1 and np.any(mask == 0)
    assert oracles.same(plain, values @ w, 1e-5)
    assert oracles.same(masked, values @ (w * mask), 1e-5)
    assert np.array_equal(masked, masked_again)


def test_a_call_that_fails_leaves_the_layer_as_it_was(open_session):
    fails = [True]

    class Fails(tf.layers.Dense):
        def call(self, inputs):
            if fails:
                raise RuntimeError("oh")
            return super(Fails, self).call(inputs)

    layer = Fails(UNITS, use_bias=False)
    drop = WeightDropWrapper(layer, **HELD)
    with pytest.raises(RuntimeError, match="oh"):
        drop(inputs())
    assert not {"build", "call"} & set(vars(layer))
    fails.clear()
    results = layer(inputs()), drop(inputs())
    session = initialized(open_session())
    session.run(drop.get_vd_update_op())
    w, drawn, *have = session.run([layer.kernel, drop.masks, *results])
    (mask,) = drawn.values()
    need = [oracles.inputs_value() @ each for each in (w, w * mask)]
    assert oracles.same(have, need, 1e-5)


# ---------------------------------------------------------------------------
# Calls of one wrapper, and of several


def test_all_calls_share_a_mask_and_two_wrappers_do_not(open_session):
    def get(layer):
        with tf.variable_scope("net", reuse=tf.AUTO_REUSE):
            return layer()

    bare = get_kernel()
    one, other = (WeightDropWrapper(bare, **HELD) for _ in range(2))
    reads = [get(layer) for layer in (one, one, other, bare)]
    session = initialized(open_session())
    session.run(one.get_vd_update_op() + other.get_vd_update_op())
    assert len(one.get_vd_update_op()) == 1
    first, again, second, plain = session.run(reads)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, second)
    assert np.all(plain == 1)


def test_functions_in_one_scope():
    """Their layers are counted on as without a wrapper."""

    def names(*functions):
        with tf.Graph().as_default(), tf.variable_scope("net"):
            for each in functions:
                each(inputs())
            return [variable.name for variable in tf.trainable_variables()]

    one, other = (WeightDropWrapper(function, **HELD) for _ in range(2))
    need = names(function, function, function)
    assert names(one, function, other) == need
    assert names(one, one, function) == need


def test_called_again_in_a_function(open_session):
    if not (1, 12) <= versions.VERSION < (1, 15):
        pytest.skip("tf.contrib.eager.defun, before TensorFlow 1.15")
    tf.get_variable_scope().set_use_resource(True)
    drop = WeightDropWrapper(cells.GRUCell(UNITS), **HELD)
    x, h = tf.ones([2, oracles.DEPTH]), tf.zeros([2, UNITS])
    outputs = [drop(x, h)[0] for _ in range(2)]
    outputs.append(tf.contrib.eager.defun(lambda x: drop(x, h)[0])(x))
    session = initialized(open_session())
    session.run(drop.get_vd_update_op())
    one, *others = session.run(outputs)
    assert all(oracles.same(one, other, 1e-6) for other in others)


def rnn_step(cell):
    return lambda x: cell(x, cell.zero_state(2, tf.float32))[0]


def by_the_fused_layer(**arguments):
    layer = awd_lstm_tf.WeightDropLSTMBlockFusedCell(UNITS, **arguments)
    return lambda x: layer(tf.stack([x, x]), dtype=tf.float32)[0][1]


def tensor_if(x):
    if tf.reduce_sum(x) > 0:
        x = x * 2
    return tf.matmul(x, tf.get_variable("kernel", [oracles.DEPTH, UNITS]))


# What makes a function of inputs, from the arguments of its masks.
REWRITTEN = {
    "layer": lambda **all: WeightDropWrapper(dense(), **all),
    "rnn_cell": lambda **all: rnn_step(
        WeightDropWrapper(cells.GRUCell(UNITS), **all)
    ),
    "keras": lambda **all: WeightDropWrapper(keras.Dense(UNITS), **all),
    "function": lambda **all: WeightDropWrapper(
        lambda x: tf.layers.dense(x, UNITS, name="made"), **all
    ),
    "cell": lambda **all: rnn_step(
        awd_lstm_tf.WeightDropLSTMCell(UNITS, **all)
    ),
    "fused": by_the_fused_layer,
    "dropout": lambda weight_drop_kr, use_vd, **all: (
        awd_lstm_tf.VariationalDropout([oracles.DEPTH], weight_drop_kr, **all)
    ),
}


def rewriting():
    """`tf.function`, whose AutoGraph rewrites what is called in it."""
    if versions.VERSION < (1, 15):
        pytest.skip("needs a tf.function (TensorFlow 1.15)")
    tf.get_variable_scope().set_use_resource(True)
    return versions.function()


@pytest.mark.parametrize("name", sorted(REWRITTEN))
def test_autograph_leaves_the_package_as_written(name, open_session):
    function, x = rewriting(), tf.ones([2, oracles.DEPTH])
    if name == "keras" and not versions.KERAS_2:
        pytest.skip("needs Keras 2")
    layer = REWRITTEN[name](updates_collections="updates", **HELD)
    with tf.variable_scope("net"):
        bare = layer(x)
    with tf.variable_scope("net", reuse=True):
        rewritten = function(lambda x: layer(x))(x)
    session = initialized(open_session())
    whole = session.run(bare)
    session.run(tf.get_collection("updates"))
    one, other = session.run([bare, rewritten])
    assert oracles.same(one, other, 1e-6)
    assert not oracles.same(one, whole)


def test_autograph_rewrites_a_function_that_is_wrapped(open_session):
    function = rewriting()
    drop = WeightDropWrapper(tensor_if, **HELD)
    with tf.variable_scope("net"):
        kernel = tf.get_variable("kernel", [oracles.DEPTH, UNITS])

    @function
    def both(x):
        with tf.variable_scope("net", reuse=True):
            return drop(x), drop(-x)

    x = np.ones([2, oracles.DEPTH], np.float32)
    results = both(tf.constant(x))
    session = initialized(open_session())
    session.run(drop.get_vd_update_op())
    have, w, drawn = session.run([results, kernel, drop.masks])
    (mask,) = drawn.values()
    masked = x @ (w * mask)
    assert oracles.same(have, [2 * masked, -masked], 1e-5)


def test_two_wrappers_of_one_layer(open_session):
    layer = cells.GRUCell(UNITS)
    drops = [WeightDropWrapper(layer, **HELD) for _ in range(2)]
    with tf.variable_scope("net"):
        outputs = [dynamic(drops[0], inputs())]
    with tf.variable_scope("net", reuse=True):
        outputs += [dynamic(drops[1], inputs())]
    session = initialized(open_session())
    for drop in drops:
        session.run(drop.get_vd_update_op())
    weights, drawn, have = session.run(
        [tf.trainable_variables(), [drop.masks for drop in drops], outputs]
    )
    for value, each in zip(have, drawn):
        need, _ = stock("gru", times(each, weights))
        assert oracles.same(value, need, 1e-5)
    assert not oracles.same(*have, 1e-3)


def test_wrappers_of_other_weights_can_be_nested(open_session):
    inner = WeightDropWrapper(cells.GRUCell(UNITS), names="gates/k", **HELD)
    outer = WeightDropWrapper(inner, names="candidate/k", **HELD)
    with tf.variable_scope("net"):
        outputs = dynamic(outer, inputs())
    session = initialized(open_session())
    session.run(inner.get_vd_update_op() + outer.get_vd_update_op())
    have, weights, *drawn = session.run(
        [outputs, tf.trainable_variables(), inner.masks, outer.masks]
    )
    assert [len(each) for each in drawn] == [1, 1]
    need, _ = stock("gru", times(dict(drawn[0], **drawn[1]), weights))
    assert oracles.same(have, need, 1e-5)


def test_in_two_graphs():
    drop = WeightDropWrapper(get_kernel(), **HELD)
    seen = []
    for _ in range(2):
        with tf.Graph().as_default() as graph, tf.Session() as session:
            value = drop()
            (update,) = drop.get_vd_update_op()
            assert update.graph is graph
            assert np.all(initialized(session).run(value) == 1)
            session.run(update)
            seen.append(session.run(value))
            assert set(np.unique(seen[-1])) == {0, 2}
    assert not np.array_equal(*seen)


@pytest.mark.parametrize("name", ["gru", "dense", "function"])
def test_a_copy_has_masks_of_its_own(name, open_session):
    make, call, count = LAYERS[name]
    drop = WeightDropWrapper(make(), tf.constant(0.5), use_vd=True)
    twin = copy.deepcopy(drop)
    outputs = []
    for each in (drop, twin):
        with tf.variable_scope("one" if each is drop else "two"):
            outputs.append(call(each, inputs()))
    assert len(kernels()) == 2 * count
    session = initialized(open_session())
    before = session.run(outputs)
    session.run(drop.get_vd_update_op())
    after = session.run(outputs)
    assert not oracles.same(after[0], before[0])
    assert oracles.same(after[1], before[1])
    assert all((mask == 1).all() for mask in session.run(twin.masks).values())


# ---------------------------------------------------------------------------
# Which variables


def several():
    tf.get_variable("a/kernel", [3])
    tf.get_variable("a/bias", [3])
    tf.get_variable("b/weights", [3])
    tf.get_variable("c/kernel", [3], trainable=False)
    tf.get_variable("d/kernel", [3], tf.int32)


@pytest.mark.smoke
@pytest.mark.parametrize(
    "names, chosen",
    [
        (None, ["a/kernel", "b/weights"]),
        ("^net/a/", ["a/kernel", "a/bias"]),
        (lambda name: name.endswith("bias"), ["a/bias"]),
        ("", ["a/kernel", "a/bias", "b/weights"]),
    ],
    ids=["default", "expression", "function", "all"],
)
def test_names(names, chosen):
    arguments = {} if names is None else dict(names=names)
    drop = WeightDropWrapper(several, **HELD, **arguments)
    with tf.variable_scope("net"):
        drop()
    have = [name[len("net/") : -len(":0")] for name in drop.masks]
    assert have == chosen


def template():
    make = get_kernel(name="z/kernel")
    return tf.make_template("made", lambda: make() * 1)


def template_of_a_scope():
    make = get_kernel(name="z/kernel")
    return tf.make_template("made", make, create_scope_now_=True)


def scope():
    with tf.variable_scope("made") as made:
        pass

    def get():
        with tf.variable_scope(made, reuse=tf.AUTO_REUSE):
            return get_kernel()()

    return get


@pytest.mark.parametrize(
    "make, bare_first",
    grids.singles([template, template_of_a_scope, scope], [False, True]),
)
def test_scopes_made_outside(make, bare_first, open_session):
    part = make()

    def get():
        return tf.stack([get_kernel(name="a/kernel")(), part()])

    def call(drop):
        with tf.variable_scope("net", reuse=tf.AUTO_REUSE):
            return drop()

    bares = [call(get)] if bare_first else []
    drops = [WeightDropWrapper(get, **HELD) for _ in range(2)]
    calls = [call(drop) for drop in drops * 2]
    bares.append(call(get))
    session = initialized(open_session())
    session.run([drop.get_vd_update_op() for drop in drops])
    calls, bares, drawn = session.run(
        [calls, bares, [drop.masks for drop in drops] * 2]
    )
    # Of ones: what is dropped is its mask.
    for value, mask in zip(calls, drawn):
        assert np.array_equal(value, list(mask.values()))
        assert set(np.unique(value[0])) == set(np.unique(value[1])) == {0, 2}
    assert np.all(np.array(bares) == 1)


def test_getters_around_see_variables_and_those_in_it_the_masked(open_session):
    seen = []

    def note(getter, *args, **kwargs):
        seen.append(getter(*args, **kwargs))
        return seen[-1]

    def double(getter, *args, **kwargs):
        return getter(*args, **kwargs) * 2

    def get():
        whole = get_kernel(name="a/kernel")()
        with tf.variable_scope("z", custom_getter=double):
            return whole, get_kernel()()

    drop = WeightDropWrapper(get, **HELD)
    with tf.variable_scope("net", custom_getter=note):
        results = drop()
    assert seen[0] is tf.trainable_variables()[0]
    session = initialized(open_session())
    session.run(drop.get_vd_update_op())
    (one, other), drawn = session.run([results, drop.masks])
    assert np.array_equal(one, drawn["net/a/kernel:0"])
    assert np.array_equal(other, 2 * drawn["net/z/kernel:0"])


def half(w):
    return 0.5 * w


@pytest.mark.parametrize("layers", [tf.layers, keras], ids=["layers", "keras"])
@pytest.mark.parametrize("in_a_function", [False, True])
def test_regularizers_and_constraints_see_stock_weights(
    layers, in_a_function, open_session
):
    if in_a_function and layers is keras:
        pytest.skip("no getter sees a layer of Keras that a function makes")
    made = []

    def layer():
        made[:] = [
            layers.Dense(
                40,
                kernel_initializer=tf.ones_initializer(),
                kernel_regularizer=tf.reduce_sum,
                kernel_constraint=half,
            )
        ]
        return made[0]

    drop = (lambda x: layer()(x)) if in_a_function else layer()
    drop = WeightDropWrapper(drop, **HELD)
    drop(tf.ones([1, 1]))
    (kernel,) = kernels()
    session = initialized(open_session())
    session.run(drop.get_vd_update_op())
    assert np.any(session.run(drop.masks)[kernel.name] == 0)
    assert session.run(made[0].losses) == [40]
    if versions.VERSION >= (1, 12):
        assert kernel.constraint is half


def test_regularizer_of_the_scope_sees_stock_weights(open_session):
    drop = WeightDropWrapper(get_kernel([50]), **HELD)
    with tf.variable_scope("net", regularizer=tf.reduce_sum):
        drop()
    session = initialized(open_session())
    session.run(drop.get_vd_update_op())
    assert session.run(tf.losses.get_regularization_losses()) == [50]


@pytest.mark.parametrize("auto_update", [False, True])
def test_partitioned_kernel(auto_update, open_session):
    cell = cells.LSTMCell(UNITS)
    drop = WeightDropWrapper(cell, **dict(HELD, auto_update=auto_update))
    parts = tf.fixed_size_partitioner(2)
    with tf.variable_scope("net", partitioner=parts):
        outputs = dynamic(drop, inputs())
    weights = [v for v in tf.trainable_variables() if "/kernel/" in v.name]
    bias = [v for v in tf.trainable_variables() if "/bias" in v.name]
    assert len(weights) == 2 and len(drop.masks) == 1
    gradients = tf.gradients(loss_of(outputs), weights)
    session = initialized(open_session())
    session.run(drop.get_vd_update_op())
    have, slopes, w, b, (mask,) = session.run(
        [outputs, gradients, weights, bias, list(drop.masks.values())]
    )
    need, (slope,) = stock(
        "basic_lstm", [np.concatenate(w) * mask, np.concatenate(b)]
    )
    assert oracles.same(have, need, 1e-5)
    assert oracles.same(np.concatenate(slopes), slope * mask, 1e-5)


IDS = [0, 1, 2, 6, 7]
READERS = dict(
    lookup=lambda w: tf.nn.embedding_lookup(w, IDS),
    list=lambda w: tf.nn.embedding_lookup(list(w), IDS),
    sparse=lambda w: tf.nn.embedding_lookup_sparse(
        w,
        tf.SparseTensor([[i, 0] for i in range(5)], IDS, [5, 1]),
        None,
        combiner="sum",
    ),
    whole=lambda w: tf.gather(tf.convert_to_tensor(w), IDS),
)


@pytest.mark.parametrize("reader", sorted(READERS))
def test_reads_of_a_variable_in_parts(reader, open_session):
    """A lookup finds rows in the parts: 0 in the first, 1 in the second, ..."""

    def layer():
        return READERS[reader](tf.get_variable("kernel", [8, 3]))

    scope = functools.partial(
        tf.variable_scope, "net", partitioner=tf.fixed_size_partitioner(3)
    )
    with scope():
        stock = layer()
    drop = WeightDropWrapper(layer, **HELD)
    with scope(reuse=True):
        outputs = drop()
    variables = tf.trainable_variables()
    found, expected = [
        (rows, list(map(tf.convert_to_tensor, tf.gradients(loss, variables))))
        for rows, loss in [(outputs, loss_of(outputs)), (stock, loss_of(stock))]
    ]
    session = initialized(open_session())
    need, whole = session.run([stock, outputs])
    assert np.array_equal(need, whole)
    session.run(drop.get_vd_update_op())
    values, (mask,), (have, slopes) = session.run(
        [variables, list(drop.masks.values()), found]
    )
    ends = np.cumsum([len(value) for value in values])
    parts = np.split(mask, ends[:-1])
    for variable, value, part in zip(variables, values, parts):
        variable.load(value * part, session)
    need, need_slopes = session.run(expected)
    assert oracles.same(have, need)
    need_slopes = [slope * part for slope, part in zip(need_slopes, parts)]
    assert oracles.same(slopes, need_slopes) and np.any(slopes[0])


# ---------------------------------------------------------------------------
# The ops


def test_ops_are_built_once_and_collected():
    made = Wrapped("gru", updates_collections=tf.GraphKeys.UPDATE_OPS, **HELD)
    count = len(tf.get_default_graph().get_operations())
    for _ in range(100):
        updates = made.wrapper.get_vd_update_op()
        made.wrapper.get_vd_reset_op()
    assert len(tf.get_default_graph().get_operations()) == count
    assert updates == tf.get_collection(tf.GraphKeys.UPDATE_OPS)
    assert len(tf.get_collection(masks.MASKS)) == 2
    assert not set(tf.get_collection(masks.MASKS)) & set(tf.global_variables())


@pytest.mark.parametrize("name", ["gru", "attention", "dense", "function"])
def test_ops_are_in_the_scope_of_their_tower(name):
    make, call, count = LAYERS[name]
    drop = WeightDropWrapper(make(), updates_collections="updates", **HELD)
    with tf.name_scope("tower_3") as scope:
        call(drop, inputs())
    assert len(tf.get_collection("updates", scope)) == count


def test_seed():
    def drawn(seed):
        def layer():
            return [get_kernel(name=n + "/kernel")() for n in ("a", "b")]

        with tf.Graph().as_default(), tf.Session() as session:
            tf.set_random_seed(1)
            drop = WeightDropWrapper(layer, seed=seed, **HELD)
            values = drop()
            initialized(session).run(drop.get_vd_update_op())
            return session.run(values)

    one, again, other = drawn(5), drawn(5), drawn(6)
    assert oracles.same(one, again)
    assert not np.array_equal(one[0], one[1])
    assert not np.array_equal(one[0], other[0])


def test_summaries_show_whether_it_drops(open_session):
    made = Wrapped("gru", **HELD)
    summary = tf.summary.merge(awd_lstm_tf.mask_summaries(made.wrapper))
    session = initialized(open_session())

    def values():
        read = tf.Summary.FromString(session.run(summary))
        return [each.simple_value for each in read.value]

    assert values() == [1, 0]
    session.run(made.wrapper.get_vd_update_op())
    drawn = session.run(made.wrapper.masks).values()
    kept = np.concatenate([mask.ravel() > 0 for mask in drawn]).mean()
    assert np.allclose(values(), [kept, 1]) and values()[1] == 0


# ---------------------------------------------------------------------------
# More than one device


def test_masks_stay_on_the_worker():
    setter = tf.train.replica_device_setter(1, worker_device="/job:worker")
    with tf.device(setter):
        made = Wrapped("gru", **HELD)
    assert all("/job:ps" in each.device for each in kernels())
    mask_ops = [v.handle.op for v in tf.get_collection(masks.MASKS)]
    for op in mask_ops + made.wrapper.get_vd_update_op():
        assert "/job:worker" in op.device


def test_replicas_have_own_masks():
    devices = ["/cpu:0", "/cpu:1"]
    strategy = versions.mirrored_strategy(devices)

    def replica():
        return WeightDropWrapper(get_kernel(), **DRAWN)() * 1

    with strategy.scope():
        used = versions.call_for_each_replica(strategy, replica)
    config = tf.ConfigProto(device_count={"CPU": 2})
    with tf.Session(config=config) as session:
        one, two = initialized(session).run(used)
    assert set(np.unique(one)) == set(np.unique(two)) == {0, 2}
    assert not np.array_equal(one, two)
