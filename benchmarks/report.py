"""Turns the figures of step_time.py and memory.py into README's tables.

    python benchmarks/report.py benchmarks/results/*.json

Each file is one run on one TensorFlow (`--json`). Printed, in Markdown, are
tables of ratios to LSTMCell and of peak memory, and what machine and versions
they hold for.
"""

import argparse
import collections
import json
import statistics

BASE = "LSTMCell"


def _row(cells):
    return "| " + " | ".join(cells) + " |"


def _table(title, columns, rows):
    """A Markdown table; `rows` maps names to lists of cells."""
    lines = [_row([title] + columns), _row(["---"] + ["--:"] * len(columns))]
    return lines + [_row([name] + cells) for name, cells in rows.items()]


def _names(groups):
    """The keys of several dicts, each once, in order."""
    return list(dict.fromkeys(name for group in groups for name in group))


def _time_table(runs, kind):
    """Ratios to LSTMCell, a column for each run and size."""
    columns = collections.OrderedDict(
        (f"{_version(run)} {size}", _medians(seconds[kind]))
        for run in runs
        for size, seconds in run["step_time"].items()
        if BASE in seconds[kind]
    )
    rows = {
        name: [
            f"{medians[name] / medians[BASE]:.2f}" if name in medians else ""
            for medians in columns.values()
        ]
        for name in _names(columns.values())
    }
    rows[f"{BASE}, ms"] = [
        f"{1e3 * medians[BASE]:.0f}" for medians in columns.values()
    ]
    titles = {"train": "training step", "forward": "forward pass"}
    return _table(titles[kind], list(columns), rows)


def _medians(seconds):
    return {name: statistics.median(s) for name, s in seconds.items()}


def _memory_table(runs, size):
    measured = [run["memory"].get(size, {}) for run in runs]
    rows = {
        name: [f"{min(m[name]):.0f}" if name in m else "" for m in measured]
        for name in _names(measured)
    }
    title = f"{size}, peak memory in MB"
    return _table(title, [_version(run) for run in runs], rows)


def _version(run):
    return run["machine"]["label"]


def _machine(run):
    about = run["machine"]
    load = about["load_average"][0]
    text = (
        f"TensorFlow {about['label']}: Python {about['python']}, "
        f"{about['cores']} cores of {about['processor']}, load {load:.1f}"
    )
    if "torch" in about:
        text += f"; PyTorch {about['torch']} in a process of its own"
    limits = [
        f"{measured['gflops']:.0f} ({size})"
        for size, measured in run.get("step_time", {}).items()
    ]
    if limits:
        text += f"; GFLOP/s at the matmul limit: {', '.join(limits)}"
    return text + "."


def report(runs):
    """The lines of the report on `runs`, what the JSON files hold."""
    lines = []
    timed = [run for run in runs if "step_time" in run]
    for kind in ("train", "forward") if timed else ():
        lines += _time_table(timed, kind) + [""]
    weighed = [run for run in runs if "memory" in run]
    for size in _names(run["memory"] for run in weighed):
        lines += _memory_table(weighed, size) + [""]
    return lines + [f"- {_machine(run)}" for run in runs]


def _main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("results", nargs="+", help="JSON files")
    runs = []
    for path in parser.parse_args().results:
        with open(path) as file:
            runs.append(json.load(file))
    print("\n".join(report(runs)))


if __name__ == "__main__":
    _main()
