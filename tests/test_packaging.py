"""The package as it is installed: names, imports, metadata, bad company."""

import ast
import importlib
import inspect
import json
import os
import pathlib
import pkgutil
import re
import statistics
import subprocess
import sys
import textwrap

import importlib_metadata
import pytest
import versions
from packaging.requirements import Requirement
from versions import tf

import awd_lstm_tf
from awd_lstm_tf import _versions

REPOSITORY = pathlib.Path(__file__).parent.parent
SUBMODULES = sorted(
    "awd_lstm_tf." + module.name
    for module in pkgutil.iter_modules(awd_lstm_tf.__path__)
)


def run_python(code, path=None):
    """Runs `code` in a new Python, with the folder `path` first on its path."""
    paths = [path and str(path), os.environ.get("PYTHONPATH")]
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, paths))),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
    )


def outcome(code, path=None):
    """What `run_python` prints, once it ended well."""
    done = run_python(code, path)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def fake_tensorflow(tmp_path):
    """Makes a folder with a `tensorflow` whose source is `code`."""

    def make(code):
        folder = tmp_path / "tensorflow"
        folder.mkdir()
        (folder / "__init__.py").write_text(textwrap.dedent(code))
        return tmp_path

    return make


def metadata():
    try:
        return importlib_metadata.metadata("awd-lstm-tf")
    except importlib_metadata.PackageNotFoundError:
        pytest.skip("the package is not installed: this is a source tree")


def requirements(extra, python):
    """Name and version bound of what `extra` brings on a Python."""
    environment = {"extra": extra, "python_version": python}
    return {
        each.name + str(each.specifier)
        for each in map(Requirement, metadata().get_all("Requires-Dist"))
        if each.marker and each.marker.evaluate(environment)
    }


# Names.


def test_version_is_that_of_the_metadata():
    assert metadata()["Version"] == awd_lstm_tf.__version__


def test_version_has_a_changelog_entry():
    changelog = REPOSITORY / "CHANGELOG.md"
    assert f"## [{awd_lstm_tf.__version__}]" in changelog.read_text()


def test_all_is_sorted_and_importable():
    assert awd_lstm_tf.__all__ == sorted(set(awd_lstm_tf.__all__))
    for name in awd_lstm_tf.__all__:
        assert getattr(awd_lstm_tf, name).__doc__


@pytest.mark.parametrize("submodule", SUBMODULES)
def test_submodule_is_importable(submodule):
    assert importlib.import_module(submodule).__doc__


# Imports.

IMPORTS = f"""
import json, re, sys, warnings
import tensorflow
warnings.simplefilter("error")
before = set(dir()) | {{"before"}}
from awd_lstm_tf import *
names = sorted(set(dir()) - before)
import {", ".join(SUBMODULES)}
"""

SHOW_CONTRIB = """
contrib = re.compile(r"tensorflow.*[.]contrib[.]")
print(json.dumps([names, list(filter(contrib.match, sys.modules))]))
"""


@pytest.mark.smoke
def test_import_is_silent_and_leaves_tf_contrib_alone():
    done = run_python(IMPORTS + SHOW_CONTRIB)
    assert done.returncode == 0, done.stderr
    assert "awd_lstm_tf" not in done.stderr.replace(str(REPOSITORY), "")
    (line,) = done.stdout.splitlines()
    names, contrib = json.loads(line)
    assert contrib == []
    assert names == awd_lstm_tf.__all__  # and no others, by a star


@versions.needs_contrib
def test_an_import_of_tf_contrib_would_be_noticed():
    shown = outcome(
        "import json, re, sys, tensorflow.contrib.rnn; names = []"
        + SHOW_CONTRIB
    )
    assert "tensorflow.contrib.rnn" in shown


FIRST_USE = f"""
{versions.IMPORT}
import awd_lstm_tf
cell = awd_lstm_tf.WeightDropLSTMCell(3, weight_drop_kr=0.5)
fused = awd_lstm_tf.WeightDropLSTMBlockFusedCell(3)
dropout = awd_lstm_tf.VariationalDropout([2, 4], 0.5)
outputs, _ = cell(dropout(tf.zeros([2, 4])), cell.zero_state(2, tf.float32))
sequences, _ = fused(tf.zeros([5, 2, 4]), dtype=tf.float32)
loss = awd_lstm_tf.activation_regularization(outputs, 2.0)
loss += awd_lstm_tf.temporal_activation_regularization(sequences, 1.0, True)
loss += tf.reduce_sum(
    awd_lstm_tf.embedding_dropout(tf.get_variable("e", [5, 2]), [1, 2], 0.5)
)
train_op = awd_lstm_tf.NTASGDOptimizer(1.0).minimize(loss)
with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    session.run(train_op)
"""


@versions.needs_2
@pytest.mark.smoke
def test_first_use_is_silent():
    # What stock code says of itself, once in a process, is not ours to hide.
    done = run_python(FIRST_USE)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "awd_lstm_tf" not in done.stderr.replace(str(REPOSITORY), "")


# TensorFlow missing, or another.


@pytest.mark.smoke
@pytest.mark.parametrize(
    "code, reason",
    [
        ("raise ImportError('No module named tensorflow')", "No module named"),
        # What a protobuf of 4 or later raises, over several lines.
        ("raise TypeError('Descriptors cannot\\n be created')", "Descriptors"),
        # A build that has no part of what is not public.
        ("__version__ = '2.4.1'", "tensorflow.python.framework.ops.Graph"),
        ("__version__ = '1.10.1'", "1.10.1"),
        ("__version__ = '1.9.0-rc0'", "1.11 or later"),
        ("", "unknown"),
    ],
    ids=["missing", "broken", "bare", "ten", "nine", "empty"],
)
def test_without_its_tensorflow_import_says_what_to_install(
    fake_tensorflow, code, reason
):
    done = run_python("import awd_lstm_tf", fake_tensorflow(code))
    _, raised, message = done.stderr.rpartition("\nImportError: ")
    assert raised, done.stderr
    assert len(message.strip().splitlines()) == 1
    assert "pip install 'awd-lstm-tf[tf]'" in message
    assert "Python 3.6 or 3.7" in message
    assert reason in message


@pytest.mark.smoke
@pytest.mark.parametrize("part", _versions._PARTS)
def test_import_names_the_private_part_that_is_not_there(part, monkeypatch):
    module, name = ("tensorflow.python." + part).split()
    _versions._find(part, "2.99.0")  # it is there
    owner = importlib.import_module(module)
    *steps, last = name.split(".")
    for step in steps:
        owner = getattr(owner, step)
    monkeypatch.delattr(owner, last)
    with pytest.raises(ImportError) as raised:
        _versions._find(part, "2.99.0")
    message = str(raised.value)
    needed = f"awd_lstm_tf needs {module}.{name}, which TensorFlow 2.99.0 has"
    assert message.startswith(needed)
    assert "\n" not in message and "pip install" in message


def imported_from_tensorflow(path):
    """Module and name of what a file imports from within TensorFlow."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.module.startswith("tensorflow.python"):
                for each in node.names:
                    yield node.module, each.name
        elif isinstance(node, ast.Import):
            for each in node.names:
                if each.name.startswith("tensorflow."):
                    yield each.name, ""


def test_every_private_part_that_is_imported_is_asked_for_at_import():
    asked = " ".join("tensorflow.python." + part for part in _versions._PARTS)
    folder = pathlib.Path(awd_lstm_tf.__file__).parent
    for path in folder.glob("*.py"):
        for module, name in imported_from_tensorflow(path):
            known = f"{module}.{name} " in asked or f"{module} {name}" in asked
            assert known, f"{path.name}: {module}.{name}"


@pytest.mark.smoke
def test_an_untested_tensorflow_warns_where_it_is_imported():
    shown = outcome(
        """
        import warnings
        import tensorflow
        release = tensorflow.__version__.split(".")[:2]
        tensorflow.__version__ = ".".join(release + ["99"])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            import awd_lstm_tf
        for w in caught:
            if "awd_lstm_tf" in str(w.message):
                print(w.filename, w.message)
        """
    )
    assert re.match("(-c|<string>) awd_lstm_tf is tested on TensorFlow", shown)
    assert len(shown.splitlines()) == 1


@pytest.mark.parametrize(
    "version", ["1.12.0", "1.15.0-rc3", "2.5.0", "2.15.0-rc1+nv", "3.0.0"]
)
def test_an_untested_tensorflow_warns_in_one_line(version, monkeypatch):
    monkeypatch.setattr(_versions, "_version", version)
    with pytest.warns(UserWarning) as warned:
        _versions.warn_if_untested()
    (message,) = [str(each.message) for each in warned]
    assert "\n" not in message
    assert f"got {version}: pip install 'awd-lstm-tf[tf]' brings" in message
    assert ", ".join(_versions.TESTED) in message


# What follows "+" is a builder's: 1.15.5+nv23.3 is NVIDIA's.
@pytest.mark.parametrize("version", _versions.TESTED + ("1.15.5+nv23.3",))
def test_a_tested_tensorflow_does_not_warn(version, monkeypatch, recwarn):
    monkeypatch.setattr(_versions, "_version", version)
    _versions.warn_if_untested()
    assert not recwarn.list


def test_the_versions_called_tested_are_those_of_make_test_all():
    lines = (REPOSITORY / "tools" / "versions.txt").read_text().splitlines()
    lines = [line.split() for line in lines if line[:1] not in ("", "#")]
    tensorflows = {re.sub("intel-|-keras3", "", line[0]) for line in lines}
    assert tensorflows == set(_versions.TESTED)
    supported = metadata().get_all("Classifier")
    for python in {line[1] for line in lines}:
        assert f"Programming Language :: Python :: {python}" in supported


def test_one_module_alone_knows_of_versions_and_it_is_short():
    folder = pathlib.Path(awd_lstm_tf.__file__).parent
    for path in folder.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        if path.name != "_versions.py":
            assert "VERSION" not in text and "tf.__version__" not in text
    text = (folder / "_versions.py").read_text(encoding="utf-8")
    text = re.sub('"""(.|\n)*?"""', "", text)
    code = [line.partition("#")[0].strip() for line in text.splitlines()]
    count = len(list(filter(None, code)))
    assert count <= 200
    page = (REPOSITORY / "docs" / "tensorflow2.md").read_text(encoding="utf-8")
    assert f"in {count} lines of code" in page


# How the package is built.

SOURCES = sorted(pathlib.Path(awd_lstm_tf.__file__).parent.glob("*.py"))


def body_sizes(path):
    """Pairs of each function of a file and its lines, without docstring."""
    text = path.read_text(encoding="utf-8")
    lines, sizes = text.splitlines(True), []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            block = inspect.getblock(lines[node.lineno - 1 :])
            end = node.lineno + len(block)
            body = node.body[bool(ast.get_docstring(node)) :]
            size = end - body[0].lineno if body else 0
            sizes.append((node.name, size))
    return sizes


def own_imports(path):
    """The modules of the package that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            package, _, module = node.module.partition(".")
            if package == "awd_lstm_tf":
                found |= {module} if module else {n.name for n in node.names}
    return found


def floors(imports):
    """Modules in the order in which all that one imports comes before it."""
    below = []
    while len(below) < len(imports):
        floor = [
            name
            for name in sorted(set(imports) - set(below))
            if imports[name] <= set(below)
        ]
        assert floor, f"circle in {sorted(set(imports) - set(below))}"
        below += floor
    return below


def test_files_and_functions_are_short():
    sizes = []
    for path in SOURCES:
        count = len(path.read_text(encoding="utf-8").splitlines())
        assert count <= 500, path.name
        sizes += [(path.name, *each) for each in body_sizes(path)]
    assert len(sizes) > 300
    assert not [each for each in sizes if each[-1] > 40]
    assert statistics.median(size for *_, size in sizes) <= 6


def test_imports_within_the_package_go_one_way():
    imports = {path.stem: own_imports(path) for path in SOURCES}
    assert floors(imports)[-1] == "__init__"
    assert not imports["_versions"]
    assert imports["_checks"] == {"_versions"}


def test_long_functions_and_circles_would_be_noticed(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(
        "from awd_lstm_tf import other\n@f\ndef g():\n"
        "    '''Says\n\n    so.\n    '''\n" + "    g(\n    )\n" * 21
    )
    assert body_sizes(path) == [("g", 42)]
    imports = {"module": own_imports(path), "other": {"module"}}
    with pytest.raises(AssertionError, match="circle"):
        floors(imports)


# Metadata. The four pins: without the first TensorFlow does not import, without
# the others it warns, or parts of it fail (setup.py says which).

PINS = {"protobuf<3.21", "numpy<1.17", "h5py<3", "gast==0.2.2"}


OLD_2 = {"protobuf<3.21", "numpy<1.24"}
NEWEST = {"tensorflow==2.21.0", "tf_keras==2.21.0"}


@pytest.mark.smoke
@pytest.mark.parametrize(
    "extra, pythons, brings",
    [
        ("tf", ["3.6", "3.7"], PINS | {"tensorflow==1.13.1"}),
        ("tf", ["3.8"], OLD_2 | {"tensorflow==2.8.4"}),
        ("tf", ["3.9"], {"tensorflow==2.15.1"}),
        ("tf", ["3.10", "3.11", "3.12", "3.13"], NEWEST),
        ("tf-gpu", ["3.6", "3.7"], PINS | {"tensorflow-gpu==1.13.1"}),
        ("tf2", ["3.6"], OLD_2 | {"tensorflow==2.4.4"}),
        ("tf2", ["3.7", "3.8"], OLD_2 | {"tensorflow==2.8.4"}),
        ("tf2", ["3.9"], {"tensorflow==2.15.1"}),
        ("tf2", ["3.10", "3.13"], NEWEST),
        ("pins", ["3.6", "3.7"], PINS),
        ("pins", ["3.8"], {"protobuf<3.21"}),
        ("examples", ["3.6"], {"matplotlib", "tqdm", "flatbuffers>=1.12"}),
    ],
)
def test_what_an_extra_brings(extra, pythons, brings):
    for python in pythons:
        found = {
            each.replace("tf-keras", "tf_keras")  # as some builders write it
            for each in requirements(extra, python)
        }
        assert found == brings


def test_extra_dev_brings_what_tests_and_examples_import():
    names = {re.split("[<>=]", each)[0] for each in requirements("dev", "3.9")}
    assert names == {
        "flatbuffers",
        "hypothesis",
        "importlib-metadata",
        "matplotlib",
        "packaging",
        "pytest",
        "pytest-xdist",
        "tqdm",
    }


def test_python_and_plain_requirements():
    plain = [
        line
        for line in metadata().get_all("Requires-Dist")
        if "extra" not in line
    ]
    assert plain == ["numpy"]
    assert metadata()["Requires-Python"] == ">=3.6"


@pytest.mark.smoke
def test_wheel_holds_the_package_alone(request):
    if not request.config.getoption("--installed"):
        pytest.skip("the source tree is under test, not a wheel")
    files = importlib_metadata.files("awd-lstm-tf")
    tops = {each.parts[0] for each in files if "dist-info" not in str(each)}
    assert tops == {"awd_lstm_tf"}


# The pins do what setup.py says.


def double_if_positive(x):
    if x > 0:
        x = 2 * x
    return x


@versions.needs_1
@pytest.mark.smoke
def test_autograph_converts_a_function(open_session):
    autograph = pytest.importorskip(
        "tensorflow.python.autograph",
        reason="needs autograph in core (TensorFlow 1.12)",
    )
    doubled = autograph.to_graph(double_if_positive)(tf.constant(3))
    assert open_session().run(doubled) == 6


@versions.needs_keras_2
@pytest.mark.smoke
def test_keras_loads_what_it_saved(tmp_path):
    tf.keras.backend.clear_session()  # it may be of another test's graph
    path = str(tmp_path / "model.h5")
    layer = tf.keras.layers.Dense(2, input_shape=(3,))
    tf.keras.Sequential([layer]).save(path)
    tf.keras.models.load_model(path)
