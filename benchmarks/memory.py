"""Peak memory of a training step, per row of step_time.py.

    python benchmarks/memory.py                      # all rows, medium
    python benchmarks/memory.py --sizes paper --rows LSTMCell "fused, use_vd"

Each row gets a process of its own, which reads its peak resident memory after
building the step and initializing the weights, and once more after five steps.
Printed is the latter, in MB, less what TensorFlow takes to start; and how much
it lies above LSTMCell's, in kernels (`[depth + units, 4 units]` of float32).
"""

import argparse
import importlib
import json
import resource
import subprocess
import sys

import models
import step_time
import tensorflow as tf

STEPS = 5


def peak():
    """Peak resident memory of this process, in MB."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / (2.0**20 if sys.platform == "darwin" else 2.0**10)


def kernel_megabytes(size):
    return 4 * (size.depth + size.units) * 4 * size.units / 2.0**20


def measure_here(row, size):
    """Prints the peak memory before and after some steps of `row`."""
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
    output = subprocess.check_output(command, universal_newlines=True)
    result = json.loads(output.splitlines()[-1])
    return result["peak"] - result["start"]


def _flags():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--sizes", nargs="+", choices=models.SIZES, default=["medium"])
    add("--rows", nargs="+", choices=models.ROWS, default=list(models.ROWS))
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
        results[name] = {row: measure(row, name) for row in flags.rows}
        _print(models.SIZES[name], results[name])
    if flags.json:
        add_to_json(flags.json, "memory", results)


if __name__ == "__main__":
    _main()
