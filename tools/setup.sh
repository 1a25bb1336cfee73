#!/usr/bin/env bash
# Makes one of the two kinds of virtual environment, from nothing.
#
#   tools/setup.sh tools                            .tools: what lints and builds
#   tools/setup.sh run FOLDER TENSORFLOW [PYTHON]   FOLDER: what tests and
#                                                   examples need, asked of the
#                                                   wheel in dist/
#
# TENSORFLOW is a version, or intel- and a version of intel-tensorflow.
#
# One line is printed for each step; what pip says only when it fails.
set -eu
cd "$(dirname "${BASH_SOURCE[0]}")/.."

step() {
  local message=$1 log
  shift
  log=$(mktemp)
  echo "$message"
  if ! "$@" >"$log" 2>&1; then
    tail -n 30 "$log" >&2
    echo "Failed: $*" >&2
    rm "$log"
    return 1
  fi
  rm "$log"
}

# A fresh environment in $2 with the Python $1. The pip it comes with may be too
# old to know today's wheels; for Python 3.6 21.3.1 is the last.
environment() {
  rm -rf "$2" && "$1" -m venv "$2" &&
    "$2/bin/python" -m pip install --upgrade "pip>=21.3.1,<25"
}

case ${1:-} in
  tools)
    python=$(tools/find_python.sh)
    # Ruff needs 3.7. A Python 3.6 will do for TensorFlow, but not for this.
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 7))' ||
      python=python3
    step "Making .tools/env (what lints and builds) with $python" \
      environment "$python" .tools/env
    step "Installing tools/requirements.txt in .tools/env" \
      .tools/env/bin/python -m pip install -r tools/requirements.txt
    ;;
  run)
    folder=$2 tensorflow=$3
    wheel=$(echo dist/*.whl)
    python=$(tools/find_python.sh "$tensorflow" "${4:-}")
    step "Making $folder with $python" environment "$python" "$folder"
    # The tf extra has a version of its own; for any other, its pins alone.
    case $tensorflow in
      1.13.1) packages=("$wheel[tf,dev]") ;;
      intel-*)
        packages=("$wheel[pins,dev]" "intel-tensorflow==${tensorflow#intel-}")
        ;;
      *) packages=("$wheel[pins,dev]" "tensorflow==$tensorflow") ;;
    esac
    step "Installing TensorFlow $tensorflow and what tests and examples need" \
      "$folder/bin/python" -m pip install "${packages[@]}"
    ;;
  *)
    sed -n '2,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
    ;;
esac
