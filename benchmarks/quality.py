"""What each part of the recipe is worth: one table, several seeds.

    python benchmarks/quality.py --data input.txt

Trains the network of `train.py`, configuration `ablation`, on
the first 90% of a text and measures the loss on the rest, at the best epoch:

    a plain LSTM, locked dropout alone, weight drop alone, all
    regularisers ("full recipe")                                 3 seeds each
    all but one of them; all, with weight tying, with windows
    of varying length, or with NT-ASGD in place of Adam          1 seed each

Same network, data and number of epochs in each row. Prints README's table as
Markdown. Every finished run is kept in `--json` and not made again; one that
was broken off goes on from its last checkpoint in `--out`. Start the command
as many times as there are cores: each run is made by one process, on one
thread.
"""

import argparse
import collections
import contextlib
import fcntl
import os
import platform
import sys

import numpy as np
import run_folder
import tensorflow as tf
import text_data
import train

import awd_lstm_tf

HERE = os.path.dirname(os.path.abspath(__file__))
SEEDS = (1, 2, 3)

# A row of the table: its title, the flags that make it, and how many seeds.
Row = collections.namedtuple("Row", "name title flags seeds")

# A table: the configuration of its runs, the share of a text that is kept back
# to test on, and a function that returns its rows.
Table = collections.namedtuple("Table", "config test_fraction rows")

# Of the recipe in the configuration.
REGULARISERS = (
    "weight_drop",
    "locked_dropout",
    "embedding_dropout",
    "ar",
    "tar",
)


def only(part):
    """Flags that leave out every regulariser but one, or (`None`) all."""
    return ["--without"] + [name for name in REGULARISERS if name != part]


def rows():
    """All rows, the most telling first."""
    table = [
        Row("plain", "plain LSTM", only(None), SEEDS),
        Row("recipe", "full recipe", [], SEEDS),
    ]
    for part in ("weight_drop", "locked_dropout"):
        table.append(
            Row(part, f"{words(part)} only", only(part), SEEDS),
        )
    for part in REGULARISERS:
        title = f"full recipe without {words(part)}"
        table.append(
            Row(f"no_{part}", title, ["--without", part], SEEDS[:1]),
        )
    for name, title, flags in (
        ("weight_tying", "weight tying", "--weight-tying"),
        ("variable_bptt", "windows of varying length", "--variable-bptt"),
        (
            "nt_asgd",
            "NT-ASGD in place of Adam",
            "--optimizer nt_asgd --learning-rate 10 --nonmono 1",
        ),
    ):
        title = f"full recipe with {title}"
        table.append(Row(name, title, flags.split(), SEEDS[:1]))
    return table


SWAP_SEEDS = (1, 2, 3, 4, 5)


def swap_rows():
    """What swapping the class is worth, and what it is beside the rest."""
    swapped = only("weight_drop")
    table = [
        ("plain", "plain LSTM", only(None)),
        ("swap_recurrent", "swapped, recurrent rows dropped", swapped),
        (
            "swap_whole",
            "swapped, whole kernel dropped",
            swapped + ["--whole-kernel"],
        ),
        ("locked", "locked dropout alone", only("locked_dropout")),
        ("recipe", "recipe", []),
        (
            "no_weight_drop",
            "recipe without weight drop",
            ["--without", "weight_drop"],
        ),
    ]
    return [Row(*row, seeds=SWAP_SEEDS) for row in table]


# Width, epochs, weight drop's share kept (1: none), whole kernel or not,
# beside the rest of the recipe or alone, seeds. The cells that cost little and
# tell much come first.
CELLS = [
    # Keep rates, alone.
    (200, 20, 0.3, "recurrent", "alone", 1),
    (200, 20, 0.7, "recurrent", "alone", 1),
    (200, 20, 0.9, "recurrent", "alone", 1),
    (200, 20, 0.7, "whole", "alone", 1),
    (200, 20, 0.9, "whole", "alone", 1),
    (200, 20, 0.3, "whole", "alone", 1),
    # Keep rates, beside.
    (200, 20, 0.7, "recurrent", "beside", 1),
    (200, 20, 0.9, "recurrent", "beside", 1),
    (200, 20, 0.3, "recurrent", "beside", 1),
    (200, 20, 0.5, "whole", "beside", 1),
    (200, 20, 0.8, "whole", "beside", 1),
    # Length.
    (200, 80, 1.0, "recurrent", "beside", 1),
    (200, 80, 0.5, "recurrent", "beside", 1),
    # Width.
    (650, 20, 1.0, "recurrent", "beside", 1),
    (650, 20, 0.5, "recurrent", "beside", 1),
    (650, 20, 1.0, "recurrent", "alone", 1),
    (650, 20, 0.5, "recurrent", "alone", 1),
    (400, 20, 1.0, "recurrent", "beside", 1),
    (400, 20, 0.5, "recurrent", "beside", 1),
    (200, 80, 0.7, "recurrent", "beside", 1),
    (400, 20, 1.0, "recurrent", "alone", 1),
    (400, 20, 0.5, "recurrent", "alone", 1),
    (650, 20, 0.7, "recurrent", "beside", 1),
    (1150, 20, 1.0, "recurrent", "beside", 1),
    (1150, 20, 0.5, "recurrent", "beside", 1),
]


def line_rows():
    """Cells of the picture of where weight drop gains."""
    table = []
    for width, epochs, keep, part, company, seeds in CELLS:
        flags = [
            f"--units={width}",
            f"--embedding={width}",
            f"--epochs={epochs}",
            f"--weight-keep={keep}",
        ]
        if epochs > 20:
            flags.append("--patience=20")
        if part == "whole":
            flags.append("--whole-kernel")
        if company == "alone":
            flags += only("weight_drop") if keep < 1.0 else only(None)
        name = f"{company}-{width}-{epochs}-{part}-{keep}"
        title = (
            f"{width} units, {epochs} epochs, {company}, {part}, keep {keep}"
        )
        table.append(Row(name, title, flags, SWAP_SEEDS[:seeds]))
    return table


def words(part):
    return part.upper() if part in ("ar", "tar") else part.replace("_", " ")


TABLES = {
    "ablation": Table("ablation", 0.0, rows),
    "swap": Table("small", 0.05, swap_rows),
    "line": Table("small", 0.05, line_rows),
}


def settings_of(flags, corpus):
    """What all runs have in common, to be kept beside the results."""
    settings = run_folder.settings_of(flags, corpus)
    del settings["seed"]
    settings["tokens"] = [len(part) for part in corpus[:3] if len(part)]
    settings["versions"] = {
        "awd_lstm_tf": awd_lstm_tf.__version__,
        "tensorflow": tf.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
    return settings


@contextlib.contextmanager
def locked(path, wait=True):
    """Holds a file's lock; yields whether it was got."""
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with open(path, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True


def add_result(own, settings, name, result):
    """Puts one run's result in the file that all processes share."""
    with locked(os.path.join(own.out, "json.lock")):
        results = run_folder.load_results(own.json, settings, {})
        results["runs"][name] = result
        run_folder.write_json(own.json, results)


def measure(name, flags, corpus):
    """Trains one model, or goes on to; returns what came of it."""
    settings = os.path.join(flags.out, "settings.json")
    flags.resume = os.path.exists(settings)
    run_folder.prepare(flags, corpus)
    trainer = train.make_trainer("recipe", flags, corpus)
    trainer.train(name)
    progress = trainer.progress
    result = {
        "held_out": progress["best"]["held_out"],
        "best_epoch": progress["best"]["epoch"],
        "weights": trainer.weights,
        "curve": progress["curve"],
    }
    if len(corpus.test):
        trainer.restore(progress["best"]["checkpoint"])
        result["test"] = trainer.evaluate(corpus.test)
    return result


def make_runs(own, argv, settings, corpus):
    """Makes those runs that nobody has made or is making."""
    table = TABLES[own.table].rows()
    # The first seed of all rows, then the second, ...
    runs = [(row, seed) for row in table for seed in row.seeds]
    for row, seed in sorted(runs, key=lambda run: run[0].seeds.index(run[1])):
        name = f"{row.name}-{seed}"
        flags = parse_flags(argv + row.flags + [f"--seed={seed}"])[1]
        flags.out = os.path.join(own.out, name)
        with locked(flags.out + ".lock", wait=False) as ours:
            made = run_folder.load_results(own.json, settings, {})["runs"]
            if ours and name not in made:
                result = dict(measure(name, flags, corpus), flags=row.flags)
                add_result(own, settings, name, result)


def table(results):
    """The runs as a Markdown table: mean, and range over the seeds."""
    lines = [
        "| | held-out loss, nats | lowest to highest | training loss "
        "| best epoch |",
        "|---|--:|--:|--:|--:|",
    ]
    for row in rows():
        runs = [results["runs"].get(f"{row.name}-{seed}") for seed in row.seeds]
        runs = [run for run in runs if run]
        if not runs:
            continue
        held_out = [run["held_out"] for run in runs]
        epochs = [run["best_epoch"] for run in runs]
        train = np.mean(
            [run["curve"][run["best_epoch"] - 1]["train"] for run in runs]
        )
        spread = "1 seed"
        if len(runs) > 1:
            spread = f"{min(held_out):.4f} to {max(held_out):.4f}"
        lines.append(
            f"| {row.title} | {np.mean(held_out):.4f} | {spread} | {train:.4f} "
            f"| {', '.join(map(str, epochs))} |"
        )
    return "\n".join(lines)


def parse_flags(argv=None):
    """Flags of this command, and those of a run."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        epilog="Other flags are those of train.py, for runs "
        "with other settings (and another --json).",
    )
    parser.add_argument(
        "--table", choices=sorted(TABLES), default="ablation", help="which"
    )
    parser.add_argument("--data", help="a text file")
    parser.add_argument(
        "--json",
        help="where results are kept (default: the table's in results/)",
    )
    parser.add_argument(
        "--out",
        default="runs/quality",
        help="where runs are kept until they are done (default: %(default)s)",
    )
    own, rest = parser.parse_known_args(argv)
    if own.json is None:
        name = "quality" if own.table == "ablation" else own.table
        own.json = os.path.join(HERE, "results", name + ".json")
    given = [f"--config={TABLES[own.table].config}", "--threads=1"]
    if own.data:
        given.append(f"--data={own.data}")
    return own, train.parse_flags(given + rest)


def main(argv=None):
    tf.logging.set_verbosity(tf.logging.ERROR)
    argv = sys.argv[1:] if argv is None else argv
    own, flags = parse_flags(argv)
    try:
        corpus = text_data.load_corpus(
            flags.data, flags.level, TABLES[own.table].test_fraction
        )
        settings = settings_of(flags, corpus)
        make_runs(own, argv, settings, corpus)
        print(table(run_folder.load_results(own.json, settings, {})))
    except (run_folder.RunError, text_data.DataError) as error:
        print("error:", error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
