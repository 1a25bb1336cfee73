"""examples/language_model.py at tiny size: data, training, resuming, errors."""

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
    "--units=8 --embedding=8 --layers=1 --batch-size=4 --steps=10 --epochs=2 "
    "--sample=12 --threads=1 --save-seconds=1000"
).split()


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
    """Starts a run of one model as `main` does; returns the trainer."""

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


def test_trains_both_models_and_reports(
    language_model, text_file, tmp_path, capsys
):
    out = tmp_path / "out"
    code = language_model.main(
        [f"--data={text_file}", f"--out={out}", "--cache=50"] + TINY
    )
    printed = capsys.readouterr().out
    assert code == 0
    assert "--- sampled from LSTM ---" in printed
    assert "--- sampled from AWD-LSTM ---" in printed
    *_, heading, plain, cache, recipe, _, curves = printed.splitlines()
    assert heading == (
        "Held-out loss in nats per word, and perplexity, at the best epoch:"
    )
    for line, title, folder in (
        (plain, "LSTM", "plain"),
        (recipe, "AWD-LSTM", "recipe"),
    ):
        progress = read(out / folder / "progress.json")
        losses = [point["held_out"] for point in progress["curve"]]
        assert len(losses) == 2
        assert min(losses) == progress["best"]["held_out"]
        assert line.split()[:3] == [
            title,
            f"{min(losses):.4f}",
            f"{np.exp(min(losses)):.2f}",
        ]
    # Text repeats itself: the cache finds it, whatever the model has learnt.
    assert float(cache.split()[2]) < float(plain.split()[1])
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
        + "--models recipe --epochs=6 --learning-rate=0.03 --units=32".split()
        + "--embedding=32 --weight-keep=0.7".split()
    )
    assert code == 0
    return path / "out/recipe"


def test_learns_the_characters_of_a_folder(folder_run):
    # One sentence again and again: hardly anything is left to guess.
    assert read(folder_run / "progress.json")["best"]["held_out"] < 0.4


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
        "loss/train",
        "loss/held_out",
    } <= set(scalars)


EVERY_PART = (
    "--optimizer=nt_asgd --learning-rate=5 --nonmono=1 --layers=2 --units=12 "
    "--weight-decay=1e-6 --variable-bptt --weight-tying --epochs=4"
).split()


@pytest.mark.parametrize("config", ["ptb", "wikitext-2", "shakespeare"])
def test_configurations_train(config, language_model, text_data, tmp_path):
    data = tmp_path / "data"
    write_folder(data)
    argv = [f"--data={data}", f"--out={tmp_path / 'out'}", "--config", config]
    # At the paper's learning rate of 30, so small a network does not settle.
    argv += [*TINY, "--models=recipe", "--epochs=4"]
    argv += ["--learning-rate", "0.01" if config == "shakespeare" else "2"]
    assert language_model.main(argv) == 0
    progress = read(tmp_path / "out/recipe/progress.json")
    level = language_model.parse_flags(argv).level
    vocabulary = text_data.load_corpus(str(data), level).vocabulary
    # Below that of knowing nothing.
    assert progress["best"]["held_out"] < np.log(len(vocabulary))


def test_configurations_are_complete(example):
    configurations = example("configurations")
    names = {frozenset(c) for c in configurations.CONFIGURATIONS.values()}
    assert len(names) == 1
    settings = {name for part in configurations.PARTS.values() for name in part}
    assert settings < names.pop()


# Parts.


def masks_and_penalties(trainer):
    """Name scopes of what regularises, but for those of its gradients."""
    scopes = set()
    for op in trainer.session.graph.get_operations():
        # A penalty of no weight leaves a scope, but squares nothing.
        penalty = "activation_regularization/Square" in op.name
        if (penalty or "_draw/" in op.name) and "gradients" not in op.name:
            scopes.add(op.name.split("_draw/")[0])
    return scopes


def test_without_its_parts_the_recipe_is_plain(start_run, example, tmp_path):
    parts = set(example("configurations").PARTS) - {"weight_tying"}
    curves = []
    for kind, more in (("plain", []), ("recipe", ["--without", *parts])):
        trainer = start_run(kind, f"--out={tmp_path / kind}", *more)
        assert not masks_and_penalties(trainer)
        trainer.train("training")
        curves.append(
            [(x["train"], x["held_out"]) for x in trainer.progress["curve"]]
        )
    assert curves[0] == curves[1]


@pytest.mark.parametrize(
    "part, ops",
    [
        ("weight_drop", 1),
        ("locked_dropout", 2),
        ("embedding_dropout", 1),
        ("ar", 1),
        ("tar", 1),
    ],
)
def test_leaves_one_part_out(part, ops, start_run, tmp_path):
    everything = start_run("recipe", f"--out={tmp_path / 'all'}")
    rest = start_run("recipe", "--without", part)
    missing = masks_and_penalties(everything) - masks_and_penalties(rest)
    assert len(missing) == ops


def test_fine_tuning_restarts_and_stops(
    language_model, text_file, tmp_path, example, monkeypatch
):
    """When validation stalls, fine-tuning is over before its last epoch."""
    trainer = example("trainer")
    losses = iter([4.0, 3.0, 2.0, 1.0] + [1.0, 1.0, 2.0, 3.0, 4.0])
    monkeypatch.setattr(
        trainer.Trainer, "evaluate", lambda self, ids: next(losses)
    )
    argv = [f"--data={text_file}", f"--out={tmp_path / 'out'}"]
    argv += [*TINY, *EVERY_PART, "--models=recipe", "--fine-tune=9"]
    assert language_model.main(argv) == 0
    progress = read(tmp_path / "out/recipe/progress.json")
    assert [point["held_out"] for point in progress["curve"]] == [
        4.0, 3.0, 2.0, 1.0, 1.0, 1.0, 2.0,
    ]  # fmt: skip
    assert progress["stalled"]


def test_patience_ends(start_run):
    """Also when it is only given to go on; the best epoch stays the best."""
    trainer = start_run("plain", "--epochs=9", "--patience=3")
    losses = iter([4.0, 3.0, 3.5, 2.0, 2.5, 2.25, 2.0, 1.0])
    trainer.evaluate = lambda ids: next(losses)
    trainer.train("training")
    assert len(trainer.progress["curve"]) == 7
    assert trainer.progress["best"]["epoch"] == 4
    flags = "--epochs=9", "--resume"
    trainer = start_run("plain", *flags, "--patience=2")
    trainer.train("training")
    assert len(trainer.progress["curve"]) == 7
    trainer = start_run("plain", *flags)
    trainer.evaluate = lambda ids: 1.0
    trainer.train("training")
    assert len(trainer.progress["curve"]) == 9


def test_averages_are_evaluated_and_saved(start_run):
    trainer = start_run("recipe", *EVERY_PART)
    trainer.train("training")
    held_out = trainer.corpus.valid
    graph = trainer.session.graph
    with graph.as_default():
        kernel = tf.trainable_variables()[1]
        trainer.session.run(trainer.optimizer.restart)
        trainer.progress["stalled"] = False
        average = trainer.optimizer.average(kernel)
        plain_saver = tf.train.Saver(tf.trainable_variables())
    for _, inputs, targets in list(windows_of(trainer))[:5]:
        trainer._train_step(0, inputs, targets)
    weights, averages = trainer.session.run([kernel, average])
    assert np.abs(weights - averages).max() > 1e-4
    loss = trainer.evaluate(held_out)
    trainer.save()
    # A plain saver finds the averages where the weights are.
    plain_saver.restore(
        trainer.session, trainer.path(trainer.progress["checkpoint"])
    )
    np.testing.assert_array_equal(trainer.session.run(kernel), averages)
    trainer._evaluating = trainer.session.graph.as_default
    assert trainer.evaluate(held_out) == loss


def windows_of(trainer):
    """Training windows."""
    flags = trainer.flags
    return sys.modules["text_data"].training_windows(
        trainer.corpus.train,
        flags.batch_size,
        flags.steps,
        np.random.RandomState(1),
        flags.variable_bptt,
    )


def test_the_learning_rate_rises_then_falls_as_a_cosine(start_run, example):
    trainer = start_run("plain", "--learning-rate=0.01", "--epochs=10")
    warm_up = example("trainer").WARM_UP
    for step, epochs, rate in (
        (0, 0.0, 0.01 / warm_up),
        (warm_up - 1, 0.0, 0.01),
        (5000, 5.0, 0.005),
        (5000, 10.0 / 3.0, 0.0075),
        (9000, 10.0, 0.0),
    ):
        trainer.progress["step"] = step
        assert abs(trainer.rate(epochs) - rate) < 1e-12
    averaging = start_run("recipe", *EVERY_PART)
    assert averaging.rate(0.0) == averaging.rate(3.0) == 5.0


def test_the_learning_rate_is_in_proportion_to_the_window(
    start_run, monkeypatch
):
    trainer = start_run("recipe", "--variable-bptt", "--learning-rate=0.01")
    fed = []
    run = trainer.session.run

    def record(fetches, feeds):
        fed.append(
            feeds[trainer.learning_rate]
            / feeds[trainer.training.inputs].shape[1]
        )
        return run(fetches, feeds)

    monkeypatch.setattr(trainer.session, "run", record)
    monkeypatch.setattr(trainer, "rate", lambda epochs: 0.01)
    for _, inputs, targets in windows_of(trainer):
        trainer._train_step(0, inputs, targets)
    assert len(fed) > 10
    np.testing.assert_allclose(fed, 0.01 / 10)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_cache_is_that_of_the_paper(example, size, monkeypatch):
    """Against the sums of the paper, written out."""
    cache_pointer = example("cache_pointer")
    monkeypatch.setattr(cache_pointer, "_BLOCK", 16)
    time, theta, share = 50, 0.7, 0.3
    outputs = np.random.randn(time, 5)
    targets = np.random.randint(4, size=time)
    model = np.random.uniform(0.1, 3.0, time)
    expected = [model[0]]
    for t in range(1, time):
        total = match = 0.0
        for i in range(max(0, t - size), t):
            weight = np.exp(theta * np.dot(outputs[t], outputs[i]))
            total += weight
            if targets[i] == targets[t]:
                match += weight
        p = (1 - share) * np.exp(-model[t]) + share * match / total
        expected.append(-np.log(p))
    actual = cache_pointer.losses(model, outputs, targets, size, theta, share)
    np.testing.assert_allclose(actual, expected, rtol=1e-10)


def test_a_cache_of_no_share_changes_nothing(start_run):
    trainer = start_run(
        "plain", "--learning-rate=0.05", "--cache=30", "--cache-share=0"
    )
    trainer.train("training")
    held_out = trainer.corpus.valid
    model = trainer.sampling
    total = sum(
        losses.sum()
        for (losses,), _ in trainer._held_out_windows(
            model, held_out, model.losses
        )
    )
    np.testing.assert_allclose(
        trainer.evaluate_with_cache(held_out),
        total / (len(held_out) - 1),
        rtol=1e-6,
    )


# Evaluation.


def test_evaluation_drops_nothing(start_run, tmp_path):
    dropped = start_run("recipe", "--learning-rate=0.05")
    dropped.train("training")
    plain = start_run("plain", f"--out={tmp_path / 'plain'}")
    # A checkpoint of one model, taken up by the other.
    plain.restore(dropped.path(dropped.progress["checkpoint"]))
    held_out = dropped.corpus.valid
    assert dropped.evaluate(held_out) == dropped.evaluate(held_out)
    assert dropped.evaluate(held_out) == plain.evaluate(held_out)


def test_training_drops(start_run):
    trainer = start_run("recipe")
    _, inputs, targets = next(windows_of(trainer))
    feeds = {trainer.training.inputs: inputs, trainer.training.targets: targets}
    losses = [
        trainer.session.run(trainer.training.loss, feeds) for _ in range(3)
    ]
    assert len(set(losses)) == 3


def test_loss_of_knowing_nothing_is_that_of_the_vocabulary(start_run):
    trainer = start_run("plain")
    with trainer.session.graph.as_default():
        weights = tf.trainable_variables()
    for variable in weights:
        variable.load(np.zeros(variable.shape.as_list()), trainer.session)
    np.testing.assert_allclose(
        trainer.evaluate(trainer.corpus.valid),
        np.log(len(trainer.corpus.vocabulary)),
        rtol=1e-5,
    )


@pytest.mark.parametrize("tying", [True, False])
def test_loss_is_that_of_numpy(start_run, tying):
    """Two layers, over rows of the text that leave some of the last unused."""
    more = [] if tying else ["--without=weight_tying"]
    trainer = start_run(
        "plain", "--learning-rate=0.05", "--layers=2", "--units=6", *more
    )
    trainer.train("training")
    with trainer.session.graph.as_default():
        values = {
            variable.op.name[len("model/") :]: value
            for variable, value in zip(
                tf.trainable_variables(),
                trainer.session.run(tf.trainable_variables()),
            )
        }
    softmax = values["embedding" if tying else "softmax"]
    assert softmax.shape[1] == (8 if tying else 6)
    ids = trainer.corpus.valid
    length = -(-(len(ids) - 1) // 10)
    losses = []
    for row in range(10):
        states = [[np.zeros(6)] * 2, [np.zeros(softmax.shape[1])] * 2]
        tokens = ids[row * length : (row + 1) * length + 1]
        for now, after in zip(tokens[:-1], tokens[1:]):
            x = values["embedding"][now]
            for number in range(2):
                x = numpy_step(x, states, number, values)
            p = np.exp(softmax @ x + values["bias"])
            losses.append(-np.log(p[after] / p.sum()))
    assert len(losses) == len(ids) - 1
    np.testing.assert_allclose(
        trainer.evaluate(ids), np.mean(losses), rtol=1e-5
    )


def numpy_step(x, states, number, values):
    """One layer's output; its state moves on."""
    c, h = states[number]
    kernel, bias = (
        values[f"layer_{number}/{part}"] for part in ("kernel", "bias")
    )
    i, j, f, o = np.split(np.concatenate([x, h]) @ kernel + bias, 4)
    c = sigmoid(f + 1) * c + sigmoid(i) * np.tanh(j)
    h = sigmoid(o) * np.tanh(c)
    states[number] = [c, h]
    return h


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_state_is_carried_from_window_to_window(start_run):
    """Two windows of 5 give the loss of one window of 10."""
    trainer = start_run("plain")
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


def test_keeps_the_best_epoch(start_run, monkeypatch):
    trainer = start_run("plain", "--epochs=4")
    held_out = iter([5.0, 4.0, 4.5, 4.0])
    monkeypatch.setattr(trainer, "evaluate", lambda ids: next(held_out))
    trainer.train("training")
    assert trainer.progress["best"] == {
        "held_out": 4.0,
        "epoch": 2,
        "checkpoint": "epoch-2",
    }
    there = {path.stem for path in pathlib.Path(trainer.folder).glob("*.index")}
    assert there == {"epoch-2", "epoch-4"}


# Interruptions.


@pytest.mark.parametrize(
    "stop_at",
    [
        pytest.param(1, marks=pytest.mark.slow),
        25,
        pytest.param(60, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("optimizer", ["adam", "nt_asgd"])
def test_resuming_after_ctrl_c_ends_where_an_unbroken_run_does(
    optimizer,
    stop_at,
    language_model,
    example,
    text_file,
    tmp_path,
    capsys,
    monkeypatch,
):
    """Without dropout: to the bit."""
    trainer = example("trainer")
    train_step = trainer.Trainer._train_step

    def interrupted(self, *window):
        train_step(self, *window)
        if self.progress["step"] == stop_at:
            self.progress["step"] -= 1  # it came before the step was counted
            raise KeyboardInterrupt

    def argv(out):
        argv = [f"--data={text_file}", f"--out={out}", "--models=plain", *TINY]
        return argv + ["--optimizer", optimizer, "--nonmono=1", "--epochs=4"]

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert language_model.main(argv(whole)) == 0
    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "_train_step", interrupted)
        assert language_model.main(argv(broken)) == 130
    assert "--resume goes on from here" in capsys.readouterr().err
    assert read(broken / "plain/progress.json")["step"] == stop_at
    assert language_model.main(argv(broken) + ["--resume"]) == 0
    assert_same_checkpoints(whole, broken, "plain/epoch-4")


def assert_same_checkpoints(whole, broken, name):
    """All variables are equal, bit for bit."""
    unbroken, resumed = (
        tf.train.load_checkpoint(str(run / name)) for run in (whole, broken)
    )
    variables = unbroken.get_variable_to_shape_map()
    assert len(variables) > 10
    for variable in variables:
        np.testing.assert_array_equal(
            unbroken.get_tensor(variable),
            resumed.get_tensor(variable),
            variable,
        )


def test_with_dropout_a_resumed_run_differs_in_its_draws_alone(
    start_run, tmp_path, monkeypatch
):
    fed = {}
    for run in ("whole", "broken"):
        out = f"--out={tmp_path / run}"
        trainer = start_run("recipe", out, "--variable-bptt")
        fed[run] = []
        record_feeds(trainer, fed[run], 20 if run == "broken" else None)
        if run == "broken":
            with pytest.raises(KeyboardInterrupt):
                trainer.train("training")
            trainer = start_run("recipe", out, "--variable-bptt", "--resume")
            record_feeds(trainer, fed[run])
        trainer.train("training")
    assert len(fed["whole"]) > 40
    assert fed["whole"] == fed["broken"]


def record_feeds(trainer, fed, stop_at=None):
    """Notes what each step is fed, and may break off."""
    train_step = trainer._train_step
    run = trainer.session.run

    def recording(fetches, feeds=None):
        if feeds and trainer.learning_rate in feeds:
            inputs = feeds[trainer.training.inputs]
            fed.append((feeds[trainer.learning_rate], inputs.tolist()))
        return run(fetches, feeds)

    def step(*window):
        train_step(*window)
        if trainer.progress["step"] == stop_at:
            raise KeyboardInterrupt

    trainer.session.run, trainer._train_step = recording, step


def test_resumes_after_kill_9(
    language_model, examples, text_file, tmp_path, capsys
):
    """Without dropout: to the bit, wherever it was killed."""
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    progress = broken / "plain/progress.json"
    argv = [f"--data={text_file}", f"--out={broken}", *TINY, "--models=plain"]
    argv += ["--optimizer=nt_asgd", "--nonmono=1", "--save-seconds=0.001"]
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
    assert f"of {epochs}," in capsys.readouterr().out
    assert read(progress)["step"] > killed_at
    kept = {read(progress)["checkpoint"], read(progress)["best"]["checkpoint"]}
    there = {path.stem for path in progress.parent.glob("*.index")}
    assert there == kept
    argv += [f"--out={whole}", f"--epochs={epochs}"]
    assert language_model.main(argv) == 0
    assert_same_checkpoints(whole, broken, f"plain/epoch-{epochs}")


def wait_until(condition, seconds=300):
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
        (out / "plain").mkdir()
        (out / "plain" / "made_by").write_text(str(number))
    assert capsys.readouterr().out.splitlines() == [
        f"The earlier run is kept in {out}.1",
        f"The earlier run is kept in {out}.2",
    ]
    for folder, number in (("out.1", "0"), ("out.2", "1"), ("out", "2")):
        made_by = tmp_path / folder / "plain" / "made_by"
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
            "`--data` is too short for one window: the train part needs 41 "
            "tokens, got 2. Use a longer text, or a smaller `--batch-size` or "
            "`--steps`.",
        ),
        (
            b"word " * 2,
            "`--data` is too short for one window: the train part needs 41 "
            "tokens, got 1. Use a longer text, or a smaller `--batch-size` or "
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
        "and test.txt (or ptb.train.txt, ..., or wiki.train.tokens, ...), got "
        f"a folder without {text_folder / 'valid.txt'}."
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
    start_run("plain")
    checkpoint = tmp_path / "out/plain/step-0"
    index = tmp_path / "out/plain/step-0.index"
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
            "--weight-keep=1.5",
            "--weight-keep: must be in (0, 1], got 1.5.",
        ),
        (
            "--weight-keep=nan",
            "--weight-keep: must be in (0, 1], got nan.",
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
    argv = [f"--data={text_file}", f"--out={out}", "--models=recipe"]
    code = language_model.main(argv + TINY + ["--learning-rate=1e30"])
    *_, line = capsys.readouterr().err.splitlines()
    assert code == 1
    # The step and the quantity depend on the version of TensorFlow.
    assert re.fullmatch(
        r"error: the (gradient|held-out perplexity) is not finite at step "
        r"\d+\. Lower `--learning-rate`, got 1e\+30\. The last good "
        rf"checkpoint is {out}/recipe/(step|epoch)-\d+\.",
        line,
    )


def test_a_gradient_that_is_not_finite_leaves_the_weights_alone(
    example, start_run
):
    trainer = start_run("plain")
    with trainer.session.graph.as_default():
        (embedding,) = (
            v for v in tf.trainable_variables() if "embedding" in v.name
        )
    _, inputs, targets = next(windows_of(trainer))
    value = trainer.session.run(embedding)
    value[inputs[0, 0]] = np.inf
    embedding.load(value, trainer.session)
    diverged = example("trainer").DivergedError
    with pytest.raises(diverged, match="gradient is not finite at step 0"):
        trainer._train_step(0, inputs, targets)
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


@pytest.mark.parametrize("names", ["ptb.{}.txt", "wiki.{}.tokens"])
def test_reads_the_files_by_the_names_they_come_with(
    names, text_data, tmp_path
):
    for part in text_data.PARTS:
        write(tmp_path / names.format(part), f"{part} {part}\n".encode())
    corpus = text_data.load_corpus(str(tmp_path))
    assert corpus.vocabulary == ["<unk>", "train", "<eos>"]
    assert [part.tolist() for part in corpus[:3]] == [
        [1, 1, 2],
        [0, 0, 2],
        [0, 0, 2],
    ]


def test_refuses_a_text_without_validation(text_data):
    corpus = text_data.Corpus(np.arange(100), np.arange(1), np.arange(0), ["a"])
    with pytest.raises(text_data.DataError, match="valid part needs 2 .*got 1"):
        text_data.check_length(corpus, batch_size=2, steps=3)


def test_windows_go_on_where_the_last_stopped(text_data):
    starts = set()
    for seed in range(9):
        first, second, *_ = text_data.training_windows(
            np.arange(25), 2, 3, np.random.RandomState(seed)
        )
        start = first[1][0, 0]
        starts.add(start)
        assert first[0] == start / 12
        assert second[0] == (start + 3) / 12
        rows = start + np.arange(6) + [[0], [12]]
        np.testing.assert_array_equal(first[1], rows[:, :3])
        np.testing.assert_array_equal(first[2], rows[:, :3] + 1)
        np.testing.assert_array_equal(second[1], rows[:, 3:])
        np.testing.assert_array_equal(second[2], rows[:, 3:] + 1)
    assert starts == {0, 1, 2}


def test_windows_of_varying_length_are_those_of_the_paper(text_data):
    ids = np.arange(400001)
    windows = list(
        text_data.training_windows(
            ids, 2, 70, np.random.RandomState(5), varying=True
        )
    )
    lengths = np.array([inputs.shape[1] for _, inputs, _ in windows])
    np.testing.assert_array_equal(
        np.concatenate([inputs[1] for _, inputs, _ in windows]),
        np.arange(200000, 400000),
    )
    short = lengths < 52
    # 1 in 20 around 35: a binomial's standard deviation is below 0.005 here.
    assert abs(short.mean() - 0.05) < 0.02
    assert abs(lengths[short].mean() - 35) < 2
    assert abs(lengths[~short].mean() - 70) < 0.5
    assert abs(lengths[~short].std() - 5) < 0.5


@pytest.mark.parametrize("varying", [False, True])
def test_a_text_of_one_window_has_one(varying, text_data):
    position, inputs, _ = next(
        text_data.training_windows(
            np.arange(21), 2, 10, np.random.RandomState(0), varying
        )
    )
    assert position == 0.0
    np.testing.assert_array_equal(inputs[:, 0], [0, 10])


@pytest.mark.parametrize("length", [2, 10, 11, 12, 57])
def test_held_out_windows_miss_no_token(text_data, length):
    ids = np.random.randint(5, 100, length)
    inputs, targets = (
        np.concatenate(parts, 1).reshape([-1])
        for parts in zip(*text_data.held_out_windows(ids, 4, 3))
    )
    counts = targets >= 0
    np.testing.assert_array_equal(inputs[counts], ids[:-1])
    np.testing.assert_array_equal(targets[counts], ids[1:])
