"""examples/language_model.py at tiny size: whole runs, resuming, errors."""

import glob
import io
import random
import re
import sys

import numpy as np
import pytest
import tensorflow

tf = getattr(tensorflow.compat, "v1", tensorflow)


@pytest.fixture
def language_model(example, monkeypatch):
    module = example("language_model")
    for name, value in (("UNITS", 8), ("ROWS", 4), ("STEPS", 10)):
        monkeypatch.setattr(module, name, value)
    return module


@pytest.fixture
def run(language_model, text_file, tmp_path, capsys):
    """Runs the program; returns the last lines that it printed."""

    def run(*more, out="out"):
        random.seed(0)  # of which layers of 2.x take the seeds of their weights
        argv = [f"--data={text_file}", f"--out={tmp_path / out}"]
        language_model.main([*argv, "--epochs=3", *more])
        run.printed, run.bars = capsys.readouterr()
        return run.printed.splitlines()[-4:]

    return run


def checkpoint_of(title, folder):
    (found,) = glob.glob(str(folder / f"{title}-*"))
    reader = tf.train.load_checkpoint(found)
    shapes = reader.get_variable_to_shape_map()
    return {name: reader.get_tensor(name) for name in shapes}


def test_is_one_short_file(examples):
    lines = (examples / "language_model.py").read_text("utf-8").splitlines()
    assert len(lines) <= 250


def test_a_run(language_model, run, text_file, tmp_path):
    heading, plain, recipe, picture = run()
    assert heading == "Perplexity of the held-out text, at the best epoch:"
    assert picture == f"Curves: {tmp_path / 'out/curves.png'}"
    png = (tmp_path / "out/curves.png").read_bytes()
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    words = len(language_model.load(str(text_file))[2])
    for title, line in (("LSTM", plain), ("AWD-LSTM", recipe)):
        curve = checkpoint_of(title, tmp_path / "out")["curve"]
        assert len(curve) == 4
        assert abs(curve[0] - np.log(words)) < 0.1
        assert np.all(np.diff(curve) < 0)
        assert line.split() == [
            title,
            f"{np.exp(curve[3]):.2f}",
            "(epoch",
            "3)",
        ]
    bars = re.findall(r"(\S*LSTM): 100%", run.bars)
    assert set(bars) == {"LSTM", "AWD-LSTM"}
    assert_summaries_show_masks(tmp_path)
    _, held_out, _ = language_model.load(str(text_file))
    assert_last_loss_is_that_of_numpy(tmp_path, held_out)


def assert_summaries_show_masks(tmp_path):
    (path,) = glob.glob(str(tmp_path / "out/AWD-LSTM-*/events.*"))
    events = tf.train.summary_iterator(path)
    values = [x for event in events for x in event.summary.value]
    kept = [x.simple_value for x in values if "kept_fraction" in x.tag]
    assert abs(np.mean(kept) - 0.5) < 0.1
    assert {x.tag for x in values} == {
        "train_loss",
        "held_out_loss",
        "model/lstm_mask/kept_fraction",
        "model/lstm_mask/changed",
    }


def assert_last_loss_is_that_of_numpy(tmp_path, pairs):
    of = checkpoint_of("AWD-LSTM", tmp_path / "out")
    c = h = np.zeros(8)
    losses = []
    for word, following in pairs:
        inputs = np.concatenate([of["model/embedding"][word], h])
        gates = inputs @ of["model/lstm/kernel"] + of["model/lstm/bias"]
        i, j, f, o = np.split(gates, 4)
        i, f, o = (1 / (1 + np.exp(-x)) for x in (i, f + 1, o))
        c = f * c + i * np.tanh(j)
        h = o * np.tanh(c)
        p = np.exp(of["model/embedding"] @ h + of["model/bias"])
        losses.append(-np.log(p[following] / p.sum()))
    np.testing.assert_allclose(of["curve"][-1], np.mean(losses), rtol=1e-5)


@pytest.mark.slow
def test_goes_on_where_it_was_broken_off(
    language_model, run, tmp_path, monkeypatch
):
    """And the LSTM, which draws nothing, ends with the same weights."""
    make_session = tf.train.MonitoredTrainingSession
    update, done, stops = language_model.tqdm.tqdm.update, [], [20]

    def interrupted(bar):
        done.append(bar.n)
        if len(done) in stops:
            raise KeyboardInterrupt
        update(bar)

    def make(**arguments):
        arguments.update(save_checkpoint_secs=None, save_checkpoint_steps=7)
        return make_session(**arguments)

    monkeypatch.setattr(tf.train, "MonitoredTrainingSession", make)
    monkeypatch.setattr(language_model.tqdm.tqdm, "update", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run("--epochs=2")
    broken = run("--epochs=2")
    assert 10 < done[20] < 19  # the last checkpoint's
    whole = run("--epochs=2", out="whole")
    assert broken[1] == whole[1]
    ours, theirs = (
        checkpoint_of("LSTM", tmp_path / out) for out in ("out", "whole")
    )
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], name)
    steps = len(done)
    assert run("--epochs=2") == broken  # all is done
    assert len(done) == steps
    stops.append(steps + 1)
    with pytest.raises(KeyboardInterrupt):
        run("--epochs=2", "--seed=2")  # another training


def test_reads_what_the_trainer_reads(language_model, text_data):
    (train, held_out, words), corpus = (
        language_model.load(None),
        text_data.load_corpus(),
    )
    assert words == corpus.vocabulary
    np.testing.assert_array_equal(train[:, 0], corpus.train[:-1])
    np.testing.assert_array_equal(train[:, 1], corpus.train[1:])
    np.testing.assert_array_equal(held_out[:, 1], corpus.valid[1:])


def test_prints_on_a_terminal_without_the_letters(
    language_model, text_file, tmp_path, monkeypatch
):
    def train(*arguments):
        return np.array([2.0, 1.0]), "l\u2019\u00e9t\u00e9"

    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(language_model, "train", train)
    monkeypatch.setattr(sys, "stdout", terminal)
    language_model.main([f"--data={text_file}", f"--out={tmp_path}"])
    assert b"\nl??t?\n" in terminal.buffer.getvalue()


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "No such file"),
        (b"\x89PNG", "can't decode byte 0x89"),
        (b"", "too short, 0 words"),
        (b"far too short", "too short, 3 words"),
        (b" ".join(b"%d" % i for i in range(999)), "too short, 999 words"),
    ],
)
def test_refuses_a_useless_file(
    content, message, language_model, tmp_path, capsys
):
    path = tmp_path / "text"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SystemExit) as stop:
        language_model.main([f"--data={path}"])
    assert stop.value.code == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert "error: argument --data: must be a UTF-8 text" in line
    assert message in line


def test_refuses_no_epochs(language_model, capsys):
    with pytest.raises(SystemExit):
        language_model.main(["--epochs=-5"])
    assert "--epochs: must be at least 1" in capsys.readouterr().err
