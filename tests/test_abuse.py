"""Kills, threads, long runs: nothing is lost, mixed up, or piles up.

The counts that each test asserts are its report: runs, and faults of any kind.
"""

import collections
import os
import pathlib
import random
import signal
import subprocess
import sys
import threading
import time

import killed_training
import numpy as np
import oracles
import pytest
from versions import tf

from awd_lstm_tf import (
    VariationalDropout,
    WeightDropLSTMBlockFusedCell,
    WeightDropLSTMCell,
)

DROP = dict(weight_drop_kr=0.5, use_vd=True)


def times(few, many):
    """A count: `few` in the normal suite, `many` in the slow one."""
    return pytest.mark.parametrize(
        "count", [few, pytest.param(many, marks=pytest.mark.slow)]
    )


def drawing_cell(**arguments):
    return WeightDropLSTMCell(
        oracles.UNITS, **dict(DROP, input_size=oracles.DEPTH, **arguments)
    )


# ---------------------------------------------------------------------------
# Killed in mid-training

TRAINING = pathlib.Path(killed_training.__file__).resolve()
NAMES = {
    "beta1_power",
    "beta2_power",
    "global_step",
    "dense/bias",
    "dense/kernel",
    "rnn/lstm_cell/bias",
    "rnn/lstm_cell/kernel",
}


def started(folder, last_step):
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", str(TRAINING), folder, str(last_step)],
        stdout=subprocess.PIPE,
        universal_newlines=True,
    )


def killed(process, lines, delay):
    """Kills it some time after so many lines; returns all it said."""
    said = [process.stdout.readline() for _ in range(lines)]
    time.sleep(delay)
    os.kill(process.pid, signal.SIGKILL)
    said += process.stdout.readlines()
    assert process.wait() == -signal.SIGKILL
    return words_of(said)


def words_of(lines):
    """Whole lines of the training, without those of TensorFlow's own."""
    said = [line.split() for line in lines if line.endswith("\n")]
    return [words for words in said if words and words[0] in ("start", "step")]


def checkpointed_step(folder):
    """The step of the latest checkpoint, all of which can be read."""
    path = tf.train.latest_checkpoint(folder)
    if path is None:
        return 0
    reader = tf.train.load_checkpoint(path)
    names = set(reader.get_variable_to_shape_map())
    assert {name for name in names if "/Adam" not in name} == NAMES
    assert all(np.all(np.isfinite(reader.get_tensor(name))) for name in names)
    return int(reader.get_tensor("global_step"))


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path, seed, count=20):
    moments, folder = random.Random(seed), str(tmp_path)
    found = collections.Counter()
    saved, losses = 0, []
    for _ in range(count):
        process = started(folder, last_step=10**6)
        lines = moments.choice([0, 1]) * moments.randint(1, 20)
        said = killed(process, lines, moments.uniform(0, 0.05))
        steps = [int(line[1]) for line in said]
        losses += [float(line[2]) for line in said if line[0] == "step"]
        found["kills"] += 1
        if steps:
            found["resumed elsewhere"] += steps[0] != saved
            found["steps"] += steps[-1] - steps[0]
        last = steps[-1] if steps else saved
        saved = checkpointed_step(folder)
        found["lost more"] += last - saved > killed_training.SAVE_STEPS
        found["went back"] += saved < (steps or [saved])[0]
    process = started(folder, last_step=saved + 40)
    said = words_of(process.communicate()[0].splitlines(True))
    assert process.returncode == 0
    assert said[0] == ["start", str(saved)]
    assert checkpointed_step(folder) == saved + 40
    losses += [float(line[2]) for line in said[1:]]
    assert np.mean(losses[-10:]) < 0.5 * losses[0]
    assert found.pop("kills") == count
    assert found.pop("steps") > 0
    assert not any(found.values()), found


# ---------------------------------------------------------------------------
# Threads


class Background(object):
    """Calls a function again and again in a thread of its own."""

    def __init__(self, function):
        self.calls = 0
        self.error = None
        self._function = function
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)

    def _work(self):
        try:
            while not self._stop.is_set():
                self._function()
                self.calls += 1
        except Exception as error:  # told by the thread that waits for it
            self.error = error

    def wait_for_another_call(self):
        calls = self.calls
        while self.calls == calls and self._thread.is_alive():
            time.sleep(0.001)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()
        assert self.error is None, self.error
        assert self.calls > 0


def direct_sessions():
    """Two sessions, each with variables of its own."""
    return [tf.Session(), tf.Session()]


def sessions_of_a_server():
    """Two sessions that share their variables, the mask among them."""
    target = tf.train.Server.create_local_server().target
    return [tf.Session(target), tf.Session(target)]


@times(300, 10000)
@pytest.mark.parametrize("open_two", [direct_sessions, sessions_of_a_server])
def test_two_sessions_while_a_thread_redraws(open_two, count):
    cell = drawing_cell()
    inputs = tf.constant(oracles.inputs_value())
    outputs, state = tf.nn.dynamic_rnn(cell, inputs, dtype=tf.float32)
    kernel = cell.trainable_weights[0]
    gradient = tf.gradients(oracles.loss_of(outputs, state), kernel)
    fetches = [cell.mask, kernel, outputs, state, gradient]
    update, initialize = (
        cell.get_vd_update_op(),
        tf.global_variables_initializer(),
    )
    tf.get_default_graph().finalize()
    sessions = open_two()
    for session in sessions:
        session.run(initialize)
    steps = [[], []]

    def work(number):
        for step in range(count // 2):
            if step % 4 == 0:  # however slow the machine, masks change
                redraws.wait_for_another_call()
            steps[number].append(sessions[number].run(fetches))

    def redraw():
        for session in sessions:
            session.run(update)

    workers = [threading.Thread(target=work, args=[n]) for n in range(2)]
    with Background(redraw) as redraws:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    for session in sessions:
        session.close()
    assert inconsistencies(sum(steps, [])) == dict(
        runs=count, illegal=0, forward=0, backward=0
    )
    assert min(len({s[0].tobytes() for s in of_one}) for of_one in steps) > 30


def inconsistencies(steps):
    """How many steps used another mask than the one fetched, and where."""
    found = dict(runs=len(steps), illegal=0, forward=0, backward=0)
    stock = oracles.StockLSTM("dynamic_rnn")
    for mask, kernel, outputs, state, gradient in steps:
        expected = stock.run([kernel * mask])
        masked = expected[2][0] * mask
        found["illegal"] += not np.all(np.isin(mask, [0, 1, 2]))
        found["illegal"] += np.any(mask == 1) and not np.all(mask == 1)
        found["forward"] += not oracles.same(
            [outputs, state], expected[:2], 1e-5
        )
        found["backward"] += not oracles.same(gradient, [masked], 1e-5)
    return found


@times(20, 300)
def test_checkpoints_while_a_thread_redraws(count, tmp_path):
    cell = drawing_cell()
    inputs = tf.constant(oracles.inputs_value())
    tf.nn.dynamic_rnn(cell, inputs, dtype=tf.float32)
    saver = tf.train.Saver(max_to_keep=2)
    found = collections.Counter()
    with tf.Session() as session, tf.Session() as other:
        session.run(tf.global_variables_initializer())
        weights = session.run(cell.weights)
        with Background(lambda: session.run(cell.get_vd_update_op())):
            for number in range(count):
                path = saver.save(session, str(tmp_path / "model"), number)
                names = {name for name, _ in tf.train.list_variables(path)}
                expected = {v.op.name for v in cell.weights}
                found["other names"] += names != expected
                saver.restore(other, path)
                restored = other.run(cell.weights)
                found["other values"] += not oracles.same(restored, weights)
                found["masks"] += np.any(other.run(cell.mask) != 1)
    assert not any(found.values()), found


# ---------------------------------------------------------------------------
# Long runs


class Everything(object):
    """A training step of all that has a mask, on a finalized graph."""

    def __init__(self):
        inputs = tf.constant(oracles.inputs_value())
        cells = [drawing_cell(), drawing_cell(auto_update=True)]
        cells.append(drawing_cell(use_vd=False))
        layer = WeightDropLSTMBlockFusedCell(
            oracles.UNITS, input_size=oracles.DEPTH, **DROP
        )
        dropout = VariationalDropout([oracles.UNITS], 0.5)
        outputs = [layer(tf.transpose(inputs, [1, 0, 2]))[0]]
        for cell in cells:
            with tf.variable_scope(cell.name):
                outputs.append(
                    tf.nn.dynamic_rnn(cell, inputs, dtype=tf.float32)[0]
                )
        loss = tf.add_n([tf.nn.l2_loss(dropout(x)) for x in outputs])
        self.train = tf.train.GradientDescentOptimizer(0.01).minimize(loss)
        self.owners = cells + [layer, dropout]
        self.watched()
        self.initialize = tf.global_variables_initializer()
        self.graph = tf.get_default_graph()
        self.graph.finalize()

    def watched(self):
        tensors = []
        for owner in self.owners:
            tensors += [owner.mask, owner.kept_fraction, owner.mask_changed]
        return [tensor for tensor in tensors if tensor is not None]

    def updates(self):
        *cells, dropout = self.owners
        ops = [cell.get_vd_update_op() for cell in cells]
        return sum(ops, dropout.get_update_mask_op())

    def resets(self):
        *cells, dropout = self.owners
        ops = [cell.get_vd_reset_op() for cell in cells]
        return sum(ops, dropout.get_reset_mask_op())


def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# What CPython and malloc may still gather after the warm-up.
BOUND = 4 * 2**20


@times(500, 20000)
def test_nothing_grows(count):
    model = Everything()
    nodes = len(model.graph.get_operations())
    with tf.Session() as session:
        session.run(model.initialize)
        for number in range(count):
            session.run(model.updates())
            session.run([model.train, model.watched()])
            if number == count // 10:
                warm = resident_bytes()
        grown = resident_bytes() - warm
        assert len(model.graph.get_operations()) == nodes
        if count > 1000:  # before, all is still warming up
            assert grown < BOUND
        session.run(model.resets())


def test_ops_are_asked_for_on_a_finalized_graph():
    model = Everything()
    nodes = len(model.graph.get_operations())
    asked = {op for _ in range(3000) for op in model.updates()}
    asked |= {op for _ in range(3000) for op in model.resets()}
    assert len(asked) == 6  # of the cell, the layer and the dropout
    assert len(model.graph.get_operations()) == nodes
