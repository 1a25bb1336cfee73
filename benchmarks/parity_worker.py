"""Runs one of the two models of parity.py, under the Python that has it.

    python parity_worker.py tf_awd_lstm    steps TASK.npz OUT.npz ...
    python parity_worker.py torch_awd_lstm steps OUT.npz OUT2.npz ...
    python parity_worker.py MODEL          train TASK.npz OUT.json SEED
    python parity_worker.py MODEL          speed TASK.npz

The second has weights and masks from the first. "speed" says the model's
version; then, for each line read, takes a training step and says its seconds.
"""

import importlib
import json
import sys
import time

import numpy as np

AVERAGING_FROM = 2  # the step of "steps" at which NT-ASGD starts to average


def load(path):
    """The settings, and nested dicts of arrays, of a file of `save`."""
    tree = {}
    with np.load(path) as file:
        for key in file.files:
            *folders, name = key.split("/")
            place = tree
            for folder in folders:
                place = place.setdefault(folder, {})
            place[name] = file[key]
    tree["settings"] = json.loads(str(tree["settings"]))
    return tree


def save(path, tree):
    """Writes nested dicts of arrays, and `settings`."""
    tree = dict(tree, settings=json.dumps(tree["settings"]))
    np.savez(path, **flat(tree))


def flat(tree, prefix=""):
    """Nested dicts as one, with "a/b" for keys."""
    leaves = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            leaves.update(flat(value, f"{prefix}{name}/"))
        elif value is not None:
            leaves[prefix + str(name)] = value
    return leaves


def steps(make, task):
    """Takes a step for each of the task's windows, and tells all about it.

    Args:
      make: the class `Model`.
      task: from `load`: `settings`, `dtype`, `rate`, `inputs` and `targets`
        `[windows, time, batch]`, the `state` before the first; for PyTorch
        what this function returned for TensorFlow, too.

    Returns:
      The task, with the first `weights`, the `step`s and, if NT-ASGD was at
      work, `averages`.
    """
    settings = task["settings"]
    model = make(settings, dtype=str(task["dtype"]))
    if "weights" in task:
        model.load(task["weights"])
    told = dict(task, weights=model.weights(), step={})
    model.set_state([task["state"][key] for key in sorted(task["state"])])
    for k, window in enumerate(zip(task["inputs"], task["targets"])):
        if settings["optimizer"] == "nt_asgd":
            if k == AVERAGING_FROM - model.averages_after:
                model.start_averaging()
        given = {}
        if "step" in task:
            given["kept"] = task["step"][str(k)]["kept"]
        step = model.examine(*window, rate=float(task["rate"]), **given)
        told["step"][k] = dict(step, weights=model.weights())
    if settings["optimizer"] == "nt_asgd":
        told["averages"] = model.averages()
    return told


def windows(ids, batch, lengths):
    """Windows over `batch` rows of a text: inputs and targets, by time."""
    time_ = (len(ids) - 1) // batch
    rows = [
        ids[start : start + batch * time_].reshape(batch, time_).T
        for start in (0, 1)
    ]
    ends = np.cumsum(lengths)
    return [
        tuple(part[start:end] for part in rows)
        for start, end in zip(ends - lengths, ends)
    ]


def train(make, task, seed):
    """Trains on a text, validates after each epoch.

    Args:
      make: the class `Model`.
      task: from `load`: `settings`, the ids `train` and `valid`, the lengths
        of their windows, `lengths` by epoch and `valid_lengths`.
      seed: int.

    Returns:
      Dict with the `version`, the `seed`, and losses by epoch.
    """
    settings = task["settings"]
    model, start = make(settings, seed), time.time()
    valid = windows(
        task["valid"], settings["valid_batch"], task["valid_lengths"]
    )
    result = {"version": model.version, "seed": seed, "train": [], "valid": []}
    for epoch in sorted(task["lengths"], key=int):
        lengths = task["lengths"][epoch]
        rates = settings["rate"] * lengths / settings["time"]
        model.reset_state(settings["batch"])
        losses = [
            model.train(*window, rate=rate)
            for window, rate in zip(
                windows(task["train"], settings["batch"], lengths), rates
            )
        ]
        result["train"].append(float(np.average(losses, weights=lengths)))
        model.reset_state(settings["valid_batch"])
        losses = [model.evaluate(*window) for window in valid]
        result["valid"].append(
            float(np.average(losses, weights=task["valid_lengths"]))
        )
        print(model.version, seed, epoch, result["valid"][-1], flush=True)
    return dict(result, seconds=time.time() - start)


def speed(make, task):
    """Takes a step per line of stdin, says its seconds."""
    settings = task["settings"]
    shape = [settings["time"], settings["batch"]]
    model = make(settings, threads=int(task["threads"]), time=settings["time"])
    model.reset_state(settings["batch"])
    window = np.random.RandomState(0).randint(
        settings["vocabulary"], size=[2] + shape
    )
    print(model.version, flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        model.train(*window, rate=1e-3)
        print(time.perf_counter() - start, flush=True)


def _main(framework, command, *arguments):
    make = importlib.import_module(framework).Model
    if command == "steps":
        for source, target in zip(arguments[::2], arguments[1::2]):
            save(target, steps(make, load(source)))
    elif command == "train":
        source, target, seed = arguments
        result = train(make, load(source), int(seed))
        with open(target, "w") as file:
            json.dump(result, file)
    else:
        speed(make, load(*arguments))


if __name__ == "__main__":
    _main(*sys.argv[1:])
