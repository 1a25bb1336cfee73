"""Pythons with today's TFLite runtimes, for tests to run models in.

`make runtimes` makes them; AWD_LSTM_TF_RUNTIMES names another folder of
environments called like these.
"""

import json
import os
import pathlib
import pickle
import subprocess
import tempfile

import numpy as np
import pytest
from versions import tf

NAMES = ("ai-edge-litert", "tflite-runtime", "tflite-micro")
FOLDER = pathlib.Path(__file__).resolve().parent.parent / ".venv-runtimes"
FOLDER = pathlib.Path(os.environ.get("AWD_LSTM_TF_RUNTIMES", str(FOLDER)))
HERE = None  # this process's own interpreter

# Runs in the other Python: draws of several models.
WORKER = """
import pickle, sys
sys.path.insert(0, sys.argv[1])
import run_tflite
with open(sys.argv[2], "rb") as file:
    contents, draws = pickle.load(file)
runtime, found = run_tflite.find_runtime(), []
for content, each in zip(contents, draws):
    model = runtime(content)
    outputs = [model.run(values) for values in each]
    found.append((model.inputs, model.outputs, outputs))
with open(sys.argv[3], "wb") as file:
    pickle.dump(found, file, 2)
"""


def python(name):
    """Path of the Python with a runtime; skips the test without it."""
    path = FOLDER / name / "bin" / "python"
    if not path.exists():
        pytest.skip(f"needs {name} in {FOLDER}: make runtimes")
    return str(path)


def for_form(form):
    """HERE, if this TensorFlow runs the form; else a Python that does."""
    version = tuple(map(int, tf.__version__.split(".")[:2]))
    if form == "uint8" or version >= (2, 14):
        return HERE
    return python("ai-edge-litert")


class Described(object):
    """The ends of a model that another process runs."""

    def __init__(self, inputs, outputs):
        self.inputs, self.outputs = inputs, outputs


def run_draws(run_tflite, path, contents, draw):
    """Runs models on draws.

    Args:
      path: HERE, or the Python to run them in.
      contents: list of models.
      draw: function of a model's number and of its ends, to lists of inputs.

    Returns:
      For each model a list, by draw, of its outputs.
    """
    if path is HERE:
        models = [run_tflite.find_runtime()(content) for content in contents]
        return [
            [model.run(values) for values in draw(number, model)]
            for number, model in enumerate(models)
        ]
    nothing = [[] for _ in contents]
    described = _work(run_tflite, path, contents, nothing)
    draws = [
        draw(number, Described(*ends[:2]))
        for number, ends in enumerate(described)
    ]
    return [each[2] for each in _work(run_tflite, path, contents, draws)]


def _work(run_tflite, path, contents, draws):
    with tempfile.TemporaryDirectory() as folder:
        ends = [os.path.join(folder, name) for name in ("in", "out")]
        with open(ends[0], "wb") as file:
            pickle.dump((contents, draws), file, 2)
        examples = os.path.dirname(run_tflite.__file__)
        _output([path, "-c", WORKER, examples] + ends)
        with open(ends[1], "rb") as file:
            return pickle.load(file)


def run_steps(run_tflite, name, content, fed, *options):
    """Runs a model step by step in the Python with a runtime; its outputs."""
    return _run(run_tflite, name, content, fed, options)[0]


def told(run_tflite, name, content, fed, *options):
    """What run_tflite.py prints of that, such as the time."""
    return _run(run_tflite, name, content, fed, options)[1]


def _run(run_tflite, name, content, fed, options):
    with tempfile.TemporaryDirectory() as folder:
        paths = [
            os.path.join(folder, each)
            for each in ("model.tflite", "in.npz", "out.npz")
        ]
        with open(paths[0], "wb") as file:
            file.write(content)
        np.savez(paths[1], input_0=fed)
        printed = _output(
            [python(name), run_tflite.__file__] + paths + list(options)
        )
        with np.load(paths[2]) as data:
            outputs = [data[f"output_{k}"] for k in range(len(data.files))]
        return outputs, json.loads(printed.splitlines()[-1])


def _output(command):
    environment = dict(os.environ)
    environment.pop("PYTHONPATH", None)  # of another Python
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        universal_newlines=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
