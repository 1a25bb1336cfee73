"""AR and TAR against numpy loops over the paper's formulas."""

import inspect

import numpy as np
import pytest
from versions import tf

from awd_lstm_tf import (
    activation_regularization,
    temporal_activation_regularization,
)

BATCH, TIME, UNITS = 3, 5, 4
LENGTHS = [5, 1, 3]
H = np.random.RandomState(0).randn(BATCH, TIME, UNITS)


def steps_of(lengths):
    """(sequence, step) for each step that is not padding."""
    return [(b, t) for b in range(BATCH) for t in range(lengths[b])]


def numpy_ar(lengths):
    squares = [H[b, t, u] ** 2 for b, t in steps_of(lengths) for u in range(4)]
    return np.mean(squares) if squares else 0.0


def numpy_tar(lengths):
    squares = [
        (H[b, t, u] - H[b, t + 1, u]) ** 2
        for b, t in steps_of([max(length - 1, 0) for length in lengths])
        for u in range(UNITS)
    ]
    return np.mean(squares) if squares else 0.0


PENALTIES = {
    "ar": (activation_regularization, numpy_ar),
    "tar": (temporal_activation_regularization, numpy_tar),
}
every_penalty = pytest.mark.parametrize("name", sorted(PENALTIES))


def value_of(tensor, feeds=None):
    with tf.Session() as session:
        return session.run(tensor, feeds)


@every_penalty
@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize("time_major", [False, True])
@pytest.mark.parametrize(
    "lengths", [None, LENGTHS, [1, 1, 1], [0, 0, 0], [0, 2, 5]]
)
def test_against_numpy(name, lengths, time_major, static):
    penalty, expected = PENALTIES[name]
    value = H.transpose([1, 0, 2]) if time_major else H
    shape = value.shape if static else [None, None, None]
    outputs = tf.placeholder_with_default(value, shape)
    got = penalty(outputs, 0.3, time_major=time_major, sequence_length=lengths)
    assert got.shape.as_list() == []
    np.testing.assert_allclose(
        value_of(got), 0.3 * expected(lengths or [TIME] * BATCH), rtol=1e-12
    )


@pytest.mark.smoke
@every_penalty
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_padding_has_no_gradient(name, dtype):
    penalty, expected = PENALTIES[name]
    outputs = tf.constant(H)
    lengths = np.array(LENGTHS, dtype)
    loss = penalty(outputs, 2.0, sequence_length=lengths)
    gradient = value_of(tf.gradients(loss, outputs)[0])
    # Each entry on its own, by the central difference, exact for squares.
    for index in np.ndindex(H.shape):
        before = H[index]
        H[index] = before + 0.5
        above = expected(LENGTHS)
        H[index] = before - 0.5
        below = expected(LENGTHS)
        H[index] = before
        np.testing.assert_allclose(
            gradient[index], 2.0 * (above - below), atol=1e-12
        )


@every_penalty
@pytest.mark.parametrize("time_major", [False, True])
@pytest.mark.parametrize("padding", [np.nan, np.inf, 1e200])
def test_padding_may_hold_anything(name, padding, time_major):
    penalty, expected = PENALTIES[name]
    padded = np.full_like(H, padding)
    for b, t in steps_of(LENGTHS):
        padded[b, t] = H[b, t]
    outputs = tf.constant(padded.swapaxes(0, 1) if time_major else padded)
    loss = penalty(outputs, 2.0, time_major=time_major, sequence_length=LENGTHS)
    got, gradient = value_of([loss, tf.gradients(loss, outputs)[0]])
    np.testing.assert_allclose(got, 2.0 * expected(LENGTHS), rtol=1e-12)
    gradient = gradient.swapaxes(0, 1) if time_major else gradient
    past = np.arange(TIME) >= np.array(LENGTHS)[:, None]
    assert not np.any(gradient[past]) and np.all(np.isfinite(gradient))


@pytest.mark.smoke
@every_penalty
@pytest.mark.parametrize(
    "dtype", [tf.float16, tf.bfloat16, tf.float32, tf.float64]
)
def test_dtypes(name, dtype):
    penalty, _ = PENALTIES[name]
    # The sum of squares, 6.4e6, is beyond float16; the mean, 1600, is not.
    outputs = tf.constant([[[20.0], [-20.0]]] * 40)
    outputs = tf.cast(tf.tile(outputs, [1, 50, 1]), dtype)
    loss = penalty(outputs, 0.5)
    assert loss.dtype == dtype
    expected = 0.5 * (400 if name == "ar" else 1600)
    precision = 1e-2 if dtype == tf.bfloat16 else 1e-3
    value = value_of(tf.cast(loss, tf.float64))
    np.testing.assert_allclose(value, expected, rtol=precision)


@every_penalty
def test_rate_of_zero_adds_no_computation(name):
    penalty, _ = PENALTIES[name]
    loss = penalty(tf.constant(H), 0)
    assert loss.op.type == "Const" and value_of(loss) == 0


@every_penalty
def test_tensor_rate(name):
    penalty, expected = PENALTIES[name]
    rate = tf.placeholder(tf.float32, [])
    loss = penalty(tf.constant(H), rate)
    argument = "alpha" if name == "ar" else "beta"
    np.testing.assert_allclose(
        value_of(loss, {rate: 0.5}), 0.5 * expected([TIME] * BATCH)
    )
    for bad in [-1.0, np.nan]:
        with pytest.raises(tf.errors.InvalidArgumentError) as caught:
            value_of(loss, {rate: bad})
        assert f"`{argument}` must be at least 0, got" in str(caught.value)


def test_other_ranks():
    vector = tf.constant([1.0, 2.0])
    assert value_of(activation_regularization(vector, 2.0)) == 5.0
    deep = tf.constant(H.reshape(BATCH, TIME, 2, 2))
    for penalty, expected in PENALTIES.values():
        loss = penalty(deep, 1.0, sequence_length=LENGTHS)
        np.testing.assert_allclose(value_of(loss), expected(LENGTHS))


def test_name_scopes():
    ar = activation_regularization(tf.constant(H), 1.0)
    tar = temporal_activation_regularization(tf.constant(H), 1.0, name="mine")
    assert ar.op.name.startswith("activation_regularization/")
    assert tar.op.name.startswith("mine/")


def test_both_take_their_arguments_in_one_order():
    ar, tar = (
        list(inspect.signature(penalty).parameters)
        for penalty, _ in (PENALTIES["ar"], PENALTIES["tar"])
    )
    assert ar[1] == "alpha" and tar[1] == "beta"
    assert ar[0] == tar[0] and ar[2:] == tar[2:]
    assert tar[2:] == ["time_major", "sequence_length", "name"]
