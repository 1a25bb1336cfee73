"""What every test gets: a quiet TensorFlow, a fresh graph, a known seed."""

import os
import pathlib
import random
import sys

import numpy as np
import pytest

# Before the import of TensorFlow, whose C++ side reads it: errors only.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent


def pytest_addoption(parser):
    group = parser.getgroup("awd_lstm_tf")
    group.addoption(
        "--installed",
        action="store_true",
        help="test the installed package; fail if it is the source tree",
    )
    group.addoption(
        "--vary-seed",
        action="store_true",
        help="draw another seed for this run, to see how often a test fails",
    )
    group.addoption(
        "--examples",
        default=str(REPOSITORY / "examples"),
        help="folder of the examples (they are not in the wheel)",
    )


def pytest_configure(config):
    if not config.getoption("--installed"):
        _use_source_tree()
    import awd_lstm_tf
    import tensorflow as tf

    tf.logging.set_verbosity(tf.logging.ERROR)
    config.package = pathlib.Path(awd_lstm_tf.__file__).resolve().parent
    if config.getoption("--installed") and "site-packages" not in (
        config.package.parts
    ):
        raise pytest.UsageError(
            f"--installed, but awd_lstm_tf was found in {config.package}."
        )
    # Under xdist the workers draw nothing: all have the seed of the master.
    shared = getattr(config, "workerinput", {})
    config.seed = shared.get("seed", _draw_seed(config))


def pytest_configure_node(node):
    node.workerinput["seed"] = node.config.seed


def pytest_report_header(config):
    import tensorflow as tf

    return (
        f"awd_lstm_tf: {config.package}, TensorFlow {tf.__version__}, "
        f"seed {config.seed}"
    )


def _use_source_tree():
    """Puts the repository first, here and in the processes of the tests."""
    sys.path.insert(0, str(REPOSITORY))
    paths = [str(REPOSITORY)] + os.environ.get("PYTHONPATH", "").split(":")
    os.environ["PYTHONPATH"] = ":".join(filter(None, paths))


def _draw_seed(config):
    if config.getoption("--vary-seed"):
        return random.SystemRandom().randrange(1, 2**31)
    return 17


@pytest.fixture(scope="session")
def seed(request):
    """The run's seed: 17, or under `--vary-seed` the one in the header."""
    return request.config.seed


@pytest.fixture(scope="session")
def examples(request):
    """The folder of the examples."""
    return pathlib.Path(request.config.getoption("--examples"))


@pytest.fixture(autouse=True)
def fresh_graph(seed):
    """An empty default graph, and all generators seeded, for each test."""
    import tensorflow as tf

    tf.reset_default_graph()
    tf.set_random_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


@pytest.fixture
def session():
    """Makes sessions of one thread on the default graph; closes them."""
    import tensorflow as tf

    opened = []

    def open_session(**kwargs):
        config = tf.ConfigProto(
            intra_op_parallelism_threads=1, inter_op_parallelism_threads=1
        )
        opened.append(tf.Session(config=config, **kwargs))
        return opened[-1]

    yield open_session
    for each in opened:
        each.close()
