"""Programs written for stock LSTMCell, with a line or two of them changed.

The programs in programs/ do not know this library. Here their text is changed
as a user would change it, and they are run as scripts, in this process.
"""

import collections
import contextlib
import difflib
import io
import pathlib
import re
import runpy
import shutil
import sys
import unittest.mock

import grids
import numpy as np
import pytest
import versions
from versions import tf

FOLDER = pathlib.Path(__file__).resolve().parent / "programs"
OURS = "awd_lstm_tf.WeightDropLSTMCell("
KEEP_RATE = 0.7
STEPS = 40


class Program(object):
    """The text of a program, and what a user changes in it."""

    def __init__(self, name, imports, cell, drop, takes_last_step=False):
        self.name = name
        self._imports, self._cell, self._drop = imports, cell, drop
        self._takes_last_step = takes_last_step
        path = FOLDER / (name + ".py")
        self.stock = path.read_text(encoding="utf-8")

    @property
    def ported(self):
        """With another import and another class name, and nothing else."""
        text = self.stock.replace(*self._imports)
        return text.replace(self._cell, OURS)

    @property
    def dropping(self):
        """With arguments for weight drop, and a line to watch the masks."""
        arguments = f"weight_drop_kr={KEEP_RATE}, use_vd=True, {self._drop}"
        text = re.sub(
            re.escape(OURS) + r"[^()]*", rf"\g<0>, {arguments}", self.ported
        )
        return re.sub(
            r"^( *)tf\.summary\.scalar\(.*\)$",
            r"\g<0>\n\1awd_lstm_tf.mask_summaries(*cells)",
            text,
            flags=re.M,
        )

    def run(self, text, folder, start=0, stop=STEPS):
        """Runs `text` as a script; `folder` is where it reads and writes."""
        folder.mkdir(exist_ok=True)
        script = folder / (self.name + ".py")
        script.write_text(text, encoding="utf-8")
        argv = [str(script), "--model_dir", str(folder)]
        if self._takes_last_step:
            argv += ["--max_steps", str(stop)]
        else:
            argv += ["--steps", str(stop - start)]
        tf.reset_default_graph()
        printed = io.StringIO()
        with unittest.mock.patch.object(sys, "argv", argv):
            with contextlib.redirect_stdout(printed):
                runpy.run_path(str(script), run_name="__main__")
        return Run(folder, printed.getvalue())


class Run(object):
    """What a program left behind and printed."""

    def __init__(self, folder, printed):
        self.folder = folder
        self.held_out = [
            {key: float(value) for key, value in zip(*[iter(line.split())] * 2)}
            for line in printed.splitlines()
            if line.startswith("step ")
        ]
        self.scalars = collections.defaultdict(list)
        for path in sorted(folder.glob("events.*")):
            for event in tf.train.summary_iterator(str(path)):
                for value in event.summary.value:
                    self.scalars[value.tag].append(value.simple_value)

    @property
    def losses(self):
        """Those of the training steps."""
        return self.scalars["loss"]

    def of_masks(self, kind):
        """The mask summaries of that kind: a row for each of the cells."""
        tags = [tag for tag in self.scalars if tag.endswith("_mask/" + kind)]
        return np.array([self.scalars[tag] for tag in tags])

    def exported(self):
        """The exported models, oldest first."""
        return sorted((self.folder / "export").glob("*"))


IMPORT = "import tensorflow as tf\n"
IMPORT_2 = "import tensorflow.compat.v1 as tf\n"
PROGRAMS = [
    Program(
        "adder",
        (IMPORT_2, IMPORT_2 + "\nimport awd_lstm_tf\n"),
        "tf.nn.rnn_cell.LSTMCell(",
        "auto_update=True, is_train=is_training",
    ),
    Program(
        "tagger",
        (
            "from tensorflow.contrib.rnn import LSTMCell\n",
            "\nimport awd_lstm_tf\n",
        ),
        "LSTMCell(",
        "auto_update=True, is_train=is_training",
    ),
    Program(
        "seq2seq",
        (IMPORT, IMPORT + "\nimport awd_lstm_tf\n"),
        "tf.nn.rnn_cell.LSTMCell(",
        "auto_update=True, is_train=is_training",
    ),
    Program(
        "time_series",
        (IMPORT, IMPORT + "\nimport awd_lstm_tf\n"),
        "tf.contrib.rnn.LSTMCell(",
        "updates_collections=tf.GraphKeys.UPDATE_OPS, is_train=is_training",
        takes_last_step=True,
    ),
]


@pytest.fixture(scope="module")
def program(request):
    if versions.VERSION < (2,):
        needed = "compat.v1" if versions.VERSION < (1, 13) else None
    else:
        needed = "contrib"
    if needed and needed in request.param.stock:
        pytest.skip(f"the program needs tf.{needed}")
    return request.param


@pytest.fixture(scope="module")
def stock(program, tmp_path_factory):
    """A run of the program as it is."""
    folder = tmp_path_factory.mktemp(program.name) / "stock"
    return program.run(program.stock, folder)


def some_programs(*quick):
    """All of the programs are a test's; those that are not `quick` are slow."""
    return pytest.mark.parametrize(
        "program",
        grids.some_slow(zip(PROGRAMS), lambda each: each.name in quick),
        indirect=True,
        ids=lambda each: each.name,
    )


def changed_lines(before, after):
    lines = difflib.ndiff(before.splitlines(), after.splitlines())
    return [line[2:].strip() for line in lines if line.startswith("+ ")]


@some_programs("adder", "time_series")
def test_with_import_and_class_name_changed_it_is_the_same(
    program, stock, tmp_path
):
    lines = changed_lines(program.stock, program.ported)
    assert "import awd_lstm_tf" in lines
    assert len([line for line in lines if OURS in line]) == 1
    assert len([line for line in lines if line]) == 2
    run = program.run(program.ported, tmp_path)
    assert len(run.losses) == STEPS
    assert run.losses == stock.losses  # to the bit
    assert run.held_out == stock.held_out


def assert_serve_the_same(exports):
    """Of the exported models, if there are any: their predictions."""
    past = np.random.RandomState(3).randn(4, 12, 1).astype(np.float32)
    predictions = [
        versions.load_predictor(str(path))({"past": past})["next"]
        for path in exports
    ]
    assert all(np.array_equal(each, predictions[0]) for each in predictions)


@some_programs("tagger", "seq2seq")
def test_with_weight_drop_it_learns_and_evaluates_without(program, tmp_path):
    run = program.run(program.dropping, tmp_path)
    changed, kept = run.of_masks("changed"), run.of_masks("kept_fraction")
    assert changed.shape == kept.shape == (2, STEPS)
    assert np.all(changed[:, 1:] == 1)
    assert np.all(np.abs(kept[:, 1:] - KEEP_RATE) < 0.1)
    assert np.mean(run.losses[-5:]) < 0.7 * np.mean(run.losses[:5])
    # The stock program finds the same metric for the same checkpoint.
    same = program.run(program.stock, tmp_path, start=STEPS)
    assert same.held_out[0] == run.held_out[-1]
    assert_serve_the_same(run.exported()[:1] + same.exported()[1:])


@some_programs("adder", "time_series")
def test_with_weight_drop_it_goes_on_from_a_stock_checkpoint(
    program, stock, tmp_path
):
    folder = tmp_path / "goes_on"
    ignore = shutil.ignore_patterns("events.*", "export", "eval")
    shutil.copytree(str(stock.folder), str(folder), ignore=ignore)
    run = program.run(program.dropping, folder, STEPS, 2 * STEPS)
    assert run.held_out[0] == stock.held_out[-1]
    assert run.held_out[-1]["step"] == 2 * STEPS
    assert len(run.losses) == STEPS
