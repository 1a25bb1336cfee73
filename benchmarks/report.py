"""Turns the figures of step_time.py and memory.py into README's tables.

    python benchmarks/report.py benchmarks/results/*.json

Each file is one run on one TensorFlow (`--json`). Printed, in Markdown, are a
table of ratios to LSTMCell per size, a table of peak memory, and what machine
and versions they hold for.
"""

import argparse
import json
import statistics

BASE = "LSTMCell"


def _row(cells):
    return "| " + " | ".join(cells) + " |"


def _table(title, columns, rows):
    """A Markdown table; `rows` maps names to lists of cells."""
    lines = [_row([title] + columns), _row(["---"] + ["--:"] * len(columns))]
    return lines + [_row([name] + cells) for name, cells in rows.items()]


def _ratio(seconds, name):
    if name not in seconds or BASE not in seconds:
        return ""
    median = statistics.median(seconds[name])
    return f"{median / statistics.median(seconds[BASE]):.2f}"


def _names(groups):
    """The keys of several dicts, each once, in order."""
    return list(dict.fromkeys(name for group in groups for name in group))


def _time_table(runs, kind, size):
    measured = [run["step_time"].get(size, {}).get(kind, {}) for run in runs]
    rows = {}
    for name in _names(measured):
        rows[name] = [_ratio(seconds, name) for seconds in measured]
    rows[BASE] = [
        f"1.00 ({1e3 * statistics.median(seconds[BASE]):.0f} ms)"
        if BASE in seconds
        else ""
        for seconds in measured
    ]
    titles = {"train": "training step", "forward": "forward pass"}
    return _table(f"{size}, {titles[kind]}", _versions(runs), rows)


def _memory_table(runs, size):
    measured = [run["memory"].get(size, {}) for run in runs]
    rows = {
        name: [f"{m[name]:.0f}" if name in m else "" for m in measured]
        for name in _names(measured)
    }
    return _table(f"{size}, peak memory in MB", _versions(runs), rows)


def _versions(runs):
    return [run["machine"]["label"] for run in runs]


def _machine(run):
    about = run["machine"]
    load = about["load_average"][0]
    text = (
        f"TensorFlow {about['label']}: Python {about['python']}, "
        f"{about['cores']} cores of {about['processor']}, load {load:.1f}"
    )
    if "torch" in about:
        text += f"; PyTorch {about['torch']} in a process of its own"
    return text + "."


def report(runs):
    """The lines of the report on `runs`, what the JSON files hold."""
    lines = []
    timed = [run for run in runs if "step_time" in run]
    for size in _names(run["step_time"] for run in timed):
        for kind in ("train", "forward"):
            lines += _time_table(timed, kind, size) + [""]
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
