"""Embedding dropout against numpy."""

import numpy as np
import pytest
from versions import tf

from awd_lstm_tf import embedding_dropout

ROWS, DEPTH = 40, 3
MATRIX = 1 + np.random.RandomState(0).rand(ROWS, DEPTH)  # no zero
IDS = np.random.RandomState(1).randint(ROWS, size=[6, 50])


def fates(looked_up, ids=IDS, matrix=MATRIX):
    """What each entry was multiplied with."""
    return looked_up / matrix[ids]


def scales_by_id(scales, ids=IDS):
    """The one scale of each id, after checking that it is one."""
    found = {}
    for index, each in np.ndenumerate(ids):
        found.setdefault(each, []).append(scales[index])
    assert all(np.ptp(values) < 5e-3 for values in found.values())
    return {each: np.mean(values) for each, values in found.items()}


@pytest.mark.smoke
@pytest.mark.parametrize("dtype", [tf.float16, tf.float32, tf.float64])
@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize("ids_dtype", [tf.int32, tf.int64])
def test_whole_rows_with_one_fate_for_each_id(ids_dtype, static, dtype):
    params = tf.constant(MATRIX, dtype)
    shape = IDS.shape if static else None
    ids = tf.placeholder_with_default(IDS.astype(ids_dtype.name), shape)
    rows = embedding_dropout(params, ids, keep_prob=0.8)
    matrix = MATRIX.astype(dtype.as_numpy_dtype)
    with tf.Session() as session:
        runs = [fates(session.run(rows), matrix=matrix) for _ in range(20)]
    precision = 2e-3 if dtype == tf.float16 else 1e-6
    for scales in runs:
        values = np.array(list(scales_by_id(scales, IDS).values()), float)
        kept = values > 0
        assert 0 < np.sum(~kept) < len(kept)
        np.testing.assert_allclose(values[kept], 1 / 0.8, rtol=precision)
    assert len({scales.tobytes() for scales in runs}) == 20


def test_rate(seed):
    tf.set_random_seed(seed)
    params = tf.ones([100000, 1])
    rows = embedding_dropout(params, tf.range(100000), keep_prob=0.9)
    with tf.Session() as session:
        kept = np.mean(session.run(rows) > 0)
    assert abs(kept - 0.9) < 5 * np.sqrt(0.9 * 0.1 / 100000)


@pytest.mark.smoke
def test_gradient_is_sparse_and_scaled():
    params = tf.get_variable("embedding", initializer=MATRIX)
    rows = embedding_dropout(params, IDS, keep_prob=0.5)
    gradient = tf.gradients(rows, params)[0]
    assert isinstance(gradient, tf.IndexedSlices)
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        looked_up, dense = session.run([rows, tf.convert_to_tensor(gradient)])
    expected = np.zeros_like(MATRIX)
    np.add.at(expected, IDS, fates(looked_up))
    np.testing.assert_allclose(dense, expected)


def test_one_draw_for_all_steps_of_a_loop():
    """The draw is outside of the loop that the lookup is in."""
    params = tf.constant(MATRIX)

    def body(step, collected):
        rows = embedding_dropout(params, IDS[0], keep_prob=0.5)
        return step + 1, collected.write(step, rows)

    steps = tf.TensorArray(tf.float64, 8)
    _, steps = tf.while_loop(lambda step, _: step < 8, body, [0, steps])
    stacked = steps.stack()
    with tf.Session() as session:
        runs = [session.run(stacked) for _ in range(5)]
    for run in runs:
        assert np.all(run == run[0])
        assert np.any(run == 0) and np.any(run > 0)
    assert len({run.tobytes() for run in runs}) == 5


@pytest.mark.parametrize(
    "arguments", [dict(keep_prob=1.0), dict(keep_prob=0.5, is_train=False)]
)
def test_nothing_to_drop_is_the_stock_lookup(arguments):
    params, ids = tf.constant(MATRIX), tf.constant(IDS)

    def ops_after(lookup):
        before = len(tf.get_default_graph().get_operations())
        lookup()
        ops = tf.get_default_graph().get_operations()[before:]
        return [op.type for op in ops]

    mine = ops_after(lambda: embedding_dropout(params, ids, **arguments))
    stock = ops_after(lambda: tf.nn.embedding_lookup(params, ids))
    assert mine == stock


def test_tensor_arguments():
    is_train = tf.placeholder(tf.bool, [])
    keep_prob = tf.placeholder(tf.float32, [])
    rows = embedding_dropout(tf.constant(MATRIX), IDS, keep_prob, is_train)
    with tf.Session() as session:
        off = session.run(rows, {is_train: False, keep_prob: 0.5})
        on = session.run(rows, {is_train: True, keep_prob: 0.25})
        whole = session.run(rows, {is_train: True, keep_prob: 1.0})
        with pytest.raises(tf.errors.InvalidArgumentError) as caught:
            session.run(rows, {is_train: True, keep_prob: 1.5})
    assert np.array_equal(off, MATRIX[IDS])
    assert np.array_equal(whole, MATRIX[IDS])
    assert {0, 4} == set(np.round(list(scales_by_id(fates(on)).values()), 6))
    assert "`keep_prob` must be in (0, 1], got" in str(caught.value)


def test_seed():
    def values(seed):
        with tf.Graph().as_default(), tf.Session() as session:
            tf.set_random_seed(1)
            rows = embedding_dropout(MATRIX, IDS, 0.5, seed=seed)
            return [session.run(rows) for _ in range(3)]

    assert np.array_equal(values(5), values(5))
    assert not np.array_equal(values(5), values(6))


@pytest.mark.parametrize("use_resource", [False, True])
@pytest.mark.parametrize("kind", ["partitioned", "list"])
def test_parts(kind, use_resource):
    """Partitioned variables, split "div", and lists of parts, split "mod"."""
    if kind == "partitioned":
        strategy = "div"
        params = tf.get_variable(
            "embedding",
            initializer=tf.constant(MATRIX),
            partitioner=tf.fixed_size_partitioner(3),
            use_resource=use_resource,
        )
    else:
        strategy = "mod"
        params = [
            tf.get_variable(
                f"part{i}", initializer=MATRIX[i::3], use_resource=use_resource
            )
            for i in range(3)
        ]
    rows = embedding_dropout(params, IDS, 0.5, partition_strategy=strategy)
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        scales = scales_by_id(fates(session.run(rows)))
    assert set(np.round(list(scales.values()), 6)) == {0, 2}


@pytest.mark.parametrize("inner", [[], [2, 3]])
def test_rows_of_any_rank(inner):
    rows = embedding_dropout(tf.ones([30] + inner), IDS % 30, 0.5)
    assert rows.shape.as_list() == list(IDS.shape) + inner
    with tf.Session() as session:
        value = session.run(rows).reshape(IDS.size, -1)
    assert np.all(value == value[:, :1])
    assert set(np.unique(value)) == {0, 2}


def test_name_scopes():
    first = embedding_dropout(MATRIX, IDS, 0.5)
    named = embedding_dropout(MATRIX, IDS, 0.5, name="words")
    assert first.op.name.startswith("embedding_dropout/")
    assert named.op.name.startswith("words/")
