"""The promises of masks.py, one section each."""

import itertools
import threading

import grids
import numpy as np
import oracles
import pytest
import versions
from versions import tf

from awd_lstm_tf import (
    VariationalDropout,
    WeightDropLSTMBlockFusedCell,
    WeightDropLSTMCell,
    WeightDropWrapper,
    _drawing,
    diagnostics,
    masks,
)

DTYPES = [tf.float16, tf.float32, tf.float64]


def dropping_cell(**arguments):
    arguments = dict(
        dict(weight_drop_kr=0.5, use_vd=True, input_size=oracles.DEPTH),
        **arguments,
    )
    return WeightDropLSTMCell(oracles.UNITS, **arguments)


def sample_mask(shape, keep_prob, dtype=tf.float32):
    kept = _drawing.draw(shape, keep_prob, seed=None)
    scale = _drawing.scale(keep_prob, dtype)
    return _drawing.Drawn(kept, scale, shape).dense()


def dynamic(cell):
    inputs = tf.constant(oracles.inputs_value())
    return tf.nn.dynamic_rnn(cell, inputs, dtype=tf.float32)[0]


def initialized_session():
    session = tf.Session()
    session.run(tf.global_variables_initializer())
    return session


# Promise 1: entries are 0 or 1/keep_prob; a mask never drawn is the identity


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("shape", [[3, 5], [4, 16], [1], [7, 100]])
def test_words_hold_a_bit_for_each_entry(shape, known, open_session):
    size, words = np.prod(shape), open_session().run(_drawing.all_kept(shape))
    assert np.all(words == -1) and 64 * len(words) >= size
    words = np.random.RandomState(1).randint(-(2**63), 2**63 - 1, len(words))
    bits = words[:, None] >> np.arange(64) & 1
    wanted = shape if known else tf.placeholder_with_default(shape, [None])
    entries = _drawing.ones_where(tf.constant(words), wanted, tf.float32)
    assert np.array_equal(
        open_session().run(entries), np.reshape(bits.flat[:size], shape)
    )


@pytest.mark.smoke
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("keep_prob", [0.25, 0.7])
@pytest.mark.parametrize("shape", [[], [1], [7, 5], [2, 1, 3]])
def test_entries_are_zero_or_the_inverse_keep_rate(dtype, keep_prob, shape):
    mask = sample_mask(shape, keep_prob, dtype)
    with tf.Session() as session:
        values = [session.run(mask) for _ in range(40)]
    assert values[0].shape == tuple(shape)
    assert set(np.unique(values)) == {
        dtype.as_numpy_dtype(0),
        dtype.as_numpy_dtype(1 / keep_prob),
    }


@pytest.mark.parametrize("as_tensor", [False, True])
@pytest.mark.parametrize(
    "keep_prob", [0.5, 0.3, 0.9999, 0.01, 1e-4, 0.00390625]
)
def test_rate_is_unbiased(keep_prob, as_tensor, seed):
    tf.set_random_seed(seed)
    rate = tf.constant(keep_prob, tf.float64) if as_tensor else keep_prob
    mask = sample_mask([1000, 1000], rate)
    kept = tf.reduce_mean(tf.cast(mask > 0, tf.float32))
    with tf.Session() as session:
        fractions = [session.run(kept) for _ in range(20)]
    entries = 20 * 1000 * 1000
    # Each entry is one Bernoulli draw; the rounded threshold adds at most
    # half a level in standard deviation per draw. Five sigma in all.
    sigma = np.sqrt(
        keep_prob * (1 - keep_prob) / entries + (0.5 / 2**16) ** 2 / 20
    )
    assert abs(np.mean(fractions) - keep_prob) < 5 * sigma


def test_rates_between_levels_are_reached_on_average(seed):
    tf.set_random_seed(seed)
    keep_prob = 2.25 / 2**16  # two levels in three draws of four, else three
    mask = sample_mask([2**16], keep_prob)
    with tf.Session() as session:
        mean = tf.reduce_mean(mask)
        means = [session.run(mean) for _ in range(2000)]
    # 2.25 entries are kept on average, so about 1/1.5 of sigma per draw.
    assert abs(np.mean(means) - 1) < 5 / 1.5 / np.sqrt(2000)


@pytest.mark.parametrize("as_tensor", [False, True])
@pytest.mark.parametrize("keep_prob", [1.0, 1 - 2.0**-24])
def test_rates_at_the_top_keep_everything(keep_prob, as_tensor):
    # In float32 the threshold would round past the last level now and then,
    # and drop the whole mask.
    rate = tf.constant(keep_prob) if as_tensor else keep_prob
    mask = sample_mask([1000], rate)
    with tf.Session() as session:
        dropped = sum(np.sum(session.run(mask) == 0) for _ in range(3000))
    assert dropped <= 3  # of 3,000,000; expected 0 and 0.2


@pytest.mark.parametrize("as_tensor", [False, True])
@pytest.mark.parametrize("keep_prob", [0.5, 0.7, 1 / 3.0])
def test_entries_are_independent(keep_prob, as_tensor, seed):
    # In a word, and in words that share random bits for the last digits.
    tf.set_random_seed(seed)
    rate = tf.constant(keep_prob) if as_tensor else keep_prob
    with tf.Session() as session:
        kept = session.run(sample_mask([8 * 20000, 64], rate)) > 0
    for rows in (kept.T, kept.reshape([8, -1])):
        correlation = np.corrcoef(rows.astype(np.float32)) - np.eye(len(rows))
        assert np.max(np.abs(correlation)) < 5 / np.sqrt(rows.shape[1])


@pytest.mark.parametrize("count", [1, 8, 9, 16])
def test_as_many_digits_are_drawn_as_the_rate_has(count):
    shape, rate = [64, 1000], (2.0**count - 1) / 2**count
    mask = sample_mask(shape, rate)
    draws = [
        op.outputs[0].shape.as_list()
        for op in mask.graph.get_operations()
        if op.type == "RandomUniformInt"
    ]
    assert draws == [[1000 * min(count, 8) + 125 * max(count - 8, 0)]]
    with tf.Session() as session:
        dropped = np.mean(session.run(mask) == 0)
    entries = np.prod(shape)
    assert abs(dropped - 0.5**count) <= 5 * np.sqrt(0.5**count / entries)


def test_never_drawn_is_the_identity():
    cell = dropping_cell()
    outputs = dynamic(cell)
    dropout = VariationalDropout([oracles.UNITS], 0.5)
    with initialized_session() as session:
        mask, raw, dropped = session.run([cell.mask, outputs, dropout(outputs)])
        session.run(cell.get_vd_update_op())
        assert np.any(session.run(cell.mask) == 0)
        session.run(cell.get_vd_reset_op())
        reset = session.run(cell.mask)
    assert np.all(mask == 1)
    assert np.all(reset == 1)
    assert np.array_equal(raw, dropped)


# Promise 2: one mask, forward and backward, however the update is wired

WIRINGS = ["before", "together", "minimize", "rnn", "UPDATE_OPS", "auto_update"]
STEPS = 50  # and 500 in `make slow`


class Wired(object):
    """A loop of cells with the update wired in one way, and its fetches."""

    def __init__(self, loop, wiring):
        unroll, count = oracles.LOOPS[loop]
        auto = wiring == "auto_update"
        collection = tf.GraphKeys.UPDATE_OPS if wiring == "UPDATE_OPS" else None
        cells = [
            dropping_cell(
                input_size=oracles.DEPTH
                if loop != "multi_3" or i == 0
                else oracles.UNITS,
                auto_update=auto,
                updates_collections=collection,
            )
            for i in range(count)
        ]
        self.updates = sum([cell.get_vd_update_op() for cell in cells], [])
        inputs = tf.constant(oracles.inputs_value())
        with tf.control_dependencies(self.updates if wiring == "rnn" else []):
            outputs, state = unroll(cells, inputs)
        kernels = oracles.kernels_of(tf.get_default_graph())
        around = self.updates if wiring == "minimize" else []
        if collection:
            around = tf.get_collection(collection)
            assert len(around) == count
        with tf.control_dependencies(around):
            loss = oracles.loss_of(outputs, state)
            gradients = [tf.identity(g) for g in tf.gradients(loss, kernels)]
        masks_used = [cell.mask for cell in cells]
        self.fetches = [masks_used, kernels, outputs, state, gradients]
        self.extra = self.updates if wiring == "together" else []
        self.before = self.updates if wiring == "before" else []

    def run(self, session):
        session.run(self.before)
        return session.run([self.fetches, self.extra])[0]


@pytest.mark.slow
@pytest.mark.parametrize("loop", sorted(oracles.LOOPS))
@pytest.mark.parametrize("wiring", WIRINGS)
def test_forward_and_backward_agree_in_500_steps(wiring, loop, seed):
    test_forward_and_backward_agree(wiring, loop, seed, 500)


# Each wiring in the loop that most use, and three of them in the others.
AGREE = list(itertools.product(WIRINGS, sorted(oracles.LOOPS)))
QUICK = [(wiring, "dynamic_rnn") for wiring in WIRINGS]
QUICK += zip(WIRINGS[1::2], sorted(set(oracles.LOOPS) - {"dynamic_rnn"}))


@pytest.mark.parametrize("wiring, loop", grids.thinned(AGREE, QUICK))
def test_forward_and_backward_agree(wiring, loop, seed, steps=STEPS):
    tf.set_random_seed(seed)
    wired, stock = Wired(loop, wiring), oracles.StockLSTM(loop)
    agree = changed = 0
    last = None
    with initialized_session() as session:
        for _ in range(steps):
            used, kernels, outputs, state, gradients = wired.run(session)
            expected = stock.run([k * m for k, m in zip(kernels, used)])
            expected[2] = [g * m for g, m in zip(expected[2], used)]
            agree += oracles.same([outputs, state, gradients], expected, 1e-5)
            changed += last is not None and not oracles.same(used, last)
            last = used
    assert agree == steps
    # Of 112 entries, all are the same by chance once in 2**112 steps. The
    # first step has no last one.
    assert changed >= steps - 5


# Promise 3: ordering is honoured


def held_now(owner):
    """The mask in the variable of `owner` at the time of a fetch."""
    return owner._mask._known().held.read().dense()


def assert_sees_update(cell, outputs, updates):
    """Each run, `outputs` are those of the mask drawn in that same run."""
    current = held_now(cell)
    with initialized_session() as session:
        used = session.run([cell.mask, outputs])[0]
        for _ in range(20):
            last = used
            used = session.run([cell.mask, outputs])[0]
            assert np.array_equal(used, session.run(current))
            assert not np.array_equal(used, last)


@pytest.mark.smoke
def test_ordering_is_honoured():
    cell = dropping_cell()
    with tf.control_dependencies(cell.get_vd_update_op()):
        outputs = dynamic(cell)
    assert_sees_update(cell, outputs, cell.get_vd_update_op())


def test_ordering_is_honoured_beside_an_op_in_the_loop():
    cell = dropping_cell()
    # Stock cells, too, cannot be built in a body on TensorFlow 2.4 to 2.8.
    cell.build(tf.TensorShape([2, oracles.DEPTH]))
    inputs = tf.constant(oracles.inputs_value())

    def step(time, outputs):
        local = tf.identity(time)
        with tf.control_dependencies(cell.get_vd_update_op() + [local.op]):
            outputs = cell(inputs[:, 0], cell.zero_state(2, tf.float32))[0]
        return time + 1, outputs

    zeros = tf.zeros([2, oracles.UNITS])
    _, outputs = tf.while_loop(lambda t, _: t < 3, step, (0, zeros))
    assert_sees_update(cell, outputs, cell.get_vd_update_op())


def test_build_does_not_freeze_the_order():
    cell = dropping_cell()
    cell.build(tf.TensorShape([None, oracles.DEPTH]))
    dynamic(cell)  # elsewhere, without any order
    with tf.control_dependencies(cell.get_vd_update_op()):
        outputs = dynamic(cell)
    assert_sees_update(cell, outputs, cell.get_vd_update_op())


@versions.not_in_v2_flow("all of a loop waits, or nothing in it")
def test_ordering_is_honoured_in_an_outer_loop():
    cell = dropping_cell()

    def step(time, _):
        # A loop cannot wait for an op outside of the loop around it (nor with
        # stock cells: "inputs from different frames"), only for one inside.
        with tf.control_dependencies(cell.get_vd_update_op()):
            updated = tf.identity(time)
        with tf.control_dependencies([updated]):
            outputs = dynamic(cell)
        mask = tf.cast(tf.equal(outputs, dynamic(cell)), tf.float32)
        return time + 1, mask

    zeros = tf.zeros([2, oracles.TIME, oracles.UNITS])
    _, same = tf.while_loop(lambda t, _: t < 1, step, (0, zeros))
    with initialized_session() as session:
        # The call without an order reads before the update, the ordered one
        # after it, so in each run they have different masks.
        assert all(not np.all(session.run(same)) for _ in range(20))


def test_ordering_is_honoured_around_nested_loops():
    cell = dropping_cell()
    zeros = tf.zeros([2, oracles.TIME, oracles.UNITS])
    with tf.control_dependencies(cell.get_vd_update_op()):
        _, nested = tf.while_loop(
            lambda t, _: t < 2, lambda t, _: (t + 1, dynamic(cell)), (0, zeros)
        )
    assert_sees_update(cell, nested, cell.get_vd_update_op())
    with tf.control_dependencies(cell.get_vd_update_op()):
        flat = dynamic(cell)
    with initialized_session() as session:
        for _ in range(20):
            assert np.array_equal(*session.run([nested, flat]))


def test_ordering_is_honoured_for_weights_made_in_a_nested_loop():
    mask = masks.Mask(0.5, masks.VARIABLE)
    mask.build([8, 8], tf.float32)

    def add(time, total):
        weights = tf.fill([8, 8], tf.cast(time + 1, tf.float32))
        return time + 1, total + mask.drop(weights)

    def twice(time, total):
        return time + 1, tf.while_loop(lambda t, _: t < 2, add, (0, total))[1]

    with tf.control_dependencies(mask.update_ops("update")):
        _, total = tf.while_loop(
            lambda t, _: t < 2, twice, (0, tf.zeros([8, 8]))
        )
    with initialized_session() as session:
        for _ in range(20):
            got, used = session.run([total, mask.latest])
            assert np.array_equal(got, 6 * used)  # 2 * (1 + 2)


def called_in_a_branch(call):
    chosen = tf.placeholder_with_default(True, [])
    return tf.cond(chosen, call, lambda: tf.zeros([16, 16]))


def called_in_a_loop(call):
    start = 0, tf.zeros([16, 16])
    return tf.while_loop(
        lambda t, _: t < 2, lambda t, _: (t + 1, call()), start
    )[1]


@pytest.mark.parametrize("flow", ["v1", "v2"])
@pytest.mark.parametrize("around", [called_in_a_branch, called_in_a_loop])
@pytest.mark.parametrize("is_grouped", [True, False])
def test_ordering_is_honoured_through_ops_inside(
    is_grouped, around, flow, request
):
    """What is waited for cannot be seen from outside, but waits itself."""
    if flow == "v2":
        request.getfixturevalue("control_flow_v2")
    mask = masks.Mask(0.5, masks.VARIABLE)
    mask.build([16, 16], tf.float32)
    update = mask.update_ops("update")
    with tf.control_dependencies(update):
        outside = tf.ones([])

    def call():
        inside = tf.group(*update) if is_grouped else outside + 1.0
        with tf.control_dependencies([inside]):
            return mask.drop(tf.ones([16, 16]))

    used, held = around(call), mask._known().root.dense()
    with initialized_session() as session:
        for _ in range(10):
            value = session.run(used)
            assert np.any(value == 0)
            assert np.array_equal(value, session.run(held))


@pytest.mark.parametrize("flow", ["v1", "v2"])
@pytest.mark.parametrize("auto_update", [False, True])
def test_weights_may_be_assigned_in_a_branch(auto_update, flow, request):
    if flow == "v2":
        request.getfixturevalue("control_flow_v2")
    mode = masks.PER_RUN if auto_update else masks.VARIABLE
    mask = masks.Mask(tf.placeholder_with_default(1.0, []), mode)
    mask.build([200, 200], tf.float32)
    weights = tf.get_variable("weights", [200, 200], use_resource=True)

    def assigned():
        new = tf.assign(weights, tf.random_uniform([200, 200]))
        with tf.control_dependencies([tf.convert_to_tensor(new)]):
            return mask.drop(weights)

    chosen = tf.placeholder_with_default(True, [])
    used = tf.cond(chosen, assigned, lambda: tf.zeros([200, 200]))
    with initialized_session() as session:
        for _ in range(20):
            assert np.array_equal(session.run(used), session.run(weights))


# Promise 4: once, outside of the innermost loop
# and no further: what is in a loop around that is of its step


def lstm(**kwargs):
    return tf.nn.rnn_cell.LSTMCell(oracles.UNITS, **kwargs)


def gru():
    return tf.nn.rnn_cell.GRUCell(oracles.UNITS)


ASSIGNED = {
    "cell": [
        lstm,
        lambda **kwargs: WeightDropLSTMCell(oracles.UNITS, **kwargs),
        dict(recurrent_only=True, use_peepholes=True, num_proj=3),
    ],
    "fused": [
        lstm,
        lambda **kwargs: WeightDropLSTMBlockFusedCell(oracles.UNITS, **kwargs),
        dict(recurrent_only=True),
    ],
    "wrapper": [gru, lambda **kwargs: WeightDropWrapper(gru(), **kwargs), {}],
}
MODES = {
    masks.PER_STEP: dict(),
    masks.PER_RUN: dict(use_vd=True, auto_update=True),
    masks.VARIABLE: dict(use_vd=True),
}


def outputs_of(cell):
    if not isinstance(cell, WeightDropLSTMBlockFusedCell):
        return dynamic(cell)
    inputs = tf.constant(oracles.inputs_value().transpose([1, 0, 2]))
    return tf.transpose(cell(inputs, dtype=tf.float32)[0], [1, 0, 2])


def make_variables(cell):
    # Not by `dynamic_rnn`: what it makes, it reads but once in a run.
    if isinstance(cell, WeightDropLSTMBlockFusedCell):
        cell.build([None, 2, oracles.DEPTH])
    else:  # stock cells of 1.13 cannot be built without a call
        cell(tf.ones([2, oracles.DEPTH]), cell.zero_state(2, tf.float32))


def assigned(cell):
    return [tf.assign(w, 1.5 * w) for w in cell.trainable_weights]


def in_a_loop(cell):
    """Outputs of three sequences; all weights change after each."""

    def sequence(number, found):
        outputs = outputs_of(cell)
        with tf.control_dependencies([outputs]):
            changed = list(map(tf.convert_to_tensor, assigned(cell)))
        with tf.control_dependencies(changed):
            return number + 1, found.write(number, tf.identity(outputs))

    start = 0, tf.TensorArray(tf.float32, 3)
    loop = tf.while_loop(
        lambda n, _: n < 3, sequence, start, parallel_iterations=1
    )
    return loop[1].stack()


def in_a_function(cell):
    """The same, unrolled, in the order of a function."""

    def call():
        if isinstance(cell, WeightDropLSTMBlockFusedCell):
            return outputs_of(cell)
        inputs = tf.constant(oracles.inputs_value())
        state, outputs = cell.zero_state(2, tf.float32), []
        for step in tf.unstack(inputs, axis=1):
            output, state = cell(step, state)
            outputs.append(output)
        return tf.stack(outputs, 1)

    def calls():
        outputs = [call()]
        for _ in range(2):
            assigned(cell)
            outputs.append(call())
        return tf.stack(outputs)

    return versions.function()(calls)()


@pytest.mark.parametrize(
    "around, name, mode",
    grids.pairs([in_a_loop, in_a_function], sorted(ASSIGNED), sorted(MODES)),
)
def test_weights_may_be_assigned_between_sequences(around, name, mode):
    make_stock, make_dropping, kind = ASSIGNED[name]
    if name == "fused" and mode == masks.PER_STEP:
        pytest.skip("it has one mask for a sequence")
    stock = make_stock(
        **{k: v for k, v in kind.items() if k != "recurrent_only"}
    )
    rate = tf.placeholder_with_default(1.0, [])  # not known to be 1.0
    dropping = make_dropping(weight_drop_kr=rate, **MODES[mode], **kind)
    values = []
    for number, cell in enumerate([stock, dropping]):
        with tf.variable_scope(f"of_{number}", use_resource=True) as scope:
            start = tf.random_uniform_initializer(-0.5, 0.5, seed=7)
            scope.set_initializer(start)
            make_variables(cell)
            outputs = around(cell)
        with initialized_session() as session:
            values.append(session.run(outputs))
    assert np.abs(values[0][0] - values[0][2]).max() > 0.01
    assert oracles.same(*values, bound=1e-6)


def in_the_order_of_waiting(call, change):
    first = call()
    with tf.control_dependencies([first]):
        changed = tf.convert_to_tensor(change())
    with tf.control_dependencies([changed]):
        return first, call()


def in_the_order_of_a_function(call, change):
    def calls():
        first = call()
        change()
        return first, call()

    return versions.function()(calls)()


@pytest.mark.parametrize(
    "order", [in_the_order_of_waiting, in_the_order_of_a_function]
)
@pytest.mark.parametrize("auto_update", [False, True])
def test_is_train_as_a_variable_is_read_by_each_call(auto_update, order):
    is_train = tf.get_variable(
        "is_train", initializer=True, trainable=False, use_resource=True
    )
    mode = masks.PER_RUN if auto_update else masks.VARIABLE
    mask = masks.Mask(0.5, mode, is_train=is_train)
    mask.build([16, 16], tf.float32)
    calls = order(
        lambda: mask.drop(tf.ones([16, 16])), lambda: is_train.assign(False)
    )
    with initialized_session() as session:
        session.run(mask.update_ops("update"))
        values = session.run(calls)
    assert set(np.unique(values[0])) == {0.0, 2.0}
    assert np.all(values[1] == 1.0)


@pytest.mark.parametrize("mode", [masks.PER_STEP, masks.PER_RUN])
def test_rate_may_change_in_a_loop_around(mode):
    rate = tf.get_variable("rate", initializer=1.0, use_resource=True)
    mask = masks.Mask(rate, mode)
    mask.build([16, 16], tf.float32)

    def step(time, _):
        return time + 1, mask.drop(tf.ones([16, 16]))

    def sequence(number, found):
        start = 0, tf.zeros([16, 16])
        _, dropped = tf.while_loop(lambda t, _: t < 2, step, start)
        with tf.control_dependencies([dropped]):
            changed = tf.convert_to_tensor(tf.assign(rate, rate / 2))
        with tf.control_dependencies([changed]):
            return number + 1, found.write(number, tf.identity(dropped))

    start = 0, tf.TensorArray(tf.float32, 3)
    loop = tf.while_loop(
        lambda n, _: n < 3, sequence, start, parallel_iterations=1
    )
    with initialized_session() as session:
        values = session.run(loop[1].stack())
    found = [set(np.unique(value)) for value in values]
    assert found == [{1.0}, {0.0, 2.0}, {0.0, 4.0}]


def masked_kernels():
    return [
        op
        for op in tf.get_default_graph().get_operations()
        if op.name.split("/")[-1].startswith("masked_kernel")
    ]


def call_in_cond(cell):
    chosen = tf.placeholder_with_default(True, [])
    inputs = tf.ones([2, oracles.DEPTH])
    state = cell.zero_state(2, tf.float32)
    return tf.cond(
        chosen,
        lambda: cell(inputs, state)[0],
        lambda: cell(2 * inputs, state)[0],
    )


def call_in_loop(cell):
    inputs = tf.ones([2, oracles.DEPTH])

    def step(time, state):
        return time + 1, cell(inputs, state)[1]

    start = cell.zero_state(2, tf.float32)
    return tf.while_loop(lambda t, _: t < 3, step, (0, start))[1].h


def call_in_two_loops(cell):
    return call_in_loop(cell) + call_in_loop(cell)


def call_in_nested_loops(cell):
    def step(time, total):
        return time + 1, total + call_in_loop(cell)

    zeros = tf.zeros([2, oracles.UNITS])
    return tf.while_loop(lambda t, _: t < 2, step, (0, zeros))[1]


def call_in_cond_in_loop(cell):
    inputs = tf.ones([2, oracles.DEPTH])
    keep_going = tf.placeholder_with_default(True, [])

    def step(time, state):
        state = tf.cond(
            keep_going, lambda: cell(inputs, state)[1], lambda: state
        )
        return time + 1, state

    start = cell.zero_state(2, tf.float32)
    return tf.while_loop(lambda t, _: t < 3, step, (0, start))[1].h


def call_in_raw_rnn(cell):
    inputs = tf.ones([2, oracles.DEPTH])

    def loop_fn(time, output, state, _):
        start = cell.zero_state(2, tf.float32)
        return (
            time >= 3,
            inputs,
            start if output is None else state,
            output,
            None,
        )

    return tf.nn.raw_rnn(cell, loop_fn)[1].h


def call_in_static_rnn(cell):
    return oracles.static([cell], tf.constant(oracles.inputs_value()))[0]


def call_in_decoder(cell):
    seq2seq = tf.contrib.seq2seq
    memory = tf.ones([2, 4, oracles.UNITS])
    attention = seq2seq.LuongAttention(oracles.UNITS, memory)
    wrapped = seq2seq.AttentionWrapper(cell, attention, attention_layer_size=1)
    inputs = tf.ones([2, oracles.TIME, oracles.DEPTH - 1])
    helper = seq2seq.TrainingHelper(inputs, [oracles.TIME] * 2)
    decoder = seq2seq.BasicDecoder(
        wrapped, helper, wrapped.zero_state(2, tf.float32)
    )
    return seq2seq.dynamic_decode(decoder)[0].rnn_output


CALLS = {
    # how the cell is called: (function, loops around the multiply, multiplies)
    "dynamic_rnn": (dynamic, 0, 1),
    "cond": (call_in_cond, 0, 1),
    "while_loop": (call_in_loop, 0, 1),
    "two_loops": (call_in_two_loops, 0, 1),
    "nested": (call_in_nested_loops, 1, 1),
    "cond_in_loop": (call_in_cond_in_loop, 0, 1),
    "raw_rnn": (call_in_raw_rnn, 0, 1),
    "static_rnn": (call_in_static_rnn, 0, 1),
    "decoder": (call_in_decoder, 0, 1),
}


@pytest.mark.parametrize(
    "call, auto_update", grids.singles(sorted(CALLS), [True, False])
)
def test_kernel_is_masked_once_outside_the_loop(call, auto_update):
    if call == "nested" and versions.FLOW == "v2":
        pytest.skip("control flow v2: it is in the graph of the outer body")
    run, loops, count = CALLS[call]
    cell = dropping_cell(auto_update=auto_update)
    outputs = run(cell)
    found = masked_kernels()
    assert len(found) == count
    assert [oracles.loops_around(op) for op in found] == [loops] * count
    assert_gradient_is_masked(cell, outputs)


def assert_gradient_is_masked(cell, outputs):
    """Gradients reach the kept weights, and not the dropped ones."""
    kernel = cell.trainable_weights[0]
    gradient = tf.gradients(tf.reduce_sum(tf.square(outputs)), kernel)[0]
    fetches = [gradient]
    if cell.mask is not None:
        fetches.append(cell.mask)
    with initialized_session() as session:
        session.run(cell.get_vd_update_op())
        for _ in range(3):
            values = session.run(fetches)
            assert np.any(values[0] != 0)
            for mask in values[1:]:
                assert np.all(values[0][mask == 0] == 0)
                assert np.any(values[0][mask != 0] != 0)


@pytest.mark.smoke
def test_masked_kernel_is_shared_by_separate_calls():
    cell = dropping_cell()
    first, second = dynamic(cell), dynamic(cell)
    assert len(masked_kernels()) == 1
    with initialized_session() as session:
        for _ in range(5):
            session.run(cell.get_vd_update_op())
            values = session.run([first, second])
            assert np.array_equal(*values)


def test_auto_update_draws_once_for_all_calls_in_one_context():
    cell = dropping_cell(auto_update=True)
    inputs = tf.ones([2, oracles.DEPTH])
    before = cell(inputs, cell.zero_state(2, tf.float32))[0]
    with tf.control_dependencies([before]):
        after = cell(inputs, cell.zero_state(2, tf.float32))[0]
    last = None
    with initialized_session() as session:
        for _ in range(20):
            one, two = session.run([before, after])
            assert np.array_equal(one, two)
            assert last is None or not np.array_equal(one, last)
            last = one


def test_kernel_made_in_the_loop_is_masked_in_place():
    def doubled(getter, *args, **kwargs):
        return 2 * getter(*args, **kwargs)

    with tf.variable_scope("scope", custom_getter=doubled):
        cell = dropping_cell()
        outputs = dynamic(cell)
    kernel = tf.global_variables()[0]
    gradient = tf.gradients(tf.reduce_sum(outputs), kernel)[0]
    stock = oracles.StockLSTM("dynamic_rnn")
    with initialized_session() as session:
        session.run(cell.get_vd_update_op())
        out, grad, mask, value = session.run(
            [outputs, gradient, cell.mask, kernel]
        )
    assert np.all(grad[mask == 0] == 0)
    assert oracles.same(out, stock.run([2 * value * mask])[0], 1e-5)


@pytest.mark.parametrize("auto_update", [False, True])
def test_is_train_made_in_the_loop(auto_update):
    inputs = tf.ones([2, oracles.DEPTH])
    cells = []

    def step(time, state, output):
        cell = dropping_cell(is_train=time < 1, auto_update=auto_update)
        cells.append(cell)
        output, _ = cell(inputs, cell.zero_state(2, tf.float32))
        return time + 1, state, output

    zeros = tf.zeros([2, oracles.UNITS])

    def after(steps):
        return tf.while_loop(lambda t, *_: t < steps, step, (0, zeros, zeros))[
            2
        ]

    with tf.variable_scope("a", reuse=tf.AUTO_REUSE):
        trained = after(1)
    with tf.variable_scope("a", reuse=tf.AUTO_REUSE):
        evaluated = after(2)
    with tf.variable_scope("a/lstm_cell", reuse=True):
        kernel = tf.get_variable("kernel")
    with initialized_session() as session:
        session.run([cell.get_vd_update_op() for cell in cells])
        values = [session.run([trained, evaluated, kernel]) for _ in range(3)]
    expected = stock_step(values[0][2])
    for train, evaluation, _ in values:
        assert not np.allclose(train, expected)
        assert np.allclose(evaluation, expected, atol=1e-6)


def stock_step(kernel):
    with tf.Graph().as_default(), tf.Session() as session:
        cell = tf.nn.rnn_cell.LSTMCell(
            oracles.UNITS, initializer=tf.constant_initializer(kernel)
        )
        zeros = cell.zero_state(2, tf.float32)
        outputs = cell(tf.ones([2, oracles.DEPTH]), zeros)[0]
        session.run(tf.global_variables_initializer())
        return session.run(outputs)


@pytest.mark.usefixtures("control_flow_v2")
@pytest.mark.parametrize(
    "call, auto_update",
    grids.singles(sorted(set(CALLS) - {"nested"}), [False, True]),
)
def test_kernel_is_masked_once_with_control_flow_v2(call, auto_update):
    cell = dropping_cell(auto_update=auto_update)
    outputs = CALLS[call][0](cell)
    assert len(masked_kernels()) == 1  # in the graph, not in one of its bodies
    assert_gradient_is_masked(cell, outputs)


@pytest.mark.usefixtures("control_flow_v2")
def test_ordering_is_honoured_with_control_flow_v2():
    test_ordering_is_honoured_beside_an_op_in_the_loop()


@pytest.mark.usefixtures("control_flow_v2")
@pytest.mark.parametrize("loop", ["dynamic_rnn", "static_rnn"])
@pytest.mark.parametrize("wiring", ["minimize", "rnn", "auto_update"])
def test_forward_and_backward_agree_with_control_flow_v2(wiring, loop, seed):
    test_forward_and_backward_agree(wiring, loop, seed)


# Promise 5: the update op is built once, outside of every context


def test_asking_for_the_ops_adds_no_node():
    cell = dropping_cell()
    dropout = VariationalDropout([3], 0.5)
    dynamic(cell)
    graph = tf.get_default_graph()
    before = len(graph.get_operations())
    asked = {
        owner_op
        for _ in range(1000)
        for owner_op in cell.get_vd_update_op()
        + cell.get_vd_reset_op()
        + dropout.get_update_mask_op()
        + dropout.get_reset_mask_op()
    }
    assert len(graph.get_operations()) == before
    assert len(asked) == 4


def test_ops_of_a_mask_made_in_a_cond_in_a_loop_can_be_run():
    cell = dropping_cell(input_size=None)
    call_in_cond_in_loop(cell)
    held = held_now(cell)
    session = initialized_session()
    tf.get_default_graph().finalize()
    with session:
        session.run(cell.get_vd_update_op())
        assert np.any(session.run(held) == 0)


# Promise 6: scratch state


@pytest.mark.smoke
def test_mask_needs_no_initializer_and_is_in_no_checkpoint(tmp_path):
    cell = dropping_cell()
    outputs = dynamic(cell)
    variables = tf.global_variables() + tf.local_variables()
    assert not any("mask" in v.name for v in variables)
    assert len(tf.get_collection(masks.MASKS)) == 1
    assert not any("mask" in v.name for v in cell.weights)
    with initialized_session() as session:
        assert session.run(tf.report_uninitialized_variables()).size == 0
        session.run(cell.get_vd_update_op())
        session.run(outputs)
        path = tf.train.Saver().save(session, str(tmp_path / "model"))
    names = [name for name, _ in tf.train.list_variables(path)]
    assert names == ["rnn/lstm_cell/bias", "rnn/lstm_cell/kernel"]


@pytest.mark.smoke
def test_under_a_monitored_session(tmp_path):
    cell = dropping_cell()
    loss = tf.reduce_sum(dynamic(cell))
    step = tf.train.get_or_create_global_step()
    optimizer = tf.train.GradientDescentOptimizer(0.1)
    train = optimizer.minimize(loss, global_step=step)
    with tf.train.MonitoredTrainingSession(
        checkpoint_dir=str(tmp_path), save_checkpoint_steps=2
    ) as session:
        for _ in range(4):
            session.run(cell.get_vd_update_op())
            session.run(train)
        assert np.any(session.run(cell.mask) == 0)


def test_under_a_supervisor(tmp_path):
    cell = dropping_cell()
    dynamic(cell)
    mask = cell.mask
    supervisor = tf.train.Supervisor(
        logdir=str(tmp_path), local_init_op=tf.no_op(), summary_op=None
    )
    with supervisor.managed_session() as session:
        session.run(cell.get_vd_update_op())
        assert np.any(session.run(mask) == 0)


@pytest.mark.smoke
def test_imported_meta_graph_trains_and_redraws(tmp_path):
    cell = dropping_cell(updates_collections=tf.GraphKeys.UPDATE_OPS)
    outputs = dynamic(cell)
    tf.add_to_collection("fetches", cell.mask)
    tf.add_to_collection("fetches", tf.reduce_sum(outputs))
    with initialized_session() as session:
        path = tf.train.Saver().save(session, str(tmp_path / "model"))
    with tf.Graph().as_default(), tf.Session() as session:
        saver = tf.train.import_meta_graph(path + ".meta")
        saver.restore(session, path)
        mask, loss = tf.get_collection("fetches")
        before = session.run([mask, loss])
        session.run(tf.get_collection(tf.GraphKeys.UPDATE_OPS))
        after = session.run([mask, loss])
    assert np.all(before[0] == 1)
    assert np.any(after[0] == 0)
    assert before[1] != after[1]


# Estimator and export: test_weight_drop_lstm.py::test_estimator.


# Promise 7: any number of masks in one scope


def test_many_masks_in_one_scope():
    with tf.variable_scope("one"):
        dropouts = [VariationalDropout([50], 0.5) for _ in range(3)]
    with tf.variable_scope("one", reuse=True):
        dropouts.append(VariationalDropout([50], 0.5))
    fetched = [d.mask for d in dropouts]
    with tf.Session() as session:
        session.run([d.get_update_mask_op() for d in dropouts[:2]])
        values = session.run(fetched)
    variables = tf.get_collection(masks.MASKS)
    assert len({variable.name for variable in variables}) == 4
    assert not np.array_equal(values[0], values[1])
    assert np.all(values[2] == 1) and np.all(values[3] == 1)


def test_cells_that_share_variables_have_masks_of_their_own():
    with tf.variable_scope("scope"):
        first = dropping_cell()
        dynamic(first)
    with tf.variable_scope("scope", reuse=True):
        second = dropping_cell()
        dynamic(second)
    assert first.weights == second.weights
    with initialized_session() as session:
        session.run(first.get_vd_update_op())
        one, two = session.run([first.mask, second.mask])
    assert np.any(one == 0)
    assert np.all(two == 1)


# Promise 8: seeds


def masks_of_seed(seed, auto_update, runs=4):
    with tf.Graph().as_default():
        tf.set_random_seed(7)
        cell = dropping_cell(seed=seed, auto_update=auto_update)
        outputs = dynamic(cell)
        with initialized_session() as session:
            values = []
            for _ in range(runs):
                session.run(cell.get_vd_update_op())
                values.append(session.run([cell.mask, outputs])[0])
    return np.stack(values)


@pytest.mark.smoke
@pytest.mark.parametrize("auto_update", [False, True])
def test_seed_makes_masks_reproducible(auto_update):
    first = masks_of_seed(3, auto_update)
    assert np.array_equal(first, masks_of_seed(3, auto_update))
    assert not np.array_equal(first, masks_of_seed(4, auto_update))
    assert len({m.tobytes() for m in first}) == len(first)


def test_standard_steps_differ_under_a_seed_and_static_rnn():
    tf.set_random_seed(1)
    cell = dropping_cell(use_vd=False, seed=1)
    inputs = [tf.ones([1, oracles.DEPTH])] * 6
    zero = cell.zero_state(1, tf.float32)
    outputs = tf.stack([cell(x, zero)[0] for x in inputs])
    with initialized_session() as session:
        values = session.run(outputs)
    assert len({v.tobytes() for v in values}) == 6


# Promise 9: dtypes, partitions, devices, replicas


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(dtype):
    cell = dropping_cell(dtype=dtype)
    inputs = tf.constant(oracles.inputs_value(dtype.as_numpy_dtype))
    outputs, state = tf.nn.dynamic_rnn(cell, inputs, dtype=dtype)
    kernel = cell.trainable_weights[0]
    gradient = tf.gradients(oracles.loss_of(outputs, state), kernel)
    stock = oracles.StockLSTM("dynamic_rnn", dtype)
    bound = 10 * np.finfo(dtype.as_numpy_dtype).eps
    with initialized_session() as session:
        session.run(cell.get_vd_update_op())
        mask, value, *values = session.run(
            [cell.mask, kernel, outputs, state, gradient]
        )
    expected = stock.run([value * mask])
    expected[2] = [expected[2][0] * mask]
    assert mask.dtype == dtype.as_numpy_dtype
    assert set(np.unique(mask)) == {0, 2}
    assert oracles.same(values, expected, bound)


@pytest.mark.smoke
def test_partitioned_kernel():
    partitioner = tf.fixed_size_partitioner(2)
    with tf.variable_scope("parts", partitioner=partitioner):
        cell = dropping_cell()
        outputs = dynamic(cell)
    parts = [v for v in tf.global_variables() if "kernel" in v.name]
    assert len(parts) == 2
    gradients = tf.gradients(tf.reduce_sum(outputs), parts)
    stock = oracles.StockLSTM("dynamic_rnn")
    with initialized_session() as session:
        session.run(cell.get_vd_update_op())
        mask, out, values, slopes = session.run(
            [cell.mask, outputs, parts, gradients]
        )
    kernel = np.concatenate(values)
    assert oracles.same(out, stock.run([kernel * mask])[0], 1e-5)
    assert np.all(np.concatenate(slopes)[mask == 0] == 0)


@pytest.mark.smoke
def test_mask_stays_on_the_worker():
    setter = tf.train.replica_device_setter(
        ps_tasks=1, worker_device="/job:worker/task:1"
    )
    with tf.device(setter):
        cell = dropping_cell()
        dynamic(cell)
        dropout = VariationalDropout([3], 0.5)
    assert "/job:ps" in cell.trainable_weights[0].device
    ops = [v.handle.op for v in tf.get_collection(masks.MASKS)]
    ops += cell.get_vd_update_op() + cell.get_vd_reset_op()
    ops += dropout.get_update_mask_op() + dropout.get_reset_mask_op()
    ops += [
        op
        for op in tf.get_default_graph().get_operations()
        if op.type == "VarHandleOp" and "mask" in op.name
    ]
    assert len(ops) >= 2 + 4 + 4
    for op in ops:
        assert "/job:worker" in op.device and "task:1" in op.device


@pytest.mark.smoke
def test_replicas_have_masks_of_their_own():
    devices = ["/cpu:0", "/cpu:1"]
    strategy = versions.mirrored_strategy(devices)

    def replica():
        cell = dropping_cell()
        with tf.control_dependencies(cell.get_vd_update_op()):
            outputs = dynamic(cell)
        with tf.control_dependencies([outputs]):
            return tf.identity(cell.mask)

    with strategy.scope():
        used = versions.call_for_each_replica(strategy, replica)
    config = tf.ConfigProto(device_count={"CPU": 2})
    with tf.Session(config=config) as session:
        session.run(tf.global_variables_initializer())
        for _ in range(5):
            one, two = session.run(used)
            assert np.any(one == 0) and np.any(two == 0)
            assert not np.array_equal(one, two)


# Beside the promises: diagnostics, threads


def test_diagnostics_show_kept_fraction_and_change():
    cell = dropping_cell(recurrent_only=True)
    dynamic(cell)
    fraction, changed, mask = cell.kept_fraction, cell.mask_changed, cell.mask
    with initialized_session() as session:
        assert session.run(fraction) == 1
        assert not session.run(changed)
        session.run(cell.get_vd_update_op())
        recurrent = session.run(mask)[oracles.DEPTH :]
        assert session.run(fraction) == np.mean(recurrent != 0)
        assert [session.run(changed) for _ in range(3)] == [True, False, False]
        session.run(cell.get_vd_reset_op())
        assert [session.run(changed) for _ in range(2)] == [True, False]


@pytest.mark.parametrize("auto_update", [False, True])
def test_diagnostics_follow_a_variable_is_train(auto_update):
    is_train = tf.get_variable("is_train", initializer=True, trainable=False)
    cell = dropping_cell(is_train=is_train, auto_update=auto_update)
    dynamic(cell)
    assert len(diagnostics.mask_summaries(cell)) == 2
    with initialized_session() as session:
        session.run(cell.get_vd_update_op())
        for value in (True, False, True):
            session.run(is_train.assign(value))
            kept, mask = session.run([cell.kept_fraction, cell.mask])
            np.testing.assert_allclose(kept, np.mean(mask != 0), 1e-6)
            assert (kept < 1) == value


@pytest.mark.parametrize("auto_update", [False, True])
def test_diagnostics_in_a_finalized_graph(auto_update):
    """As a monitored session has it; what is not there is refused by name."""
    cell = dropping_cell(auto_update=auto_update)
    dynamic(cell)
    arguments = dict(use_vd=True, auto_update=auto_update)
    wrapper = WeightDropWrapper(tf.layers.Dense(2), 0.5, **arguments)
    wrapper(tf.zeros([1, 2]))
    tf.get_default_graph().finalize()
    shown = cell.mask, cell.kept_fraction, wrapper.masks
    assert all(each is not None for each in shown)
    for owner, name in (
        (cell, "mask_changed"),
        (wrapper, "kept_fraction"),
        (wrapper, "mask_changed"),
    ):
        sentence = f"`{name}` must be asked for before the graph is finalized"
        with pytest.raises(RuntimeError, match=sentence):
            getattr(owner, name)


def test_diagnostics_are_made_once():
    wrapper = WeightDropWrapper(tf.layers.Dense(2), 0.5, use_vd=True)
    wrapper(tf.zeros([1, 2]))
    for _ in range(2):
        shown = wrapper.kept_fraction, wrapper.mask_changed
        tf.get_default_graph().finalize()
    assert all(each is not None for each in shown)


def test_what_is_shown_cannot_be_fed():
    """It is not what weights are multiplied with, so that would do nothing."""
    cell = dropping_cell()
    dynamic(cell)
    with initialized_session() as session:
        for shown in (cell.mask, cell.kept_fraction, cell.mask_changed):
            value = session.run(shown)
            with pytest.raises(ValueError, match="may not be fed"):
                session.run(shown, {shown: value})


def test_summaries_bear_the_scope_of_the_weights():
    cells = [dropping_cell(input_size=None) for _ in range(2)]
    stack = tf.nn.rnn_cell.MultiRNNCell(cells)
    outputs, _ = tf.nn.dynamic_rnn(
        stack, tf.zeros([2, 3, oracles.DEPTH]), dtype=tf.float32
    )
    dense = WeightDropWrapper(tf.layers.Dense(3, name="logits"), 0.5)
    dense(outputs)
    found = diagnostics.mask_summaries(*cells, dense)
    scopes = {each.op.name.rpartition("_mask/")[0] for each in found}
    stack = "rnn/multi_rnn_cell/cell_{}/lstm_cell"
    assert scopes == {stack.format(0), stack.format(1), "logits"}


def test_mask_summaries():
    cell = dropping_cell()
    dynamic(cell)
    dropout = VariationalDropout([8], 0.5, name="output_dropout")
    quiet = dropping_cell(weight_drop_kr=1.0)
    summaries = diagnostics.mask_summaries(cell, dropout, quiet)
    with initialized_session() as session:
        session.run(dropout.get_update_mask_op())
        text = session.run(tf.summary.merge(summaries))
    values = {v.tag: v.simple_value for v in tf.Summary.FromString(text).value}
    assert set(values) == {
        "rnn/lstm_cell_mask/kept_fraction",
        "rnn/lstm_cell_mask/changed",
        "output_dropout_mask/kept_fraction",
        "output_dropout_mask/changed",
    }
    assert values["rnn/lstm_cell_mask/kept_fraction"] == 1
    assert values["output_dropout_mask/changed"] == 1


def test_every_fetched_step_is_consistent_while_a_thread_redraws():
    cell = dropping_cell()
    outputs = dynamic(cell)
    kernel = cell.trainable_weights[0]
    loss = tf.reduce_sum(tf.square(outputs))
    gradient = tf.gradients(loss, kernel)[0]
    stock = oracles.StockLSTM("dynamic_rnn")
    fetches = [cell.mask, outputs, gradient, kernel]
    with initialized_session() as session:
        stop = threading.Event()

        def redraw():
            while not stop.is_set():
                session.run(cell.get_vd_update_op())

        thread = threading.Thread(target=redraw)
        thread.start()
        steps = [session.run(fetches) for _ in range(300)]
        stop.set()
        thread.join()
    for mask, out, grad, value in steps:
        assert oracles.same(out, stock.run([value * mask])[0], 1e-5)
        assert np.all(grad[mask == 0] == 0)
    assert len({step[0].tobytes() for step in steps}) > 100
