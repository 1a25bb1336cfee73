"""Time of a training step and of a forward pass, as ratios to LSTMCell's.

    python benchmarks/step_time.py                          # medium, all rows
    python benchmarks/step_time.py --sizes small paper --repeats 5
    python benchmarks/step_time.py --rows LSTMCell "cell, use_vd"
    python benchmarks/step_time.py --torch-python ~/torch/bin/python

All rows are built, warmed up, and then run in turns, once per round, so that
whatever else the machine does meets them all alike. Printed are medians over
the rounds. "matmul limit" are the matmuls of a training step alone (see
matmul_limit.py). PyTorch runs in a process of its own, when its Python is
given, and takes its turns with the others.
"""

import argparse
import collections
import json
import os
import platform
import statistics
import sys
import time

import matmul_limit
import models
import stepper
from models import tf

from awd_lstm_tf import _versions

REPEATS = {"small": 40, "medium": 12, "paper": 3}
WARM_UP = {"small": 3, "medium": 2, "paper": 1}
ROWS = {"paper": models.MAIN_ROWS}  # of the other sizes: all
LIMIT = "matmul limit"


def timed(run):
    """Seconds that `run()` takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def in_turns(steps, repeats, warm_up):
    """Seconds of each of `steps`, by name: a list with one per round.

    Args:
      steps: dict of functions that run a step and return its seconds.
      repeats: number of rounds that count.
      warm_up: number of rounds before those.
    """
    seconds = collections.OrderedDict((name, []) for name in steps)
    for round_ in range(-warm_up, repeats):
        for name, step in steps.items():
            elapsed = step()
            if round_ >= 0:
                seconds[name].append(elapsed)
    return seconds


def torch_process(python, size, threads):
    """Another Python, with PyTorch."""
    script = os.path.join(os.path.dirname(__file__), "torch_step.py")
    return stepper.Stepper(
        [python, script, str(threads)] + [str(n) for n in size]
    )


def _tf_steps(rows, make, size, threads):
    steps = collections.OrderedDict()
    for row in rows:
        run = models.runner(lambda row=row: make(row, size), threads)
        steps[row] = lambda run=run: timed(run)
    return steps


def measure(size, rows, repeats, warm_up, threads=0, torch=None):
    """Seconds per round of all training steps, and of all forward passes."""
    train = _tf_steps(rows, models.training_step, size, threads)
    limit = matmul_limit.runner(size, threads)
    train[LIMIT] = lambda: timed(limit)
    forward = _tf_steps(rows, models.forward_pass, size, threads)
    if torch is not None:
        train["PyTorch"] = lambda: torch("train")
        train["PyTorch, weight drop"] = lambda: torch("train_drop")
        forward["PyTorch"] = lambda: torch("forward")
    return {
        "train": in_turns(train, repeats, warm_up),
        "forward": in_turns(forward, repeats, warm_up),
    }


def _print(kind, seconds):
    medians = {name: statistics.median(s) for name, s in seconds.items()}
    base = medians.get(models.BASE)
    print(f"  {kind:<26}{'ms':>9}{'of LSTMCell':>13}")
    for name, median in medians.items():
        ratio = f"{median / base:>13.2f}" if base else ""
        print(f"    {name:<24}{1e3 * median:>9.1f}{ratio}")


def _products():
    """What multiplies matrices, if not what usually does on this version."""
    if _versions.has_mkl():
        return "" if models.ON_2 else " (MKL)"
    return " (oneDNN off)" if models.ON_2 else ""


def machine():
    """What the figures hold for: versions, processor, load."""
    model = platform.processor()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as lines:
            names = [x for x in lines if x.startswith("model name")]
        model = names[0].split(":")[1].strip() if names else model
    return {
        "tensorflow": tf.__version__,
        "label": tf.__version__ + _products(),
        "python": platform.python_version(),
        "system": platform.system(),
        "processor": model,
        "cores": os.cpu_count(),
        "load_average": os.getloadavg(),
    }


def _flags():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--sizes", nargs="+", choices=models.SIZES, default=["medium"])
    add("--rows", nargs="+", choices=models.ROWS, help="(default: by size)")
    add("--repeats", type=int, help="rounds (default: by size)")
    add("--threads", type=int, default=0, help="of each session; 0: all cores")
    add("--torch-python", help="a Python that has PyTorch")
    add("--json", help="file to write all figures to")
    return parser.parse_args()


def _main():
    flags = _flags()
    results = {"machine": machine(), "step_time": {}}
    for name in flags.sizes:
        size, torch = models.SIZES[name], None
        print(f"{name}: {size}, load {os.getloadavg()}", flush=True)
        if flags.torch_python:
            torch = torch_process(flags.torch_python, size, flags.threads)
            results["machine"]["torch"] = torch.version
        repeats = flags.repeats or REPEATS[name]
        rows = flags.rows or ROWS.get(name, list(models.ROWS))
        seconds = measure(
            size, rows, repeats, WARM_UP[name], flags.threads, torch
        )
        for kind in seconds:
            _print(kind, seconds[kind])
        if torch is not None:
            torch.close()
        median = statistics.median(seconds["train"][LIMIT])
        gflops = matmul_limit.gflop(size) / median
        print(f"  {LIMIT}: {gflops:.0f} GFLOP/s")
        results["step_time"][name] = dict(
            seconds, load=os.getloadavg(), gflops=gflops
        )
    if flags.json:
        with open(flags.json, "w") as file:
            json.dump(results, file, indent=1)


if __name__ == "__main__":
    sys.exit(_main())
