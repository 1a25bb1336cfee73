"""Test perplexity of WeightDropLSTMCell against LSTMCell, over several seeds.

    python benchmarks/weight_drop_gain.py

Trains the network of `examples/language_model.py` on the documentation that
comes with Python, with each cell, learning rate and seed:

    90% to train on    both cells for the same number of epochs
     5% to choose by   each run's best epoch, each cell's learning rate
     5% to test on     measured for each run, never chosen by

Prints the table of README as Markdown. Every finished run is kept in `--json`
and not made again, so the command can be stopped and started at will.
"""

import argparse
import os
import platform
import sys
import tempfile
import time

import numpy as np
import tensorflow as tf

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, os.pardir, "examples"))

import language_model  # noqa: E402
import run_folder  # noqa: E402
import text_data  # noqa: E402

import awd_lstm_tf  # noqa: E402

LEARNING_RATES = (2e-3, 4e-3)
SEEDS = (1, 2, 3)
TEST_FRACTION = 0.05


def settings_of(flags, corpus):
    """What all runs have in common, to be kept beside the results."""
    settings = run_folder.settings_of(flags, corpus)
    for name in ("learning_rate", "seed"):
        del settings[name]
    settings.update(
        epochs=flags.epochs,
        tokens=[len(part) for part in corpus[:3]],
        vocabulary=len(corpus.vocabulary),
        test_fraction=TEST_FRACTION,
        versions={
            "awd_lstm_tf": awd_lstm_tf.__version__,
            "tensorflow": tf.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    )
    return settings


def load_results(path, settings):
    """Earlier results with the same settings, or none yet."""
    results = run_folder.read_json(path)
    if results is None:
        return {"settings": settings, "runs": []}
    if results["settings"] != settings:
        raise run_folder.RunError(
            f"`--json` must hold results of the same settings, got {path} with "
            "others. Name another file, or delete this one."
        )
    return results


def measure(kind, flags, corpus):
    """Trains one model and measures its best epoch's weights.

    Args:
      kind: 'lstm' or 'weight_drop'.
      flags: Settings of `language_model`.
      corpus: A `text_data.Corpus` with a test part.

    Returns:
      Dict with the run's settings, its perplexities and its seconds.
    """
    start = time.time()
    with tempfile.TemporaryDirectory() as flags.out:
        trainer = language_model.make_trainer(kind, flags, corpus)
        trainer.train(
            f"{kind}, learning rate {flags.learning_rate}, seed {flags.seed}"
        )
        best = trainer.progress["best"]
        trainer.restore(best["checkpoint"])
        test = trainer.evaluate(corpus.test)
    return {
        "cell": kind,
        "learning_rate": flags.learning_rate,
        "seed": flags.seed,
        "valid": best["held_out"],
        "best_epoch": best["epoch"],
        "test": test,
        "curve": trainer.progress["curve"],
        "seconds": round(time.time() - start, 1),
    }


def runs_to_make(flags, results):
    """Flags of every run that is not among the results."""
    made = {
        (run["cell"], run["learning_rate"], run["seed"])
        for run in results["runs"]
    }
    for seed in SEEDS:
        for rate in LEARNING_RATES:
            for kind in sorted(language_model.TITLES):
                if (kind, rate, seed) not in made:
                    yield (
                        kind,
                        argparse.Namespace(
                            **dict(vars(flags), learning_rate=rate, seed=seed)
                        ),
                    )


def choose_learning_rate(runs):
    """The runs at the rate with the lowest mean perplexity on validation."""

    def mean_valid(rate):
        return np.mean(
            [run["valid"] for run in runs if run["learning_rate"] == rate]
        )

    best = min({run["learning_rate"] for run in runs}, key=mean_valid)
    return [run for run in runs if run["learning_rate"] == best]


def table(results):
    """The chosen runs as a Markdown table, mean and standard deviation."""
    lines = [
        "| cell | learning rate | validation perplexity | test perplexity | "
        "test, lowest to highest |",
        "|---|---|---|---|---|",
    ]
    for kind in sorted(language_model.TITLES):
        runs = choose_learning_rate(
            [run for run in results["runs"] if run["cell"] == kind]
        )
        valid, test = (
            np.array([run[part] for run in runs]) for part in ("valid", "test")
        )
        lines.append(
            f"| `{language_model.TITLES[kind]}` "
            f"| {runs[0]['learning_rate']:g} "
            f"| {valid.mean():.2f} ± {valid.std(ddof=1):.2f} "
            f"| {test.mean():.2f} ± {test.std(ddof=1):.2f} "
            f"| {test.min():.2f} to {test.max():.2f} |"
        )
    return "\n".join(lines)


def parse_flags(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        epilog="Other flags are those of examples/language_model.py, for runs "
        "with other settings (and another --json).",
    )
    parser.add_argument(
        "--json",
        default=os.path.join(HERE, "results", "weight_drop_gain.json"),
        help="where results are kept (default: %(default)s)",
    )
    own, rest = parser.parse_known_args(argv)
    return own.json, language_model.parse_flags(rest)


def main(argv=None):
    tf.logging.set_verbosity(tf.logging.ERROR)
    path, flags = parse_flags(argv)
    try:
        corpus = text_data.load_corpus(flags.data, flags.level, TEST_FRACTION)
        results = load_results(path, settings_of(flags, corpus))
    except (run_folder.RunError, text_data.DataError) as error:
        print("error:", error, file=sys.stderr)
        return 2
    for kind, run_flags in runs_to_make(flags, results):
        results["runs"].append(measure(kind, run_flags, corpus))
        run_folder.write_json(path, results)
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
