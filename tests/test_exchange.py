"""Checkpoints and served models between the worlds of TensorFlow.

The folders in checkpoints/ were written by the TensorFlow they are named for
(exchange.py says how), so each version's tests read those of all the others.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import exchange
import pytest
import versions
from versions import tf

TESTS = pathlib.Path(exchange.__file__).resolve().parent
WRITERS = sorted(path.name for path in (TESTS / "checkpoints").iterdir())
LIMIT = 2e-6  # float32, and products added up in another order

pytestmark = pytest.mark.smoke


@pytest.fixture
def written(request):
    return TESTS / "checkpoints" / request.param


by_writer = pytest.mark.parametrize("written", WRITERS, indirect=True)


def test_all_worlds_are_there():
    assert WRITERS == ["1.13.1", "2.15.1", "2.21.0"]


@by_writer
@pytest.mark.parametrize(
    "kind", ["ours", pytest.param("stock", marks=pytest.mark.slow)]
)
def test_training_goes_on_from_a_checkpoint(written, kind):
    outputs, losses = exchange.read(written, kind)
    assert max(outputs, losses) < LIMIT


@by_writer
@pytest.mark.skipif(
    versions.VERSION < (1, 13), reason="object-based checkpoints: from 1.13 on"
)
def test_training_goes_on_from_an_object_based_checkpoint(written):
    outputs, losses = exchange.read(written, "ours", "objects")
    assert max(outputs, losses) < LIMIT


def test_a_checkpoint_that_is_not_restored_would_be_noticed(tmp_path):
    folder = TESTS / "checkpoints" / WRITERS[0]
    shutil.copytree(str(folder), str(tmp_path / "copy"))
    expected = json.loads((folder / "expected.json").read_text())
    expected["losses"][-1] += 1e-4
    (tmp_path / "copy" / "expected.json").write_text(json.dumps(expected))
    assert exchange.read(tmp_path / "copy", "ours")[1] > 10 * LIMIT


@by_writer
def test_a_model_is_served(written):
    if written.name[0] > tf.__version__[0] or versions.VERSION < (1, 13):
        pytest.skip("models are served by the same or a later TensorFlow")
    assert exchange.serve(written) < LIMIT


# Whatever environments there are, this one among them: each writes, all read.


def environments():
    """Python and settings of this environment, and of those `make` made."""
    yield sys.executable, {}
    for folder in sorted(TESTS.parent.glob(".venv*")):
        python = folder / "bin" / "python"
        settings = folder / ".environment"
        if python.exists() and settings.exists():
            text = settings.read_text().split()
            yield str(python), dict(each.split("=") for each in text)


def run(environment, *arguments):
    python, settings = environment
    paths = [str(TESTS), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [python, "-W", "ignore", str(TESTS / "exchange.py")] + list(arguments),
        env=dict(
            os.environ,
            PYTHONPATH=os.pathsep.join(filter(None, paths)),
            **settings,
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_each_environment_goes_on_from_all_the_others(tmp_path):
    found = list(environments())
    if len(found) == 1:
        pytest.skip("no other environment: make check TF=2.15.1 makes one")
    for number, writer in enumerate(found):
        folder = tmp_path / str(number)
        for kind in ("ours", "stock"):
            run(writer, "write", str(folder / kind), kind)
        for reader in found:
            for kind in ("ours", "stock"):
                for wrote in ("ours", "stock"):
                    said = run(reader, "read", str(folder / wrote), kind)
                    differences = json.loads(said.splitlines()[-1])
                    print(writer[0], reader[0], wrote, kind, differences)
                    assert max(differences) < LIMIT
