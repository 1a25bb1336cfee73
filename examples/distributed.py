r"""A language model trained by several processes around a parameter server.

    python examples/distributed.py --workers 2          # asynchronous
    python examples/distributed.py --workers 2 --sync   # all step together

starts a parameter server and the workers on this machine, starts again those
that die (try `kill -9`), and ends with the workers. On several machines, start
each task by hand, with the same lists everywhere and a checkpoint folder that
all of them see:

    python examples/distributed.py --ps_hosts=a:2222 \
        --worker_hosts=b:2222,c:2222 --checkpoint_dir=/shared/run \
        --job_name=ps --task_index=0          # on a; the others end:
        --job_name=worker --task_index=0      # on b: the chief, who saves
        --job_name=worker --task_index=1      # on c

The device setter puts the weights on the parameter server; each mask stays on
its worker. `docs/distributed.md` says more.
"""

import argparse
import contextlib
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zlib

import numpy as np
import tensorflow as tf
from language_model import read_text

import awd_lstm_tf

BATCH_SIZE = 16
TIME = 20  # characters of a training example
PRINT_EVERY = 20  # steps of a worker
RESTARTS = 5  # of tasks that died, by the launcher

# The network.


def random_windows(ids):
    """Inputs and targets, `[BATCH_SIZE, TIME]` each; others in every run."""
    starts = tf.random_uniform(
        [BATCH_SIZE, 1], maxval=len(ids) - TIME, dtype=tf.int32
    )
    windows = tf.gather(ids, starts + np.arange(TIME + 1, dtype=np.int32))
    return windows[:, :-1], windows[:, 1:]


def language_model(text, units):
    """The loss on random windows, and the cell with the dropped kernel."""
    characters, ids = np.unique(list(text), return_inverse=True)
    inputs, targets = random_windows(ids.astype(np.int32))
    size = len(characters)
    embedding = tf.get_variable("embedding", [size, units])
    inputs = tf.nn.embedding_lookup(embedding, inputs)
    cell = awd_lstm_tf.WeightDropLSTMCell(
        units, weight_drop_kr=0.7, use_vd=True, input_size=units
    )
    with tf.control_dependencies(cell.get_vd_update_op()):  # in every step
        outputs, _ = tf.nn.dynamic_rnn(cell, inputs, dtype=tf.float32)
    logits = tf.layers.dense(outputs, size)
    return tf.losses.sparse_softmax_cross_entropy(targets, logits), cell


def minimize(loss, flags):
    """The train op, and the hooks it needs."""
    step = tf.train.get_or_create_global_step()
    optimizer = tf.train.AdamOptimizer(0.01)
    if not flags.sync:
        return optimizer.minimize(loss, step), []
    # A step takes the mean of one gradient from each worker.
    workers = len(flags.worker_hosts)
    optimizer = tf.train.SyncReplicasOptimizer(
        optimizer, replicas_to_aggregate=workers, total_num_replicas=workers
    )
    train_op = optimizer.minimize(loss, step)
    is_chief = flags.task_index == 0
    return train_op, [optimizer.make_session_run_hook(is_chief, num_tokens=0)]


# One task.


def run_task(flags):
    """Is a parameter server until it is killed, or a worker."""
    # Ctrl-C ends the process at once, also while it waits inside TensorFlow.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    cluster = tf.train.ClusterSpec(
        {"ps": flags.ps_hosts, "worker": flags.worker_hosts}
    )
    server = tf.train.Server(cluster, flags.job_name, flags.task_index)
    if flags.job_name == "ps":
        server.join()
    text = read_text()
    me = f"/job:worker/task:{flags.task_index}"
    setter = tf.train.replica_device_setter(worker_device=me, cluster=cluster)
    with tf.device(setter):
        loss, cell = language_model(text, flags.units)
        train_op, hooks = minimize(loss, flags)
        fetches = [loss, cell.mask, cell.kept_fraction, train_op]
    # A session that knows only of the parameter servers and this worker does
    # not wait for the other workers, nor fail when they do.
    config = tf.ConfigProto(device_filters=["/job:ps", me])
    if flags.task_index:
        wait_for_chief(server.target, config)
    with tf.train.MonitoredTrainingSession(
        server.target,
        is_chief=flags.task_index == 0,
        checkpoint_dir=flags.checkpoint_dir,
        save_checkpoint_steps=100,
        hooks=hooks,
        config=config,
        # With --sync a thread of the chief waits for more gradients when all
        # steps are made: by default, for two minutes.
        stop_grace_period_secs=2,
    ) as session:
        train(session, fetches, flags)


def wait_for_chief(target, config):
    """Returns when there are weights.

    `MonitoredTrainingSession` waits, too, but looks every 30 seconds only.
    """
    uninitialized = tf.report_uninitialized_variables(tf.global_variables())
    with tf.Session(target, config=config) as session:
        while session.run(uninitialized).size:
            time.sleep(0.2)


def train(session, fetches, flags):
    """Steps until all workers together have made `flags.steps` of them."""
    step = tf.train.get_global_step()
    count, at = 0, session.run(step)
    while at < flags.steps:
        loss, mask, kept, _ = session.run(fetches)
        if count % PRINT_EVERY == 0:
            print(
                f"worker {flags.task_index}: step {at}, loss {loss:.3f}, "
                f"mask {zlib.crc32(mask):08x} keeps {kept:.3f}",
                flush=True,
            )
        count, at = count + 1, session.run(step)
    print(f"worker {flags.task_index}: made {count} of {at} steps", flush=True)


# All tasks.


def free_ports(count):
    """Ports to listen at, none of those that systems give to clients."""
    found = []
    for port in random.sample(range(20000, 32000), 100 + count):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            found.append(port)
    return found[:count]


def commands(flags, folder):
    """The command line of each task, by its name."""
    hosts = [f"127.0.0.1:{port}" for port in free_ports(1 + flags.workers)]
    tasks = [("ps", 0)] + [("worker", i) for i in range(flags.workers)]
    same = [f"--ps_hosts={hosts[0]}", f"--worker_hosts={','.join(hosts[1:])}"]
    same += [f"--steps={flags.steps}", f"--units={flags.units}"]
    same += [f"--checkpoint_dir={folder}"] + ["--sync"] * flags.sync
    return {
        f"{job} {index}": [sys.executable, __file__, *same]
        + [f"--job_name={job}", f"--task_index={index}"]
        for job, index in tasks
    }


def launch(flags):
    """Runs all tasks on this machine; returns when the workers have ended."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # ends the tasks, too
    folder = flags.checkpoint_dir or tempfile.mkdtemp(prefix="distributed-")
    to_run = commands(flags, folder)
    running = {}
    try:
        for name in to_run:
            running[name] = start(name, to_run[name])
        watch(running, to_run)
    finally:
        for process in running.values():
            process.kill()
            process.wait()
    print(f"checkpoint: {tf.train.latest_checkpoint(folder)}")


def start(name, command):
    """Starts a task in a process of its own."""
    process = subprocess.Popen(command)
    print(f"{name}: process {process.pid}", flush=True)
    return process


def watch(running, to_run):
    """Waits for the workers to end; starts what died again."""
    restarts = 0
    while any(running[name].poll() != 0 for name in running if name != "ps 0"):
        for name, process in running.items():
            if process.poll():
                print(f"{name}: died ({process.poll()}), starts again")
                running[name] = start(name, to_run[name])
                restarts += 1
        if restarts > RESTARTS:
            sys.exit(f"gave up after {RESTARTS} restarts")
        time.sleep(0.2)


# The command line.


def parse_flags(arguments=None):
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2, help="to launch")
    parser.add_argument("--sync", action="store_true")
    parser.add_argument("--steps", type=int, default=600, help="of all workers")
    parser.add_argument("--units", type=int, default=64)
    parser.add_argument("--checkpoint_dir", help="to save in, and resume from")
    hosts = parser.add_argument_group("one task of a cluster started by hand")
    split = dict(type=lambda text: text.split(","), metavar="HOST:PORT,...")
    hosts.add_argument("--ps_hosts", **split)
    hosts.add_argument("--worker_hosts", **split)
    hosts.add_argument("--job_name", choices=["ps", "worker"])
    hosts.add_argument("--task_index", type=int, default=0)
    return parser.parse_args(arguments)


def main():
    """Runs one task, or launches all."""
    tf.logging.set_verbosity(tf.logging.ERROR)
    flags = parse_flags()
    if flags.job_name:
        return run_task(flags)
    try:
        launch(flags)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
