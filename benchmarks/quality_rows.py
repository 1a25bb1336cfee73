"""The rows of quality.py's tables, and the flags of train.py that make them."""

import collections

# A row of a table: its title, the flags that make it, and its seeds.
Row = collections.namedtuple("Row", "name title flags seeds")

# Of the recipe in the configurations.
REGULARISERS = (
    "weight_drop",
    "locked_dropout",
    "embedding_dropout",
    "ar",
    "tar",
)


def only(part):
    """Flags that leave out every regulariser but one, or (`None`) all."""
    return ["--without"] + [name for name in REGULARISERS if name != part]


def words(part):
    return part.upper() if part in ("ar", "tar") else part.replace("_", " ")


def ablation_rows():
    """All parts, one of them, all but one of them."""
    some, one = (1, 2, 3), (1,)
    table = [
        Row("plain", "plain LSTM", only(None), some),
        Row("recipe", "full recipe", [], some),
    ]
    for part in ("weight_drop", "locked_dropout"):
        table.append(Row(part, f"{words(part)} only", only(part), some))
    for part in REGULARISERS:
        title = f"full recipe without {words(part)}"
        table.append(Row(f"no_{part}", title, ["--without", part], one))
    for name, title, flags in (
        ("weight_tying", "weight tying", "--weight-tying"),
        ("variable_bptt", "windows of varying length", "--variable-bptt"),
        (
            "nt_asgd",
            "NT-ASGD in place of Adam",
            "--optimizer nt_asgd --learning-rate 10 --nonmono 1",
        ),
    ):
        title = f"full recipe with {title}"
        table.append(Row(name, title, flags.split(), one))
    return table


def swap_rows(seeds=(1, 2, 3, 4, 5)):
    """What swapping the class is worth, and what it is beside the rest."""
    swapped = only("weight_drop")
    return [
        Row("plain", "plain LSTM", only(None), seeds),
        Row(
            "swap_recurrent", "swapped, recurrent rows dropped", swapped, seeds
        ),
        Row(
            "swap_whole",
            "swapped, whole kernel dropped",
            [*swapped, "--whole-kernel"],
            seeds,
        ),
        Row(
            "locked",
            "locked dropout alone",
            only("locked_dropout"),
            seeds,
        ),
        Row("recipe", "recipe", [], seeds),
        Row(
            "no_weight_drop",
            "recipe without weight drop",
            ["--without", "weight_drop"],
            seeds,
        ),
    ]


def medium_rows():
    """Four rows of `swap`, a seed each."""
    names = ("plain", "swap_recurrent", "no_weight_drop", "recipe")
    table = {row.name: row for row in swap_rows(seeds=(1,))}
    return [table[name] for name in names]


class Cell(collections.namedtuple("Cell", "units epochs keep dropped company")):
    """One training of `line`.

    `keep` is weight drop's keep rate (1.0: no weight drop), `dropped` says of
    what (recurrent, whole), `company` whether beside the rest of the recipe
    (beside) or not (alone).
    """

    @property
    def name(self):
        return "{4}-{0}-{1}-{3}-{2}".format(*self)

    @property
    def without(self):
        """The same with no weight drop."""
        return self._replace(keep=1.0, dropped="recurrent")

    @property
    def title(self):
        what = f"{self.dropped}, keep {self.keep}"
        if self.keep == 1.0:
            what = "no weight drop"
        return (
            f"{self.company}, {self.units} units, {self.epochs} epochs, {what}"
        )

    @property
    def flags(self):
        flags = [
            f"--units={self.units}",
            f"--embedding={self.units}",
            f"--epochs={self.epochs}",
            f"--weight-keep={self.keep}",
        ]
        if self.epochs > 20:
            flags.append("--patience=20")
        if self.dropped == "whole":
            flags.append("--whole-kernel")
        if self.company == "alone":
            flags += only("weight_drop" if self.keep < 1.0 else None)
        return flags


# Those that are rows of `swap`, too.
SWAP_CELLS = {
    "plain": Cell(200, 20, 1.0, "recurrent", "alone"),
    "swap_recurrent": Cell(200, 20, 0.5, "recurrent", "alone"),
    "swap_whole": Cell(200, 20, 0.5, "whole", "alone"),
    "no_weight_drop": Cell(200, 20, 1.0, "recurrent", "beside"),
    "recipe": Cell(200, 20, 0.5, "recurrent", "beside"),
}

# What is cheap and tells much comes first: units, epochs, what is dropped,
# company, keep rates.
CELLS = [
    Cell(units, epochs, keep, dropped, company)
    for units, epochs, dropped, company, rates in (
        (200, 20, "recurrent", "alone", (0.7, 0.3, 0.9)),
        (200, 20, "recurrent", "beside", (0.7, 0.9)),
        (200, 20, "whole", "beside", (0.5,)),
        (400, 20, "recurrent", "beside", (1.0, 0.5)),
        (200, 80, "recurrent", "beside", (1.0, 0.5)),
        (650, 20, "recurrent", "beside", (1.0, 0.5)),
        (200, 200, "recurrent", "beside", (1.0, 0.5)),
        (200, 20, "whole", "alone", (0.7, 0.9)),
        (400, 20, "recurrent", "alone", (1.0, 0.5)),
        (650, 20, "recurrent", "alone", (1.0, 0.5)),
        (200, 80, "recurrent", "beside", (0.7,)),
        (200, 20, "recurrent", "beside", (0.3,)),
        (200, 20, "whole", "beside", (0.8,)),
        (200, 20, "whole", "alone", (0.3,)),
        (650, 20, "recurrent", "beside", (0.7,)),
        (1150, 20, "recurrent", "beside", (1.0, 0.5)),
    )
    for keep in rates
]


# Those that are cheap; and those that the advice hangs on, by the side of the
# line that they are on.
MORE_SEEDS = [
    cell for cell in CELLS if (cell.units, cell.epochs) == (200, 20)
] + [
    Cell(units, epochs, keep, "recurrent", "beside")
    for units, epochs in ((400, 20), (200, 80))
    for keep in (1.0, 0.5)
]


def line_rows():
    """Cells of the picture of where weight drop gains, most with one seed."""
    return [
        Row(
            cell.name,
            cell.title,
            cell.flags,
            (1, 2, 3) if cell in MORE_SEEDS else (1,),
        )
        for cell in CELLS
    ]


def schedule_rows():
    """Weight drop that comes in later, in some cells of `line`."""
    table = []
    for units, epochs, name, when, flag in (
        (400, 20, "half", "over 10 epochs", "--weight-drop-over=10"),
        (400, 20, "all", "over 20 epochs", "--weight-drop-over=20"),
        (200, 20, "half", "over 10 epochs", "--weight-drop-over=10"),
        (
            200,
            80,
            "stall",
            "after 3 without a new best",
            "--weight-drop-patience=3",
        ),
    ):
        cell = Cell(units, epochs, 0.5, "recurrent", "beside")
        title = f"{units} units, {epochs} epochs, coming in {when}"
        flags = [*cell.flags, flag]
        table.append(Row(f"{cell.name}-{name}", title, flags, (1, 2, 3)))
    return table


def spread(values, form):
    """The lowest and the highest of the seeds' values, for a table."""
    if len(values) == 1:
        return "1 seed"
    return f"{min(values):{form}} to {max(values):{form}}"
