"""examples/language_model.py at tiny size: data, training, resuming, errors."""

import importlib
import json
import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

TINY = (
    "--units=8 --batch-size=4 --steps=10 --epochs=2 --sample=12 --threads=1 "
    "--save-seconds=1000"
).split()


@pytest.fixture(scope="module")
def example(examples):
    """Imports a module of the example by its name."""
    sys.path.insert(0, str(examples))
    yield importlib.import_module
    sys.path.remove(str(examples))


@pytest.fixture(scope="module")
def language_model(example):
    return example("language_model")


@pytest.fixture(scope="module")
def text_data(example):
    return example("text_data")


@pytest.fixture
def text_file(tmp_path, text_data):
    """Some real prose, about 800 words."""
    path = tmp_path / "text.txt"
    path.write_text(text_data.python_documentation()[:5000], encoding="utf-8")
    return path


def write_folder(folder):
    """Three files laid out as PTB's."""
    folder.mkdir()
    line = " no it was n't <unk> mr. smith said N times \n"
    for name, lines in (("train", 60), ("valid", 10), ("test", 10)):
        (folder / f"{name}.txt").write_text(line * lines, encoding="utf-8")


@pytest.fixture
def start_run(language_model, example, text_data, text_file, tmp_path):
    """Starts a run of one cell as `main` does; returns the trainer."""

    def start(kind, *more):
        flags = language_model.parse_flags(
            [f"--data={text_file}", f"--out={tmp_path / 'out'}", *TINY, *more]
        )
        corpus = text_data.load_corpus(flags.data, flags.level)
        example("run_folder").prepare(flags, corpus)
        return language_model.make_trainer(kind, flags, corpus)

    return start


def read(path):
    return json.loads(path.read_text())


# A whole run.


def test_trains_both_cells_and_reports(
    language_model, text_file, tmp_path, capsys
):
    out = tmp_path / "out"
    code = language_model.main([f"--data={text_file}", f"--out={out}"] + TINY)
    printed = capsys.readouterr().out
    assert code == 0
    assert "--- sampled from LSTMCell ---" in printed
    assert "--- sampled from WeightDropLSTMCell ---" in printed
    *_, heading, lstm, weight_drop, curves = printed.splitlines()
    assert heading == "Held-out perplexity per word, at the best epoch:"
    for line, title, folder in (
        (lstm, "LSTMCell", "lstm"),
        (weight_drop, "WeightDropLSTMCell", "weight_drop"),
    ):
        progress = read(out / folder / "progress.json")
        perplexities = [point["held_out"] for point in progress["curve"]]
        assert len(perplexities) == 2
        assert min(perplexities) == progress["best"]["held_out"]
        assert line.split()[:2] == [title, f"{min(perplexities):.2f}"]
    assert curves == f"Curves: {out / 'curves.png'}"
    assert (out / "curves.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def folder_run(language_model, tmp_path_factory):
    """A run on the characters of a folder laid out as PTB: one line's worth."""
    path = tmp_path_factory.mktemp("folder_run")
    write_folder(path / "data")
    code = language_model.main(
        [f"--data={path / 'data'}", f"--out={path / 'out'}", "--level=char"]
        + TINY
        + "--cells weight_drop --epochs=4 --learning-rate=0.03".split()
        + "--units=32 --keep-rate=0.7".split()
    )
    assert code == 0
    return path / "out/weight_drop"


def test_learns_the_characters_of_a_folder(folder_run):
    # One sentence again and again: hardly anything is left to guess.
    assert read(folder_run / "progress.json")["best"]["held_out"] < 1.5


def test_summaries_show_the_mask(folder_run):
    (events,) = folder_run.glob("events.*")
    scalars = {
        value.tag: value.simple_value
        for event in tf.train.summary_iterator(str(events))
        for value in event.summary.value
    }
    (kept,) = (scalars[tag] for tag in scalars if "kept_fraction" in tag)
    (changed,) = (scalars[tag] for tag in scalars if "changed" in tag)
    assert abs(kept - 0.7) < 0.05
    assert changed == 1.0
    assert {
        "train_loss",
        "gradient_norm",
        "learning_rate",
        "perplexity/train",
        "perplexity/held_out",
    } <= set(scalars)


# Evaluation.


def test_evaluation_drops_nothing(start_run, tmp_path):
    dropped = start_run("weight_drop", "--learning-rate=0.05")
    dropped.train("training")
    stock = start_run("lstm", f"--out={tmp_path / 'stock'}")
    # A checkpoint of one cell, taken up by the other.
    stock.restore(dropped.path(dropped.progress["checkpoint"]))
    held_out = dropped.corpus.valid
    assert dropped.evaluate(held_out) == dropped.evaluate(held_out)
    assert dropped.evaluate(held_out) == stock.evaluate(held_out)


def test_training_drops(start_run):
    trainer = start_run("weight_drop", "--keep-rate=0.5")
    inputs, targets = trainer.windows[0]
    feeds = {trainer.training.inputs: inputs, trainer.training.targets: targets}
    losses = [
        trainer.session.run(trainer.training.loss, feeds) for _ in range(3)
    ]
    assert len(set(losses)) == 3


def test_perplexity_of_knowing_nothing_is_the_vocabulary(start_run):
    trainer = start_run("lstm")
    with trainer.session.graph.as_default():
        weights = tf.trainable_variables()
    for variable in weights:
        variable.load(np.zeros(variable.shape.as_list()), trainer.session)
    np.testing.assert_allclose(
        trainer.evaluate(trainer.corpus.valid),
        len(trainer.corpus.vocabulary),
        rtol=1e-5,
    )


def test_perplexity_is_that_of_numpy(start_run):
    trainer = start_run("lstm", "--learning-rate=0.05")
    trainer.train("training")
    with trainer.session.graph.as_default():
        variables = tf.trainable_variables()
    embedding, bias, kernel, gate_bias = trainer.session.run(variables)
    rows = trainer.corpus.valid
    length = (len(rows) - 1) // 10
    rows = np.stack(
        [rows[i * length : (i + 1) * length + 1] for i in range(10)]
    )
    c = h = np.zeros([10, 8])
    losses = []
    for now, after in zip(rows.T[:-1], rows.T[1:]):
        i, j, f, o = np.split(
            np.concatenate([embedding[now], h], 1) @ kernel + gate_bias, 4, 1
        )
        c = sigmoid(f + 1) * c + sigmoid(i) * np.tanh(j)
        h = sigmoid(o) * np.tanh(c)
        p = np.exp(h @ embedding.T + bias)
        p /= p.sum(1, keepdims=True)
        losses.append(-np.log(p[np.arange(10), after]))
    np.testing.assert_allclose(
        trainer.evaluate(trainer.corpus.valid),
        np.exp(np.mean(losses)),
        rtol=1e-5,
    )


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_state_is_carried_from_window_to_window(start_run):
    """Two windows of 5 give the loss of one window of 10."""
    trainer = start_run("lstm")
    model, session = trainer.held_out, trainer.session
    ids = np.random.randint(0, 50, [10, 11])

    def loss(start, stop):
        feeds = {
            model.inputs: ids[:, start:stop],
            model.targets: ids[:, start + 1 : stop + 1],
        }
        return session.run([model.loss, model.carry_state], feeds)[0]

    session.run(model.reset_state)
    whole = loss(0, 10)
    session.run(model.reset_state)
    np.testing.assert_allclose((loss(0, 5) + loss(5, 10)) / 2, whole, rtol=1e-5)
    assert loss(0, 5) != loss(0, 5)


def test_keeps_the_best_epoch_and_halves_the_learning_rate_after_others(
    start_run, monkeypatch
):
    trainer = start_run("lstm", "--learning-rate=0.8", "--epochs=4")
    held_out = iter([50.0, 40.0, 45.0, 40.0])
    monkeypatch.setattr(trainer, "evaluate", lambda ids: next(held_out))
    monkeypatch.setattr(trainer, "windows", trainer.windows[:2])
    trainer.train("training")
    rates = [point["learning_rate"] for point in trainer.progress["curve"]]
    assert rates == [0.8, 0.8, 0.8, 0.4]
    assert trainer.progress["learning_rate"] == 0.2
    assert trainer.progress["best"] == {
        "held_out": 40.0,
        "epoch": 2,
        "checkpoint": "step-4",
    }
    there = {path.stem for path in pathlib.Path(trainer.folder).glob("step-*")}
    assert there == {"step-4", "step-8"}


# Interruptions.


def test_resuming_after_ctrl_c_ends_where_an_unbroken_run_does(
    language_model, example, text_file, tmp_path, capsys, monkeypatch
):
    trainer = example("trainer")
    train_step = trainer.Trainer._train_step

    def interrupted(self, inputs, targets):
        train_step(self, inputs, targets)
        self.progress["step"] -= 1  # it came before the step was counted
        if self.progress["step"] + 1 == 25:
            raise KeyboardInterrupt
        self.progress["step"] += 1

    def argv(out):
        return [f"--data={text_file}", f"--out={out}", "--cells=lstm", *TINY]

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert language_model.main(argv(whole)) == 0
    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "_train_step", interrupted)
        assert language_model.main(argv(broken)) == 130
    assert "--resume goes on from here" in capsys.readouterr().err
    assert read(broken / "lstm/progress.json")["step"] == 25
    assert language_model.main(argv(broken) + ["--resume"]) == 0
    unbroken, resumed = (
        read(run / "lstm/progress.json")["curve"] for run in (whole, broken)
    )
    for part in ("held_out", "learning_rate"):
        np.testing.assert_allclose(
            [point[part] for point in resumed],
            [point[part] for point in unbroken],
            rtol=1e-6,
        )


def test_resumes_after_kill_9(
    language_model, examples, text_file, tmp_path, capsys
):
    progress = tmp_path / "out/weight_drop/progress.json"
    argv = [f"--data={text_file}", f"--out={tmp_path / 'out'}", *TINY]
    argv += ["--cells=weight_drop", "--save-seconds=0.001"]
    script = str(examples / "language_model.py")
    process = subprocess.Popen(
        [sys.executable, script, *argv, "--epochs=1000"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_until(lambda: progress.exists() and read(progress)["step"] > 5)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    killed_at = read(progress)["step"]
    # No sooner done than there, even if it was killed beyond two epochs.
    epochs = len(read(progress)["curve"]) + 1
    assert language_model.main(argv + ["--resume", f"--epochs={epochs}"]) == 0
    assert f"of {epochs})" in capsys.readouterr().out
    assert read(progress)["step"] > killed_at
    kept = {read(progress)["checkpoint"], read(progress)["best"]["checkpoint"]}
    there = {path.stem for path in progress.parent.glob("step-*")}
    assert there == kept


def wait_until(condition, seconds=60):
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, "waited in vain"
        time.sleep(0.02)


def test_the_earlier_run_is_kept(
    language_model, example, text_data, text_file, tmp_path, capsys
):
    out = tmp_path / "out"
    flags = language_model.parse_flags([f"--data={text_file}", f"--out={out}"])
    corpus = text_data.load_corpus(flags.data)
    for number in range(3):
        example("run_folder").prepare(flags, corpus)
        (out / "lstm").mkdir()
        (out / "lstm" / "made_by").write_text(str(number))
    assert capsys.readouterr().out.splitlines() == [
        f"The earlier run is kept in {out}.1",
        f"The earlier run is kept in {out}.2",
    ]
    for folder, number in (("out.1", "0"), ("out.2", "1"), ("out", "2")):
        made_by = tmp_path / folder / "lstm" / "made_by"
        assert made_by.read_text() == number


# Errors.


def one_error(code, capsys):
    """The one line on standard error."""
    (line,) = capsys.readouterr().err.splitlines()
    assert code == 2
    assert line.startswith("error: ")
    return line[len("error: ") :]


def write(path, content):
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "`--data` must hold some text, got {path}, empty."),
        (b" \n", "`--data` must hold some text, got {path}, empty."),
        (
            b"\x89PNG\r\n\x1a\n",
            "`--data` must be UTF-8 text, got {path} with the byte 0x89 in it.",
        ),
        (b"a\0b", "`--data` must be text, got {path} with NUL bytes."),
        (
            b"far too short",
            "`--data` is too short for one batch: the train part needs 41 "
            "tokens, got 2. Use a longer text, or a smaller `--batch-size` or "
            "`--steps`.",
        ),
        (
            b"a bit short " * 20,
            "`--data` is too short for one batch: the valid part needs 11 "
            "tokens, got 6. Use a longer text, or a smaller `--batch-size` or "
            "`--steps`.",
        ),
    ],
)
def test_refuses_a_useless_file(
    content, message, language_model, tmp_path, capsys
):
    path = write(tmp_path / "file", content)
    out = tmp_path / "out"
    code = language_model.main([f"--data={path}", f"--out={out}"] + TINY)
    assert one_error(code, capsys) == message.format(path=path)
    assert not out.exists()


def test_refuses_a_path_that_does_not_exist(language_model, tmp_path, capsys):
    path = tmp_path / "nowhere.txt"
    code = language_model.main([f"--data={path}", f"--out={tmp_path / 'out'}"])
    assert one_error(code, capsys) == f"`--data` must exist, got {path}."


def test_refuses_a_folder_without_the_three_files(
    language_model, tmp_path, capsys
):
    text_folder = tmp_path / "data"
    write_folder(text_folder)
    (text_folder / "valid.txt").unlink()
    code = language_model.main(
        [f"--data={text_folder}", f"--out={tmp_path / 'out'}"]
    )
    assert one_error(code, capsys) == (
        "`--data` must be a text file or a folder with train.txt, valid.txt "
        f"and test.txt, got a folder without {text_folder / 'valid.txt'}."
    )


def test_refuses_to_resume_nothing(language_model, text_file, tmp_path, capsys):
    out = tmp_path / "out"
    code = language_model.main(
        [f"--data={text_file}", f"--out={out}", "--resume"] + TINY
    )
    assert one_error(code, capsys) == (
        f"`--resume` needs a run to go on with, got none in {out}. Leave "
        "`--resume` out to start one."
    )


@pytest.mark.parametrize(
    "flag, message",
    [
        ("--units=16", "`--units` must be 8, as in the run in {out}, got 16."),
        ("--layers=2", "`--layers` must be 1, as in the run in {out}, got 2."),
        (
            "--level=char",
            "`--level` must be word, as in the run in {out}, got char.",
        ),
        (
            "--data={other}",
            "`--data` must be the text of the run in {out}, got another text.",
        ),
    ],
)
def test_refuses_to_resume_a_run_of_other_settings(
    flag,
    message,
    language_model,
    example,
    text_data,
    text_file,
    tmp_path,
    capsys,
):
    paths = {"out": tmp_path / "out", "other": tmp_path / "other.txt"}
    paths["other"].write_text(text_file.read_text("utf-8")[9:], "utf-8")
    argv = [f"--data={text_file}", f"--out={paths['out']}", *TINY]
    flags = language_model.parse_flags(argv)
    example("run_folder").prepare(flags, text_data.load_corpus(flags.data))
    code = language_model.main(argv + ["--resume", flag.format(**paths)])
    assert one_error(code, capsys) == message.format(**paths)


def test_refuses_to_resume_from_a_damaged_checkpoint(
    language_model, start_run, text_file, tmp_path, capsys
):
    start_run("lstm")
    checkpoint = tmp_path / "out/lstm/step-0"
    index = tmp_path / "out/lstm/step-0.index"
    for damage in (lambda: write(index, b"?"), index.unlink):
        damage()
        code = language_model.main(
            [f"--data={text_file}", f"--out={tmp_path / 'out'}", "--resume"]
            + TINY
        )
        assert one_error(code, capsys) == (
            f"`--resume` needs the checkpoint {checkpoint}, got none that can "
            "be read. Leave `--resume` out to start anew."
        )


def test_refuses_damaged_settings(language_model, text_file, tmp_path, capsys):
    settings = write(tmp_path / "settings.json", b'{"units": ')
    code = language_model.main(
        [f"--data={text_file}", f"--out={tmp_path}", "--resume"] + TINY
    )
    assert one_error(code, capsys) == (
        f"`--out` must hold a run in good order, got {settings}, which is "
        "damaged. Move it away to start anew."
    )


def test_refuses_a_folder_of_other_things(
    language_model, text_file, tmp_path, capsys
):
    code = language_model.main([f"--data={text_file}", f"--out={tmp_path}"])
    assert one_error(code, capsys) == (
        f"`--out` must be a folder of its own, got {tmp_path}, which holds "
        "something else."
    )


@pytest.mark.parametrize(
    "flag, message",
    [
        (
            "--keep-rate=1.5",
            "--keep-rate: must be in (0, 1], got 1.5.",
        ),
        (
            "--keep-rate=nan",
            "--keep-rate: must be in (0, 1], got nan.",
        ),
        ("--units=0", "--units: must be greater than 0, got 0."),
        ("--units=many", "--units: invalid int value: 'many'"),
        (
            "--learning-rate=inf",
            "--learning-rate: must be greater than 0, got inf.",
        ),
    ],
)
def test_refuses_bad_flags(flag, message, language_model, capsys):
    with pytest.raises(SystemExit) as stop:
        language_model.main([flag])
    assert stop.value.code == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert line.endswith(f"error: argument {message}")


def test_stops_at_numbers_that_are_not_finite(
    language_model, text_file, tmp_path, capsys
):
    out = tmp_path / "out"
    argv = [f"--data={text_file}", f"--out={out}", "--cells=weight_drop"]
    code = language_model.main(argv + TINY + ["--learning-rate=1e30"])
    *_, line = capsys.readouterr().err.splitlines()
    assert code == 1
    # The step and the quantity depend on the version of TensorFlow.
    assert re.fullmatch(
        r"error: the (gradient|held-out perplexity) is not finite at step "
        r"\d+\. Lower `--learning-rate`, got 1e\+30\.",
        line,
    )


def test_a_gradient_that_is_not_finite_leaves_the_weights_alone(
    example, start_run
):
    trainer = start_run("lstm")
    with trainer.session.graph.as_default():
        (embedding,) = (
            v for v in tf.trainable_variables() if "embedding" in v.name
        )
    inputs, targets = trainer.windows[0]
    value = trainer.session.run(embedding)
    value[inputs[0, 0]] = np.inf
    embedding.load(value, trainer.session)
    diverged = example("trainer").DivergedError
    with pytest.raises(diverged, match="gradient is not finite at step 0"):
        trainer._train_step(inputs, targets)
    np.testing.assert_array_equal(trainer.session.run(embedding), value)
    assert trainer.session.run(trainer.global_step) == 0


# The text.


def test_documentation_is_real_text_without_repetitions(text_data):
    text = text_data.python_documentation()
    paragraphs = text.split("\n\n")
    assert len(text) > 200000
    assert len(set(paragraphs)) == len(paragraphs)
    assert "assignment" in text.lower()


def test_splits_a_file_in_order(text_data, tmp_path):
    words = [f"w{i % 10}" for i in range(200)]
    path = write(tmp_path / "file", " ".join(words).encode())
    corpus = text_data.load_corpus(str(path))
    halves = text_data.load_corpus(str(path), test_fraction=0.05)
    assert [len(part) for part in corpus[:3]] == [180, 20, 0]
    assert [len(part) for part in halves[:3]] == [180, 10, 10]
    for each in (corpus, halves):
        ids = np.concatenate(each[:3])
        assert [each.vocabulary[i] for i in ids] == words


def test_cuts_prose_into_words_punctuation_and_paragraphs(text_data):
    text = "It isn't so...\nis it?\n\n\n== Yes =="
    assert text_data.tokenise(text, "word", prose=True) == (
        "It isn ' t so ... is it ? <eos> == Yes ==".split()
    )
    assert text_data.tokenise(" a n't <unk>\n b\n", "word", prose=False) == (
        "a n't <unk> <eos> b <eos>".split()
    )
    assert text_data.tokenise("a b\n", "char", prose=True) == list("a b\n")


def test_vocabulary_comes_from_the_training_part(text_data):
    parts = ["b b a a a c".split(), "d a".split(), ["c"]]
    corpus = text_data.number_tokens(parts, min_count=2)
    assert corpus.vocabulary == ["<unk>", "a", "b"]
    assert [part.tolist() for part in corpus[:3]] == [
        [2, 2, 1, 1, 1, 0],
        [0, 1],
        [0],
    ]
    # Of a folder every word is kept, and its own <unk> is that.
    whole = text_data.number_tokens([["b", "<unk>", "a"], ["x"], []])
    assert whole.vocabulary == ["<unk>", "a", "b"]
    assert whole.train.tolist() == [2, 0, 1]


def test_windows_go_on_where_the_last_stopped(text_data):
    first, last = text_data.windows(np.arange(12), batch_size=2, steps=3)
    np.testing.assert_array_equal(first[0], [[0, 1, 2], [5, 6, 7]])
    np.testing.assert_array_equal(first[1], [[1, 2, 3], [6, 7, 8]])
    np.testing.assert_array_equal(last[0], [[3, 4], [8, 9]])
    np.testing.assert_array_equal(last[1], [[4, 5], [9, 10]])


# The benchmark behind README's table.


@pytest.fixture
def gain(example, examples, monkeypatch):
    monkeypatch.syspath_prepend(str(examples.parent / "benchmarks"))
    return example("weight_drop_gain")


def test_table_chooses_the_learning_rate_on_validation(gain):
    runs = [
        {"cell": cell, "learning_rate": rate, "valid": valid, "test": test}
        for cell, rate, valid, test in (
            ("lstm", 1e-3, 60.0, 70.0),
            ("lstm", 1e-3, 62.0, 74.0),
            ("lstm", 2e-3, 60.5, 1.0),  # lowest on test, but not chosen
            ("lstm", 2e-3, 62.5, 1.0),
            ("weight_drop", 1e-3, 60.0, 1.0),
            ("weight_drop", 1e-3, 60.0, 1.0),
            ("weight_drop", 2e-3, 50.0, 55.0),
            ("weight_drop", 2e-3, 52.0, 57.0),
        )
    ]
    *_, lstm, weight_drop = gain.table({"runs": runs}).splitlines()
    assert lstm == (
        "| `LSTMCell` | 0.001 | 61.00 ± 1.41 | 72.00 ± 2.83 | 70.00 to 74.00 |"
    )
    assert weight_drop == (
        "| `WeightDropLSTMCell` | 0.002 | 51.00 ± 1.41 | 56.00 ± 1.41 "
        "| 55.00 to 57.00 |"
    )


def test_benchmark_makes_no_run_twice(
    gain, text_file, tmp_path, capsys, monkeypatch
):
    made = []

    def measure(kind, flags, corpus):
        if len(made) == 7:
            raise KeyboardInterrupt
        made.append((kind, flags.learning_rate, flags.seed))
        return {
            "cell": kind,
            "learning_rate": flags.learning_rate,
            "seed": flags.seed,
            "valid": 1.0,
            "test": float(len(made)),
        }

    monkeypatch.setattr(gain, "measure", measure)
    argv = [f"--json={tmp_path / 'gain.json'}", f"--data={text_file}"]
    with pytest.raises(KeyboardInterrupt):
        gain.main(argv)
    made.append("interrupted")
    assert gain.main(argv) == 0
    made.remove("interrupted")
    runs = len(gain.LEARNING_RATES) * len(gain.SEEDS) * 2
    assert len(made) == len(set(made)) == runs
    assert len(read(tmp_path / "gain.json")["runs"]) == runs
    assert "| `WeightDropLSTMCell` |" in capsys.readouterr().out
    assert gain.main(argv + ["--units=9"]) == 2
    assert "must hold results of the same settings" in capsys.readouterr().err
