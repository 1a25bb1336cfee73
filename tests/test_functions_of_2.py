"""Eager mode and `tf.function` of TensorFlow 2.x: right, or refused.

What is promised on 2.x are graphs. What is drawn anew in each run is right in
a `tf.function`, too; a mask that is held has no session to be held for.
"""

import json
import os
import pathlib
import subprocess
import sys

import pytest
import versions

PROGRAM = pathlib.Path(__file__).resolve().with_name("functions_of_2.py")

pytestmark = [versions.needs_2, pytest.mark.smoke]


@pytest.fixture(scope="module")
def results():
    """What the program says, which runs without the tests' settings."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(PROGRAM)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        env=dict(os.environ, TF_CPP_MIN_LOG_LEVEL="3"),
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("layer", ["cell", "fused"])
def test_in_a_function_outputs_and_gradients_are_of_one_mask(results, layer):
    assert results[layer]["error"] < 1e-4
    assert results[layer]["masks"] == 10  # of 10 calls


def test_in_a_function_dropout_is_drawn_in_each_call(results):
    assert results["dropout differs"] and results["embedding differs"]


@pytest.mark.parametrize(
    "what, argument",
    [
        ("held", "weight_drop_kr"),
        ("eager cell", "weight_drop_kr"),
        ("eager dropout", "keep_prob"),
        ("eager embedding", "keep_prob"),
    ],
)
def test_where_a_mask_cannot_be_kept_it_is_refused(results, what, argument):
    sentence = results[what].replace("ValueError: ValueError:", "ValueError:")
    assert sentence == (
        f"ValueError: `{argument}` below 1.0 needs a graph, got eager "
        "execution: call `tf.disable_eager_execution()` (of `tf.compat.v1`) "
        "first, build the model in a `tf.Graph`, or keep the rate at 1.0."
    )


def test_the_optimizer_refuses_eager_mode(results):
    assert results["eager optimizer"] == (
        "ValueError: NTASGDOptimizer needs a graph, got eager execution: build "
        "the model in a `tf.Graph`."
    )


def test_in_eager_mode_what_drops_nothing_works(results):
    assert results["eager off"] == ""
    assert results["eager AR"] == 2.0
