"""The package as it is installed: names, imports, metadata, bad company."""

import importlib
import os
import pathlib
import pkgutil
import re
import subprocess
import sys
import textwrap

import importlib_metadata
import pytest
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


def requirements(extra):
    """Name and version bound of what `extra` brings, spaces left out."""
    for line in metadata().get_all("Requires-Dist"):
        requirement, _, condition = line.partition(";")
        if re.search(rf"extra == ['\"]{extra}['\"]", condition):
            yield re.sub(r"[\s()]", "", requirement)


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


def test_star_import_brings_the_public_names_alone():
    names = outcome(
        """
        before = set(dir()) | {"before"}
        from awd_lstm_tf import *
        print(" ".join(sorted(set(dir()) - before)))
        """
    )
    assert names.split() == awd_lstm_tf.__all__


# Imports.

SHOW_CONTRIB = """
contrib = re.compile(r"tensorflow.*[.]contrib[.]")
print(list(filter(contrib.match, sys.modules)))
"""


def test_import_leaves_tf_contrib_alone():
    modules = ", ".join(["re, sys, awd_lstm_tf"] + SUBMODULES)
    assert outcome(f"import {modules}" + SHOW_CONTRIB) == "[]"


def test_an_import_of_tf_contrib_would_be_noticed():
    shown = outcome("import re, sys, tensorflow.contrib.rnn" + SHOW_CONTRIB)
    assert "tensorflow.contrib.rnn" in shown


@pytest.mark.smoke
def test_import_is_silent():
    done = run_python(
        """
        import warnings
        import tensorflow
        warnings.simplefilter("error")
        import awd_lstm_tf
        """
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "awd_lstm_tf" not in done.stderr


# TensorFlow missing, or another.


@pytest.mark.smoke
@pytest.mark.parametrize(
    "code, reason",
    [
        ("raise ImportError('No module named tensorflow')", "No module named"),
        # What a protobuf of 4 or later raises, over several lines.
        ("raise TypeError('Descriptors cannot\\n be created')", "Descriptors"),
        ("__version__ = '2.4.1'", "2.4.1"),
        ("__version__ = '1.10.1'", "1.10.1"),
        ("__version__ = '1.9.0-rc0'", "1.11 or later"),
        ("", "unknown"),
    ],
    ids=["missing", "broken", "two", "ten", "nine", "empty"],
)
def test_without_tensorflow_1_import_says_what_to_install(
    fake_tensorflow, code, reason
):
    done = run_python("import awd_lstm_tf", fake_tensorflow(code))
    _, raised, message = done.stderr.rpartition("\nImportError: ")
    assert raised, done.stderr
    assert len(message.strip().splitlines()) == 1
    assert "pip install 'awd-lstm-tf[tf]'" in message
    assert "Python 3.6 or 3.7" in message
    assert reason in message


CAUGHT = """
    import warnings
    import tensorflow
    tensorflow.__version__ = tensorflow.VERSION = "{}"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        import awd_lstm_tf
    for w in caught:
        if "awd_lstm_tf" in str(w.message):
            print(w.filename, w.message)
    """


@pytest.mark.parametrize("version", ["1.12.0", "1.15.0-rc3", "1.16.0"])
def test_an_untested_tensorflow_1_warns_in_one_line(version):
    shown = outcome(CAUGHT.format(version))
    assert shown.startswith("-c ")  # laid at the door of the import
    assert len(shown.splitlines()) == 1
    assert f"got {version}: pip install 'tensorflow==1.13.1'" in shown
    assert ", ".join(_versions.TESTED) in shown


@pytest.mark.parametrize("version", _versions.TESTED)
def test_a_tested_tensorflow_1_does_not_warn(version):
    assert outcome(CAUGHT.format(version)) == ""


def test_the_versions_called_tested_are_those_of_make_test_all():
    lines = (REPOSITORY / "tools" / "versions.txt").read_text().splitlines()
    lines = [line.split() for line in lines if line[:1] not in ("", "#")]
    tensorflows = {line[0].replace("intel-", "") for line in lines}
    assert tensorflows == set(_versions.TESTED)
    supported = metadata().get_all("Classifier")
    for python in {line[1] for line in lines}:
        assert f"Programming Language :: Python :: {python}" in supported


# Metadata. The four pins: without the first TensorFlow does not import, without
# the others it warns, or parts of it fail (setup.py says which).

PINS = {"protobuf<3.21", "numpy<1.17", "h5py<3", "gast==0.2.2"}


@pytest.mark.smoke
@pytest.mark.parametrize(
    "extra, brings",
    [
        ("tf", PINS | {"tensorflow==1.13.1"}),
        ("tf-gpu", PINS | {"tensorflow-gpu==1.13.1"}),
        ("pins", PINS),
    ],
)
def test_extra_brings_the_pins(extra, brings):
    assert set(requirements(extra)) == brings


def test_extra_dev_brings_what_tests_and_examples_import():
    names = {re.split("[<>=]", each)[0] for each in requirements("dev")}
    assert names == {
        "flatbuffers",
        "hypothesis",
        "importlib-metadata",
        "matplotlib",
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
    wanted = set(metadata()["Requires-Python"].replace(" ", "").split(","))
    assert wanted == {">=3.6", "<3.8"}


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


@pytest.mark.smoke
def test_autograph_converts_a_function(open_session):
    autograph = pytest.importorskip(
        "tensorflow.python.autograph",
        reason="needs autograph in core (TensorFlow 1.12)",
    )
    doubled = autograph.to_graph(double_if_positive)(tf.constant(3))
    assert open_session().run(doubled) == 6


@pytest.mark.smoke
def test_keras_loads_what_it_saved(tmp_path):
    tf.keras.backend.clear_session()  # it may be of another test's graph
    path = str(tmp_path / "model.h5")
    layer = tf.keras.layers.Dense(2, input_shape=(3,))
    tf.keras.Sequential([layer]).save(path)
    tf.keras.models.load_model(path)
