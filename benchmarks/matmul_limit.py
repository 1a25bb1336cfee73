"""The matmuls of an LSTM's training step, alone: what no TF code can beat.

    python benchmarks/matmul_limit.py --size medium

A training step over `time` steps multiplies, one after the other,

    forward, `time` times    [batch, units]      @ [units, 4 units]
    backward, `time` times   [batch, 4 units]    @ [4 units, units]
    once, inputs             [time batch, depth] @ [depth, 4 units]
    once, kernel gradient    [depth + units, time batch] @ [time batch, 4 units]
    once, inputs' gradient   [time batch, 4 units] @ [4 units, depth]

by `tf.matmul`, on operands ready in memory. Graph rewriting (Grappler) is off
and each product waits for the one before, so that all are executed; the GFLOP/s
printed are proof of it.
"""

import argparse
import statistics
import time

import models
from models import tf


def gflop(size):
    """Floating-point operations of the matmuls of one training step, / 1e9."""
    rows = size.batch * size.time
    recurrent = 2 * rows * size.units
    large = rows * (2 * size.depth + size.depth + size.units)
    return 2 * 4 * size.units * (recurrent + large) / 1e9


def _ready(*shape):
    name = "operand_%d" % len(tf.global_variables())
    initializer = tf.random_normal_initializer(stddev=0.01)
    return tf.get_variable(name, shape, initializer=initializer)


def matmuls(size):
    """An op that runs the products, each after the one before."""
    rows, gates = size.batch * size.time, 4 * size.units
    state = _ready(size.batch, size.units)
    gate_gradients = _ready(size.batch, gates)
    recurrent = _ready(size.units, gates)
    recurrent_transposed = _ready(gates, size.units)
    kernel, kernel_transposed = (
        _ready(size.depth, gates),
        _ready(gates, size.depth),
    )
    inputs, all_gradients = _ready(rows, size.depth), _ready(rows, gates)
    transposed = _ready(size.depth + size.units, rows)
    products = (
        [(state, recurrent)] * size.time
        + [(gate_gradients, recurrent_transposed)] * size.time
        + [
            (inputs, kernel),
            (transposed, all_gradients),
            (all_gradients, kernel_transposed),
        ]
    )
    last = tf.no_op()
    for left, right in products:
        with tf.control_dependencies([last]):
            last = tf.matmul(left, right).op
    return last


def runner(size, threads=0):
    """A function that runs all products once."""
    return models.runner(lambda: matmuls(size), threads, grappler=False)


def _main():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--size", choices=models.SIZES, default="medium")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--threads", type=int, default=0, help="0: all")
    flags = parser.parse_args()
    size = models.SIZES[flags.size]
    run = runner(size, flags.threads)
    run()
    seconds = []
    for _ in range(flags.repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds)
    print(
        f"{flags.size}: {1e3 * median:.1f} ms, "
        f"{gflop(size) / median:.1f} GFLOP/s (TensorFlow {tf.__version__})"
    )


if __name__ == "__main__":
    _main()
