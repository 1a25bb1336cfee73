"""Runs the tests on every TensorFlow in versions.txt; ends with a table.

    make test-all                     all lines of tools/versions.txt
    make test-all ARGS="1.12 intel"   the lines with one of these alone

Each line is one `make check`, against the wheel in an environment of its own.
Where its Python is missing, or the set-up fails, the table says so, the other
lines are still run, and the exit code is 1. The Pythons are those that
find_python.sh finds, or those that PYTHON36, PYTHON37 and so on name.
"""

import argparse
import collections
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree

TOOLS = pathlib.Path(__file__).resolve().parent
MAKE = os.environ.get("MAKE", "make")
ROW = "{:<13} {:<7} {:<5} {:<6} {:>7} {:>7} {:>7} {:>6}  {}"

Version = collections.namedtuple("Version", "tensorflow python flow tests")
Outcome = collections.namedtuple("Outcome", "passed failed skips seconds note")


def versions(wanted):
    """The lines of versions.txt that contain one of the strings `wanted`."""
    for line in (TOOLS / "versions.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            if not wanted or any(each in line for each in wanted):
                yield Version(*line.split())


def find_python(version):
    """Path of the Python for `version`; None where there is none."""
    given = os.environ.get("PYTHON" + version.python.replace(".", ""), "")
    done = subprocess.run(
        [str(TOOLS / "find_python.sh"), version.tensorflow, version.python],
        env=dict(os.environ, PYTHON=given),
        stdout=subprocess.PIPE,
        universal_newlines=True,
    )
    return done.stdout.strip() or None


def run_tests(version, python, jobs):
    """Sets up and tests one version; what came of it."""
    if python is None:
        return Outcome(0, [], [], 0, f"no Python {version.python}")
    start = time.time()
    with tempfile.TemporaryDirectory() as folder:
        report = os.path.join(folder, "report.xml")
        smoke = version.tests == "smoke"
        mark = "-m 'smoke and not slow' " if smoke else ""
        code = subprocess.call(
            [MAKE, "--no-print-directory", "check"]
            + [f"TF={version.tensorflow}", f"PY={version.python}"]
            + [f"PYTHON={python}", f"JOBS={jobs}", f"FLOW={version.flow}"]
            + [f"ARGS={mark}--quiet --tb=short --junitxml={report}"],
            cwd=str(TOOLS.parent),
        )
        seconds = time.time() - start
        if not os.path.exists(report):
            return Outcome(0, [], [], seconds, "set-up failed")
        return Outcome(*read_report(report), seconds, code and "failed")


def read_report(path):
    """Number of tests passed, names of those failed, reasons of skips."""
    passed, failed, skips = 0, [], []
    for case in xml.etree.ElementTree.parse(path).iter("testcase"):
        skip = case.find("skipped")
        if skip is not None:
            skips.append(skip.get("message"))
        elif case.find("failure") is None and case.find("error") is None:
            passed += 1
        else:
            failed.append(f"{case.get('classname')}::{case.get('name')}")
    return passed, failed, skips


def show(outcomes):
    """Prints the table, the reasons of the skips, and what failed."""
    print()
    print(
        ROW.format(
            *["TensorFlow", "Python", "flow", "tests"],
            *["passed", "skipped", "failed", "min", ""],
        )
    )
    for version, outcome in outcomes.items():
        counts = [outcome.passed, len(outcome.skips), len(outcome.failed)]
        minutes = "{:.1f}".format(outcome.seconds / 60)
        print(ROW.format(*version, *counts, minutes, outcome.note or ""))
    for title, grouped in [
        ("Skipped", by_text(outcomes, "skips")),
        ("Failed", by_text(outcomes, "failed")),
    ]:
        if grouped:
            print(f"\n{title}")
        for text, counts in grouped.items():
            where = ", ".join(
                f"{name} ({count})" for name, count in counts.items()
            )
            print(f"  {text}\n      {where}")


def by_text(outcomes, field):
    """How often each text stands in `field`, by version."""
    grouped = collections.OrderedDict()
    for version, outcome in outcomes.items():
        name = f"{version.tensorflow} on {version.python}, {version.flow}"
        for text in getattr(outcome, field):
            counts = grouped.setdefault(text, collections.Counter())
            counts[name] += 1
    return grouped


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wanted", nargs="*")
    parser.add_argument("--jobs", default="2")
    arguments = parser.parse_args()
    outcomes = collections.OrderedDict()
    try:
        for version in versions(arguments.wanted):
            print(f"\n--- TensorFlow {' '.join(version)}", flush=True)
            python = find_python(version)
            outcomes[version] = run_tests(version, python, arguments.jobs)
    except KeyboardInterrupt:
        print("\nStopped; of the lines before this one:")
    show(outcomes)
    whole = len(outcomes) == len(list(versions(arguments.wanted)))
    sys.exit(not whole or any(outcome.note for outcome in outcomes.values()))


if __name__ == "__main__":
    main()
