"""What weight drop and the rest of the recipe are worth: tables, several seeds.

    python benchmarks/quality.py swap        # the class swapped, and beside all
    python benchmarks/quality.py line    # where that gains: see line_picture.py
    python benchmarks/quality.py schedule   # weight drop that comes in later
    python benchmarks/quality.py medium --data runs/kjv     # a million words
    python benchmarks/quality.py ablation --data input.txt  # part by part

`swap` and `line` train configuration `small` of `train.py` on the text of
`make demo`, nine tenths of it; the epoch is chosen on the next twentieth, and
the last twentieth is what it is tested on. Each cell of `line` is another
width, length of training or keep rate; `schedule` has weight drop come in
later in some of them. `medium` is for a folder with three parts
(`prepare_text.py` makes one). `ablation` is by character, and has no test
part: its loss is on the tenth that the epoch was chosen on.

Same network, data and number of epochs in each row, but for what its title
says. Prints the table as Markdown. Every finished run is kept in `--json` and
not made again; one that was broken off goes on from its last checkpoint in
`--out`. Start the command as many times as there are cores: each run is made by
one process, on one thread. `--only` makes some of the rows, `--print` none.
"""

import argparse
import collections
import contextlib
import fcntl
import os
import platform
import sys

import numpy as np
import quality_rows
import run_folder
import text_data
import train
from tf_awd_lstm import tf

import awd_lstm_tf

HERE = os.path.dirname(os.path.abspath(__file__))
# A table: the configuration of its runs, the share of a text that is kept back
# to test on, and its rows.
Table = collections.namedtuple("Table", "config test_fraction rows")

TABLES = {
    "ablation": Table("ablation", 0.0, quality_rows.ablation_rows),
    "swap": Table("small", 0.05, quality_rows.swap_rows),
    "line": Table("small", 0.05, quality_rows.line_rows),
    "schedule": Table("small", 0.05, quality_rows.schedule_rows),
    "medium": Table("medium", 0.0, quality_rows.medium_rows),
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
    if own.only:
        table = [row for row in table if row.name in own.only]
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


def print_table(own, results):
    """The runs as a Markdown table: mean, and range over the seeds."""
    tested = any("test" in run for run in results["runs"].values())
    make = tested_lines if tested else held_out_lines
    found = []
    for row in TABLES[own.table].rows():
        runs = [results["runs"].get(f"{row.name}-{seed}") for seed in row.seeds]
        runs = [run for run in runs if run]
        if runs:
            found.append((row, runs))
    print("\n".join(make(found)))


def held_out_lines(found):
    """In nats, of what is held out."""
    yield (
        "| | held-out loss, nats | lowest to highest | training loss "
        "| best epoch |"
    )
    yield "|---|--:|--:|--:|--:|"
    for row, runs in found:
        held_out = [run["held_out"] for run in runs]
        epochs = [run["best_epoch"] for run in runs]
        train = np.mean(
            [run["curve"][run["best_epoch"] - 1]["train"] for run in runs]
        )
        yield (
            f"| {row.title} | {np.mean(held_out):.4f} "
            f"| {quality_rows.spread(held_out, '.4f')} | {train:.4f} "
            f"| {', '.join(map(str, epochs))} |"
        )


def tested_lines(found):
    """In perplexity, of the test part."""
    yield "| | test | lowest to highest | validation | best epoch | seeds |"
    yield "|---|--:|--:|--:|--:|--:|"
    for row, runs in found:
        test = np.exp([run["test"] for run in runs])
        valid = np.exp([run["held_out"] for run in runs])
        epochs = [run["best_epoch"] for run in runs]
        yield (
            f"| {row.title} | {np.mean(test):.1f} "
            f"| {quality_rows.spread(test, '.1f')} "
            f"| {np.mean(valid):.1f} | {', '.join(map(str, epochs))} "
            f"| {len(runs)} |"
        )


def parse_flags(argv=None):
    """Flags of this command, and those of a run."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        epilog="Other flags are those of train.py, for runs "
        "with other settings (and another --json).",
    )
    parser.add_argument("table", choices=sorted(TABLES))
    parser.add_argument("--data", help="a text file, or a folder")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="ROW",
        help="names of rows, to make no others",
    )
    parser.add_argument(
        "--print",
        action="store_true",
        dest="print_only",
        help="print what is kept in --json; make no run",
    )
    parser.add_argument(
        "--json",
        help="where results are kept (default: the table's in results/)",
    )
    parser.add_argument(
        "--out",
        help="where runs are kept until they are done (default: runs/TABLE)",
    )
    own, rest = parser.parse_known_args(argv)
    own.out = own.out or os.path.join("runs", own.table)
    if own.json is None:
        own.json = os.path.join(HERE, "results", own.table + ".json")
    given = [f"--config={TABLES[own.table].config}", "--threads=1"]
    if own.data:
        given.append(f"--data={own.data}")
    return own, train.parse_flags(given + rest)


def main(argv=None):
    tf.logging.set_verbosity(tf.logging.ERROR)
    argv = sys.argv[1:] if argv is None else argv
    own, flags = parse_flags(argv)
    try:
        if own.print_only:
            print_table(own, run_folder.read_json(own.json))
            return 0
        corpus = text_data.load_corpus(
            flags.data, flags.level, TABLES[own.table].test_fraction
        )
        settings = settings_of(flags, corpus)
        make_runs(own, argv, settings, corpus)
        results = run_folder.load_results(own.json, settings, {})
        print_table(own, results)
    except (run_folder.RunError, text_data.DataError) as error:
        print("error:", error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
