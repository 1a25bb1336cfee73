"""The quantized cell: its step, its ranges, and beside tf.contrib.quantize."""

import itertools

import grids
import numpy as np
import pytest
import versions
from versions import tf

from awd_lstm_tf import WeightDropLSTMCell, _quantization, quantization

BATCH, TIME, DEPTH, UNITS = 16, 5, 6, 16

LOOPS = ["dynamic_rnn", "static_rnn", "bidirectional", "single_step"]
DROPS = {
    "no_drop": dict(),
    "standard": dict(weight_drop_kr=0.8),
    "use_vd": dict(weight_drop_kr=0.8, use_vd=True),
    "auto_update": dict(weight_drop_kr=0.8, use_vd=True, auto_update=True),
}
FORMS = {
    "plain": dict(),
    "peepholes": dict(use_peepholes=True),
    "num_proj": dict(num_proj=7),
    "two_layers": dict(),
}


def data(seed=0):
    """Inputs in [-1, 1), and targets that depend on all, and on the first."""
    random = np.random.RandomState(seed)
    x = random.uniform(-1, 0.99, [BATCH, TIME, DEPTH]).astype(np.float32)
    y = np.stack([np.sin(x.sum(axis=(1, 2))), x[:, 0, 0] * x[:, 0, 1]], 1)
    return x, y.astype(np.float32)


class Model(object):
    """The snippet of the README: cells in a loop, two dense layers, a loss."""

    def __init__(self, loop="dynamic_rnn", layers=1, **arguments):
        self.arguments = dict(dict(is_quant=True, seed=3), **arguments)
        self.layers = layers
        self.cells = []
        self.x = tf.placeholder(tf.float32, [BATCH, TIME, DEPTH], name="x")
        self.y = tf.placeholder(tf.float32, [BATCH, 2], name="y")
        self.step = tf.train.get_or_create_global_step()
        self.hidden = getattr(self, loop)()
        initializers = [tf.glorot_uniform_initializer(seed) for seed in (8, 9)]
        hidden = tf.layers.dense(
            self.hidden,
            16,
            tf.nn.relu,
            name="fc1",
            kernel_initializer=initializers[0],
        )
        hidden = tf.layers.dense(
            hidden, 2, name="fc2", kernel_initializer=initializers[1]
        )
        self.loss = tf.reduce_mean(tf.square(hidden - self.y))

    def cell(self):
        cells = []
        for _ in range(self.layers):
            initializer = tf.glorot_uniform_initializer(len(self.cells))
            cell = WeightDropLSTMCell(
                UNITS, initializer=initializer, **self.arguments
            )
            self.cells.append(cell)
            cells.append(cell)
        if self.layers == 1:
            return cells[0]
        return tf.nn.rnn_cell.MultiRNNCell(cells)

    def dynamic_rnn(self):
        outputs, _ = tf.nn.dynamic_rnn(self.cell(), self.x, dtype=tf.float32)
        return outputs[:, -1]

    def static_rnn(self):
        steps = tf.unstack(self.x, axis=1)
        outputs, _ = tf.nn.static_rnn(self.cell(), steps, dtype=tf.float32)
        return outputs[-1]

    def bidirectional(self):
        outputs, _ = tf.nn.bidirectional_dynamic_rnn(
            self.cell(), self.cell(), self.x, dtype=tf.float32
        )
        return tf.concat(outputs, 2)[:, -1]

    def single_step(self):
        cell = self.cell()
        state = cell.zero_state(BATCH, tf.float32)
        return cell(self.x[:, 0], state)[0]

    def train_op(self, rate=0.02):
        updates = [op for cell in self.cells for op in cell.get_vd_update_op()]
        optimizer = tf.train.AdamOptimizer(rate)
        minimize = optimizer.minimize(self.loss, global_step=self.step)
        return tf.group(minimize, *updates)

    def feed(self):
        return dict(zip((self.x, self.y), data()))


def fake_quants(graph=None):
    operations = (graph or tf.get_default_graph()).get_operations()
    return [
        op
        for op in operations
        if op.type.startswith("FakeQuantWithMinMax")
        and not op.type.endswith("Gradient")
    ]


def range_variables():
    return [
        variable
        for variable in tf.global_variables()
        if "kernel_quant/" in variable.name
    ]


# ---------------------------------------------------------------------------
# Training, beside tf.contrib.quantize


def trains(open_session, loop, drop, form, steps=80):
    model = Model(
        loop,
        layers=2 if form == "two_layers" else 1,
        **DROPS[drop],
        **FORMS[form],
    )
    before = fake_quants()
    if versions.VERSION < (2,):
        tf.contrib.quantize.create_training_graph(
            tf.get_default_graph(), quant_delay=0
        )
        # Two dense layers: weights and outputs of each.
        assert len(fake_quants()) == len(before) + 4
    train_op = model.train_op()
    session = open_session()
    session.run(tf.global_variables_initializer())
    weights = [cell.trainable_weights[0] for cell in model.cells]
    values = session.run(weights)
    losses, ranges = [], []
    for _ in range(steps):
        loss, _ = session.run([model.loss, train_op], model.feed())
        losses.append(loss)
        ranges.append(session.run(range_variables()))
    assert np.mean(losses[-5:]) < 0.7 * losses[0]
    for value, weight in zip(values, session.run(weights)):
        assert np.abs(weight - value).max() > 0.01
    assert ranges[0], "no range variables"
    for first, last in zip(ranges[0], ranges[-1]):
        assert 0 != first != last != 0


@pytest.mark.parametrize(
    "loop, drop, form",
    [
        ("dynamic_rnn", "standard", "plain"),
        pytest.param(
            *("static_rnn", "use_vd", "peepholes"), marks=pytest.mark.slow
        ),
        ("bidirectional", "auto_update", "num_proj"),
        ("single_step", "no_drop", "two_layers"),
        pytest.param(
            *("dynamic_rnn", "use_vd", "two_layers"), marks=pytest.mark.slow
        ),
    ],
)
def test_snippet_trains(open_session, loop, drop, form):
    trains(open_session, loop, drop, form)


@pytest.mark.slow
@pytest.mark.parametrize(
    "loop, drop, form", list(itertools.product(LOOPS, DROPS, FORMS))
)
def test_snippet_trains_in_all_ways(open_session, loop, drop, form):
    trains(open_session, loop, drop, form, steps=200)


@pytest.mark.parametrize("form", ["plain", "peepholes", "num_proj"])
def test_gradients_of_dynamic_and_static_rnn_agree(open_session, form):
    found = []
    for loop in ("dynamic_rnn", "static_rnn"):
        tf.reset_default_graph()
        tf.set_random_seed(5)
        model = Model(loop, **FORMS[form])
        gradients = tf.gradients(model.loss, tf.trainable_variables())
        session = open_session()
        session.run(tf.global_variables_initializer())
        found.append(session.run(gradients, model.feed()))
    for dynamic, static in zip(*found):
        np.testing.assert_allclose(dynamic, static, rtol=1e-5, atol=1e-7)
        assert np.any(dynamic)


CELLS = [
    dict(),
    dict(DROPS["standard"], use_peepholes=True),
    dict(DROPS["use_vd"], num_proj=7, cell_clip=1.0, proj_clip=0.5),
    dict(DROPS["use_vd"], quant_delay=5),
    dict(DROPS["standard"], is_quant=False),
    dict(DROPS["use_vd"], is_quant=False, use_peepholes=True),
    dict(DROPS["auto_update"], is_quant=False, num_proj=7),
]


def leaves_the_cell_alone(rewriter, loop, arguments):
    Model(loop, **arguments)
    graph = tf.get_default_graph()
    before = {op: list(op.inputs) for op in graph.get_operations()}
    count = len(fake_quants())
    getattr(tf.contrib.quantize, rewriter)(graph)
    changed = {
        op.name.split("/")[0] for op in before if list(op.inputs) != before[op]
    }
    # fc2, and the loss after it, get what fake quant has made of their inputs.
    assert changed <= {"fc1", "fc2", "sub"}
    assert len(fake_quants()) == count + 4


@pytest.mark.parametrize("loop, cell", grids.singles(LOOPS, range(len(CELLS))))
def test_rewriter_leaves_the_cell_alone(loop, cell):
    leaves_the_cell_alone("create_training_graph", loop, CELLS[cell])


@pytest.mark.smoke
@pytest.mark.parametrize("arguments", [CELLS[0], CELLS[-1]], ids=str)
@pytest.mark.parametrize(
    "rewriter",
    [
        "create_eval_graph",
        "experimental_create_training_graph",
        "experimental_create_eval_graph",
    ],
)
def test_other_rewriters_leave_the_cell_alone(rewriter, arguments):
    leaves_the_cell_alone(rewriter, "single_step", arguments)


def test_minimize_before_the_rewriter_is_refused():
    # By TensorFlow itself: README says which comes first.
    model = Model()
    model.train_op()
    with pytest.raises(ValueError, match="Training op found in graph"):
        tf.contrib.quantize.create_training_graph()


# ---------------------------------------------------------------------------
# The step, against numpy written from the table of ranges


def on_grid(values, limit, bits):
    step = 2.0 * limit / 2**bits
    return np.clip(np.floor(values / step + 0.5) * step, -limit, limit - step)


def symmetric(kernel, bound):
    return np.floor(kernel / (bound / 127) + 0.5) * (bound / 127)


def sigmoid(values):
    return 1 / (1 + np.exp(-values))


def numpy_step(weights, x, c, h, cell_clip=None, proj_clip=None):
    """One quantized step in float64, and how far it may be from float32."""
    kernel = weights["kernel"]
    kernel = symmetric(kernel, np.abs(kernel).max())
    x, h, c = on_grid(x, 1, 8), on_grid(h, 1, 8), on_grid(c, 16, 16)
    gates = np.concatenate([x, h], 1) @ kernel + weights["bias"]
    i, j, f, o = np.split(on_grid(gates, 8, 16), 4, 1)
    peep = {
        gate: weights.get(f"w_{gate}_diag", np.zeros(c.shape[1]))
        for gate in "ifo"
    }
    i = on_grid(i + on_grid(peep["i"] * c, 8, 16), 8, 16)
    f = on_grid(f + on_grid(peep["f"] * c, 8, 16), 8, 16)
    forget, let_in = (on_grid(sigmoid(gate), 1, 16) for gate in (f, i))
    kept = on_grid(forget * c, 16, 16)
    new = on_grid(let_in * on_grid(np.tanh(j), 1, 16), 1, 16)
    c = on_grid(kept + new, 16, 16)
    if cell_clip:
        c = np.clip(c, -cell_clip, cell_clip)
    o = on_grid(o + on_grid(peep["o"] * c, 8, 16), 8, 16)
    open_gate = on_grid(sigmoid(o), 1, 16)
    h = on_grid(open_gate * on_grid(np.tanh(c), 1, 16), 1, 8)
    if "projection/kernel" in weights:
        kernel = weights["projection/kernel"]
        h = on_grid(h @ symmetric(kernel, np.abs(kernel).max()), 1, 8)
        if proj_clip:
            h = np.clip(h, -proj_clip, proj_clip)
    return c, h


@pytest.mark.smoke
@pytest.mark.parametrize(
    "form",
    [
        dict(),
        dict(use_peepholes=True),
        dict(num_proj=5),
        dict(cell_clip=0.5, num_proj=5, proj_clip=0.25),
        dict(forget_bias=-1.0, input_bias=0.5),
        dict(state_is_tuple=False),
    ],
    ids=str,
)
def test_step_is_numpys(open_session, form):
    batch, units = 50, 8
    cell = WeightDropLSTMCell(units, is_quant=True, **form)
    random = np.random.RandomState(1)
    x = random.uniform(-1.2, 1.2, [batch, 3])  # some out of range
    c = random.normal(0, 3, [batch, units])
    h = random.uniform(-1, 1, [batch, cell.output_size])
    state = tuple(tf.constant(value, tf.float32) for value in (c, h))
    if not cell._state_is_tuple:
        state = tf.concat(state, 1)
    output, new_state = cell(tf.constant(x, tf.float32), state)
    if not cell._state_is_tuple:
        new_state = tf.split(new_state, [units, units], 1)
    session = open_session()
    session.run(tf.global_variables_initializer())
    weights = {}
    for weight in cell.trainable_weights:
        value = random.normal(0, 0.5, weight.shape.as_list())
        weight.load(value, session)
        name = weight.op.name.split("lstm_cell/")[-1]
        weights[name] = np.float64(np.float32(value))
    weights["bias"][:units] += form.get("input_bias", 0)
    weights["bias"][2 * units : 3 * units] += form.get("forget_bias", 1)
    clips = {key: form[key] for key in form if key.endswith("_clip")}
    expected = numpy_step(weights, x, c, h, **clips)
    found_output, found_c, found_h = session.run([output, *new_state])
    np.testing.assert_array_equal(found_output, found_h)
    # Where float32 and float64 round to different neighbours, the difference
    # is one step, or of few: a peephole's product has steps of 2**-10.
    off = np.abs(found_c - expected[0]) * 2**11
    assert off.max() <= (16 if "use_peepholes" in form else 2)
    off = np.abs(found_h - expected[1]) * 2**7
    assert off.max() <= 1
    assert np.mean(off == 0) > 0.97


# ---------------------------------------------------------------------------
# quant_delay


@pytest.mark.parametrize(
    "loop, drop, form",
    [
        ("static_rnn", "use_vd", "num_proj"),
        pytest.param(
            *("dynamic_rnn", "no_drop", "peepholes"), marks=pytest.mark.slow
        ),
        pytest.param(
            *("bidirectional", "no_drop", "plain"), marks=pytest.mark.slow
        ),
        pytest.param(
            *("single_step", "use_vd", "peepholes"), marks=pytest.mark.slow
        ),
    ],
)
def test_quantizes_from_the_delay_on(open_session, loop, drop, form):
    arguments = dict(DROPS[drop], **FORMS[form])
    found = {}
    for name, extra in [
        ("delayed", dict(quant_delay=2)),
        ("float", dict(is_quant=False)),
        ("quantized", dict()),
    ]:
        tf.reset_default_graph()
        model = Model(loop, **arguments, **extra)
        gradients = tf.gradients(model.loss, tf.trainable_variables())
        advance = tf.assign_add(model.step, 1)
        session = open_session()
        tf.set_random_seed(1)
        session.run(tf.global_variables_initializer())
        random = np.random.RandomState(0)
        for variable in tf.trainable_variables():
            variable.load(random.normal(0, 0.4, variable.shape), session)
        found[name] = []
        for _ in range(4):
            fetches = [model.hidden, gradients]
            output, gradient = session.run(fetches, model.feed())
            found[name].append([output, *gradient])
            session.run(advance)
    for step in range(4):
        output, *gradients = found["delayed"][step]
        expected = found["float" if step < 2 else "quantized"][step]
        # In a function, a cond may keep TensorFlow from fusing two ops to one.
        last_bit = 1e-6 if versions.FLOW == "v2" else 0
        np.testing.assert_allclose(output, expected[0], rtol=0, atol=last_bit)
        for have, need in zip(gradients, expected[1:]):
            np.testing.assert_allclose(have, need, rtol=1e-4, atol=1e-7)
    assert not np.array_equal(found["float"][0][0], found["quantized"][0][0])


def test_ranges_are_learned_before_the_delay_is_over(open_session):
    model = Model(quant_delay=100)
    session = open_session()
    session.run(tf.global_variables_initializer())
    session.run(model.loss, model.feed())
    kernel = session.run(model.cells[0].trainable_weights[0])
    largest = np.abs(kernel).max()
    assert session.run(range_variables()) == [-largest, largest]


# ---------------------------------------------------------------------------
# The kernel's range


@pytest.mark.smoke
def test_range_variables():
    cell = WeightDropLSTMCell(4, num_proj=3, is_quant=True)
    cell.build(tf.TensorShape([None, 2]))
    names = [weight.op.name for weight in cell.non_trainable_weights]
    assert names == [
        "lstm_cell/kernel_quant/min",
        "lstm_cell/kernel_quant/max",
        "lstm_cell/projection/kernel_quant/min",
        "lstm_cell/projection/kernel_quant/max",
    ]
    saved = {variable.op.name for variable in tf.global_variables()}
    assert set(names) <= saved
    trained = {variable.op.name for variable in tf.trainable_variables()}
    assert not set(names) & trained


def test_ranges_pass_by_checkpoint_and_are_frozen(open_session, tmp_path):
    model = Model()
    train_op = model.train_op()
    session = open_session()
    session.run(tf.global_variables_initializer())
    for _ in range(3):
        session.run(train_op, model.feed())
    path = tf.train.Saver().save(session, str(tmp_path / "model"))
    ranges = session.run(range_variables())

    tf.reset_default_graph()
    model = Model(is_train=False)
    session = open_session()
    tf.train.Saver().restore(session, path)
    assert session.run(range_variables()) == ranges
    kernel = model.cells[0].trainable_weights[0]
    kernel.load(session.run(kernel) * 3, session)
    session.run(model.loss, model.feed())
    assert session.run(range_variables()) == ranges
    # And they are what is used: weights beyond them clip.
    rounded = next(
        op for op in fake_quants() if op.type == "FakeQuantWithMinMaxVars"
    )
    largest = np.abs(session.run(rounded.outputs[0])).max()
    np.testing.assert_allclose(largest, ranges[1], rtol=1e-5)


@pytest.mark.parametrize("loop, drop", list(zip(LOOPS, DROPS)))
def test_is_train_tensor_learns_or_freezes(open_session, loop, drop):
    is_train = tf.placeholder_with_default(False, [])
    model = Model(loop, is_train=is_train, **DROPS[drop])
    session = open_session()
    session.run(tf.global_variables_initializer())
    session.run(model.hidden, model.feed())
    assert not np.any(session.run(range_variables()))
    session.run(model.hidden, {**model.feed(), is_train: True})
    ranges = session.run(range_variables())
    assert np.all(ranges)
    evaluated = session.run(model.hidden, model.feed())
    assert session.run(range_variables()) == ranges

    # Evaluation drops nothing and uses the range: as a graph for it does.
    values = session.run(tf.trainable_variables())
    tf.reset_default_graph()
    model = Model(loop, is_train=False, **DROPS[drop])
    session = open_session()
    session.run(tf.global_variables_initializer())
    for variable, value in zip(tf.trainable_variables(), values):
        variable.load(value, session)
    for variable, value in zip(range_variables(), ranges):
        variable.load(value, session)
    expected = session.run(model.hidden, model.feed())
    np.testing.assert_array_equal(evaluated, expected)


SCOPES = {
    "resource": dict(use_resource=True),
    "partitioned": dict(partitioner=tf.fixed_size_partitioner(2)),
}


@pytest.mark.parametrize(
    "loop, kind", grids.singles(["dynamic_rnn", "static_rnn"], list(SCOPES))
)
def test_all_kinds_of_variables(open_session, loop, kind):
    scope, found = SCOPES[kind], []
    for arguments in (dict(), scope):
        tf.reset_default_graph()
        with tf.variable_scope("model", **arguments):
            model = Model(loop, num_proj=7, use_peepholes=True)
        session = open_session()
        session.run(tf.global_variables_initializer())
        sizes = np.concatenate(
            [np.ravel(session.run(v)) for v in tf.trainable_variables()]
        )
        values = np.random.RandomState(0).normal(0, 0.4, sizes.size)
        # Slice after slice, in order: the same weights however cut.
        for variable in tf.trainable_variables():
            size = int(np.prod(variable.shape.as_list()))
            value, values = np.split(values, [size])
            variable.load(value.reshape(variable.shape), session)
        found.append(session.run(model.hidden, model.feed()))
        ranges = session.run(range_variables())
        found[-1] = [found[-1], *ranges]
    for have, need in zip(*found):
        np.testing.assert_array_equal(have, need)


def test_mirrored_replicas_learn_one_range(open_session):
    strategy = versions.mirrored_strategy(["/cpu:0", "/cpu:1"])

    def replica():
        cell = WeightDropLSTMCell(4, is_quant=True)
        outputs, _ = tf.nn.dynamic_rnn(
            cell, tf.zeros([2, 3, 5]), dtype=tf.float32
        )
        return outputs

    with strategy.scope():
        outputs = versions.call_for_each_replica(strategy, replica)
    with tf.Session(config=tf.ConfigProto(device_count={"CPU": 2})) as session:
        session.run(tf.global_variables_initializer())
        session.run(outputs)
        low, high = session.run(range_variables())
        assert 0 < high == -low


def test_custom_getter_must_leave_the_range_a_variable():
    def double(getter, *args, **kwargs):
        return 2.0 * getter(*args, **kwargs)

    with tf.variable_scope("scope", custom_getter=double):
        cell = WeightDropLSTMCell(4, is_quant=True)
        with pytest.raises(TypeError, match="`custom_getter` .* 'kernel_quant"):
            cell.build(tf.TensorShape([None, 2]))


def test_largest_weight_gets_gradient(open_session):
    # Bounds that float32 gets to a little less than, in 127 steps.
    bounds = np.random.RandomState(0).uniform(0.1, 4, 10000).astype(np.float32)
    steps = (bounds + bounds) / np.float32(254)
    bounds = bounds[steps * np.float32(127) < bounds]
    assert len(bounds) > 10
    bound = tf.placeholder(tf.float32, [])
    kernel = tf.stack([bound, -bound, bound / 2])
    rounded = _quantization.quantize_kernel(kernel, bound)
    gradient = tf.gradients(rounded, kernel)[0]
    session = open_session()
    for value in bounds[:10]:
        assert np.all(session.run(gradient, {bound: value}) == 1)


def test_dropped_kernel_is_rounded_in_a_wider_range(open_session):
    cell = WeightDropLSTMCell(
        4, is_quant=True, weight_drop_kr=0.25, use_vd=True, input_size=3
    )
    inputs = tf.constant(np.random.uniform(-1, 0.9, [2, 3]), tf.float32)
    output, _ = cell(inputs, cell.zero_state(2, tf.float32))
    gradient = tf.gradients(output, cell.trainable_weights[0])[0]
    session = open_session()
    session.run(tf.global_variables_initializer())
    session.run(cell.get_vd_update_op())
    rounded = next(
        op for op in fake_quants() if op.type == "FakeQuantWithMinMaxVars"
    )
    kernel, mask, masked, low, high, gradient = session.run(
        [cell.trainable_weights[0], cell.mask, *rounded.inputs, gradient]
    )
    np.testing.assert_array_equal(masked, kernel * mask)
    assert set(np.unique(mask)) == {0, 4}
    largest = np.abs(kernel).max()
    np.testing.assert_allclose([low, high], [-4 * largest, 4 * largest], 1e-5)
    assert session.run(range_variables()) == [-largest, largest]
    assert not np.any(gradient[mask == 0])
    assert np.any(gradient[mask != 0])


# ---------------------------------------------------------------------------
# Bad input


@pytest.mark.parametrize("loop", ["dynamic_rnn", "static_rnn"])
def test_kernel_that_is_not_finite_fails_the_step(open_session, loop):
    model = Model(loop)
    session = open_session()
    session.run(tf.global_variables_initializer())
    kernel = model.cells[0].trainable_weights[0]
    value = session.run(kernel)
    value[1, 2] = np.nan
    kernel.load(value, session)
    with pytest.raises(tf.errors.InvalidArgumentError, match="must be finite"):
        session.run(model.loss, model.feed())


def test_clipped_share(open_session):
    values = [-1.5, -1.0, 0.0, 0.999, 1.0, np.nan, np.inf, 0.5]
    share = quantization.clipped_share(values)
    assert open_session().run(share) == 0.5


def test_config_holds_the_quantization():
    arguments = dict(is_quant=True, quant_delay=7, is_train=False)
    config = WeightDropLSTMCell(4, **arguments).get_config()
    again = WeightDropLSTMCell.from_config(config).get_config()
    for name, value in arguments.items():
        assert config[name] == again[name] == value
