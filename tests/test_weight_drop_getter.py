"""WeightDropGetter: stock layers against themselves on kernels times masks."""

import numpy as np
import oracles
import pytest
import tensorflow as tf
import versions

import awd_lstm_tf
from awd_lstm_tf import WeightDropGetter, masks

UNITS = 4


def dynamic(cell, inputs):
    return tf.nn.dynamic_rnn(cell, inputs, dtype=tf.float32)[0]


def static(cell, inputs):
    steps = tf.unstack(inputs, axis=1)
    lengths = [oracles.TIME - 2, oracles.TIME]
    return tf.nn.static_rnn(
        cell, steps, dtype=tf.float32, sequence_length=lengths
    )[0]


CELLS = {
    "gru": (lambda: tf.nn.rnn_cell.GRUCell(UNITS), 2),
    "basic_lstm": (lambda: tf.nn.rnn_cell.BasicLSTMCell(UNITS), 1),
    "block_lstm": (lambda: tf.contrib.rnn.LSTMBlockCell(UNITS), 1),
    "projected": (lambda: tf.nn.rnn_cell.LSTMCell(UNITS, num_proj=2), 2),
}
LAYERS = {
    f"{name}_{unroll.__name__}": (
        lambda x, make=make, unroll=unroll: unroll(make(), x),
        count,
    )
    for name, (make, count) in CELLS.items()
    for unroll in (dynamic, static)
    if unroll is dynamic or name == "gru"
}
LAYERS.update(
    dense=(lambda x: tf.layers.Dense(UNITS)(x), 1),
    dense_2d=(lambda x: tf.layers.dense(x[:, 0], UNITS), 1),
    convolution=(lambda x: tf.layers.conv1d(x, UNITS, 2), 1),
    contrib=(lambda x: tf.contrib.layers.fully_connected(x, UNITS), 1),
)


def kernels():
    return [
        variable
        for variable in tf.trainable_variables()
        if variable.op.name.endswith(("kernel", "weights"))
    ]


def loss_of(outputs):
    return tf.reduce_sum(tf.square(tf.stack(outputs)))


def initialized(session):
    session.run(tf.global_variables_initializer())
    return session


def stock(layer, values):
    """Outputs and kernel gradients of a stock layer on given kernels."""
    fed = []

    def getter(getter, name, *args, **kwargs):
        if not name.endswith(("kernel", "weights")):
            return getter(name, *args, **kwargs)
        with tf.init_scope():
            fed.append(tf.placeholder(kwargs["dtype"], kwargs["shape"]))
        return fed[-1]

    with tf.Graph().as_default(), tf.Session() as session:
        with tf.variable_scope("stock", custom_getter=getter):
            outputs = layer(tf.constant(oracles.inputs_value()))
        gradients = tf.gradients(loss_of(outputs), fed)
        feeds = dict(zip(fed, values))
        return initialized(session).run([outputs, gradients], feeds)


def built(drop, layer, **scope_arguments):
    """A layer under a getter: its outputs, its kernels and their gradients."""
    with tf.variable_scope("net", custom_getter=drop, **scope_arguments):
        outputs = layer(tf.constant(oracles.inputs_value()))
    return outputs, kernels(), tf.gradients(loss_of(outputs), kernels())


def assert_masked(session, drop, layer, outputs, weights, gradients):
    """One run: outputs and gradients are those of the stock layer."""
    have, gradients, values, drawn = session.run(
        [outputs, gradients, weights, drop.masks]
    )
    drawn = [drawn[weight.name] for weight in weights]
    need, stock_gradients = stock(
        layer, [value * mask for value, mask in zip(values, drawn)]
    )
    masked = [g * mask for g, mask in zip(stock_gradients, drawn)]
    assert all(set(np.unique(mask)) == {0, 2} for mask in drawn)
    assert oracles.same(have, need, 1e-5)
    assert oracles.same(gradients, masked, 1e-5)


# What is computed


@pytest.mark.smoke
@pytest.mark.parametrize("name", sorted(LAYERS))
def test_stock_layer_on_masked_kernels(name, open_session, seed):
    layer, count = LAYERS[name]
    drop = WeightDropGetter(0.5, use_vd=True, seed=seed)
    outputs, weights, gradients = built(drop, layer)
    session = initialized(open_session())
    updates = drop.get_vd_update_op()
    assert len(weights) == len(updates) == count
    first = session.run(outputs)
    values = session.run(weights)
    assert oracles.same(first, stock(layer, values)[0], 1e-6)  # never drawn
    session.run(updates)
    assert_masked(session, drop, layer, outputs, weights, gradients)
    assert not oracles.same(session.run(outputs), first)
    session.run(drop.get_vd_reset_op())
    assert oracles.same(session.run(outputs), first)


@pytest.mark.parametrize(
    "name, resource",
    [("gru_dynamic", False), ("gru_static", True), ("dense", True)],
)
def test_auto_update(name, resource, open_session, seed):
    layer, _ = LAYERS[name]
    drop = WeightDropGetter(0.5, use_vd=True, auto_update=True, seed=seed)
    outputs, weights, gradients = built(drop, layer, use_resource=resource)
    assert drop.get_vd_update_op() == drop.get_vd_reset_op() == []
    session = initialized(open_session())
    assert_masked(session, drop, layer, outputs, weights, gradients)
    assert not oracles.same(session.run(outputs), session.run(outputs))


def test_standard_dropout_draws_at_each_use(open_session):
    drop = WeightDropGetter(0.5)

    def step(time, seen):
        with tf.variable_scope("net", custom_getter=drop, reuse=tf.AUTO_REUSE):
            ones = tf.ones_initializer()
            w = tf.get_variable("kernel", [50], initializer=ones)
        square = w * w
        gradient = tf.gradients(square, w)[0]
        return time + 1, seen.write(time, tf.stack([square, gradient]))

    seen = tf.TensorArray(tf.float32, 3)
    seen = tf.while_loop(lambda t, _: t < 3, step, (0, seen))[1].stack()
    assert drop.get_vd_update_op() == []
    values = initialized(open_session()).run(seen)
    assert len({each.tobytes() for each in values}) == 3
    # The two reads of a step have masks of their own: 2 * 2 where both keep.
    assert set(np.unique(values[:, 0])) == {0, 4}
    assert np.all((values[:, 1] == 8) == (values[:, 0] == 4))


@pytest.mark.parametrize("auto_update", [False, True])
@pytest.mark.parametrize("name", ["gru_dynamic", "projected_dynamic"])
def test_masked_once_outside_the_loop(name, auto_update):
    layer, count = LAYERS[name]
    built(WeightDropGetter(0.5, use_vd=True, auto_update=auto_update), layer)
    products = [
        op
        for op in tf.get_default_graph().get_operations()
        if op.type == "Mul" and op.name.endswith("masked_kernel")
    ]
    assert len(products) == count
    assert not any(oracles.loops_around(op) for op in products)


def test_forward_and_backward_agree_when_updated_in_the_same_run(open_session):
    x = np.random.RandomState(1).randn(6, 5).astype(np.float32)
    drop = WeightDropGetter(0.5, use_vd=True)
    with tf.variable_scope("net", custom_getter=drop):
        y = tf.layers.dense(tf.constant(x), 7, use_bias=False)
    w = tf.trainable_variables()[0]
    gradient = tf.gradients(loss_of(y), w)[0]
    session = initialized(open_session())
    seen = set()
    for _ in range(10):
        value, g, w_value, mask, _ = session.run(
            [y, gradient, w, drop.masks[w.name], drop.get_vd_update_op()]
        )
        seen.add(mask.tobytes())
        np.testing.assert_allclose(value, x @ (w_value * mask), atol=1e-5)
        np.testing.assert_allclose(g, 2 * x.T @ value * mask, atol=1e-4)
    assert len(seen) == 10


def test_ordering_is_that_of_the_call_not_of_the_build(open_session):
    drop = WeightDropGetter(0.5, use_vd=True)
    with tf.variable_scope("net", custom_getter=drop):
        layer = tf.layers.Dense(50, use_bias=False)
        layer(tf.ones([1, 2]))  # built here, waiting for nothing
    with tf.control_dependencies(drop.get_vd_update_op()):
        after = layer(tf.ones([1, 2]))
    w, (variable,) = tf.trainable_variables()[0], tf.get_collection(masks.MASKS)
    session = initialized(open_session())
    for _ in range(10):
        value = session.run(after)
        kept, w_value = session.run([variable, w])
        expected = (w_value * kept / 0.5).sum(0, keepdims=True)
        np.testing.assert_allclose(value, expected, atol=1e-6)


@pytest.mark.parametrize("auto_update", [False, True])
def test_built_in_a_nested_loop_and_used_everywhere(auto_update, open_session):
    drop = WeightDropGetter(0.5, use_vd=True, auto_update=auto_update)
    x = tf.constant(oracles.inputs_value())
    layer = tf.layers.Dense(oracles.DEPTH, use_bias=False)

    def call(value):
        with tf.variable_scope("net", custom_getter=drop):
            return layer(value)

    def twice(make, value):
        return tf.while_loop(
            lambda t, _: t < 2, lambda t, v: (t + 1, make(v)), (0, value)
        )[1]

    nested = twice(lambda v: twice(call, v), x)
    other = tf.cond(
        tf.placeholder_with_default(False, []),
        lambda: call(x) + 1,
        lambda: call(x),
    )
    outside = call(x)
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


@pytest.mark.parametrize("name", ["gru_dynamic", "gru_static"])
def test_control_flow_v2(name, open_session, seed, control_flow_v2):
    test_stock_layer_on_masked_kernels(name, open_session, seed)


# is_train, keep rates


@pytest.mark.parametrize(
    "name, keep_rate, arguments",
    [("gru_dynamic", 0.5, dict(is_train=False)), ("dense", 1.0, {})],
)
def test_nothing_to_drop_is_the_stock_graph(name, keep_rate, arguments):
    def nodes(getter):
        with tf.Graph().as_default() as graph:
            built(getter, LAYERS[name][0])
            return graph.as_graph_def()

    drop = WeightDropGetter(keep_rate, use_vd=True, **arguments)
    assert nodes(drop) == nodes(None)
    assert drop.masks == {}
    assert drop.get_vd_update_op() == drop.get_vd_reset_op() == []


@pytest.mark.parametrize("auto_update", [False, True])
def test_is_train_tensor_and_keep_rate_tensor(auto_update, open_session):
    is_train = tf.placeholder(tf.bool, [])
    keep_rate = tf.placeholder_with_default(0.5, [])
    drop = WeightDropGetter(
        keep_rate, use_vd=True, auto_update=auto_update, is_train=is_train
    )
    outputs, weights, _ = built(drop, LAYERS["gru_dynamic"][0])
    session = initialized(open_session())
    session.run(drop.get_vd_update_op())
    off = session.run(outputs, {is_train: False})
    need, _ = stock(LAYERS["gru_dynamic"][0], session.run(weights))
    assert oracles.same(off, need, 1e-6)
    assert not oracles.same(session.run(outputs, {is_train: True}), off)
    session.run(drop.get_vd_update_op(), {keep_rate: 1.0})
    whole = session.run(outputs, {is_train: True, keep_rate: 1.0})
    assert oracles.same(whole, off)


# The variables are the stock ones


@pytest.mark.parametrize("resource", [False, True])
def test_checkpoints_pass_both_ways(resource, open_session, tmp_path):
    def described(drop, path, restore):
        with tf.Graph().as_default(), tf.Session() as session:
            x = tf.constant(oracles.inputs_value())
            scope = dict(custom_getter=drop, use_resource=resource)
            with tf.variable_scope("net", **scope):
                cell = tf.nn.rnn_cell.GRUCell(UNITS)
                outputs = dynamic(cell, x)
            saver = tf.train.Saver()
            if restore:
                saver.restore(session, path)
            else:
                initialized(session)
                saver.save(session, path)
            names = [v.name for v in cell.trainable_weights]
            assert not cell.non_trainable_weights
            assert names == [v.name for v in tf.global_variables()]
            return names, session.run(outputs)

    path = str(tmp_path / "model")
    drop = WeightDropGetter(0.5, use_vd=True)  # masks are never drawn: ones
    saved = described(None, path, restore=False)
    loaded = described(drop, path, restore=True)
    assert saved[0] == loaded[0] and np.array_equal(saved[1], loaded[1])
    drop = WeightDropGetter(0.5, use_vd=True)
    saved = described(drop, path, restore=False)
    loaded = described(None, path, restore=True)
    assert np.array_equal(saved[1], loaded[1])


@pytest.mark.parametrize("resource", [False, True])
def test_weights_of_a_layer_are_saved_and_trained(resource, open_session):
    drop = WeightDropGetter(0.5, use_vd=True, auto_update=True)
    x = tf.constant(np.random.RandomState(0).randn(50, 3), tf.float32)
    need = tf.reduce_sum(x, 1, keepdims=True)
    with tf.variable_scope("net", custom_getter=drop, use_resource=resource):
        layer = tf.layers.Dense(1, use_bias=False)
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


def test_object_based_checkpoint_holds_the_weights(open_session, tmp_path):
    drop = WeightDropGetter(0.5, use_vd=True)
    with tf.variable_scope("net", custom_getter=drop):
        cell = tf.nn.rnn_cell.GRUCell(UNITS)
        dynamic(cell, tf.constant(oracles.inputs_value()))
    session = initialized(open_session())
    variables = tf.trainable_variables()
    before = session.run(variables)
    checkpoint = tf.train.Checkpoint(cell=cell)
    path = checkpoint.save(str(tmp_path / "model"), session)
    initialized(session)
    checkpoint.restore(path).assert_consumed().run_restore_ops(session)
    assert oracles.same(session.run(variables), before)


@pytest.mark.parametrize("resource", [False, True])
def test_every_read_is_masked_and_nothing_else_is(resource, open_session):
    drop = WeightDropGetter(0.5, use_vd=True)
    with tf.variable_scope("net", custom_getter=drop, use_resource=resource):
        ones = tf.ones_initializer()
        w = tf.get_variable("kernel", [6, 5], initializer=ones)
    ids = [4, 0, 4]
    reads = [
        tf.convert_to_tensor(w),
        w.value(),
        w.read_value(),
        1 * w,
        w * 1,
        tf.matmul(np.eye(6, dtype=np.float32), w),
        w[:, :],
        tf.identity(w),
        tf.gather_nd(w, [[i] for i in range(6)]),
    ]
    rows = [tf.gather(w, ids), tf.nn.embedding_lookup(w, ids)]
    bare = [w, w.initialized_value(), tf.trainable_variables()[0]]
    session = initialized(open_session())
    session.run(drop.get_vd_update_op())
    mask = session.run(drop.masks)["net/kernel:0"]
    assert set(np.unique(mask)) == {0, 2}
    for value in session.run(reads):
        assert np.array_equal(value, mask)
    for value in session.run(rows):
        assert np.array_equal(value, mask[ids])
    session.run(w.assign(3 * tf.ones([6, 5])))
    for value in session.run(bare):
        assert np.all(value == 3)
    assert isinstance(w, tf.Variable) and w.shape == [6, 5]


def test_reuse_shares_the_mask_and_two_getters_do_not(open_session):
    def get(drop):
        with tf.variable_scope("net", custom_getter=drop, reuse=tf.AUTO_REUSE):
            return tf.get_variable(
                "kernel", [40], initializer=tf.ones_initializer()
            )

    first, second = (WeightDropGetter(0.5, use_vd=True) for _ in range(2))
    reads = [get(first) * 1, get(first) * 1, get(second) * 1, get(None) * 1]
    session = initialized(open_session())
    session.run(first.get_vd_update_op() + second.get_vd_update_op())
    assert len(first.get_vd_update_op()) == 1
    one, again, other, bare = session.run(reads)
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    assert np.all(bare == 1)


def test_a_getter_around_itself_drops_once():
    drop = WeightDropGetter(0.5, use_vd=True)
    with tf.variable_scope("a", custom_getter=drop):
        with tf.variable_scope("b", custom_getter=drop):
            tf.get_variable("kernel", [3]) * 1
    assert len(drop.get_vd_update_op()) == 1


# Which variables


def names_of(session_masks):
    return [name[len("net/") : -len(":0")] for name in session_masks]


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
    drop = WeightDropGetter(0.5, use_vd=True, **arguments)
    with tf.variable_scope("net", custom_getter=drop):
        tf.get_variable("a/kernel", [3])
        tf.get_variable("a/bias", [3])
        tf.get_variable("b/weights", [3])
        tf.get_variable("c/kernel", [3], trainable=False)
        tf.get_variable("d/kernel", [3], tf.int32)
    assert names_of(drop.masks) == chosen


@pytest.mark.skipif(
    versions.VERSION < (1, 12),
    reason="needs constraints given to getters (TensorFlow 1.12)",
)
def test_constraints_and_regularizers(open_session):
    def half(w):
        return 0.5 * w

    drop = WeightDropGetter(0.5, use_vd=True)
    with tf.variable_scope(
        "net", custom_getter=drop, constraint=half, regularizer=tf.reduce_sum
    ):
        ones = tf.ones_initializer()
        w = tf.get_variable("kernel", [40], initializer=ones)
    with tf.variable_scope("layer", custom_getter=drop):
        layer = tf.layers.Dense(
            4, kernel_initializer=ones, kernel_regularizer=tf.reduce_sum
        )
        layer(tf.ones([1, 10]))
    assert w.constraint is half
    losses = tf.losses.get_regularization_losses()
    session = initialized(open_session())
    session.run(drop.get_vd_update_op())
    scope_loss, layer_loss = session.run(losses)
    masked = session.run(drop.masks)[layer.kernel.name].sum()
    assert scope_loss == 40
    assert layer_loss == masked != 40


@pytest.mark.parametrize("auto_update", [False, True])
def test_partitioned_kernel(auto_update, open_session):
    def layer(x):
        return dynamic(tf.nn.rnn_cell.LSTMCell(UNITS), x)

    drop = WeightDropGetter(0.5, use_vd=True, auto_update=auto_update)
    parts = tf.fixed_size_partitioner(2)
    with tf.variable_scope("net", custom_getter=drop, partitioner=parts):
        outputs = layer(tf.constant(oracles.inputs_value()))
    weights = [v for v in tf.trainable_variables() if "/kernel/" in v.name]
    assert len(weights) == 2 and len(drop.masks) == 1
    gradients = tf.gradients(loss_of(outputs), weights)
    session = initialized(open_session())
    session.run(drop.get_vd_update_op())
    have, slopes, values, drawn = session.run(
        [outputs, gradients, weights, list(drop.masks.values())]
    )
    need, stock_gradients = stock(layer, [np.concatenate(values) * drawn[0]])
    assert oracles.same(have, need, 1e-5)
    gradient = np.concatenate(slopes)
    assert oracles.same(gradient, stock_gradients[0] * drawn[0], 1e-5)


@pytest.mark.parametrize(
    "resource, look_up",
    [(False, tf.gather), (True, tf.gather), (True, tf.nn.embedding_lookup)],
)
def test_rows_have_a_sparse_gradient(resource, look_up, open_session):
    drop = WeightDropGetter(0.5, use_vd=True, names="table$")
    with tf.variable_scope("net", custom_getter=drop, use_resource=resource):
        rows = look_up(tf.get_variable("table", [9, 4]), [3, 3, 7])
    table = tf.trainable_variables()[0]
    gradient = tf.gradients(rows, table)[0]
    assert isinstance(gradient, tf.IndexedSlices)
    session = initialized(open_session())
    session.run(drop.get_vd_update_op())
    mask = session.run(drop.masks)["net/table:0"]
    slices = session.run(gradient)
    assert np.array_equal(slices.values, mask[[3, 3, 7]])


# The ops


def test_ops_are_built_once_and_collected():
    drop = WeightDropGetter(
        0.5, use_vd=True, updates_collections=tf.GraphKeys.UPDATE_OPS
    )
    built(drop, LAYERS["gru_dynamic"][0])
    count = len(tf.get_default_graph().get_operations())
    for _ in range(100):
        updates = drop.get_vd_update_op()
        drop.get_vd_reset_op()
    assert len(tf.get_default_graph().get_operations()) == count
    assert updates == tf.get_collection(tf.GraphKeys.UPDATE_OPS)
    assert len(tf.get_collection(masks.MASKS)) == 2
    assert not set(tf.get_collection(masks.MASKS)) & set(tf.global_variables())


def test_seed():
    def drawn(seed):
        with tf.Graph().as_default(), tf.Session() as session:
            tf.set_random_seed(1)
            drop = WeightDropGetter(0.5, use_vd=True, seed=seed)
            with tf.variable_scope("net", custom_getter=drop):
                for name in ("a/kernel", "b/kernel"):
                    tf.get_variable(name, [50])
            session.run(drop.get_vd_update_op())
            values = session.run(drop.masks)
            return values["net/a/kernel:0"], values["net/b/kernel:0"]

    one, again, other = drawn(5), drawn(5), drawn(6)
    assert oracles.same(one, again)
    assert not np.array_equal(one[0], one[1])
    assert not np.array_equal(one[0], other[0])


# More than one device


def test_masks_stay_on_the_worker():
    drop = WeightDropGetter(0.5, use_vd=True)
    setter = tf.train.replica_device_setter(1, worker_device="/job:worker")
    with tf.device(setter):
        built(drop, LAYERS["gru_dynamic"][0])
    assert all("/job:ps" in each.device for each in kernels())
    mask_ops = [v.handle.op for v in tf.get_collection(masks.MASKS)]
    for op in mask_ops + drop.get_vd_update_op():
        assert "/job:worker" in op.device


def test_replicas_have_own_masks():
    devices = ["/cpu:0", "/cpu:1"]
    strategy = tf.contrib.distribute.MirroredStrategy(devices)

    def replica():
        drop = WeightDropGetter(0.5, use_vd=True, auto_update=True)
        with tf.variable_scope("net", custom_getter=drop):
            ones = tf.ones_initializer()
            return tf.get_variable("kernel", [40], initializer=ones) * 1

    with strategy.scope():
        used = versions.call_for_each_replica(strategy, replica)
    config = tf.ConfigProto(device_count={"CPU": 2})
    with tf.Session(config=config) as session:
        one, two = initialized(session).run(used)
    assert set(np.unique(one)) == set(np.unique(two)) == {0, 2}
    assert not np.array_equal(one, two)


# Errors


def in_scope(drop, get):
    with tf.variable_scope("net", custom_getter=drop):
        return get()


def partitioned_rows():
    parts = tf.fixed_size_partitioner(2)
    table = tf.get_variable("kernel", [4, 2], partitioner=parts)
    return tf.nn.embedding_lookup(table, [1])


def unknown_shape():
    return tf.get_variable(
        "kernel", initializer=tf.placeholder(tf.float32), validate_shape=False
    )


BAD = [
    (
        lambda: WeightDropGetter(1.5),
        ValueError,
        "`weight_drop_kr` must be in (0, 1], got 1.5.",
    ),
    (
        lambda: WeightDropGetter(0.5, auto_update=True),
        ValueError,
        "`auto_update` must go with `use_vd=True`, got `use_vd=False`: set "
        "both, or leave `auto_update` out.",
    ),
    (
        lambda: WeightDropGetter(0.5, names=3),
        TypeError,
        "`names` must be a regular expression or a function from a name to a "
        "bool, got 3.",
    ),
    (
        lambda: WeightDropGetter(0.5, names="("),
        TypeError,
        "`names` must be a regular expression or a function from a name to a "
        "bool, got '('.",
    ),
    (
        lambda: WeightDropGetter(0.5, use_vd=True).get_vd_update_op(),
        ValueError,
        "`get_vd_update_op()` needs a mask, and no trainable variable that "
        "`names` chooses was gotten yet: build layers in "
        "`tf.variable_scope(..., custom_getter=...)` first (tf.keras.layers do "
        "not ask getters).",
    ),
    (
        lambda: in_scope(WeightDropGetter(0.5, use_vd=True), partitioned_rows),
        ValueError,
        "The partitioned variable 'net/kernel' must be read whole while its "
        "weights are dropped, not part by part: look up embeddings with "
        "`awd_lstm_tf.embedding_dropout`, and give a regularizer to the scope, "
        "not to the layer.",
    ),
    (
        lambda: in_scope(WeightDropGetter(0.5, use_vd=True), unknown_shape),
        ValueError,
        "`names` must choose variables of known shape, got 'net/kernel' of "
        "shape <unknown>: leave it out.",
    ),
]


@pytest.mark.parametrize("call, error, message", BAD)
def test_bad_use(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message


def test_an_outer_getter_must_leave_variables():
    def noisy(getter, *args, **kwargs):
        return getter(*args, **kwargs) + 1

    drop = WeightDropGetter(0.5, use_vd=True)
    with tf.variable_scope("outer", custom_getter=noisy):
        with pytest.raises(TypeError, match="must leave 'outer/net/kernel' a"):
            in_scope(drop, lambda: tf.get_variable("kernel", [3]))


def test_a_variable_is_not_iterable():
    w = in_scope(
        WeightDropGetter(0.5, use_vd=True),
        lambda: tf.get_variable("kernel", [3]),
    )
    with pytest.raises(TypeError, match="not iterable"):
        iter(w)


def test_is_public():
    assert awd_lstm_tf.WeightDropGetter is WeightDropGetter
