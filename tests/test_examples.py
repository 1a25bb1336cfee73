"""The short examples run as scripts."""

import os
import re
import subprocess
import sys

import pytest


def run(path):
    """The lines that a script prints, apart from TensorFlow's."""
    answer = subprocess.run(
        [sys.executable, "-W", "ignore", str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=str(path.parent),
        env=dict(os.environ, TF_CPP_MIN_LOG_LEVEL="3"),
        universal_newlines=True,
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.splitlines()


def numbers(lines):
    return [[float(x) for x in re.findall(r"\d+\.\d*", n)] for n in lines]


@pytest.mark.smoke
def test_quickstart_learns(examples):
    losses = [row[-1] for row in numbers(run(examples / "quickstart.py"))]
    losses = losses[-3:]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.smoke
def test_variational_dropout_holds_one_mask_per_loop(examples):
    lines = run(examples / "variational_dropout.py")
    sums = {
        name: numbers(n for n in lines if n.startswith(name))
        for name in ("never drawn", "a new mask", "held", "one step")
    }
    assert sums["never drawn"] == [[4.0] * 5]
    assert len(sums["a new mask"]) == 5
    for row in sums["a new mask"]:
        assert set(row) <= {0.0, 8.0}
    assert sums["held"] == sums["a new mask"][:2]
    first, *later = sums["one step"]
    assert first == [4.0] * 5  # before the first update
    for row in later:
        assert len(set(row) - {0.0}) <= 1
