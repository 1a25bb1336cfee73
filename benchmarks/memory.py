"""Peak memory of a training step, per row of step_time.py.

    python benchmarks/memory.py                      # the main rows, medium
    python benchmarks/memory.py --sizes paper --rows LSTMCell "fused, use_vd"

Each row gets processes of its own, which read their peak resident memory after
five steps. Printed is, in MB, the least of their peaks, less what TensorFlow
takes to start; and how much it lies above LSTMCell's, in kernels
(`[depth + units, 4 units]` of float32).

A peak depends on chance: on which ops run side by side, and on where the
allocator finds room. So there are several processes, of which the least is the
one that luck had least to do with, and glibc gets a single arena: by default
each thread has its own, with free memory that the others cannot use.
"""

import argparse
import importlib
import json
import os
import resource
import subprocess
import sys

import models
import step_time
from models import tf

STEPS = 5


def peak():
    """Peak resident memory of this process, in MB."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / (2.0**20 if sys.platform == "darwin" else 2.0**10)


def kernel_megabytes(size):
    return 4 * (size.depth + size.units) * 4 * size.units / 2.0**20


def measure_here(row, size):
    """Prints the peak memory before and after some steps of `row`."""
    if not models.ON_2:
        importlib.import_module("tensorflow.contrib")  # by all rows, or by none
    with tf.Session() as session:
        session.run(tf.constant(0))
    start = peak()
    run = models.runner(lambda: models.training_step(row, size))
    for _ in range(STEPS):
        run()
    print(json.dumps({"start": start, "peak": peak()}))


def measure(row, size_name):
    """`measure_here` in another process: its peak in MB, less its start."""
    command = [sys.executable, __file__, "--here", row, "--sizes", size_name]
    output = subprocess.check_output(
        command,
        universal_newlines=True,
        env=dict(os.environ, MALLOC_ARENA_MAX="1"),
    )
    result = json.loads(output.splitlines()[-1])
    return result["peak"] - result["start"]


def _flags():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--sizes", nargs="+", choices=models.SIZES, default=["medium"])
    add("--rows", nargs="+", choices=models.ROWS, default=models.MAIN_ROWS)
    add("--processes", type=int, default=3, help="for each row")
    add("--json", help="file to add the figures to, step_time.py's own or new")
    add("--here", choices=models.ROWS, help=argparse.SUPPRESS)
    return parser.parse_args()


def _print(size, megabytes):
    kernel = kernel_megabytes(size)
    print(f"  {'':<26}{'MB':>8}{'kernels above LSTMCell':>25}")
    for row, value in megabytes.items():
        above = ""
        if models.BASE in megabytes:
            above = f"{(value - megabytes[models.BASE]) / kernel:>25.1f}"
        print(f"    {row:<24}{value:>8.0f}{above}")


def add_to_json(path, key, values):
    """Puts `values` under `key` of the JSON file, which may not exist yet."""
    try:
        with open(path) as file:
            results = json.load(file)
    except FileNotFoundError:
        results = {"machine": step_time.machine()}
    results[key] = values
    with open(path, "w") as file:
        json.dump(results, file, indent=1)


def _main():
    flags = _flags()
    if flags.here:
        measure_here(flags.here, models.SIZES[flags.sizes[0]])
        return
    results = {}
    for name in flags.sizes:
        print(f"{name}: {models.SIZES[name]}", flush=True)
        results[name] = {
            row: [measure(row, name) for _ in range(flags.processes)]
            for row in flags.rows
        }
        least = {row: min(peaks) for row, peaks in results[name].items()}
        _print(models.SIZES[name], least)
    if flags.json:
        add_to_json(flags.json, "memory", results)


if __name__ == "__main__":
    _main()
