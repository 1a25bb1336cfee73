"""VariationalDropout against numpy."""

import copy

import numpy as np
import pytest
from versions import tf

from awd_lstm_tf import VariationalDropout, masks


def drawn(dropout, session):
    session.run(dropout.get_update_mask_op())
    return session.run(dropout.mask)


@pytest.mark.smoke
@pytest.mark.parametrize("dtype", [tf.float16, tf.float32, tf.float64])
@pytest.mark.parametrize(
    "input_shape, shape",
    [([5], [4, 5]), ([4, 5], [4, 5]), ([2, 1, 5], [2, 6, 5]), ([], [3])],
)
def test_multiplies_with_the_mask(input_shape, shape, dtype):
    x = np.random.RandomState(0).randn(*shape).astype(dtype.as_numpy_dtype)
    dropout = VariationalDropout(input_shape, 0.5, dtype=dtype)
    y = dropout(x)
    with tf.Session() as session:
        assert np.array_equal(session.run(y), x)  # never drawn: identity
        seen = set()
        for _ in range(20):
            mask = drawn(dropout, session)
            assert mask.shape == tuple(input_shape)
            assert np.array_equal(session.run(y), x * mask)
            seen.update(np.unique(mask))
        assert seen == {0, 2}
        session.run(dropout.get_reset_mask_op())
        assert np.array_equal(session.run(y), x)


def test_gradient_is_the_mask():
    x = tf.ones([3, 4])
    dropout = VariationalDropout([3, 4], 0.25)
    gradient = tf.gradients(dropout(x), x)[0]
    with tf.Session() as session:
        mask = drawn(dropout, session)
        assert np.array_equal(session.run(gradient), mask)


@pytest.mark.parametrize(
    "arguments", [dict(keep_prob=1.0), dict(keep_prob=0.5, is_train=False)]
)
def test_nothing_to_drop(arguments):
    x = tf.placeholder(tf.float32, [None, 3])  # of any batch size
    dropout = VariationalDropout([2, 3], **arguments)
    assert dropout(x) is x
    assert dropout.mask is None and dropout.kept_fraction is None
    assert dropout.get_update_mask_op() == dropout.get_reset_mask_op() == []
    assert not tf.get_collection(masks.MASKS)


@pytest.mark.parametrize("auto_update", [False, True])
def test_is_train_tensor(auto_update):
    is_train = tf.placeholder(tf.bool, [])
    x = np.array([1.0, np.inf, -0.5, 2.0], np.float32)
    dropout = VariationalDropout(
        [4], 0.5, is_train=is_train, auto_update=auto_update
    )
    y = dropout(x)
    with tf.Session() as session:
        dropped = 0
        for _ in range(20):
            session.run(dropout.get_update_mask_op())
            assert np.array_equal(session.run(y, {is_train: False}), x)
            dropped += not np.array_equal(session.run(y, {is_train: True}), x)
    assert dropped > 10


def loop_of(dropout, steps=6):
    """The masks that the steps of a while loop see."""

    def step(time, seen):
        return time + 1, seen.write(time, dropout(tf.ones([8])))

    seen = tf.TensorArray(tf.float32, steps)
    return tf.while_loop(lambda t, _: t < steps, step, (0, seen))[1].stack()


@pytest.mark.smoke
@pytest.mark.parametrize("auto_update", [False, True])
def test_one_mask_for_all_steps_of_a_loop(auto_update):
    dropout = VariationalDropout([8], 0.5, auto_update=auto_update)
    steps = loop_of(dropout)
    with tf.Session() as session:
        runs = []
        for _ in range(10):
            session.run(dropout.get_update_mask_op())
            values = session.run(steps)
            assert np.all(values == values[0])
            runs.append(values[0].tobytes())
    assert len(set(runs)) > 5  # of 10 draws of 8 bits each


def test_update_in_control_dependencies_and_update_ops():
    dropout = VariationalDropout(
        [50], 0.5, updates_collections=[tf.GraphKeys.UPDATE_OPS, "mine"]
    )
    updates = tf.get_collection(tf.GraphKeys.UPDATE_OPS)
    assert updates == tf.get_collection("mine") == dropout.get_update_mask_op()
    with tf.control_dependencies(updates):
        y = dropout(tf.ones([50]))
    with tf.Session() as session:
        values = [session.run([y, dropout.mask]) for _ in range(10)]
    assert all(np.array_equal(*pair) for pair in values)
    assert len({pair[0].tobytes() for pair in values}) == 10


def test_one_name_as_updates_collection():
    dropout = VariationalDropout([5], 0.5, updates_collections="mine")
    assert tf.get_collection("mine") == dropout.get_update_mask_op()


def test_mask_holds_over_a_whole_prediction():
    """Monte-Carlo dropout: one mask for many runs, then another."""
    dropout = VariationalDropout([30], 0.5)
    y = dropout(tf.ones([2, 30]))
    with tf.Session() as session:
        first = drawn(dropout, session)
        held = [session.run(y) for _ in range(5)]
        assert all(np.array_equal(value[0], first) for value in held)
        assert not np.array_equal(drawn(dropout, session), first)


def test_seed():
    def values(seed):
        with tf.Graph().as_default(), tf.Session() as session:
            tf.set_random_seed(1)
            dropout = VariationalDropout([30], 0.5, seed=seed)
            return [drawn(dropout, session) for _ in range(3)]

    assert np.array_equal(values(5), values(5))
    assert not np.array_equal(values(5), values(6))


def test_deepcopy_has_a_mask_of_its_own():
    dropout = VariationalDropout([30], 0.5)
    twin = copy.deepcopy(dropout)
    mask = twin.mask
    with tf.Session() as session:
        assert np.any(drawn(dropout, session) == 0)
        assert np.all(session.run(mask) == 1)


def test_names_scopes():
    with tf.variable_scope("net"):
        dropouts = [VariationalDropout([2], 0.5) for _ in range(2)]
        named = VariationalDropout([2], 0.5, name="out")
    names = [d.name for d in dropouts + [named]]
    assert names == [
        "net/variational_dropout",
        "net/variational_dropout_1",
        "net/out",
    ]
    assert named(tf.ones([2])).op.name.startswith("net/out/")


def test_unknown_input_shape_is_left_to_the_run():
    x = tf.placeholder(tf.float32)
    y = VariationalDropout([3], 0.5)(x)
    with tf.Session() as session:
        assert np.array_equal(session.run(y, {x: [1, 2, 3]}), [1, 2, 3])


# Inputs whose batch size is known only when they are there


def any_size(is_train=True, seed=None):
    """A dropout of `[None, 1, 40]`, and batches of any size to feed it."""
    dropout = VariationalDropout(
        [None, 1, 40], 0.25, auto_update=True, is_train=is_train, seed=seed
    )
    return dropout, tf.placeholder(tf.float32, [None, None, 40])


def test_any_batch_size():
    dropout, x = any_size()
    y, again = dropout(x), dropout(x)
    gradient = tf.gradients(y, x)[0]
    assert dropout.get_update_mask_op() == dropout.get_reset_mask_op() == []
    with tf.Session() as session:
        for size in (5, 2, 1):
            feed = {x: np.ones([size, 3, 40])}
            first, second, slope, mask = session.run(
                [y, again, gradient, dropout.mask], feed
            )
            assert first.shape == (size, 3, 40)
            assert mask.shape == (size, 1, 40)
            assert set(np.unique(mask)) == {0, 4}
            for each in (first, second, slope):  # all times have one mask
                assert np.array_equal(each, np.broadcast_to(mask, each.shape))
            assert not np.array_equal(session.run(y, feed), first)
        assert session.run(y, {x: np.ones([0, 3, 40])}).shape == (0, 3, 40)


def test_any_batch_size_of_rows_with_masks_of_their_own():
    dropout, x = any_size()
    with tf.Session() as session:
        rows = session.run(dropout(x), {x: np.ones([50, 1, 40])})
    assert len({row.tobytes() for row in rows}) == 50


def test_any_batch_size_has_the_right_mean(seed):
    tf.set_random_seed(seed)
    dropout, x = any_size()
    y = dropout(x)
    with tf.Session() as session:
        feed = {x: np.ones([100, 1, 40])}
        values = [session.run(y, feed).mean() for _ in range(50)]
    sigma = np.sqrt((1 / 0.25 - 1) / (50 * 100 * 40))
    assert abs(np.mean(values) - 1) < 5 * sigma


def test_any_batch_size_in_a_loop_has_one_mask():
    dropout = VariationalDropout([None, 30], 0.5, auto_update=True)
    x = tf.placeholder_with_default(np.ones([2, 30], np.float32), [None, 30])
    steps = tf.TensorArray(tf.float32, 4)
    steps = tf.while_loop(
        lambda time, _: time < 4,
        lambda time, seen: (time + 1, seen.write(time, dropout(x))),
        (0, steps),
    )[1].stack()
    with tf.Session() as session:
        values, others = session.run(steps), session.run(steps)
    assert np.all(values == values[0])
    assert not np.array_equal(values, others)


def test_any_batch_size_switched_off_and_seeded():
    def drawn(seed):
        with tf.Graph().as_default(), tf.Session() as session:
            tf.set_random_seed(1)
            is_train = tf.placeholder_with_default(True, [])
            dropout, x = any_size(is_train, seed)
            y, feed = dropout(x), {x: np.ones([3, 2, 40])}
            off = session.run(y, {is_train: False, **feed})
            assert np.all(off == 1)
            return session.run(y, feed)

    assert np.array_equal(drawn(5), drawn(5))
    assert not np.array_equal(drawn(5), drawn(6))


@pytest.mark.parametrize("auto_update", [False, True])
def test_a_batch_of_the_size_of_the_mask_whose_size_is_not_known(auto_update):
    x = tf.placeholder(tf.float32, [None, 5, 3])
    dropout = VariationalDropout([4, 1, 3], 0.5, auto_update=auto_update)
    y = dropout(x)
    with tf.Session() as session:
        value = session.run(y, {x: np.ones([4, 5, 3])})
        assert value.shape == (4, 5, 3)
        # A last, smaller batch has its sentence: test_bad_inputs.py.
        with pytest.raises(tf.errors.InvalidArgumentError, match="broadcast"):
            session.run(y, {x: np.ones([3, 5, 3])})
