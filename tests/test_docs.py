"""The documentation: its code runs, and the reference is that of the code."""

import importlib
import os
import pathlib
import re
import subprocess
import sys

import pytest

import awd_lstm_tf

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
PAGES = [REPOSITORY / "README.md"] + sorted(REPOSITORY.glob("docs/*.md"))
COMMAND = "python tools/api_reference.py"

# Runs files one after the other, each with an empty graph.
RUNNER = """
import runpy, sys, tensorflow
for path in sys.argv[1:]:
    tensorflow.reset_default_graph()
    runpy.run_path(path, run_name="__main__")
"""


def fences(page):
    """Language and text of each fenced block of a page."""
    text = page.read_text(encoding="utf-8")
    return re.findall(r"^```(\w*)\n(.*?)^```", text, re.M | re.S)


def snippets(page):
    found = [text for language, text in fences(page) if language == "python"]
    if page.name == "README.md":
        return found[1:]  # the first is examples/quickstart.py
    return found


WITH_CODE = [page for page in PAGES if snippets(page)]


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.name)
def test_every_snippet_runs(page, tmp_path):
    paths = []
    for number, text in enumerate(snippets(page), 1):
        paths.append(str(tmp_path / f"{page.stem}_{number}.py"))
        pathlib.Path(paths[-1]).write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", RUNNER] + paths,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=str(tmp_path),
        env=dict(os.environ, TF_CPP_MIN_LOG_LEVEL="3"),
        universal_newlines=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_fenced_block_says_what_it_is(page):
    known = {"python", "sh", "text", "proto", "json"}
    assert {language for language, _ in fences(page)} <= known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_repository_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        name, _, anchor = target.partition("#")
        linked = page.parent / name if name else page
        assert linked.exists(), f"{page.name}: {target}"
        if anchor:
            heads = re.findall("^#+ (.*)$", linked.read_text("utf-8"), re.M)
            anchors = [
                re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-")
                for head in heads
            ]
            assert anchor in anchors, f"{page.name}: {target}"


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
