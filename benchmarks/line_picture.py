"""Where weight drop gains: what `quality.py line` and `quality.py swap` found.

    python benchmarks/line_picture.py docs/line.png

A gain is how much lower the test perplexity is than that of the same network,
text and length of training with no weight drop, with the same seed, in per
cent. Lines are of the means over the seeds, wide bars go from the lowest to the
highest. The grey band is as wide as what five seeds make of weight drop beside
the rest in a narrow net trained briefly: gains above it are more than that,
costs below it, too. Prints all gains as a table.
"""

import argparse
import os

import numpy as np
import quality_rows
import run_folder

RESULTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "results")


def tested():
    """Dict from cells to dicts from seeds to test perplexities."""
    found = {}
    for table, cells in (
        ("swap", quality_rows.SWAP_CELLS),
        ("line", {cell.name: cell for cell in quality_rows.CELLS}),
    ):
        path = os.path.join(RESULTS, table + ".json")
        runs = (run_folder.read_json(path) or {"runs": {}})["runs"]
        for name, run in runs.items():
            row, seed = name.rsplit("-", 1)
            if row in cells:
                perplexity = float(np.exp(run["test"]))
                found.setdefault(cells[row], {})[int(seed)] = perplexity
    return found


def pairs(found):
    """Dict from cells to arrays: perplexities without and with, by seed."""
    return {
        cell: np.array(
            [
                [found[cell.without][seed], of_seed[seed]]
                for seed in sorted(of_seed)
                if seed in found[cell.without]
            ]
        )
        for cell, of_seed in found.items()
        if cell.keep < 1.0 and cell.without in found
    }


def gains(found):
    """Dict from cells to gains in per cent, by seed."""
    return {
        cell: 100.0 * (1.0 - both[:, 1] / both[:, 0])
        for cell, both in pairs(found).items()
    }


def lines(found):
    """A Markdown table of all gains."""
    yield "| | without | with | gain | lowest to highest | seeds |"
    yield "|---|--:|--:|--:|--:|--:|"
    gained = gains(found)
    for cell, both in sorted(pairs(found).items(), key=order):
        without, used = both.mean(0)
        spread = quality_rows.spread(gained[cell], "+.1f")
        yield (
            f"| {cell.title} | {without:.1f} | {used:.1f} "
            f"| {gained[cell].mean():+.1f} % | {spread} | {len(both)} |"
        )


def order(item):
    cell = item[0]
    return cell.company, cell.units, cell.epochs, cell.dropped, cell.keep


def draw(path):
    """A panel by keep rate, one by width, one by length of training."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    gained = gains(tested())
    seeds = gained[quality_rows.SWAP_CELLS["recipe"]]
    figure, panels = pyplot.subplots(1, 3, figsize=(12, 4.5), sharey=True)
    for axes, axis, label, fixed in (
        (panels[0], "keep", "keep rate", {"units": 200, "epochs": 20}),
        (panels[1], "units", "units", {"keep": 0.5, "epochs": 20}),
        (panels[2], "epochs", "epochs", {"keep": 0.5, "units": 200}),
    ):
        axes.axhspan(min(seeds), max(seeds), color="0.9", label="what seeds do")
        for (company, dropped), points in by_line(gained, fixed).items():
            points = [(getattr(cell, axis), values) for cell, values in points]
            points.sort(key=lambda point: point[0])
            color = "C0" if company == "alone" else "C1"
            axes.plot(
                [x for x, _ in points],
                [np.mean(values) for _, values in points],
                "o-" if dropped == "recurrent" else "s--",
                color=color,
                label=f"{NAMES[dropped]}, {NAMES[company]}",
            )
            for x, values in points:  # from the lowest to the highest
                axes.plot([x, x], [min(values), max(values)], color, **BAR)
        axes.axhline(0.0, color="black", linewidth=0.8)
        axes.set_xlabel(label)
        axes.margins(x=0.1)
        axes.set_title(
            ", ".join(f"{value} {UNITS[x]}" for x, value in fixed.items())
        )
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("test perplexity lower by, %")
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc="lower center", ncol=5)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


NAMES = {
    "recurrent": "recurrent rows",
    "whole": "whole kernel",
    "alone": "alone",
    "beside": "beside the rest",
}
BAR = {"linewidth": 5, "alpha": 0.3}
UNITS = {"units": "units", "epochs": "epochs", "keep": "kept"}


def by_line(found, fixed):
    """Cells that have the `fixed` settings, by the line that they are on."""
    chosen = {}
    for cell, values in found.items():
        if all(getattr(cell, name) == fixed[name] for name in fixed):
            key = cell.company, cell.dropped
            chosen.setdefault(key, []).append((cell, values))
    return chosen


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("picture", help="PNG file to write")
    draw(parser.parse_args(argv).picture)
    print("\n".join(lines(tested())))


if __name__ == "__main__":
    main()
