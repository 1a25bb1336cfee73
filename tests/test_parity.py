"""benchmarks/parity.py: the TensorFlow side against numpy, then the other.

PyTorch needs a Python of its own. The tests that need it are skipped unless the
environment variable TORCH_PYTHON says where it is.
"""

import argparse
import json
import os
import pathlib

import numpy as np
import pytest

TORCH_PYTHON = os.environ.get("TORCH_PYTHON")
needs_torch = pytest.mark.skipif(
    not TORCH_PYTHON, reason="needs TORCH_PYTHON, a Python that has PyTorch"
)

TINY = {
    "vocabulary": 11,
    "embedding": 3,
    "units": [4, 5, 3],
    "batch": 2,
    "valid_batch": 2,
    "time": 6,
}


@pytest.fixture(scope="module")
def parity(example):
    return example("parity")


@pytest.fixture(scope="module")
def worker(example):
    return example("parity_worker")


# ---------------------------------------------------------------------------
# The network in numpy, from the paper


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm(inputs, kernel, bias, c, h):
    outputs = []
    for x in inputs:
        i, j, f, o = np.split(np.hstack([x, h]) @ kernel + bias, 4, axis=1)
        c = sigmoid(f + 1.0) * c + sigmoid(i) * np.tanh(j)
        h = sigmoid(o) * np.tanh(c)
        outputs.append(h)
    return np.array(outputs), c, h


def network(settings, weights, kept, inputs, targets, state):
    """Loss and last state, for given masks."""
    masks = {
        name: kept[name] / settings["keep"][name.split("_")[0]] for name in kept
    }
    x = (weights["embedding"] * masks["embedding"][:, None])[inputs]
    x, last = x * masks["inputs"], []
    for i, units in enumerate(settings["units"]):
        x = x * masks[f"hidden_{i}"] if i else x
        kernel = weights[f"kernel_{i}"].copy()
        kernel[-units:] *= masks[f"weights_{i}"]
        first = state[2 * i : 2 * i + 2]
        x, c, h = lstm(x, kernel, weights[f"bias_{i}"], *first)
        last += [c, h]
    dropped = x * masks["outputs"]
    softmax = weights["embedding" if settings["tied"] else "softmax"]
    scores = np.exp(dropped @ softmax.T + weights["bias"])
    share = np.take_along_axis(scores, targets[..., None], 2)[..., 0]
    loss = -np.mean(np.log(share / scores.sum(2)))
    loss += settings["alpha"] * np.mean(dropped**2)
    return loss + settings["beta"] * np.mean(np.diff(x, axis=0) ** 2), last


def slope(function, arrays, name, direction, step=1e-5):
    """Of `function` where `arrays[name]` moves along `direction`."""

    def at(distance):
        moved = arrays[name] + distance * direction
        return function(dict(arrays, **{name: moved}))

    return (at(step) - at(-step)) / (2 * step)


def tiny_task(parity, **changes):
    settings = dict(parity.STEP_SETTINGS, **TINY)
    settings.update(changes)
    return parity.step_task(settings, "float64")


@pytest.mark.parametrize("tied", [True, False])
def test_a_step_in_tensorflow_against_numpy(parity, example, tied):
    task = tiny_task(parity, tied=tied, optimizer="sgd")
    settings, rate = task["settings"], 8.0
    model = example("tf_awd_lstm").Model(settings, dtype="float64")
    weights, state = model.weights(), list(task["state"].values())
    window = task["inputs"][0], task["targets"][0]
    model.set_state(state)
    told = model.examine(*window, rate=rate)

    def of(weights):
        return network(settings, weights, told["kept"], *window, state)

    loss, last = of(weights)
    np.testing.assert_allclose(told["loss"], loss, rtol=1e-12)
    for i, part in enumerate(last):
        np.testing.assert_allclose(told["state"][i], part, rtol=1e-10)
    gradients, random = told["gradients"], np.random.RandomState(0)
    assert gradients.keys() == weights.keys()
    for name in weights:
        direction = random.randn(*weights[name].shape)
        expected = slope(lambda w: of(w)[0], weights, name, direction)
        found = np.vdot(gradients[name], direction)
        np.testing.assert_allclose(
            found, expected, rtol=1e-6, atol=1e-9, err_msg=name
        )
    norm = np.sqrt(sum(np.sum(x**2) for x in gradients.values()))
    assert norm > settings["clip"]  # so that it matters
    for name, after in model.weights().items():
        step = rate * settings["clip"] / norm * gradients[name]
        np.testing.assert_allclose(weights[name] - after, step, atol=1e-12)


def test_every_mask_drops_something(parity, example):
    task = tiny_task(parity, tied=True, optimizer="sgd")
    model = example("tf_awd_lstm").Model(task["settings"], dtype="float64")
    model.set_state(task["state"].values())
    kept = {}
    for window in zip(task["inputs"], task["targets"]):
        for name, mask in model.examine(*window, rate=0.0)["kept"].items():
            kept.setdefault(name, []).append(mask)
    names = {"embedding", "inputs", "hidden_1", "hidden_2", "outputs"}
    assert kept.keys() == names | {"weights_0", "weights_1", "weights_2"}
    for name in kept:
        assert 0 < np.mean(kept[name]) < 1, name
        assert any((mask != kept[name][0]).any() for mask in kept[name]), name


# ---------------------------------------------------------------------------
# PyTorch


@needs_torch
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "nt_asgd"])
def test_a_step_beside_pytorch(parity, tmp_path, optimizer):
    flags = argparse.Namespace(torch=TORCH_PYTHON, out=str(tmp_path))
    tasks = {
        tied: tiny_task(parity, tied=tied, optimizer=optimizer)
        for tied in (True, False)
    }
    for told in parity.take_steps(tasks, flags).values():
        found = parity.largest_differences(*told)
        # PyTorch's ASGD and TensorFlow's Adam have constants in float32.
        for part in ("weights", "last weights", "averages"):
            assert found.pop(part, 0) < 1e-5
        assert max(found.values()) < 1e-12


@needs_torch
@pytest.mark.slow
def test_training_beside_pytorch(parity, text, monkeypatch):
    monkeypatch.setattr(parity, "SETTINGS", dict(parity.SETTINGS, **TINY))
    monkeypatch.setitem(parity.SETTINGS, "epochs", 2)
    command = text + ["--torch", TORCH_PYTHON, "--seeds", "1", "2"]
    assert parity.main(command) in (0, 1)
    runs = json.loads(pathlib.Path(text[-1]).read_text())["runs"]
    for run in runs:
        assert run["valid"][1] < run["valid"][0] < np.log(20)
    assert len({run["valid"][0] for run in runs}) == 4


# ---------------------------------------------------------------------------
# What is around it


@pytest.fixture
def text(tmp_path):
    """Arguments that have `main` train on a short text."""
    path = tmp_path / "text.txt"
    words = np.random.RandomState(0).choice(["kind", "of", "blue"], 1500)
    path.write_text(" ".join(words))
    out, results = str(tmp_path / "out"), str(tmp_path / "results.json")
    return ["--parts", "train", "--data", str(path), "--out", out] + [
        "--json",
        results,
    ]


@pytest.fixture
def trained(parity, monkeypatch):
    """Replaces workers; the list of runs they were asked for."""
    asked = []

    def work(command):
        framework, _, _, out, seed = command[4:]
        asked.append((framework, seed))
        first = len(asked) / 8
        last = first + trained.pytorch * ("torch" in framework)
        run = {"seed": int(seed), "valid": [first, last]}
        pathlib.Path(out).write_text(json.dumps(run))

    trained = argparse.Namespace(asked=asked, pytorch=0.0)
    monkeypatch.setattr(parity.subprocess, "check_call", work)
    return trained


def test_runs_are_made_once(parity, text, trained, capsys):
    command = text + ["--torch", "none", "--seeds", "1", "2"]
    assert parity.main(command) == 0
    assert sorted(trained.asked) == [
        ("tf_awd_lstm", "1"),
        ("tf_awd_lstm", "2"),
        ("torch_awd_lstm", "1"),
        ("torch_awd_lstm", "2"),
    ]
    capsys.readouterr()
    assert parity.main(command) == 0
    assert len(trained.asked) == 4
    # Means of 1/8, 3/8 and of 2/8, 4/8; each has a standard error of 1/8.
    row = "| 2 | 0.2500 ± 0.1768 | 0.3750 ± 0.1768 | -0.71 |"
    assert row in capsys.readouterr().out


def test_curves_apart_are_an_error(parity, text, trained):
    trained.pytorch = 1.0
    assert parity.main(text + ["--torch", "none", "--seeds", "1", "2"]) == 1


def test_results_of_another_text_are_refused(parity, text, trained, capsys):
    command = text + ["--torch", "none", "--seeds", "1", "2"]
    parity.main(command)
    path = pathlib.Path(text[text.index("--data") + 1])
    letters = path.read_text()
    path.write_text(letters[:-99] + letters[:-100:-1])  # what is held out
    assert parity.main(command) == 2
    assert "same settings and text" in capsys.readouterr().err


def test_what_is_held_out_is_not_trained_on(parity, text):
    path = text[text.index("--data") + 1]
    pathlib.Path(path).write_text("ab" * 900 + "ba" * 100)
    task = parity.train_task(path)
    first, second = task["train"][:2]
    np.testing.assert_array_equal(task["train"], [first, second] * 900)
    np.testing.assert_array_equal(task["valid"], [second, first] * 100)


def test_one_part_apart_is_an_error(parity, text, monkeypatch):
    for apart in parity.AGREEING:
        differences = dict.fromkeys(parity.AGREEING, parity.BOUND / 2)
        differences[apart] = parity.BOUND * 2
        found = dict.fromkeys(["weights", "last weights", "averages"], 0.0)
        found.update(differences)
        cases = dict.fromkeys(parity.step_cases(), found)
        assert not parity.print_steps(cases)
    parts = {"steps": lambda *_: False, "train": lambda *_: True}
    monkeypatch.setattr(parity, "PARTS", parts)
    command = text + ["--torch", "none", "--parts", "steps", "train"]
    assert parity.main(command) == 1


def test_largest_difference_is_relative_to_the_largest_entry(parity):
    ours = {"a": np.array([4.0, 1.0]), "b": {"c": np.array([-2.0])}}
    theirs = {"a": np.array([4.0, 2.0]), "b": {"c": np.array([-2.0])}}
    assert parity.largest_difference(ours, theirs) == 0.25
    assert parity.largest_difference(ours, ours) == 0.0


def test_tokens_per_second_of_the_median_step(parity, monkeypatch, tmp_path):
    class Stepper(object):
        def __init__(self, command):
            pytorch = "torch_awd_lstm" in command
            self.step = iter([9, 9, 2, 1, 8] if pytorch else [0, 0, 3, 4, 5])
            self.close = lambda: None

        def __call__(self):
            return next(self.step)

    monkeypatch.setattr(parity, "Stepper", Stepper)
    flags = argparse.Namespace(torch="none", out=str(tmp_path))
    found = parity.tokens_per_second(
        {"time": 10, "batch": 2}, threads=1, repeats=3, flags=flags
    )
    assert found == {"TensorFlow": 20 / 4, "PyTorch": 20 / 2}


def test_windows_go_on_where_the_last_stopped(parity, worker):
    lengths = parity.window_lengths(333, 20, np.random.RandomState(0))
    assert lengths.sum() == 333
    assert len(set(lengths)) > 3
    windows = worker.windows(np.arange(1000), 3, lengths)
    assert [len(inputs) for inputs, _ in windows] == list(lengths)
    inputs = np.concatenate([inputs for inputs, _ in windows])
    for row in range(3):
        np.testing.assert_array_equal(
            inputs[:, row], np.arange(333 * row, 333 * row + 333)
        )
    for inputs, targets in windows:
        np.testing.assert_array_equal(targets, inputs + 1)


def test_what_is_saved_is_loaded(worker, tmp_path):
    path = str(tmp_path / "file.npz")
    tree = {"settings": {"a": [1]}, "x": {"y": {"0": np.ones(2)}, "z": 3}}
    worker.save(path, tree)
    loaded = worker.load(path)
    assert loaded["settings"] == tree["settings"]
    assert worker.flat(loaded["x"]).keys() == {"y/0", "z"}
    np.testing.assert_array_equal(loaded["x"]["y"]["0"], np.ones(2))
