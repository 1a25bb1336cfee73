"""Runs of benchmarks/train.py at tiny size: their flags and text."""

import json
import sys

import numpy as np

TINY = (
    "--units=8 --embedding=8 --layers=1 --batch-size=4 --steps=10 --epochs=2 "
    "--sample=12 --threads=1 --save-seconds=1000"
).split()


def read(path):
    return json.loads(path.read_text())


def write(path, content):
    path.write_bytes(content)
    return path


def write_folder(folder):
    """Three files laid out as PTB's."""
    folder.mkdir()
    line = " no it was n't <unk> mr. smith said N times \n"
    for name, lines in (("train", 60), ("valid", 10), ("test", 10)):
        (folder / f"{name}.txt").write_text(line * lines, encoding="utf-8")


def windows_of(trainer):
    """Training windows."""
    flags = trainer.flags
    return sys.modules["text_data"].training_windows(
        trainer.corpus.train,
        flags.batch_size,
        flags.steps,
        np.random.RandomState(1),
        flags.variable_bptt,
    )
