"""benchmarks/trainer.py: steps, epochs, evaluation, resuming."""

import itertools
import pathlib
import signal
import subprocess
import sys
import time
import types

import grids
import numpy as np
import pytest
import versions
from tiny_runs import TINY, read, windows_of
from versions import tf

EVERY_PART = (
    "--optimizer=nt_asgd --learning-rate=5 --nonmono=1 --layers=2 --units=12 "
    "--weight-decay=1e-6 --variable-bptt --weight-tying"
).split()

AVERAGING = "--optimizer=nt_asgd --learning-rate=5 --nonmono=1".split()


# Training.


def variables_of(trainer):
    """All that is trained."""
    with trainer.session.graph.as_default():
        return tf.trainable_variables()


def randomise(trainer):
    """Has the weights be so large that the state tells."""
    for variable in variables_of(trainer):
        variable.load(
            np.random.randn(*variable.shape.as_list()), trainer.session
        )


def kept_in_a_step(trainer, epochs):
    """Shares kept of the layers' weights in one step, after so many epochs."""
    told = []
    trainer.writer = types.SimpleNamespace(
        add_summary=lambda summary, step: told.append(summary)
    )
    trainer.progress["step"] = 0  # a step that writes summaries
    _, inputs, targets = next(windows_of(trainer))
    trainer._train_step(epochs, inputs, targets)
    return [
        value.simple_value
        for value in tf.Summary.FromString(told[0]).value
        if value.tag.endswith("kept_fraction")
    ]


def test_weight_drop_comes_in(start_run):
    trainer = start_run("recipe", "--weight-keep=0.6", "--weight-drop-over=2")
    kept = [trainer.weight_keep(epochs) for epochs in (0, 0.5, 2, 3)]
    np.testing.assert_allclose(kept, [1.0, 0.9, 0.6, 0.6])
    assert kept_in_a_step(trainer, epochs=0) == [1.0]
    (share,) = kept_in_a_step(trainer, epochs=2)
    # Of the 8 recurrent rows of 32: 5 standard deviations.
    assert abs(share - 0.6) < 5 * (0.6 * 0.4 / 256) ** 0.5


def test_weight_drop_waits_for_a_stall(start_run):
    trainer = start_run(
        "recipe", "--weight-keep=0.6", "--weight-drop-patience=2"
    )
    kept = []
    for epochs, loss in enumerate([3.0, 2.0, 2.1, 2.0, 1.0, 0.9]):
        kept.append(trainer.weight_keep(epochs))
        trainer.progress["curve"].append({"held_out": loss})
    # Once it has come it stays, even if there is a new best.
    assert kept == [1.0, 1.0, 1.0, 1.0, 0.6, 0.6]


def test_nothing_comes_in_where_nothing_is_dropped(start_run, tmp_path):
    for kind, *more in (
        ("plain",),
        ("recipe", "--without", "weight_drop"),
    ):
        trainer = start_run(
            kind,
            "--weight-drop-over=2",
            "--weight-drop-patience=1",
            *more,
            f"--out={tmp_path / kind}",
        )
        assert kept_in_a_step(trainer, epochs=5) == []


def test_a_step_clips_the_gradient_and_decays_the_weights(start_run):
    trainer = start_run(
        *"recipe --without weight_drop locked_dropout".split(),
        *"embedding_dropout --optimizer=nt_asgd --learning-rate=3".split(),
        *"--clip-norm=0.01 --weight-decay=0.1".split(),
    )
    variables = variables_of(trainer)
    with trainer.session.graph.as_default():
        gradients = [
            tf.convert_to_tensor(gradient)
            for gradient in tf.gradients(trainer.training.objective, variables)
        ]
    _, inputs, targets = next(windows_of(trainer))
    before, gradients = trainer.session.run(
        [variables, gradients],
        {trainer.training.inputs: inputs, trainer.training.targets: targets},
    )
    norm = np.sqrt(sum(np.sum(gradient**2) for gradient in gradients))
    assert norm > 0.1
    trainer._train_step(0, inputs, targets)
    after = trainer.session.run(variables)
    for new, old, gradient in zip(after, before, gradients):
        expected = old - 3 * (gradient * 0.01 / norm + 0.1 * old)
        np.testing.assert_allclose(new, expected, rtol=1e-4, atol=1e-6)


def test_the_windows_of_an_epoch_go_through_the_text(
    start_run, example, text_data, monkeypatch
):
    """An epoch has the loss of its rows read at once, from the zero state."""
    monkeypatch.setattr(example("trainer"), "HELD_OUT_BATCH_SIZE", 4)
    trainer = start_run("plain", "--variable-bptt")
    model, session = trainer.held_out, trainer.session
    rows = text_data.in_rows(trainer.corpus.train, 4)
    expected, read_up_to = [], []

    def evaluate(ids):
        session.run(model.reset_state)
        feeds = dict(zip([model.inputs, model.targets], rows))
        expected.append(session.run(model.loss, feeds))
        randomise(trainer)
        return 1.0

    def rate(epochs):
        read_up_to.append(epochs)
        return 1e-12

    trainer.evaluate, trainer.rate = evaluate, rate
    randomise(trainer)
    trainer.train("training")
    curve = [point["train"] for point in trainer.progress["curve"]]
    np.testing.assert_allclose(curve, expected, rtol=1e-5)
    assert len(read_up_to) > 20
    assert read_up_to[0] == 0.0 and 1.9 < read_up_to[-1] < 2.0
    assert np.all(np.diff(read_up_to) > 0.0)


@pytest.mark.slow
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
    averaging = start_run("plain", *AVERAGING)
    assert averaging.rate(0.0) == averaging.rate(3.0) == 5.0


@pytest.mark.slow
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


def test_fine_tuning_restarts_and_stops(
    train, text_file, tmp_path, example, monkeypatch
):
    """It is over when validation stalls; losses before it do not count."""
    trainer = example("trainer")
    training, fine_tuning = [4.0, 3.0, 5.0, 1.0], [3.0, 2.5, 2.5, 2.75]
    losses = iter(training + fine_tuning + [0.0])
    monkeypatch.setattr(
        trainer.Trainer, "evaluate", lambda self, ids: next(losses)
    )
    argv = [f"--data={text_file}", f"--out={tmp_path / 'out'}"]
    argv += [*TINY, *AVERAGING, "--models=plain", "--epochs=4", "--fine-tune=9"]
    assert train.main(argv) == 0
    progress = read(tmp_path / "out/plain/progress.json")
    curve = [point["held_out"] for point in progress["curve"]]
    assert curve == training + fine_tuning
    assert progress["stalled"]


def average(trainer):
    """Has NT-ASGD average the weights of some steps."""
    with trainer.session.graph.as_default():
        trainer.session.run(trainer.optimizer.restart)
    for _, inputs, targets in list(windows_of(trainer))[:9]:
        trainer._train_step(0, inputs, targets)


@pytest.mark.slow
def test_averages_are_evaluated_and_saved(start_run):
    trainer = start_run("recipe", *EVERY_PART)
    average(trainer)
    held_out = trainer.corpus.valid
    with trainer.session.graph.as_default():
        kernel = tf.trainable_variables()[1]
        plain_saver = tf.train.Saver(tf.trainable_variables())
    weights, averages = trainer.session.run(
        [kernel, trainer.optimizer.average(kernel)]
    )
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


def test_a_gradient_that_is_not_finite_leaves_the_weights_alone(
    example, start_run
):
    trainer = start_run("plain")
    (embedding,) = (v for v in variables_of(trainer) if "embedding" in v.name)
    _, inputs, targets = next(windows_of(trainer))
    value = trainer.session.run(embedding)
    value[inputs[0, 0]] = np.inf
    embedding.load(value, trainer.session)
    diverged = example("trainer").DivergedError
    with pytest.raises(diverged, match="gradient is not finite at step 0"):
        trainer._train_step(0, inputs, targets)
    np.testing.assert_array_equal(trainer.session.run(embedding), value)
    assert trainer.session.run(trainer.global_step) == 0


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


def test_evaluation_goes_on_from_window_to_window(
    start_run, example, monkeypatch
):
    trainer = start_run("plain")
    randomise(trainer)
    held_out = trainer.corpus.valid
    at_once = trainer.evaluate(held_out)
    monkeypatch.setattr(example("trainer"), "HELD_OUT_STEPS", 3)
    np.testing.assert_allclose(trainer.evaluate(held_out), at_once, rtol=1e-5)


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


@versions.not_in_v2_flow("no seed determines the weights of its layers")
# Of nt_asgd, the test after this one resumes a run, too.
@pytest.mark.parametrize(
    "optimizer, stop_at",
    grids.thinned(
        list(itertools.product(["adam", "nt_asgd"], [1, 25, 60])),
        [("adam", 25)],
    ),
)
def test_resuming_after_ctrl_c_ends_where_an_unbroken_run_does(
    optimizer,
    stop_at,
    train,
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
    assert train.main(argv(whole)) == 0
    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "_train_step", interrupted)
        assert train.main(argv(broken)) == 130
    assert "--resume goes on from here" in capsys.readouterr().err
    assert read(broken / "plain/progress.json")["step"] == stop_at
    assert train.main(argv(broken) + ["--resume"]) == 0
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


@versions.not_in_v2_flow("no seed determines the weights of its layers")
@pytest.mark.slow
def test_resumes_after_kill_9(train, benchmarks, text_file, tmp_path, capsys):
    """Without dropout: to the bit, wherever it was killed."""
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    progress = broken / "plain/progress.json"
    argv = [f"--data={text_file}", f"--out={broken}", *TINY, "--models=plain"]
    argv += ["--optimizer=nt_asgd", "--nonmono=1", "--save-seconds=0.001"]
    script = str(benchmarks / "train.py")
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
    assert train.main(argv + ["--resume", f"--epochs={epochs}"]) == 0
    assert f"of {epochs}," in capsys.readouterr().out
    assert read(progress)["step"] > killed_at
    kept = {read(progress)["checkpoint"], read(progress)["best"]["checkpoint"]}
    there = {path.stem for path in progress.parent.glob("*.index")}
    assert there == kept
    argv += [f"--out={whole}", f"--epochs={epochs}"]
    assert train.main(argv) == 0
    assert_same_checkpoints(whole, broken, f"plain/epoch-{epochs}")


def wait_until(condition, seconds=300):
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, "waited in vain"
        time.sleep(0.02)
