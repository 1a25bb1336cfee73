"""benchmarks/quality.py: the rows of its table, and how runs are kept."""

import argparse
import json
import os
import pathlib

import numpy as np
import pytest
import versions

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
EVIDENCE = REPOSITORY / "docs" / "evidence.md"
RESULTS = REPOSITORY / "benchmarks" / "results"

TINY = (
    "--units=4 --embedding=4 --layers=1 --batch-size=2 --steps=10 --epochs=2"
).split()


@pytest.fixture
def quality(example):
    return example("quality")


@pytest.fixture
def argv(tmp_path):
    """Arguments for runs on a text of 900 letters."""
    path = tmp_path / "text.txt"
    path.write_text("".join(np.random.choice(list("ab c"), 900)))
    return [
        "ablation",
        f"--data={path}",
        f"--json={tmp_path / 'quality.json'}",
        f"--out={tmp_path / 'out'}",
        *TINY,
    ]


@pytest.fixture
def set_rows(quality, monkeypatch):
    """Has the table `ablation` have some rows alone."""

    def set_rows(*rows):
        table = quality.TABLES["ablation"]._replace(rows=lambda: list(rows))
        monkeypatch.setitem(quality.TABLES, "ablation", table)

    return set_rows


def rows_of(quality, table="ablation"):
    return {row.name: row for row in quality.TABLES[table].rows()}


def flags_of(quality, name, table="ablation"):
    row = rows_of(quality, table)[name]
    return quality.parse_flags([table, "--data=text", *row.flags])[1]


def regularisers(flags):
    names = "weight_keep input_keep hidden_keep output_keep embedding_keep"
    dropping = {name for name in names.split() if vars(flags)[name] < 1}
    penalties = {name for name in ("alpha", "beta") if vars(flags)[name]}
    return dropping | penalties


def test_rows_are_what_their_titles_say(quality):
    everything = regularisers(flags_of(quality, "recipe"))
    assert len(everything) == 7
    assert regularisers(flags_of(quality, "plain")) == set()
    assert regularisers(flags_of(quality, "weight_drop")) == {"weight_keep"}
    assert regularisers(flags_of(quality, "locked_dropout")) == {
        "input_keep",
        "hidden_keep",
        "output_keep",
    }
    for row, missing in (
        ("no_ar", {"alpha"}),
        ("no_tar", {"beta"}),
        ("no_weight_drop", {"weight_keep"}),
        ("no_embedding_dropout", {"embedding_keep"}),
    ):
        assert regularisers(flags_of(quality, row)) == everything - missing
    for row in rows_of(quality):
        flags = flags_of(quality, row)
        assert flags.weight_tying == (row == "weight_tying")
        assert flags.variable_bptt == (row == "variable_bptt")
        assert (flags.optimizer == "nt_asgd") == (row == "nt_asgd")


@pytest.mark.parametrize("table", ["swap", "medium"])
def test_rows_of_the_swap(quality, table):
    dropped = {
        name: regularisers(flags_of(quality, name, table))
        for name in rows_of(quality, table)
    }
    rest = dropped["no_weight_drop"]
    assert dropped["plain"] == set()
    assert dropped["swap_recurrent"] == {"weight_keep"}
    assert dropped["recipe"] == rest | {"weight_keep"} > rest >= {"alpha"}
    for name in dropped:
        flags = flags_of(quality, name, table)
        assert flags.weight_tying
        assert flags.whole_kernel == (name == "swap_whole")


def test_cells_of_the_line(quality, example):
    rows = example("quality_rows")
    everything = regularisers(flags_of(quality, "recipe", "swap"))
    for cell in rows.CELLS:
        flags = flags_of(quality, cell.name, "line")
        sizes = flags.units, flags.embedding, flags.epochs, flags.weight_keep
        assert sizes == (cell.units, cell.units, cell.epochs, cell.keep)
        assert flags.whole_kernel == (cell.dropped == "whole")
        expected = everything if cell.company == "beside" else set()
        expected = (expected - {"weight_keep"}) | (
            {"weight_keep"} if cell.keep < 1 else set()
        )
        assert regularisers(flags) == expected
    for name, cell in rows.SWAP_CELLS.items():
        swap, line = (
            vars(quality.parse_flags([table, *flags])[1])
            for table, flags in (
                ("swap", rows_of(quality, "swap")[name].flags),
                ("line", cell.flags),
            )
        )
        assert dict(swap, without=0) == dict(line, without=0)


def test_schedules_are_of_cells_of_the_line(quality, example):
    rows = example("quality_rows")
    cells = {cell.name for cell in [*rows.CELLS, rows.SWAP_CELLS["recipe"]]}
    schedules = {"half": (10, 0), "all": (20, 0), "stall": (0, 3)}
    for name in rows_of(quality, "schedule"):
        cell, when = name.rsplit("-", 1)
        assert cell in cells
        flags = flags_of(quality, name, "schedule")
        comes_in = flags.weight_drop_over, flags.weight_drop_patience
        assert comes_in == schedules[when]
        assert flags.epochs == (80 if when == "stall" else 20)


def test_gains_are_of_the_same_seeds(example):
    picture, rows = example("line_picture"), example("quality_rows")
    cell = rows.SWAP_CELLS["swap_recurrent"]
    found = {
        cell: {1: 90.0, 2: 60.0, 3: 1.0},
        cell.without: {2: 80.0, 1: 100.0},
    }
    np.testing.assert_allclose(picture.gains(found)[cell], [10.0, 25.0])
    assert list(picture.lines(found))[2:] == [
        f"| {cell.title} | 90.0 | 75.0 | +17.5 % | +10.0 to +25.0 | 2 |"
    ]


def test_the_picture_of_the_line(example, tmp_path):
    path = tmp_path / "line.png"
    example("line_picture").main([str(path)])
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_table(quality, capsys):
    def run(held_out, best_epoch):
        curve = [{"train": 1.0}, {"train": 1.25}]
        return {"held_out": held_out, "best_epoch": best_epoch, "curve": curve}

    runs = {
        "plain-1": run(1.5, 1),
        "plain-2": run(1.75, 2),
        "no_ar-1": run(1.25, 2),
    }
    quality.print_table(argparse.Namespace(table="ablation"), {"runs": runs})
    assert capsys.readouterr().out.splitlines()[2:] == [
        "| plain LSTM | 1.6250 | 1.5000 to 1.7500 | 1.1250 | 1, 2 |",
        "| full recipe without AR | 1.2500 | 1 seed | 1.2500 | 2 |",
    ]


def test_makes_each_run_once(quality, argv, tmp_path, capsys, monkeypatch):
    made = []

    def measure(name, flags, corpus):
        if len(made) == 5:
            raise KeyboardInterrupt
        made.append(name)
        curve = [{"train": 2.0, "held_out": 3.0}]
        return {"held_out": 3.0, "best_epoch": 1, "curve": curve}

    monkeypatch.setattr(quality, "measure", measure)
    with pytest.raises(KeyboardInterrupt):
        quality.main(argv)
    made.append("interrupted")
    assert quality.main(argv) == 0
    made.remove("interrupted")
    names = {
        f"{row.name}-{seed}"
        for row in rows_of(quality).values()
        for seed in row.seeds
    }
    assert set(made) == names and len(made) == len(names)
    assert made[:2] == ["plain-1", "recipe-1"]
    results = json.loads((tmp_path / "quality.json").read_text())
    assert set(results["runs"]) == names
    assert (
        "| plain LSTM | 3.0000 | 3.0000 to 3.0000 |" in capsys.readouterr().out
    )
    assert quality.main(argv + ["--units=9"]) == 2
    assert "must hold results of the same settings" in capsys.readouterr().err


def test_leaves_runs_to_the_process_that_makes_them(
    quality, argv, tmp_path, monkeypatch
):
    made = []

    def measure(name, flags, corpus):
        made.append(name)
        return {"held_out": 3.0, "best_epoch": 1, "curve": [{"train": 2.0}]}

    monkeypatch.setattr(quality, "measure", measure)
    taken = os.path.join(str(tmp_path), "out", "recipe-2.lock")
    with quality.locked(taken) as ours:
        assert ours
        assert quality.main(argv) == 0
    assert "recipe-1" in made
    assert "recipe-2" not in made
    assert quality.main(argv) == 0
    assert made[-1] == "recipe-2"


@versions.not_in_v2_flow("no seed determines the weights of its layers")
@pytest.mark.slow
def test_a_run_broken_off_goes_on(
    quality, example, argv, tmp_path, monkeypatch, set_rows
):
    """And ends with what an unbroken run ends with."""
    trainer = example("trainer")
    set_rows(rows_of(quality)["plain"]._replace(seeds=(1,)))
    train_step = trainer.Trainer._train_step

    def interrupted(self, *window):
        train_step(self, *window)
        if self.progress["step"] == 50:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "_train_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            quality.main(argv)
    assert quality.main(argv) == 0
    assert quality.main(argv[:2] + argv[4:] + other_places(tmp_path)) == 0
    broken, unbroken = (
        json.loads((tmp_path / name).read_text())["runs"]
        for name in ("quality.json", "other.json")
    )
    assert broken["plain-1"]["held_out"] == unbroken["plain-1"]["held_out"]
    assert broken["plain-1"]["weights"] == unbroken["plain-1"]["weights"]


def other_places(tmp_path):
    return [
        f"--json={tmp_path / 'other.json'}",
        f"--out={tmp_path / 'out_of_other'}",
    ]


@pytest.mark.parametrize(
    "table, name, flags",
    [
        ("ablation", "ablation", []),
        ("swap", "swap", []),
        ("schedule", "schedule", []),
        ("medium", "kjv", [f"--json={RESULTS / 'kjv.json'}"]),
    ],
)
def test_docs_have_the_table_of_the_results(
    quality, table, name, flags, capsys
):
    path = RESULTS / f"{name}.json"
    assert quality.main([table, "--print", *flags]) == 0
    printed = capsys.readouterr().out.strip()
    assert printed in EVIDENCE.read_text(encoding="utf-8")
    kept = json.loads(path.read_text())
    rows = rows_of(quality, table).values()
    names = {f"{row.name}-{seed}" for row in rows for seed in row.seeds}
    assert set(kept["runs"]) <= names


def test_docs_have_the_gains_of_the_results(example):
    picture = example("line_picture")
    lines = list(picture.lines(picture.tested()))
    assert len(lines) > 5
    assert "\n".join(lines) in EVIDENCE.read_text(encoding="utf-8")


@pytest.mark.parametrize("config", ["ablation", "shakespeare"])
def test_results_are_of_the_settings_named(config, example):
    named = example("configurations").CONFIGURATIONS[config]
    paths = {
        "ablation": RESULTS / "ablation.json",
        "shakespeare": RESULTS / "shakespeare" / "settings.json",
    }
    used = json.loads(paths[config].read_text())
    used = used.get("settings", used)
    assert {name: used[name] for name in named} == named


@pytest.mark.parametrize(
    "run",
    [
        "recipe",
        "plain_384_units",
        "recipe_384_units_weight_keep_0.9",
        "recipe_384_units_no_weight_drop",
    ],
)
def test_docs_have_the_figures_of_the_long_runs(run):
    path = RESULTS / "shakespeare" / f"{run}.json"
    result, text = json.loads(path.read_text()), EVIDENCE.read_text("utf-8")
    assert f"{result['best']['held_out']:.4f}" in text
    assert f"{result['curve'][-1]['train']:.4f}" in text
