r"""Turns the figures of step_time.py and memory.py into docs/speed.md's tables.

    python benchmarks/report.py benchmarks/results/tensorflow-*.json
    python benchmarks/report.py benchmarks/results/tensorflow-*.json \
        --into docs/speed.md

Each file is one run on one TensorFlow (`--json`). Printed, in Markdown, are
tables of ratios to LSTMCell and of peak memory, which targets they meet, and
what machine and versions they hold for.
"""

import argparse
import collections
import json
import statistics

BASE = "LSTMCell"
FUSED = "fused, auto_update"

# A training step takes at most this share of another row's time:
# (row, other row, size, {version: limit}).
TARGETS = [
    (FUSED, BASE, "small", {"1.13.1": 0.65, "1.15.5": 0.5, "2.15.1": 0.58}),
    (FUSED, BASE, "medium", {"1.13.1": 0.65, "1.15.5": 0.36, "2.15.1": 0.43}),
    (FUSED, BASE, "paper", {"1.13.1": 0.9, "1.15.5": 0.68, "2.15.1": 0.72}),
    (FUSED, "PyTorch", "medium", {"2.15.1": 1.0}),
    (FUSED, "matmul limit", "medium", {"1.13.1": 1.15, "1.15.5": 1.15}),
    ("cell, use_vd", BASE, "medium", {"1.13.1": 1.05, "1.15.5": 1.05}),
    ("cell, standard", BASE, "medium", {"1.13.1": 2.2, "1.15.5": 2.2}),
    (
        "cell, standard, rate 0.7",
        BASE,
        "medium",
        {"1.13.1": 2.2, "1.15.5": 2.2},
    ),
]


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


def _target_table(runs):
    """What the targets were, and whether they are met."""
    rows = {
        f"{name} / {other}, {size}": [
            _met(run["step_time"].get(size), name, other, limits[_version(run)])
            if _version(run) in limits
            else ""
            for run in runs
        ]
        for name, other, size, limits in TARGETS
    }
    rows = {name: cells for name, cells in rows.items() if any(cells)}
    title = "training step, targets"
    return _table(title, [_version(run) for run in runs], rows)


def _met(seconds, name, other, limit):
    medians = _medians(seconds["train"]) if seconds else {}
    if name not in medians or other not in medians:
        return f"{limit:.2f}, not measured"
    ratio = medians[name] / medians[other]
    met = "met" if ratio <= limit else f"**not met**: {ratio:.2f}"
    return f"{limit:.2f}, {met}"


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
    lines += _target_table(timed) + [""] if timed else []
    weighed = [run for run in runs if "memory" in run]
    for size in _names(run["memory"] for run in weighed):
        lines += _memory_table(weighed, size) + [""]
    return lines + [f"- {_machine(run)}" for run in runs]


def write_into(path, lines):
    """Puts the report in the place of the one that is in a page."""
    with open(path, encoding="utf-8") as file:
        page = file.read().splitlines()
    first = page.index(next(x for x in page if x.startswith("| training")))
    end = len(page) - page[::-1].index(
        next(x for x in page[::-1] if x.startswith("- TensorFlow "))
    )
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(page[:first] + lines + page[end:]) + "\n")


def _main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("results", nargs="+", help="JSON files")
    parser.add_argument("--into", help="a page whose tables to replace")
    flags = parser.parse_args()
    runs = []
    for path in flags.results:
        with open(path) as file:
            runs.append(json.load(file))
    if flags.into:
        write_into(flags.into, report(runs))
    else:
        print("\n".join(report(runs)))


if __name__ == "__main__":
    _main()
