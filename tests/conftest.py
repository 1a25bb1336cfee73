"""What every test gets: a quiet TensorFlow, a fresh graph, a known seed."""

import importlib
import os
import pathlib
import random
import re
import sys

import hypothesis
import numpy as np
import pytest

# Read by TensorFlow's C++ side when it is imported: errors only.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
import versions
from tiny_runs import TINY
from versions import tf

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
    tf.logging.set_verbosity(tf.logging.ERROR)
    if versions.VERSION >= (2,):  # stock cells say how old they are
        config.addinivalue_line(
            "filterwarnings", "ignore:.*is deprecated and will be removed"
        )
    config.package = _find_package(config.getoption("--installed"))
    vary = config.getoption("--vary-seed")
    hypothesis.settings.register_profile(
        "suite", derandomize=not vary, deadline=None
    )
    hypothesis.settings.load_profile("suite")
    # A worker of pytest-xdist has the seed of the process that started it.
    shared = getattr(config, "workerinput", {})
    config.seed = shared.get("seed", _draw_seed() if vary else 17)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    node.workerinput["seed"] = node.config.seed


# What 2.x has no longer, and what it says where a test asks for it.
GONE = re.compile(
    "has no attribute '(contrib|estimator)'"
    "|No module named 'tensorflow.(contrib)'"
    "|`(\\w+)` is not available with (Keras 3)"
)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Skips, by its name, a test that asks for something that is gone."""
    outcome = yield
    report = outcome.get_result()
    raised = report.failed and call.excinfo  # none, if it failed to fail
    gone = raised and GONE.search(str(raised.value))
    if gone and _asked_by_a_test(call.excinfo.traceback, item.config.package):
        parts = [part for part in gone.groups() if part]
        why = "needs tf." + parts[0]
        if len(parts) > 1:
            why = "needs Keras 2: tf_keras"
        report.outcome = "skipped"
        report.longrepr = (str(item.fspath), 0, f"Skipped: {why} (gone here)")


def _asked_by_a_test(traceback, package):
    """Whether what failed was asked by a test, not by the package itself."""
    tests = pathlib.Path(__file__).resolve().parent
    for entry in reversed(list(traceback)):
        folders = pathlib.Path(str(entry.path)).resolve().parents
        if tests in folders or package in folders:
            return tests in folders
    return False


def pytest_report_header(config):
    return (
        f"awd_lstm_tf: {config.package}, TensorFlow "
        f"{tf.__version__}, control flow {versions.FLOW}, seed {config.seed}"
    )


def _find_package(installed):
    """Folder of the package under test: the installed one, or the source."""
    if not installed:
        _put_source_tree_first()
    import awd_lstm_tf

    folder = pathlib.Path(awd_lstm_tf.__file__).resolve().parent
    if installed and "site-packages" not in folder.parts:
        raise pytest.UsageError(f"--installed, but the package is {folder}.")
    return folder


def _put_source_tree_first():
    """Has this process and those that tests start import from the source."""
    sys.path.insert(0, str(REPOSITORY))
    paths = [str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))


def _draw_seed():
    return random.SystemRandom().randrange(1, 2**31)


@pytest.fixture(scope="session")
def seed(request):
    """The run's seed: 17, or under `--vary-seed` the one in the header."""
    return request.config.seed


@pytest.fixture(scope="session")
def examples(request):
    """The folder of the examples."""
    return pathlib.Path(request.config.getoption("--examples"))


@pytest.fixture(scope="session")
def benchmarks(examples):
    """The folder of the benchmarks, beside that of the examples."""
    return examples.parent / "benchmarks"


@pytest.fixture(scope="module")
def example(examples, benchmarks):
    """Imports a module of the examples, or of the benchmarks, by its name."""
    before = list(sys.path)
    sys.path[:0] = [str(examples), str(benchmarks)]
    yield importlib.import_module
    sys.path[:] = before


@pytest.fixture(autouse=True)
def fresh_graph(seed):
    """An empty default graph, and all generators seeded, for each test."""
    if versions.VERSION >= (2,):  # a program that was imported may change it
        wanted = versions.FLOW == "v2"
        assert tf.control_flow_v2_enabled() == wanted, "a test left it changed"
    tf.reset_default_graph()
    tf.set_random_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


@pytest.fixture
def open_session():
    """Opens sessions of one thread on the default graph, and closes them."""
    opened = []

    def open_one(**kwargs):
        config = tf.ConfigProto(
            intra_op_parallelism_threads=1, inter_op_parallelism_threads=1
        )
        opened.append(tf.Session(config=config, **kwargs))
        return opened[-1]

    yield open_one
    for each in opened:
        each.close()


@pytest.fixture
def control_flow_v2():
    """Loops and conds as functions, the default of TensorFlow 2."""
    if versions.VERSION < (1, 15):
        pytest.skip("needs control flow v2 (TensorFlow 1.15)")
    before = tf.control_flow_v2_enabled()
    tf.enable_control_flow_v2()
    yield
    if not before:
        tf.disable_control_flow_v2()


@pytest.fixture
def late_gradients():
    """Gradients of loops that have been run: Keras's, if it evaluates first.

    With control flow v2 these fail, those of stock cells, too, without this.
    """
    late = versions.VERSION >= (2,) and tf.experimental
    if late:
        late.output_all_intermediates(True)
    yield
    if late:
        late.output_all_intermediates(None)


# Runs of benchmarks/train.py.


@pytest.fixture(scope="module")
def train(example):
    return example("train")


@pytest.fixture(scope="module")
def text_data(example):
    return example("text_data")


@pytest.fixture
def text_file(tmp_path, text_data):
    """Some real prose, about 800 words."""
    path = tmp_path / "text.txt"
    path.write_text(text_data.python_documentation()[:5000], encoding="utf-8")
    return path


@pytest.fixture
def start_run(train, example, text_data, text_file, tmp_path):
    """Starts a run of one model as `main` does; returns the trainer."""

    def start(kind, *more):
        flags = train.parse_flags(
            [f"--data={text_file}", f"--out={tmp_path / 'out'}", *TINY, *more]
        )
        corpus = text_data.load_corpus(flags.data, flags.level)
        example("run_folder").prepare(flags, corpus)
        return train.make_trainer(kind, flags, corpus)

    return start
