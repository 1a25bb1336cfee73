"""The documentation: its code runs, its figures stand once, its links lead."""

import collections
import importlib
import inspect
import json
import math
import os
import pathlib
import re
import statistics
import subprocess
import sys

import pytest
import versions
from versions import tf

import awd_lstm_tf

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
README = REPOSITORY / "README.md"
DOCS = sorted(REPOSITORY.glob("docs/*.md"))
PAGES = [README] + DOCS
COMMAND = "python tools/api_reference.py"

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def text_of(page):
    return page.read_text(encoding="utf-8")


def fences(page):
    """Language and text of each fenced block of a page."""
    return re.findall(r"^```(\w*)\n(.*?)^```", text_of(page), re.M | re.S)


def prose_of(page):
    """A page without its code: neither blocks nor inline."""
    text = re.sub(r"^```.*?^```\n", "", text_of(page), flags=re.M | re.S)
    text = re.sub(r"^    .*\n", "", text, flags=re.M)
    return re.sub(r"`[^`]*`", "", text)


# Code

# Runs files one after the other, each with an empty graph and in a folder of
# its own; prints what failed.
RUNNER = """
import os, pathlib, runpy, sys, traceback
{}
getattr(tf.compat, "v1", tf).logging.set_verbosity("ERROR")
failed = 0
for path in sys.argv[1:]:
    folder = pathlib.Path(path).with_suffix("")
    folder.mkdir()
    os.chdir(str(folder))
    tf.keras.backend.clear_session()
    tf.reset_default_graph()
    try:
        runpy.run_path(path, run_name="__main__")
    except Exception:
        failed += 1
        traceback.print_exc()
sys.exit(failed)
"""

# What pages say for all versions, and what they use that 2.x has not.
IMPORT = "import tensorflow as tf\n"
LACKING = {
    "tensorflow.compat.v1": versions.VERSION >= (1, 13),
    "tf.contrib": versions.VERSION < (2,),
    "quantize.experimental_create_training": versions.VERSION >= (1, 13),
    "tf.estimator": hasattr(tf, "estimator"),
    "tf.layers": versions.KERAS_2,
    "tf.keras": versions.KERAS_2,
    "tf.nn.rnn_cell": versions.KERAS_2,
}


def run(paths):
    """Runs the files; fails with the tracebacks of those that fail."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", RUNNER.format(versions.IMPORT)]
        + [str(path) for path in paths],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(os.environ, TF_CPP_MIN_LOG_LEVEL="3"),
        universal_newlines=True,
    )
    assert done.returncode == 0, done.stderr


def test_every_snippet_runs(tmp_path):
    paths = []
    for page in PAGES:
        snippets = [text for kind, text in fences(page) if kind == "python"]
        for number, text in enumerate(snippets, 1):
            if all(LACKING[each] for each in LACKING if each in text):
                paths.append(tmp_path / f"{page.stem}_{number}.py")
                text = text.replace(IMPORT, versions.IMPORT)
                paths[-1].write_text(text, encoding="utf-8")
    assert len(paths) > 10
    run(paths)


SWAP = """
{}
import awd_lstm_tf

inputs = tf.ones([4, 6, 8])
with tf.Session() as session:
{}
"""


def program_of_the_swap(side):
    (shown,) = (text for kind, text in fences(README) if kind == "diff")
    lines = [line for line in shown.splitlines() if line[0] in (" ", side)]
    assert len(lines) <= 6
    lines = [line[1:] for line in lines]
    is_run = [line.startswith("session.run") for line in lines].index(True)
    lines[is_run:is_run] = [
        "loss = tf.reduce_sum(outputs)",
        "train_op = tf.train.AdamOptimizer().minimize(loss)",
        "session.run(tf.global_variables_initializer())",
    ]
    lines = "\n".join("    " + line for line in lines)
    return SWAP.format(versions.IMPORT, lines)


def test_both_sides_of_the_swap_run(tmp_path):
    paths = tmp_path / "before.py", tmp_path / "after.py"
    for path, side in zip(paths, "-+"):
        path.write_text(program_of_the_swap(side))
    run(paths)


def settings_of_the_readme():
    """What its table "Choose your settings" says to type."""
    _, _, table = text_of(README).partition("## Choose your settings\n")
    table, _, _ = table.partition("\n## ")
    typed = [
        row.split(" | ")[1] for row in re.findall(r"^\| (.*)", table, re.M)
    ]
    return [code for cell in typed for code in re.findall("`([^`]*)`", cell)]


@pytest.mark.parametrize("code", settings_of_the_readme())
def test_what_the_settings_say_can_be_typed(code, tmp_path):
    code = code.replace("(200, ...)", "(200, weight_drop_kr=0.5, use_vd=True)")
    cells = inspect.signature(awd_lstm_tf.WeightDropLSTMCell).parameters
    with tf.Session() as session:
        cell = awd_lstm_tf.WeightDropLSTMCell(
            8, weight_drop_kr=0.5, use_vd=True
        )
        tf.nn.dynamic_rnn(cell, tf.ones([2, 3, 4]), dtype=tf.float32)
        session.run(tf.global_variables_initializer())
        names = {
            "awd_lstm_tf": awd_lstm_tf,
            "tf": tf,
            "session": session,
            "cell": cell,
            "path": tf.train.Saver().save(session, str(tmp_path / "model")),
            "tensor": tf.constant(0.5),
        }
        if not re.match(r"\w+=", code):
            return "..." in code or eval(code, names)
        arguments = eval(f"dict({code})", names)
        if set(arguments) <= set(cells):
            typed = dict(dict(weight_drop_kr=0.5, name="typed"), **arguments)
            cell = awd_lstm_tf.WeightDropLSTMCell(8, **typed)
            tf.nn.dynamic_rnn(cell, tf.ones([2, 3, 4]), dtype=tf.float32)


def test_every_keyword_that_the_readme_names_is_one():
    """`name=value` in its tables and sentences, of anything public."""
    known = {"name", "loss", "hooks"}
    public = list(vars(awd_lstm_tf).values())
    for value in public + [awd_lstm_tf.tflite.convert]:
        value = value.__init__ if inspect.isclass(value) else value
        if inspect.isfunction(value):
            known |= set(inspect.signature(value).parameters)
    prose = re.sub(r"^```.*?^```\n", "", text_of(README), flags=re.M | re.S)
    for code in re.findall("`([^`]*)`", prose):
        named = set(re.findall(r"\b([a-z_]+)=(?!=)", code))
        assert named <= known, code


def test_extras_of_the_readme_are_those_of_the_package():
    setup = text_of(REPOSITORY / "setup.py").partition("extras_require=")[2]
    known = set(re.findall(r'^        "([\w-]+)":', setup, re.M))
    table = text_of(README).partition("| extra |")[2].partition("\n\n")[0]
    named = set(re.findall("`([^`]*)`", table))
    assert named == known - {"dev"}


@every_page
def test_every_fenced_block_says_what_it_is(page):
    known = {"python", "diff", "sh", "text", "proto", "json"}
    assert {language for language, _ in fences(page)} <= known


FOLDERS = "examples|benchmarks|tests|tools|docs|awd_lstm_tf"


@every_page
def test_commands_that_a_page_names_are_there(page):
    text = text_of(page)
    targets = re.findall(r"^([\w-]+):", text_of(REPOSITORY / "Makefile"), re.M)
    for target in re.findall(r"(?:`|^    )make ([a-z][a-z-]*)", text, re.M):
        assert target in targets, f"{page.name}: make {target}"
    for path in re.findall(rf"\b(?:{FOLDERS})/[\w/.*-]*[\w*]", text):
        assert list(REPOSITORY.glob(path)), f"{page.name}: {path}"


# Figures


def test_readme_is_short():
    assert len(text_of(README).split()) <= 2000


def numbers_of(row):
    return re.findall(r"-?\d+(?:[.,]\d+)*(?:e-?\d+)?", row)


VERSION = re.compile(
    r"(?<![\w.])(\d+(\.\d+){2,}|1\.1[0-5]|2\.(1?\d|2[01]))(?![\d%])"
)


def figures_of(page):
    """What was measured: decimals of three digits, and shares in per cent."""
    prose = re.sub(r"arXiv[: ]\d+\.\d+|https?:\S+", "", prose_of(page))
    prose = VERSION.sub("", prose)
    return set(re.findall(r"(?<![\w.])(?:\d+(?:\.\d+)?%|\d+\.\d{2,})", prose))


def rows_of(page):
    """Rows of tables with three numbers or more: the numbers."""
    rows = re.findall(r"^\|(.*)\|$", text_of(page), re.M)
    numbers = (tuple(numbers_of(row.partition("|")[2])) for row in rows)
    return {row for row in numbers if len(row) >= 3}


def in_two_pages(found, pages):
    """What `found(page)` has in common for two of the pages."""
    where = collections.defaultdict(list)
    for page in pages:
        for each in found(page):
            where[each].append(page.name)
    return {each: names for each, names in where.items() if len(names) > 1}


def test_no_row_of_figures_stands_in_two_files():
    assert in_two_pages(rows_of, PAGES) == {}


def test_no_figure_of_the_readme_stands_elsewhere():
    readme = figures_of(README)
    for page in DOCS:
        assert not readme & figures_of(page), page.name


def test_a_figure_in_two_files_would_be_noticed(tmp_path):
    one, other = tmp_path / "one.md", tmp_path / "other.md"
    one.write_text("| a | 1.25 | 3 | 0.50 |\n\nIt fell by 8.25%, see 1.13.1.\n")
    other.write_text("| b | 1.25 | 3 | 0.50 |\n\nA loss of 8.25% on 1.13.1.\n")
    assert in_two_pages(rows_of, [one, other]) == {
        ("1.25", "3", "0.50"): ["one.md", "other.md"]
    }
    assert figures_of(one) & figures_of(other) == {"1.25", "0.50", "8.25%"}


def sections_of(page):
    """Head and text of each section, heads of all levels."""
    parts = re.split(r"^(#+ .*)$", text_of(page), flags=re.M)
    return list(zip(parts[1::2], parts[2::2]))


@every_page
def test_every_table_of_figures_names_its_command(page):
    """In its section, or at the head of the page, for all of its tables."""
    command = re.compile(
        r"\bmake [a-z-]+|python (benchmarks|examples|tools)/|tests/test_"
    )
    sections = sections_of(page)
    if not sections or command.search(sections[0][1]):
        return
    for head, text in sections:
        rows = re.findall(r"^\|(.*)\|$", text, re.M)
        rows = [VERSION.sub("", row) for row in rows]
        measured = [row for row in rows if re.search(r"\d\.\d\d", row)]
        assert len(measured) < 2 or command.search(text), f"{page.name}: {head}"


def kept_results(name):
    path = REPOSITORY / "benchmarks" / "results" / name
    return json.loads(path.read_text(encoding="utf-8"))


def assert_shows(name, lines, command):
    """That docs/`name` has all the lines, as the command prints them."""
    shown = text_of(REPOSITORY / "docs" / name).splitlines()
    missing = [line for line in lines if line not in shown]
    assert not missing, "\n".join(
        [f"docs/{name} lacks, of what `{command}` prints:"] + missing
    )


def test_readme_says_what_the_swap_is_worth():
    """In the runs of the table: one less the ratio of mean perplexities."""
    runs = kept_results("swap.json")["runs"]
    plain, swapped = (
        statistics.mean(
            math.exp(run["test"])
            for key, run in runs.items()
            if re.fullmatch(rf"{name}-\d+", key)
        )
        for name in ("plain", "swap_recurrent")
    )
    said = re.search(r"alone is worth\*\*: about (\d+)%", text_of(README))
    assert int(said.group(1)) == round(100 * (1 - swapped / plain))


def test_tables_of_speed_are_those_of_the_kept_results(example):
    names = REPOSITORY.glob("benchmarks/results/tensorflow-*.json")
    runs = [kept_results(path.name) for path in sorted(names)]
    command = (
        "python benchmarks/report.py benchmarks/results/tensorflow-*.json "
        "--into docs/speed.md"
    )
    assert_shows("speed.md", example("report").report(runs), command)


def test_tables_beside_pytorch_are_those_of_the_kept_results(example, capsys):
    parity, results = example("parity"), kept_results("parity.json")
    parity.print_steps(results["steps"])
    parity.print_curves(results)
    parity.print_speed(results["speed"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 25
    assert_shows("pytorch.md", lines, "make parity")


# Links


def anchors_of(page):
    heads = re.findall("^#+ (.*)$", text_of(page), re.M)
    return [
        re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads
    ]


@every_page
def test_links_within_the_repository_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text_of(page)):
        name, _, anchor = target.partition("#")
        linked = page.parent / name if name else page
        assert linked.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors_of(linked), f"{page.name}: {target}"


def test_every_page_is_on_the_site():
    menu = text_of(REPOSITORY / "mkdocs.yml")
    for page in DOCS:
        assert f" {page.name}\n" in menu, f"mkdocs.yml lacks {page.name}"


# The reference


@pytest.fixture
def tool():
    sys.path.insert(0, str(REPOSITORY / "tools"))
    yield importlib.import_module("api_reference")
    sys.path.remove(str(REPOSITORY / "tools"))


def missing_names(page):
    heads = set(re.findall("^##+ ([^,\n]*)", page, re.M))
    return [
        name
        for name in awd_lstm_tf.__all__
        if f"awd_lstm_tf.{name}" not in heads
    ]


def test_every_public_name_is_in_the_reference():
    page = (REPOSITORY / "docs" / "api.md").read_text(encoding="utf-8")
    missing = missing_names(page)
    assert not missing, f"{missing} not in docs/api.md: run `{COMMAND}`"


def test_a_missing_name_would_be_noticed(tool, monkeypatch):
    page = tool.reference(awd_lstm_tf)
    assert missing_names(page) == []
    monkeypatch.setattr(awd_lstm_tf, "__all__", ["VariationalDropout"])
    shorter = tool.reference(awd_lstm_tf)
    monkeypatch.undo()
    assert "WeightDropLSTMCell" in missing_names(shorter)


def test_reference_is_up_to_date(tool):
    changed = tool.differences(awd_lstm_tf)
    assert not changed, "\n".join(changed + [f"docs/api.md: run `{COMMAND}`"])


def test_reference_shows_what_a_docstring_says(tool):
    page = tool.reference(awd_lstm_tf)
    _, _, entry = page.partition("## awd_lstm_tf.VariationalDropout\n")
    entry, _, _ = entry.partition("\n## ")
    assert "        keep_prob,\n        dtype=tf.float32,\n" in entry
    assert "\n- `input_shape`: list of ints, the shape of the mask" in entry
    assert "\n### VariationalDropout.mask, a property\n" in entry
    assert "\n    get_reset_mask_op()\n" in entry


def test_every_public_method_has_a_docstring(tool):
    for kind in vars(awd_lstm_tf).values():
        if not isinstance(kind, type):
            continue
        for base in kind.__mro__:
            if base.__module__.startswith("awd_lstm_tf"):
                bare = [
                    name
                    for name, value in vars(base).items()
                    if not name.startswith("_")
                    and (callable(value) or isinstance(value, property))
                    and not value.__doc__
                ]
                assert not bare, f"{base.__name__}: {bare}"
