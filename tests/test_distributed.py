"""Weight drop in a real cluster of processes, and under MirroredStrategy.

The processes of `cluster` only serve: graphs are built here, one for each
worker, and run in there through sessions of the workers. The example brings
processes of its own.
"""

import collections
import importlib
import itertools
import json
import multiprocessing.pool
import os
import re
import shlex
import signal
import subprocess
import sys
import time

import grids
import numpy as np
import oracles
import pytest
import versions
from tensorflow.python.ops import gen_resource_variable_ops
from versions import tf

from awd_lstm_tf import WeightDropLSTMCell

PATIENCE = 1800  # seconds after which what has not come is not coming

# Ends when its pipe to the tests is closed, even if they were killed.
SERVER = f"""
import json, sys
{versions.IMPORT}
hosts, job, index = sys.argv[1:]
one = tf.ConfigProto(
    intra_op_parallelism_threads=1, inter_op_parallelism_threads=1
)
server = tf.train.Server(json.loads(hosts), job, int(index), config=one)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def distributed(examples):
    """The example as a module."""
    sys.path.insert(0, str(examples))
    yield importlib.import_module("distributed")
    sys.path.remove(str(examples))


@pytest.fixture(scope="module")
def cluster(distributed):
    """A parameter server and two workers, each a process."""
    hosts = [f"127.0.0.1:{port}" for port in distributed.free_ports(3)]
    hosts = {"ps": hosts[:1], "worker": hosts[1:]}
    servers = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", SERVER, json.dumps(hosts)]
            + [job, str(index)],
            stdin=subprocess.PIPE,
        )
        for job, index in (("ps", 0), ("worker", 0), ("worker", 1))
    ]
    yield tf.train.ClusterSpec(hosts)
    for server in servers:
        server.kill()
        server.wait()
        server.stdin.close()


def stock_cell():
    return tf.nn.rnn_cell.LSTMCell(oracles.UNITS)


def dropping_cell(**arguments):
    arguments.setdefault("use_vd", True)
    return WeightDropLSTMCell(
        oracles.UNITS,
        weight_drop_kr=0.5,
        input_size=oracles.DEPTH,
        **arguments,
    )


class Worker(object):
    """The graph and the session of one worker of a cluster."""

    def __init__(
        self, cluster, index, make_cell, use_resource=False, sync=False
    ):
        self.device = f"/job:worker/task:{index}"
        setter = tf.train.replica_device_setter(
            worker_device=self.device, cluster=cluster
        )
        self.graph = tf.Graph()
        with self.graph.as_default(), tf.device(setter):
            tf.get_variable_scope().set_use_resource(use_resource)
            self._build_model(make_cell())
            more = self._build_training(sync)
            initialize = [tf.global_variables_initializer()] + more
        # See the example for why the filters.
        config = tf.ConfigProto(device_filters=["/job:ps", self.device])
        target = "grpc://" + cluster.task_address("worker", index)
        self.session = tf.Session(target, self.graph, config)
        for op in initialize:
            self.session.run(op)

    def _build_model(self, cell):
        self.cell, update = cell, []
        if isinstance(cell, WeightDropLSTMCell):
            update = cell.get_vd_update_op()
        with tf.control_dependencies(update):
            self.outputs, state = oracles.dynamic(
                [cell], tf.constant(oracles.inputs_value())
            )
        self.loss = oracles.loss_of(self.outputs, state)
        self.variables = tf.trainable_variables()
        (self.kernel,) = oracles.kernels_of(self.graph)
        (self.gradient,) = tf.gradients(self.loss, [self.kernel])

    def _build_training(self, sync):
        optimizer = tf.train.GradientDescentOptimizer(0.01)
        step = tf.train.get_or_create_global_step()
        if not sync:
            self.train_op = optimizer.minimize(self.loss, step)
            return []
        optimizer = tf.train.SyncReplicasOptimizer(optimizer, 1)
        self.train_op = optimizer.minimize(self.loss, step)
        optimizer.ready_for_local_init_op.mark_used()
        # A step waits for a token that all have earned. Here are some.
        return [optimizer.chief_init_op, optimizer.get_init_tokens_op(100)]


@pytest.fixture
def join(cluster):
    """Makes `Worker`s, and closes their sessions."""
    joined = []

    def join_one(*args, **kwargs):
        joined.append(Worker(cluster, *args, **kwargs))
        return joined[-1]

    yield join_one
    for worker in joined:
        worker.session.close()


# Masks


@pytest.mark.parametrize(
    "auto_update", [False, pytest.param(True, marks=pytest.mark.slow)]
)
def test_each_worker_has_masks_of_its_own(join, auto_update):
    workers = [
        join(index, lambda: dropping_cell(auto_update=auto_update))
        for index in (0, 1)
    ]
    stock = oracles.StockLSTM("dynamic_rnn")

    def run(worker):
        return worker.session.run(
            [worker.cell.mask, worker.kernel, worker.outputs, worker.gradient]
        )

    with multiprocessing.pool.ThreadPool(2) as pool:
        steps = [pool.map(run, workers) for _ in range(5)]
    steps = list(itertools.chain(*steps))
    for mask, kernel, outputs, gradient in steps:
        assert set(np.unique(mask)) == {0, 2}
        np.testing.assert_array_equal(kernel, steps[0][1])
        expected, _, (slope,) = stock.run([kernel * mask])
        assert oracles.same(outputs, expected, 1e-5)
        assert oracles.same(gradient, slope * mask, 1e-5)
    for one, other in itertools.combinations(steps, 2):
        assert not np.array_equal(one[0], other[0])


# Traffic


Trace = collections.namedtuple("Trace", "graphs transfers")


def job(device):
    return re.match("/job:([a-z]+)/", device).group(1)


def transfers_planned(graphs):
    """Names of tensors that tasks are to send to one another in a step."""
    nodes = itertools.chain(*(graph.node for graph in graphs))
    attributes = [node.attr for node in nodes if node.op == "_Recv"]
    return {
        attribute["tensor_name"].s.decode()
        for attribute in attributes
        if attribute["send_device"].s != attribute["recv_device"].s
    }


def transfers_made(step_stats):
    """What came in, from the logs of all tasks: (tensor, way, bytes).

    A tensor of a loop can come in several times. The name of the receiver may
    be cut off, but it is the one that logs.
    """
    found = []
    for device in step_stats.dev_stats:
        for node in device.node_stats:
            if node.node_name == "RecvTensor":
                tensor, sender = re.search(
                    r"\] (\S+) from (\S+) to ", node.timeline_label
                ).groups()
                memory = node.output[0].tensor_description
                size = memory.allocation_description.requested_bytes
                found.append((tensor, (job(sender), job(device.device)), size))
    return found


def trace(worker, fetches):
    """Runs a step and sees what ran where, and what was sent."""
    options = tf.RunOptions(
        trace_level=tf.RunOptions.FULL_TRACE, output_partition_graphs=True
    )
    complete = 0
    # A task begins to log in the course of the first step that is traced.
    for _ in range(30):
        metadata = tf.RunMetadata()
        worker.session.run(fetches, options=options, run_metadata=metadata)
        graphs = {
            job(graph.node[0].device): graph
            for graph in metadata.partition_graphs
        }
        made = transfers_made(metadata.step_stats)
        tensors = {tensor for tensor, _, _ in made}
        complete += tensors == transfers_planned(graphs.values())
        if complete == 2:
            return Trace(graphs, made)
    pytest.fail(f"not all transfers are in the log: {made}")


def traffic(transfers):
    """Bytes in all, by (sender, receiver)."""
    total = collections.Counter()
    for _, way, size in transfers:
        total[way] += size
    return total


def ops(graph):
    """How many there are of each kind, but for the ends of transfers.

    Where one op waits for another elsewhere, an empty constant is sent.
    """
    ends = ("_Send", "_Recv", "Const")
    kinds = (node.op for node in graph.node)
    return collections.Counter(kind for kind in kinds if kind not in ends)


@pytest.fixture
def traced(join):
    """A traced step of a cell on worker 1, and the size of its variables."""

    def step(make_cell, **kwargs):
        worker = join(1, make_cell, **kwargs)
        weights = worker.session.run(worker.variables)
        found = trace(worker, worker.train_op)
        return found, sum(value.nbytes for value in weights)

    return step


CELLS = {
    "use_vd": dict(),
    "auto_update": dict(auto_update=True),
    "recurrent_only": dict(recurrent_only=True),
    "standard": dict(use_vd=False),
}


@pytest.mark.parametrize(
    "name, wiring",
    grids.some_slow(
        [(name, dict()) for name in CELLS]
        + [("use_vd", dict(sync=True)), ("use_vd", dict(use_resource=True))],
        lambda name, wiring: wiring or name in ("auto_update", "standard"),
    ),
)
def test_no_mask_travels(traced, name, wiring):
    ours, size = traced(lambda: dropping_cell(**CELLS[name]), **wiring)
    stock, stock_size = traced(stock_cell, **wiring)
    assert size == stock_size
    # Weights down, gradients up, and a few scalars.
    for way in (("ps", "worker"), ("worker", "ps")):
        assert size <= traffic(ours.transfers)[way] < size + 32
    assert traffic(ours.transfers) == traffic(stock.transfers)
    assert ops(ours.graphs["ps"]) == ops(stock.graphs["ps"])


# The example


def lines_of(text):
    """What workers report: rows of (worker, step, loss, mask, kept)."""
    pattern = r"^worker (\d): step (\d+), loss (\S+), mask (\w+) keeps (\S+)$"
    return [
        (int(worker), int(step), float(loss), mask, float(kept))
        for worker, step, loss, mask, kept in re.findall(pattern, text, re.M)
    ]


def heed_ctrl_c():
    """Also where the tests run in the background of a shell."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def start(tmp_path):
    """Starts processes that write to one file, and sees to their end."""
    started = []
    log = tmp_path / "log.txt"

    def start_one(command):
        with log.open("a") as output:
            process = subprocess.Popen(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(os.environ, PYTHONWARNINGS="ignore"),
                start_new_session=True,  # a process group to kill
                preexec_fn=heed_ctrl_c,
            )
        started.append(process)
        return process

    start_one.text = log.read_text
    yield start_one
    for process in started:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()


def until(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def launcher(examples, folder, *flags):
    return [
        *(sys.executable, str(examples / "distributed.py")),
        *("--workers=2", "--units=32", f"--checkpoint_dir={folder}"),
        *flags,
    ]


@pytest.mark.parametrize(
    "flags",
    [[], ["--sync"]],
    ids=["async", "sync"],
)
@pytest.mark.slow
def test_example_learns(examples, start, tmp_path, flags):
    process = start(launcher(examples, tmp_path, "--steps=100", *flags))
    assert process.wait(PATIENCE) == 0, start.text()
    rows = sorted(lines_of(start.text()), key=lambda row: row[1])
    losses = [loss for _, _, loss, _, _ in rows]
    assert max(losses[0], losses[1]) > 4.3
    assert losses[-1] < 3.4
    masks = [mask for _, _, _, mask, _ in rows]
    assert len(set(masks)) == len(masks)
    for *_, kept in rows:
        assert abs(kept - 0.7) < 0.05  # 9 sigma of 8192 entries
    made = re.findall(r"made (\d+) of (\d+) steps", start.text())
    if flags:
        # A step takes two gradients, now and then both from one worker.
        assert [at for _, at in made] == ["100", "100"]
        assert abs(sum(int(count) for count, _ in made) - 200) <= 2
    else:
        assert sum(int(count) for count, _ in made) >= 100
    last = tf.train.latest_checkpoint(str(tmp_path))
    assert tf.train.load_variable(last, "global_step") >= 100
    for pid in re.findall(r"process (\d+)", start.text()):
        assert not alive(int(pid))


CLUSTER = "--ps_hosts=a:1 --worker_hosts=b:1,c:1"
ALONE = (
    "--job_name: goes with --ps_hosts and --worker_hosts; without these three, "
    "all tasks are started here."
)


@pytest.mark.parametrize(
    "flags, message",
    [
        ("--workers=0", "--workers: must be at least 1, got 0."),
        ("--workers=-1", "--workers: must be at least 1, got -1."),
        ("--steps=-5", "--steps: must be at least 1, got -5."),
        ("--units=0", "--units: must be at least 1, got 0."),
        (
            f"--checkpoint_dir={shlex.quote(__file__)}",
            f"--checkpoint_dir: must be a folder, got {__file__}.",
        ),
        (
            "--ps_hosts=a",
            "--ps_hosts: must be HOST:PORT,HOST:PORT,..., got a.",
        ),
        (CLUSTER, ALONE),
        ("--job_name=ps", ALONE),
        ("--job_name=ps --ps_hosts=a:1", ALONE),
        (
            f"--job_name=worker --task_index=-1 {CLUSTER}",
            "--task_index: must be at least 0, got -1.",
        ),
        (
            f"--job_name=worker --task_index=2 {CLUSTER}",
            "--task_index: must be below 2, the number of --worker_hosts, "
            "got 2.",
        ),
    ],
)
def test_example_refuses_bad_flags(distributed, flags, message, capsys):
    with pytest.raises(SystemExit) as stop:
        distributed.parse_flags(shlex.split(flags))
    assert stop.value.code == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert line.endswith(f"error: argument {message}")


@pytest.mark.slow
def test_ctrl_c_ends_all_tasks(examples, start, tmp_path):
    process = start(launcher(examples, tmp_path, "--steps=1000000"))
    until(lambda: lines_of(start.text()))
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(PATIENCE) == 130
    pids = re.findall(r"process (\d+)", start.text())
    assert len(pids) >= 3
    for pid in pids:
        assert not alive(int(pid))
    assert "Traceback" not in start.text()


def expected_names(distributed, units):
    """Names of the global variables of the example's graph."""
    with tf.Graph().as_default():
        loss, _ = distributed.language_model("abc" * 30, units)
        distributed.minimize(loss, distributed.parse_flags([]))
        names = {variable.op.name for variable in tf.global_variables()}
    assert not [name for name in names if "mask" in name]
    return names


def stock_loss(distributed, text, units, checkpoint):
    """The loss of the example's model with LSTMCell in it, on its weights."""
    characters, ids = np.unique(list(text), return_inverse=True)
    with tf.Graph().as_default(), tf.Session() as session:
        tf.set_random_seed(0)
        inputs, targets = distributed.random_windows(ids.astype(np.int32))
        embedding = tf.get_variable("embedding", [len(characters), units])
        outputs, _ = tf.nn.dynamic_rnn(
            tf.nn.rnn_cell.LSTMCell(units),
            tf.nn.embedding_lookup(embedding, inputs),
            dtype=tf.float32,
        )
        logits = tf.layers.dense(outputs, len(characters))
        loss = tf.losses.sparse_softmax_cross_entropy(targets, logits)
        tf.train.Saver().restore(session, checkpoint)
        return np.mean([session.run(loss) for _ in range(10)])


@pytest.mark.slow
@pytest.mark.parametrize("flags", [[], ["--sync"]], ids=["async", "sync"])
def test_worker_killed_and_started_again(distributed, start, tmp_path, flags):
    flags = distributed.parse_flags(["--steps=400", "--units=32"] + flags)
    commands = distributed.commands(flags, tmp_path / "run")
    tasks = {name: start(command) for name, command in commands.items()}

    def steps(worker):
        return [row[1] for row in lines_of(start.text()) if row[0] == worker]

    until(lambda: len(steps(1)) > 3 and steps(0))
    killed = tasks["worker 1"]
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    before = len(steps(1)), steps(0)[-1]
    if not flags.sync:  # where nobody waits for the one that died
        until(lambda: steps(0)[-1] > before[1] + 40)
    tasks["worker 1"] = start(commands["worker 1"])
    for name in ("worker 0", "worker 1"):
        assert tasks[name].wait(PATIENCE) == 0, start.text()
    assert tasks["ps 0"].poll() is None
    back = steps(1)[before[0] :]
    assert not back or back[0] >= before[1] - 20  # no step lost
    assert steps(0) == sorted(steps(0))
    checkpoint = tf.train.latest_checkpoint(str(tmp_path / "run"))
    held = tf.train.load_checkpoint(checkpoint)
    names = set(held.get_variable_to_shape_map())
    assert names == expected_names(distributed, flags.units)
    assert held.get_tensor("global_step") >= 400
    text = distributed.read_text()
    assert stock_loss(distributed, text, flags.units, checkpoint) < 2.6


# MirroredStrategy


class Watch(tf.train.SessionRunHook):
    """Fetches the masks of all replicas, and all weights at the end."""

    def __init__(self, cells):
        self.cells, self.masks, self.weights = cells, [], {}

    def begin(self):
        # Reads of its own: to run one of the strategy's can take a step more.
        self.reads = {
            op.name: gen_resource_variable_ops.read_variable_op(
                op.outputs[0], op.get_attr("dtype")
            )
            for op in tf.get_default_graph().get_operations()
            if op.type == "VarHandleOp" and "mask" not in op.name
        }
        self.fetches = [cell.mask for cell in self.cells]

    def before_run(self, run_context):
        return tf.train.SessionRunArgs(self.fetches)

    def after_run(self, run_context, run_values):
        self.masks.append(run_values.results)

    def end(self, session):
        self.weights = session.run(self.reads)


def examples_of_sums():
    inputs = np.random.RandomState(0).uniform(-1, 1, [64, 5, 3])
    labels = inputs.sum((1, 2))[:, None]
    data = inputs.astype(np.float32), labels.astype(np.float32)
    return tf.data.Dataset.from_tensor_slices(data).repeat().batch(16)


@versions.needs_estimator
@pytest.mark.parametrize(
    "arguments",
    [
        dict(updates_collections=tf.GraphKeys.UPDATE_OPS),
        dict(auto_update=True),
    ],
    ids=["update_ops", "auto_update"],
)
@pytest.mark.slow
def test_mirrored_estimator(tmp_path, seed, arguments):
    cells = []

    def model_fn(features, labels, mode):
        train = mode == tf.estimator.ModeKeys.TRAIN
        cell = dropping_cell(is_train=train, **arguments)
        cells.append(cell)
        _, state = tf.nn.dynamic_rnn(cell, features, dtype=tf.float32)
        guess = tf.layers.dense(state.h, 1)
        loss = tf.losses.mean_squared_error(labels, guess)
        updates = tf.get_collection(tf.GraphKeys.UPDATE_OPS)
        with tf.control_dependencies(updates):
            train_op = tf.train.AdamOptimizer(0.05).minimize(
                loss, tf.train.get_or_create_global_step()
            )
        return tf.estimator.EstimatorSpec(mode, loss=loss, train_op=train_op)

    session_config = tf.ConfigProto(
        device_count={"CPU": 2},
        intra_op_parallelism_threads=1,
        inter_op_parallelism_threads=2,
    )
    run_config = tf.estimator.RunConfig(
        str(tmp_path),
        tf_random_seed=seed,
        session_config=session_config,
        train_distribute=versions.mirrored_strategy(["/cpu:0", "/cpu:1"]),
    )
    estimator = tf.estimator.Estimator(model_fn, config=run_config)
    losses = []
    for steps in (1, 60):
        cells.clear()
        watch = Watch(cells)
        estimator.train(examples_of_sums, [watch], steps)
        losses.append(estimator.evaluate(examples_of_sums, 4)["loss"])
    assert losses[1] < 0.3 * losses[0]
    masks = watch.masks[1:]  # with UPDATE_OPS, the first step has none
    assert len(masks) == 59 and {len(pair) for pair in masks} == {2}
    masks = {mask.tobytes() for mask in itertools.chain(*masks)}
    assert len(masks) == 2 * 59
    mirrored = [name for name in watch.weights if "/replica_1" in name]
    assert len(mirrored) >= 4
    for name in mirrored:
        np.testing.assert_array_equal(
            watch.weights[name],
            watch.weights[name.replace("/replica_1", "")],
        )
