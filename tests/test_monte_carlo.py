"""examples/monte_carlo.py: masks held over predictions, and drawn again."""

import numpy as np
import pytest
from versions import tf


@pytest.fixture(scope="module")
def monte_carlo(example):
    return example("monte_carlo")


def test_tiny_run(monte_carlo, tmp_path, capsys):
    picture = tmp_path / "picture.png"
    arguments = "--units=16 --steps=60 --draws=6 --horizon=24"
    monte_carlo.main(arguments.split() + [f"--out={picture}"])
    lines = capsys.readouterr().out.splitlines()
    seen, continued, without = (float(n.split(":")[1]) for n in lines[:3])
    assert continued > seen > 0
    assert without == 0
    assert picture.stat().st_size > 10000


def test_a_prediction_holds_its_masks(monte_carlo, open_session):
    model = monte_carlo.Forecaster(8, 0.5)
    seen = monte_carlo.series(0, 20)
    masks = [model.cell.mask, model.dropout.mask]
    session = open_session()
    session.run(tf.global_variables_initializer())

    def predict():
        before = session.run(masks)
        values = model.predict(session, seen, 10)
        assert all(map(np.array_equal, before, session.run(masks)))
        return values

    plain = predict()
    session.run(model.new_masks)
    first = predict()
    assert len(first) == 30
    assert np.array_equal(first, predict())
    # Goes on where the state was: as if the net's own values were given.
    whole = model.predict(session, np.concatenate([seen, first[19:]]), 0)
    np.testing.assert_allclose(whole[:30], first, atol=1e-5)
    session.run(model.new_masks)
    assert not np.allclose(first, predict())
    session.run(model.no_masks)
    assert np.array_equal(plain, predict())


@pytest.mark.parametrize(
    "flag, rule",
    [
        ("--draws=0", "must be at least 2, got 0."),
        ("--draws=1", "must be at least 2, got 1."),
        ("--steps=-5", "must be at least 1, got -5."),
        ("--steps=many", "invalid int value: 'many'"),
        ("--keep-rate=0", "must be in (0, 1], got 0."),
        ("--keep-rate=nan", "must be in (0, 1], got nan."),
        ("--units=0", "must be at least 1, got 0."),
        ("--horizon=0", "must be at least 1, got 0."),
        ("--seed=-1", "must be in [0, 2**32), got -1."),
        ("--out=picture", "must be a .png file, got picture."),
    ],
)
def test_refuses_bad_flags(monte_carlo, flag, rule, capsys):
    with pytest.raises(SystemExit) as stop:
        monte_carlo.main([flag])
    assert stop.value.code == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert line.endswith(f"error: argument {flag.split('=')[0]}: {rule}")
