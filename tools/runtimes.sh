#!/usr/bin/env bash
# Makes .venv-runtimes/NAME for each of today's TFLite runtimes, for
# tests/runtimes.py. All three have wheels for Python 3.11.
set -eu
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# numpy 2 breaks tflite-runtime, which is of 2023.
versions='ai-edge-litert==2.3.0 tflite-runtime==2.14.0 tflite-micro'
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# PYTHON is the one for TensorFlow.
python=$(env -u PYTHON tools/find_python.sh 2.15.1 3.11)
for version in $versions; do
  folder=.venv-runtimes/${version%==*}
  echo "Making $folder with $python"
  if ! {
    rm -rf "$folder" && "$python" -m venv "$folder" &&
      "$folder/bin/python" -m pip install "$version" 'numpy<2'
  } >"$log" 2>&1; then
    tail -n 30 "$log" >&2
    rm -rf "$folder"
    exit 1
  fi
done
