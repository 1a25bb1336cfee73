"""Any arguments, wiring and loop: the results are those of stock LSTMCell.

Each example builds one small graph of ours, and in the same graph the stock
LSTMCell in the same loop, all of whose variables are placeholders. They are fed
what was fetched from ours, the kernel multiplied by the fetched mask in numpy.
"""

import hypothesis
import numpy as np
import oracles
import pytest
import versions
from hypothesis import strategies as st
from versions import nest, tf

from awd_lstm_tf import WeightDropLSTMBlockFusedCell, WeightDropLSTMCell

RUNS = 2
LIMIT = {"float16": 2e-2, "float32": 1e-5, "float64": 1e-12}


# ---------------------------------------------------------------------------
# Loops: of cells, inputs `[batch, time, depth]` and lengths (or None)


def zero_state(cell, inputs):
    return cell.zero_state(inputs.shape.as_list()[0], inputs.dtype)


def single(cells, inputs, lengths):
    return cells[0](inputs[:, 0], zero_state(cells[0], inputs))


def dynamic_rnn(cells, inputs, lengths):
    return tf.nn.dynamic_rnn(cells[0], inputs, lengths, dtype=inputs.dtype)


def static_rnn(cells, inputs, lengths):
    steps = tf.unstack(inputs, axis=1)
    return tf.nn.static_rnn(
        cells[0], steps, dtype=inputs.dtype, sequence_length=lengths
    )


def bidirectional(cells, inputs, lengths):
    return tf.nn.bidirectional_dynamic_rnn(
        cells[0], cells[1], inputs, lengths, dtype=inputs.dtype
    )


def raw_rnn(cells, inputs, lengths):
    time = inputs.shape.as_list()[1]
    by_time = tf.transpose(inputs, [1, 0, 2])
    steps = tf.TensorArray(inputs.dtype, time, clear_after_read=False)
    steps = steps.unstack(by_time)

    def loop(now, output, state, _):
        if output is None:
            state = zero_state(cells[0], inputs)
        ended = tf.fill([inputs.shape.as_list()[0]], now >= time)
        return ended, steps.read(tf.minimum(now, time - 1)), state, output, None

    outputs, state, _ = tf.nn.raw_rnn(cells[0], loop)
    return outputs.stack(), state


def while_loop(cells, inputs, lengths, start=None):
    start = zero_state(cells[0], inputs) if start is None else start

    def step(now, state):
        return now + 1, cells[0](inputs[:, now], state)[1]

    time = inputs.shape.as_list()[1]
    return tf.while_loop(lambda now, _: now < time, step, (0, start))[1]


def nested(cells, inputs, lengths):
    def step(now, state):
        return now + 1, while_loop(cells, inputs, lengths, state)

    start = zero_state(cells[0], inputs)
    return tf.while_loop(lambda now, _: now < 2, step, (0, start))[1]


def cond(cells, inputs, lengths):
    return tf.cond(
        tf.reduce_sum(inputs) > 0,
        lambda: nest.flatten(single(cells, inputs, lengths)),
        lambda: nest.flatten(single(cells, -inputs, lengths)),
    )


LOOPS = [
    dynamic_rnn,
    static_rnn,
    bidirectional,
    raw_rnn,
    while_loop,
    nested,
    cond,
    single,
]
WIRINGS = ["never", "before", "together", "rnn", "minimize", "UPDATE_OPS"]


# ---------------------------------------------------------------------------
# Examples


def number(low, high):
    return st.floats(low, high, width=32)


@st.composite
def sizes(draw):
    """Shapes, the type, and random numbers for what is fed."""
    batch, time = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    return dict(
        batch=batch,
        time=time,
        depth=draw(st.integers(1, 4)),
        units=draw(st.integers(1, 5)),
        lengths=draw(
            st.none()
            | st.lists(st.integers(0, time), min_size=batch, max_size=batch)
        ),
        dtype=draw(st.sampled_from(sorted(LIMIT))),
        use_resource=draw(st.booleans()),
        seed=draw(st.integers(0, 2**16)),
    )


@st.composite
def drops(draw):
    """How weights are dropped; rates and `is_train` may be tensors."""
    return dict(
        rate=draw(st.sampled_from([1.0, 0.5, 0.25]) | number(0.125, 1)),
        rate_is_tensor=draw(st.booleans()),
        is_train=draw(st.sampled_from([True, True, False])),
        is_train_is_tensor=draw(st.booleans()),
        mode=draw(st.sampled_from(["use_vd", "use_vd", "auto_update"])),
        recurrent_only=draw(st.booleans()),
        wiring=draw(st.sampled_from(WIRINGS)),
    )


@st.composite
def cell_examples(draw):
    num_proj = draw(st.none() | st.integers(1, 4))
    arguments = dict(
        use_peepholes=draw(st.booleans()),
        cell_clip=draw(st.none() | number(0.125, 2)),
        num_proj=num_proj,
        proj_clip=draw(st.none() | number(0.125, 2)) if num_proj else None,
        forget_bias=draw(number(-1, 2)),
        state_is_tuple=draw(st.booleans()),
        activation=draw(st.sampled_from([None, tf.sigmoid])),
    )
    example = dict(draw(sizes()), loop=draw(st.sampled_from(LOOPS)))
    if example["loop"] is cond and example["dtype"] != "float32":
        # TensorFlow 1.13 fails, with stock cells, too: where a branch is not
        # taken the gradient of a resource variable is zeros of float32.
        example["use_resource"] = False
    dropping = draw(drops())
    if example["loop"] is nested:
        dropping["mode"] = "use_vd"  # what auto_update draws is in a loop
    if draw(st.booleans()) and example["loop"] is single:
        dropping["mode"] = "standard"  # one step: its mask can be fetched
    return dict(
        example,
        arguments=arguments,
        input_bias=draw(st.sampled_from([0.0, 0.5])),
        drop=dropping,
    )


@st.composite
def layer_examples(draw):
    example = draw(sizes())
    return dict(
        example,
        peepholes=draw(st.booleans()),
        # Where c is clipped is where rounding differs; float16 rounds a lot.
        cell_clip=draw(st.none() | number(0.125, 2))
        if example["dtype"] != "float16"
        else None,
        forget_bias=draw(number(-1, 2)),
        initial_state=draw(st.booleans()),
        known=draw(st.booleans()),
        drop=draw(drops()),
    )


# ---------------------------------------------------------------------------
# Ours


def maybe_tensor(value, is_tensor, dtype):
    return tf.constant(value, dtype) if is_tensor else value


def drop_arguments(drop, depth):
    """Arguments of a cell or a layer, in the current graph."""
    needs_size = drop["wiring"] == "rnn"
    return dict(
        weight_drop_kr=maybe_tensor(
            drop["rate"], drop["rate_is_tensor"], tf.float32
        ),
        is_train=maybe_tensor(
            drop["is_train"], drop["is_train_is_tensor"], tf.bool
        ),
        use_vd=drop["mode"] != "standard",
        auto_update=drop["mode"] == "auto_update",
        recurrent_only=drop["recurrent_only"],
        input_size=depth if needs_size else None,
        updates_collections=tf.GraphKeys.UPDATE_OPS
        if drop["wiring"] == "UPDATE_OPS"
        else None,
    )


class Ours(object):
    """Owners of masks in a loop, trained (at a rate of 0) and wired.

    `waits`: the gradient is built under the control dependency on the update,
    too. TensorFlow cannot do that for a loop in a loop, nor with stock cells.
    """

    def __init__(self, owners, wiring, call, sources=(), waits=True):
        early = self._updates(owners) if wiring == "rnn" else []
        with tf.control_dependencies(early):
            results = call(owners)
        loss = oracles.loss_of(results)
        variables = tf.trainable_variables()
        updates = self._updates(owners)
        around = updates if wiring == "minimize" else []
        if wiring == "UPDATE_OPS":
            around = tf.get_collection(tf.GraphKeys.UPDATE_OPS)
            assert around == updates
        optimizer = tf.train.GradientDescentOptimizer(0.0)
        with tf.control_dependencies(around if waits else []):
            gradients = tf.gradients(loss, variables + list(sources))
        with tf.control_dependencies(around):
            pairs = zip(gradients, variables)
            train = optimizer.apply_gradients(
                [p for p in pairs if p[0] is not None]
            )
        self.before = updates if wiring == "before" else []
        self.fetches = dict(
            masks=[owner.mask for owner in owners if owner.mask is not None],
            variables=variables,
            results=nest.flatten(results),
            gradients=[g for g in gradients if g is not None],
            train=[train] + (updates if wiring == "together" else []),
        )

    @staticmethod
    def _updates(owners):
        return sum([owner.get_vd_update_op() for owner in owners], [])

    def run(self, session):
        session.run(self.before)
        return session.run(self.fetches)


def initialize(session, example):
    """All variables, also biases, get random values."""
    random = np.random.RandomState(example["seed"])
    feed = {
        v.initial_value: random.uniform(-1, 1, v.shape.as_list())
        for v in tf.global_variables()
    }
    session.run(tf.global_variables_initializer(), feed)


# ---------------------------------------------------------------------------
# Stock


class Stock(object):
    """What `call` makes in this scope, on variables that are fed."""

    def __init__(self, call, sources=()):
        self._fed = {}
        with tf.variable_scope("net", custom_getter=self._getter):
            results = call()
        names = [v.op.name for v in tf.trainable_variables()]
        assert set(self._fed) == set(names)
        self._fed = [self._fed[name] for name in names]
        gradients = tf.gradients(
            oracles.loss_of(results), self._fed + list(sources)
        )
        self._fetches = [
            nest.flatten(results),
            [g for g in gradients if g is not None],
        ]

    def _getter(self, getter, name, *args, **kwargs):
        with tf.init_scope():  # out of the loop
            self._fed[name] = tf.placeholder(kwargs["dtype"], kwargs["shape"])
        return self._fed[name]

    def run(self, session, values):
        return session.run(self._fetches, dict(zip(self._fed, values)))


def by_variable(masks):
    """What each variable is multiplied with: its mask, or 1."""
    names = [v.op.name for v in tf.trainable_variables()]
    kernels = [
        name
        for name in names
        if name.endswith("kernel") and "projection" not in name
    ]
    assert len(masks) in (0, len(kernels))
    masks = dict(zip(kernels, masks))
    return [masks.get(name, 1) for name in names]


def check_masks(got, example):
    """Legal entries, of the rows that may be dropped."""
    drop, depth = example["drop"], example["depth"]
    off = drop["rate"] == 1 or not drop["is_train"]
    untouched = drop["mode"] == "use_vd" and drop["wiring"] == "never"
    # Inverted in the type of the rate: a tensor's is float32.
    rate = np.float32 if drop["rate_is_tensor"] else np.float64
    scale = (rate(1) / rate(drop["rate"])).astype(example["dtype"])
    for mask in got["masks"]:
        assert mask.dtype == example["dtype"]
        if off or untouched:
            assert np.all(mask == 1)
        dropped = mask[depth if drop["recurrent_only"] else 0 :]
        assert np.all(np.isin(dropped, [0, scale, 1]))
        assert len(set(np.unique(dropped)) - {0}) <= 1  # 1 or the scale
        if drop["recurrent_only"]:
            assert np.all(mask[:depth] == 1)


def check(example, ours, stock, offsets, limit):
    """Runs both, stock on masked weights; compares results and gradients."""
    config = oracles.as_built(
        intra_op_parallelism_threads=1, inter_op_parallelism_threads=1
    )
    with tf.Session(config=config) as session:
        initialize(session, example)
        for _ in range(RUNS):
            got = ours.run(session)
            check_masks(got, example)
            factors = by_variable(got["masks"])
            weights = zip(got["variables"], factors, offsets)
            results, gradients = stock.run(
                session,
                [value * factor + offset for value, factor, offset in weights],
            )
            factors += [1] * (len(gradients) - len(factors))
            masked = [g * factor for g, factor in zip(gradients, factors)]
            mine = got["results"] + got["gradients"]
            theirs = results + masked
            assert [x.dtype for x in mine] == [x.dtype for x in theirs]
            assert oracles.same(mine, theirs, limit)


# ---------------------------------------------------------------------------
# The properties


def inputs_of(example, time_major=False, known=True):
    shape = [example["batch"], example["time"], example["depth"]]
    if time_major:
        shape[:2] = reversed(shape[:2])
    random = np.random.RandomState(example["seed"] + 1)
    value = random.uniform(-1, 1, shape).astype(example["dtype"])
    shape = shape if known else [None, None, example["depth"]]
    return tf.placeholder_with_default(value, shape)


def state_of(example):
    """Random c and h to begin with, if the example has them."""
    if not example["initial_state"]:
        return None
    random = np.random.RandomState(example["seed"] + 2)
    values = random.uniform(-1, 1, [2, example["batch"], example["units"]])
    return tf.nn.rnn_cell.LSTMStateTuple(
        *[tf.constant(value, example["dtype"]) for value in values]
    )


def bias_offsets(example):
    """What is to be added to each variable: `input_bias` to the biases."""
    offset = np.repeat([example["input_bias"], 0, 0, 0], example["units"])
    offset = offset.astype(example["dtype"])
    return [
        offset if v.op.name.endswith("bias") else offset[:1] * 0
        for v in tf.trainable_variables()
    ]


def check_cell(example):
    """The cell is LSTMCell on a masked kernel, in any loop."""
    inputs, loop = inputs_of(example), example["loop"]
    lengths, units = example["lengths"], example["units"]
    common = example["arguments"]
    own = dict(
        drop_arguments(example["drop"], example["depth"]),
        input_bias=example["input_bias"],
        dtype=example["dtype"],
    )
    count = 2 if loop is bidirectional else 1
    with tf.variable_scope("net", use_resource=example["use_resource"]):
        ours = Ours(
            [WeightDropLSTMCell(units, **common, **own) for _ in range(count)],
            example["drop"]["wiring"],
            lambda cells: loop(cells, inputs, lengths),
            [inputs],
            waits=loop is not nested,
        )
    cells = [tf.nn.rnn_cell.LSTMCell(units, **common) for _ in range(count)]
    stock = Stock(lambda: loop(cells, inputs, lengths), [inputs])
    # Products with a mask round, and so do sums with an input_bias.
    rounds = ours.fetches["masks"] or example["input_bias"]
    exact = versions.GRADIENTS_REPEAT and not rounds
    limit = 0 if exact else LIMIT[example["dtype"]]
    check(example, ours, stock, bias_offsets(example), limit)


def check_layer(example):
    """The fused layer is LSTMCell in dynamic_rnn on a masked kernel."""
    inputs = inputs_of(example, True, example["known"])
    units, lengths = example["units"], example["lengths"]
    state = state_of(example)
    sources = [inputs] + list(state or [])
    common = {name: example[name] for name in ("forget_bias", "cell_clip")}
    layer = WeightDropLSTMBlockFusedCell(
        units,
        use_peephole=example["peepholes"],
        dtype=example["dtype"],
        name="lstm_cell",
        **common,
        **drop_arguments(example["drop"], example["depth"]),
    )
    with tf.variable_scope("net/rnn", use_resource=example["use_resource"]):
        ours = Ours(
            [layer],
            example["drop"]["wiring"],
            lambda layers: layers[0](inputs, state, None, lengths),
            sources,
        )
    cell = tf.nn.rnn_cell.LSTMCell(units, example["peepholes"], **common)
    stock = Stock(
        lambda: tf.nn.dynamic_rnn(
            cell, inputs, lengths, state, inputs.dtype, time_major=True
        ),
        sources,
    )
    nothing = [0] * len(tf.trainable_variables())
    check(example, ours, stock, nothing, LIMIT[example["dtype"]])


def on_a_graph(check_example, example):
    with tf.Graph().as_default():
        check_example(example)


@hypothesis.settings(max_examples=7)
@hypothesis.given(cell_examples())
def test_cell(example):
    on_a_graph(check_cell, example)


@hypothesis.settings(max_examples=5)
@hypothesis.given(layer_examples())
def test_fused_layer(example):
    on_a_graph(check_layer, example)


@pytest.mark.slow
@hypothesis.settings(max_examples=400)
@hypothesis.given(cell_examples())
def test_cell_at_length(example):
    on_a_graph(check_cell, example)


@pytest.mark.slow
@hypothesis.settings(max_examples=150)
@hypothesis.given(layer_examples())
def test_fused_layer_at_length(example):
    on_a_graph(check_layer, example)
