"""The folder of a training run: settings, progress, resuming, the picture.

settings.json        what the run was started with
<model>/             progress.json, checkpoints: written by `trainer.Trainer`
curves.png           loss by epoch
"""

import hashlib
import json
import os

# What may differ from the run that `--resume` goes on with.
FREE_SETTINGS = (
    "cache",
    "cache_share",
    "cache_theta",
    "config",  # what it stands for is compared
    "data",  # the text itself, too
    "fine_tune",
    "models",
    "out",
    "patience",
    "resume",
    "sample",
    "save_seconds",
    "threads",
    "without",
)


class RunError(ValueError):
    """The folder cannot be used; the message says why and what to do."""


def read_json(path):
    """The value in a JSON file; None when there is no such file."""
    if not os.path.exists(path):
        return None
    try:
        with open(path) as source:
            return json.load(source)
    except ValueError:
        raise RunError(
            f"`--out` must hold a run in good order, got {path}, which is "
            "damaged. Move it away to start anew."
        ) from None


def write_json(path, value):
    """Replaces a JSON file in one move, so that it is never half written."""
    with open(path + ".new", "w") as target:
        json.dump(value, target, indent=1, sort_keys=True)
    os.replace(path + ".new", path)


def load_results(path, settings, no_runs):
    """What earlier runs of a benchmark left, to add to.

    Args:
      path: The benchmark's `--json`.
      settings: Of all runs in that file.
      no_runs: An empty list or dict, to begin with.

    Raises:
      RunError: The file has runs with other settings.
    """
    results = read_json(path)
    if results is None:
        return {"settings": settings, "runs": no_runs}
    if results["settings"] != settings:
        raise RunError(
            "`--json` must hold results of the same settings and text, got "
            f"{path} with others. Name another file, or delete this one."
        )
    return results


def prepare(flags, corpus):
    """Makes room for a new run, or checks the one that is to be resumed.

    A new run leaves an earlier one in the same folder whole: it is renamed.

    Args:
      flags: Settings; `out` is the folder, `resume` says which of the two.
      corpus: A `text_data.Corpus`.

    Raises:
      RunError: Nothing to resume, a run with other settings, or a folder that
        holds something else.
    """
    path = os.path.join(flags.out, "settings.json")
    settings = settings_of(flags, corpus)
    earlier = read_json(path)
    if flags.resume:
        check_same(flags.out, settings, earlier)
        return
    taken = os.path.exists(flags.out) and not is_empty_folder(flags.out)
    if taken and earlier is None:
        raise RunError(
            f"`--out` must be a folder of its own, got {flags.out}, which "
            "holds something else."
        )
    try:
        if earlier is not None:
            print("The earlier run is kept in", move_aside(flags.out))
        os.makedirs(flags.out, exist_ok=True)
        write_json(path, settings)
    except OSError as error:
        raise RunError(
            f"`--out` must be writable, got {flags.out}: {error.strerror}."
        ) from None


def is_empty_folder(path):
    return os.path.isdir(path) and not os.listdir(path)


def settings_of(flags, corpus):
    """The settings that a run cannot change half-way, and its text's digest."""
    settings = {
        name: value
        for name, value in vars(flags).items()
        if name not in FREE_SETTINGS
    }
    digest = hashlib.md5(repr(corpus.vocabulary).encode("utf-8"))
    for part in (corpus.train, corpus.valid):
        digest.update(part.tobytes())
    settings["text"] = digest.hexdigest()
    return settings


def check_same(folder, settings, earlier):
    """Refuses to resume nothing, or a run with other settings."""
    if earlier is None:
        raise RunError(
            f"`--resume` needs a run to go on with, got none in {folder}. "
            "Leave `--resume` out to start one."
        )
    for name in sorted(settings):
        if settings[name] == earlier.get(name):
            continue
        if name == "epochs" and settings["optimizer"] == "nt_asgd":
            continue  # Adam's learning rate depends on it
        if name == "text":
            raise RunError(
                f"`--data` must be the text of the run in {folder}, got "
                "another text."
            )
        raise RunError(
            f"`--{name.replace('_', '-')}` must be {earlier.get(name)}, as in "
            f"the run in {folder}, got {settings[name]}."
        )


def move_aside(folder):
    """Renames a folder to the first free of folder.1, folder.2, ..."""
    number = 1
    while os.path.exists(f"{folder}.{number}"):
        number += 1
    os.rename(folder, f"{folder}.{number}")
    return f"{folder}.{number}"


def draw_curves(path, progress, unit):
    """Draws held-out and training loss by epoch, the best epochs marked.

    Args:
      path: PNG file to write.
      progress: Dict of label to the progress of a `trainer.Trainer`.
      unit: 'word' or 'char', for the axis.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    for label in progress:
        curve, best = progress[label]["curve"], progress[label]["best"]
        epochs = range(1, len(curve) + 1)
        (line,) = axes.plot(
            epochs,
            [point["held_out"] for point in curve],
            label=f"{label}: {best['held_out']:.3f}",
        )
        axes.plot(best["epoch"], best["held_out"], "o", color=line.get_color())
        # With dropout, while training; without, when held out.
        axes.plot(
            epochs,
            [point["train"] for point in curve],
            ":",
            color=line.get_color(),
        )
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"loss, nats per {unit} (dotted: training)")
    axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
