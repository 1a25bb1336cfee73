"""benchmarks/train.py at tiny size: whole runs, parts, errors."""

import grids
import numpy as np
import pytest
import versions
from tiny_runs import TINY, read, write, write_folder

# A whole run.


def test_trains_both_models_and_reports(train, text_file, tmp_path, capsys):
    out = tmp_path / "out"
    code = train.main(
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


@pytest.mark.parametrize(
    "config",
    grids.some_slow(
        zip(["ptb", "medium", "shakespeare"]), lambda name: name == "medium"
    ),
)
def test_configurations_train(config, train, text_data, tmp_path):
    data = tmp_path / "data"
    write_folder(data)
    argv = [f"--data={data}", f"--out={tmp_path / 'out'}", "--config", config]
    # At the paper's learning rate of 30, so small a network does not settle.
    argv += [*TINY, "--models=recipe", "--epochs=4"]
    argv += ["--learning-rate", "2" if config == "ptb" else "0.02"]
    assert train.main(argv) == 0
    progress = read(tmp_path / "out/recipe/progress.json")
    level = train.parse_flags(argv).level
    vocabulary = text_data.load_corpus(str(data), level).vocabulary
    # Below that of knowing nothing.
    assert progress["best"]["held_out"] < np.log(len(vocabulary))


def test_configurations_of_the_paper(example):
    """Section 5 of arXiv 1708.02182, where rates are those of dropping."""
    configurations = example("configurations").CONFIGURATIONS
    ptb, wikitext = configurations["ptb"], configurations["wikitext-2"]
    parts = "weight input hidden output embedding".split()
    rates = [round(1 - ptb[f"{part}_keep"], 3) for part in parts]
    assert rates == [0.5, 0.4, 0.3, 0.4, 0.1]
    sizes = "layers units embedding batch_size steps epochs".split()
    assert [ptb[name] for name in sizes] == [3, 1150, 400, 40, 70, 750]
    assert (ptb["alpha"], ptb["beta"]) == (2, 1)
    assert (ptb["learning_rate"], ptb["clip_norm"]) == (30, 0.25)
    differing = {name: wikitext[name] for name in ptb}
    differing = dict(differing.items() - ptb.items())
    assert differing == {"batch_size": 80, "input_keep": 0.35}


def test_a_folder_has_a_test_part(train, tmp_path, capsys):
    """Which is evaluated at the end, with the cache as well."""
    write_folder(tmp_path / "data")
    (tmp_path / "data" / "test.txt").write_text(" another one \n" * 10)
    argv = [f"--data={tmp_path / 'data'}", f"--out={tmp_path / 'out'}"]
    argv += ["--models=plain", "--cache=20", "--learning-rate=0.02"]
    assert train.main(argv + TINY) == 0
    *_, valid, _, test, cache, _ = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[1].strip() for line in (valid, test, cache)] == [
        "LSTM",
        "test part",
        "with cache",
    ]
    valid, test, cache = (
        float(line[24:].split()[0]) for line in (valid, test, cache)
    )
    assert cache < test != valid


def test_no_title_promises_weight_drop_that_is_not_there(train):
    for argv, title in (
        (["--config=small"], "AWD-LSTM"),
        (["--config=shakespeare"], "AWD-LSTM"),
        (["--weight-keep=1"], "recipe, no weight drop"),
        (["--without", "weight_drop"], "recipe, no weight drop"),
    ):
        flags = train.parse_flags(argv)
        assert train.title_of("recipe", flags) == title
        assert train.title_of("plain", flags) == "LSTM"


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


@versions.not_in_v2_flow("no seed determines the weights of its layers")
@pytest.mark.slow
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


@pytest.mark.slow
def test_leaves_one_part_out(start_run, tmp_path):
    everything = start_run("recipe", f"--out={tmp_path / 'all'}")
    whole = masks_and_penalties(everything)
    for part, ops in (
        ("weight_drop", 1),
        ("locked_dropout", 2),
        ("embedding_dropout", 1),
        ("ar", 1),
        ("tar", 1),
    ):
        out = f"--out={tmp_path / part}"
        rest = start_run("recipe", out, "--without", part)
        assert len(whole - masks_and_penalties(rest)) == ops, part


def test_the_earlier_run_is_kept(
    train, example, text_data, text_file, tmp_path, capsys
):
    out = tmp_path / "out"
    corpus = text_data.load_corpus(str(text_file))
    for number in range(3):
        flags = train.parse_flags(
            [f"--data={text_file}", f"--out={out}{'/' * number}"]
        )
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


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "`--data` must hold some text, got {path}, empty."),
        (
            b"\x89PNG\r\n\x1a\n",
            "`--data` must be UTF-8 text, got {path} with the byte 0x89 in it.",
        ),
        (
            b"far too short",
            "`--data` is too short for one window: the train part needs 41 "
            "tokens, got 2. Use a longer text, or a smaller `--batch-size` or "
            "`--steps`.",
        ),
        (
            b" ".join(b"%d" % i for i in range(99)),
            "`--data` must repeat some of its tokens, got a text where none "
            "comes twice. Use another text, or `--level char`.",
        ),
    ],
)
def test_refuses_a_useless_file(content, message, train, tmp_path, capsys):
    path = write(tmp_path / "file", content)
    out = tmp_path / "out"
    code = train.main([f"--data={path}", f"--out={out}"] + TINY)
    assert one_error(code, capsys) == message.format(path=path)
    assert not out.exists()


def test_refuses_to_resume_nothing(train, text_file, tmp_path, capsys):
    out = tmp_path / "out"
    code = train.main(
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
        (
            "--data={other}",
            "`--data` must be the text of the run in {out}, got another text.",
        ),
    ],
)
def test_refuses_to_resume_a_run_of_other_settings(
    flag,
    message,
    train,
    example,
    text_data,
    text_file,
    tmp_path,
    capsys,
):
    paths = {"out": tmp_path / "out", "other": tmp_path / "other.txt"}
    paths["other"].write_text(text_file.read_text("utf-8")[9:], "utf-8")
    argv = [f"--data={text_file}", f"--out={paths['out']}", *TINY]
    flags = train.parse_flags(argv)
    example("run_folder").prepare(flags, text_data.load_corpus(flags.data))
    code = train.main(argv + ["--resume", flag.format(**paths)])
    assert one_error(code, capsys) == message.format(**paths)


def test_refuses_to_resume_from_a_damaged_checkpoint(
    train, start_run, text_file, tmp_path, capsys
):
    start_run("plain")
    checkpoint = tmp_path / "out/plain/step-0"
    index = tmp_path / "out/plain/step-0.index"
    for damage in (lambda: write(index, b"?"), index.unlink):
        damage()
        code = train.main(
            [f"--data={text_file}", f"--out={tmp_path / 'out'}", "--resume"]
            + TINY
        )
        assert one_error(code, capsys) == (
            f"`--resume` needs the checkpoint {checkpoint}, got none that can "
            "be read. Leave `--resume` out to start anew."
        )


def test_refuses_a_folder_of_other_things(train, text_file, tmp_path, capsys):
    code = train.main([f"--data={text_file}", f"--out={tmp_path}"])
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
        ("--units=many", "--units: invalid int value: 'many'"),
        (
            "--fine-tune=2",
            "--fine-tune: needs --optimizer nt_asgd, got adam.",
        ),
        (
            "--config=ptb --fine-tune=2 --patience=3",
            "--patience: must be 0 with --fine-tune, which begins after the "
            "last epoch, got 3.",
        ),
    ],
)
def test_refuses_bad_flags(flag, message, train, capsys):
    with pytest.raises(SystemExit) as stop:
        train.main(flag.split())
    assert stop.value.code == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert line.endswith(f"error: argument {message}")
