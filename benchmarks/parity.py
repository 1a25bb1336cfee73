"""The AWD-LSTM recipe beside itself in PyTorch: same step, same curves, speed.

    python benchmarks/parity.py --torch ~/torch/bin/python --data input.txt

`--torch` is a Python that has PyTorch. Three parts (`--parts`):

    steps    given equal weights and masks, loss, gradients, state and updates
             of tf_awd_lstm.py and torch_awd_lstm.py, and how far apart they are
    train    a character model trained with each, several seeds: losses on held
             out text, and the difference of the means in standard errors
    speed    training steps of both in turns, tokens per second

Prints README's tables. All figures are kept in `--json`; a training run that is
in there already is not made again. Exit code 1: the two do not agree.
"""

import argparse
import hashlib
import os
import statistics
import subprocess
import sys

import numpy as np
import parity_worker
import run_folder
import text_data
from stepper import Stepper

HERE = os.path.dirname(os.path.abspath(__file__))

FRAMEWORKS = {"TensorFlow": "tf_awd_lstm", "PyTorch": "torch_awd_lstm"}
SEEDS = (1, 2, 3)
TRAIN_TOKENS, VALID_TOKENS = 200000, 40000

# The network that is trained, with all of the recipe.
SETTINGS = {
    "vocabulary": None,  # told by the text
    "embedding": 48,
    "units": [96, 96, 48],  # of each layer
    "tied": True,  # softmax and embedding
    "keep": {  # rates
        "embedding": 0.95,
        "inputs": 0.9,
        "hidden": 0.85,
        "outputs": 0.85,
        "weights": 0.7,
    },
    "alpha": 1.0,
    "beta": 0.5,
    "clip": 0.25,
    "optimizer": "adam",
    "rate": 3e-3,  # for windows of `time`, proportional for others
    "time": 50,
    "batch": 20,
    "valid_batch": 20,
    "epochs": 8,
}

# For single steps: less is kept, so that masks matter more, and the gradient
# is sure to be clipped.
STEP_SETTINGS = dict(
    SETTINGS,
    vocabulary=65,
    keep={
        "embedding": 0.8,
        "inputs": 0.6,
        "hidden": 0.7,
        "outputs": 0.6,
        "weights": 0.5,
    },
    alpha=2.0,
    beta=1.0,
    clip=0.1,
)
STEP_NETWORKS = {
    "3 layers, tied": {},
    "2 layers, not tied": {"units": [96, 64], "embedding": 64, "tied": False},
}
STEPS = 5
STEP_RATES = {"sgd": 8.0, "nt_asgd": 8.0, "adam": 2.0**-10}
# What must agree to so much.
AGREEING, BOUND = ("loss", "gradients", "state"), 1e-5

MEDIUM = dict(
    STEP_SETTINGS,
    vocabulary=10000,
    embedding=650,
    units=[650, 650],
    optimizer="sgd",
    time=35,
)
THREADS = (1, 2)
REPEATS, WARM_UP = {"parity": 40, "medium": 6}, 2


def command_of(framework, flags, *arguments):
    """The command line that has the worker do something."""
    python = flags.torch if framework == "PyTorch" else sys.executable
    worker = os.path.join(HERE, "parity_worker.py")
    words = [python, "-W", "ignore", worker, FRAMEWORKS[framework]]
    return words + [str(argument) for argument in arguments]


# ---------------------------------------------------------------------------
# Single steps


def step_task(settings, dtype, seed=0):
    """What `parity_worker.steps` does: windows, first state, learning rate."""
    random = np.random.RandomState(seed)
    shape = [2, STEPS, settings["time"], settings["batch"]]
    inputs, targets = random.randint(settings["vocabulary"], size=shape)
    return {
        "settings": settings,
        "dtype": dtype,
        "rate": STEP_RATES[settings["optimizer"]],
        "inputs": inputs,
        "targets": targets,
        "state": {
            f"{i}{part}": random.uniform(
                -1, 1, [settings["batch"], units]
            ).astype(dtype)
            for i, units in enumerate(settings["units"])
            for part in "ch"
        },
    }


def largest_difference(ours, theirs):
    """Of arrays by name: each difference relative to the largest entry."""
    ours, theirs = parity_worker.flat(ours), parity_worker.flat(theirs)
    return float(
        np.max(
            [
                np.max(np.abs(ours[name] - theirs[name]))
                / np.max(np.abs(ours[name]))
                for name in ours
            ]
        )
    )


def take_steps(tasks, flags):
    """Has both frameworks take the same steps.

    Args:
      tasks: dict of tasks, from `step_task`.
      flags: settings of this command.

    Returns:
      Dict of what TensorFlow and PyTorch told, a pair for each task.
    """
    paths = [
        [os.path.join(flags.out, f"step-{i}-{kind}.npz") for i in range(3)]
        for kind in range(len(tasks))
    ]
    for task, (path, _, _) in zip(tasks.values(), paths):
        parity_worker.save(path, task)
    for i, framework in enumerate(FRAMEWORKS):
        files = [name for names in paths for name in names[i : i + 2]]
        subprocess.check_call(command_of(framework, flags, "steps", *files))
    return {
        case: [parity_worker.load(name) for name in names[1:]]
        for case, names in zip(tasks, paths)
    }


def largest_differences(ours, theirs):
    """Of the steps of both frameworks, by what is compared.

    Returns:
      Dict of `largest_difference` in the loss, the gradients and the state of
      the first step, in the weights after it, in the weights after the last
      step, and in the averages of NT-ASGD.
    """

    def parts(told):
        first, last = told["step"]["0"], told["step"][str(STEPS - 1)]
        return {
            "loss": {"loss": first["loss"]},
            "gradients": first["gradients"],
            "state": first["state"],
            "weights": first["weights"],
            "last weights": last["weights"],
            "averages": told.get("averages"),
        }

    ours, theirs = parts(ours), parts(theirs)
    return {
        part: largest_difference(ours[part], theirs[part])
        for part in ours
        if ours[part] is not None
    }


def step_cases():
    """Tasks of all steps to compare, by what tells them apart."""
    return {
        f"{network}, {dtype}, {optimizer}": step_task(
            dict(STEP_SETTINGS, optimizer=optimizer, **change), dtype
        )
        for network, change in STEP_NETWORKS.items()
        for dtype in ("float32", "float64")
        for optimizer in sorted(STEP_RATES)
    }


def step_rows():
    """What a row of the table holds: its title, the part, the optimizer."""
    rows = [(part, part, "") for part in AGREEING]
    for optimizer in STEP_RATES:
        rows += [
            (f"weights after a step of {optimizer}", "weights", optimizer),
            (f"after {STEPS} steps", "last weights", optimizer),
        ]
    return rows + [("averages of nt_asgd", "averages", "nt_asgd")]


def print_steps(found):
    """Prints the largest differences of all networks; says if steps agree."""
    dtypes = "float32", "float64"

    def largest(part, *words):
        return max(
            differences[part]
            for case, differences in found.items()
            if set(words) <= set(case.split(", "))
        )

    print("| largest difference |", " | ".join(dtypes), "|")
    print("|---|--:|--:|")
    for title, part, optimizer in step_rows():
        words = [optimizer] if optimizer else []
        cells = [f"{largest(part, dtype, *words):.0e}" for dtype in dtypes]
        print(f"| {title} |", " | ".join(cells), "|")
    return all(largest(part) < BOUND for part in AGREEING)


# ---------------------------------------------------------------------------
# Training


def window_lengths(total, time, random):
    """Lengths that vary (section 4.1 of the paper), and add up to `total`."""
    lengths = []
    while sum(lengths) < total:
        mean = time if random.uniform() < 0.95 else time / 2
        length = max(5, int(random.normal(mean, 5)))
        lengths.append(min(length, total - sum(lengths)))
    if lengths[-1] == 1:  # too short for TAR
        lengths[-2:] = [lengths[-2] + 1]
    return np.array(lengths)


def train_task(path):
    """What `parity_worker.train` does: settings, text, lengths of windows."""
    corpus = text_data.load_corpus(path, "char")
    settings = dict(SETTINGS, vocabulary=len(corpus.vocabulary))
    train, valid = corpus.train[:TRAIN_TOKENS], corpus.valid[:VALID_TOKENS]
    random, time = np.random.RandomState(0), settings["time"]
    rows = (len(train) - 1) // settings["batch"]
    valid_rows = (len(valid) - 1) // settings["valid_batch"]
    starts = np.arange(0, valid_rows, time)
    return {
        "settings": settings,
        "train": train,
        "valid": valid,
        "lengths": {
            f"{epoch:04}": window_lengths(rows, time, random)
            for epoch in range(settings["epochs"])
        },
        "valid_lengths": np.minimum(time, valid_rows - starts),
    }


def settings_of(task):
    """What the kept training runs must have in common with further ones."""
    digest = hashlib.md5()
    for name in ("train", "valid"):
        digest.update(task[name].tobytes())
    return dict(
        task["settings"],
        text=digest.hexdigest(),
        tokens=[len(task["train"]), len(task["valid"])],
    )


def train_all(task, results, flags):
    """Makes the training runs that are not among the results."""
    path = os.path.join(flags.out, "train.npz")
    parity_worker.save(path, task)
    made = {(run["framework"], run["seed"]) for run in results["runs"]}
    for seed in flags.seeds:
        for framework in FRAMEWORKS:
            if (framework, seed) in made:
                continue
            out = os.path.join(flags.out, f"{framework}-{seed}.json")
            arguments = ["train", path, out, seed]
            subprocess.check_call(command_of(framework, flags, *arguments))
            run = dict(run_folder.read_json(out), framework=framework)
            results["runs"].append(run)
            run_folder.write_json(flags.json, results)


def curves(results):
    """Losses on held-out text, `[runs, epochs]`, by framework."""
    return {
        framework: np.array(
            [
                run["valid"]
                for run in results["runs"]
                if run["framework"] == framework
            ]
        )
        for framework in FRAMEWORKS
    }


def standard_errors_apart(ours, theirs):
    """The difference of means of runs, in its standard errors, by epoch."""
    error = np.sqrt(
        sum(runs.var(0, ddof=1) / len(runs) for runs in (ours, theirs))
    )
    return (ours.mean(0) - theirs.mean(0)) / error


def print_curves(results):
    """Prints means and spreads; says if the last ones agree."""
    by_framework = curves(results)
    apart = standard_errors_apart(*by_framework.values())
    print("| epoch |", " | ".join(by_framework), "| standard errors apart |")
    print("|--:|" + "--:|" * 3)
    for epoch, distance in enumerate(apart):
        cells = [
            f"{runs[:, epoch].mean():.4f} ± {runs[:, epoch].std(ddof=1):.4f}"
            for runs in by_framework.values()
        ]
        print(f"| {epoch + 1} |", " | ".join(cells), f"| {distance:+.2f} |")
    return abs(apart[-1]) < 2.0


def draw_curves(path, results):
    """Draws each run's losses on held-out text, and the means."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    for framework, runs in curves(results).items():
        epochs = np.arange(1, runs.shape[1] + 1)
        mean = runs.mean(0)
        label = f"{framework}: {mean[-1]:.3f}"
        (line,) = axes.plot(epochs, mean, label=label)
        for run in runs:
            axes.plot(epochs, run, ".", color=line.get_color(), alpha=0.6)
    axes.set_xlabel("epoch")
    axes.set_ylabel("held-out loss, nats per character")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


# ---------------------------------------------------------------------------
# Speed


def tokens_per_second(settings, threads, repeats, flags):
    """Of training steps of both, in turns: by framework, of the median step."""
    path = os.path.join(flags.out, "speed.npz")
    parity_worker.save(path, {"settings": settings, "threads": threads})
    steppers = {
        framework: Stepper(command_of(framework, flags, "speed", path))
        for framework in FRAMEWORKS
    }
    import step_time  # takes TensorFlow: not before it is needed

    seconds = step_time.in_turns(steppers, repeats, WARM_UP)
    for stepper in steppers.values():
        stepper.close()
    tokens = settings["time"] * settings["batch"]
    return {
        framework: tokens / statistics.median(seconds[framework])
        for framework in seconds
    }


def print_speed(found):
    """Prints tokens per second."""
    print("| tokens per second |", " | ".join(FRAMEWORKS), "| ratio |")
    print("|---|" + "--:|" * 3)
    for case in found:
        ours, theirs = (found[case][framework] for framework in FRAMEWORKS)
        print(f"| {case} | {ours:.0f} | {theirs:.0f} | {ours / theirs:.2f} |")


# ---------------------------------------------------------------------------
# The command


def run_steps(task, results, flags):
    results["steps"] = {
        case: largest_differences(*told)
        for case, told in take_steps(step_cases(), flags).items()
    }
    return print_steps(results["steps"])


def run_train(task, results, flags):
    train_all(task, results, flags)
    picture = os.path.join(flags.out, "curves.png")
    draw_curves(picture, results)
    print("Curves:", picture)
    return print_curves(results)


def run_speed(task, results, flags):
    import step_time

    results.setdefault("speed", {})
    sizes = {"parity": task["settings"], "medium": MEDIUM}
    for size in flags.sizes:
        for threads in THREADS:
            case = f"{size}, threads: {threads}"
            results["speed"][case] = tokens_per_second(
                sizes[size], threads, REPEATS[size], flags
            )
    results["speed_machine"] = step_time.machine()
    print_speed(results["speed"])
    return True


PARTS = {"steps": run_steps, "train": run_train, "speed": run_speed}


def parse_flags(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--torch", required=True, help="a Python that has PyTorch")
    add("--data", help="a text file; none: the documentation of Python")
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    add("--seeds", nargs="+", type=int, default=list(SEEDS))
    add(
        "--sizes",
        nargs="+",
        choices=REPEATS,
        default=list(REPEATS),
        help="networks to time: the one trained, 2 layers of 650",
    )
    add("--out", default="runs/parity", help="folder of picture and exchange")
    add(
        "--json",
        default=os.path.join(HERE, "results", "parity.json"),
        help="where figures are kept",
    )
    return parser.parse_args(argv)


def main(argv=None):
    flags = parse_flags(argv)
    os.makedirs(flags.out, exist_ok=True)
    try:
        task = train_task(flags.data)
        results = run_folder.load_results(flags.json, settings_of(task), [])
    except (run_folder.RunError, text_data.DataError) as error:
        print("error:", error, file=sys.stderr)
        return 2
    agree = True
    for part in flags.parts:
        agree = PARTS[part](task, results, flags) and agree
        run_folder.write_json(flags.json, results)
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
