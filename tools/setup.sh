#!/usr/bin/env bash
# Makes one of the three kinds of virtual environment, from nothing.
#
#   tools/setup.sh build                            .tools/env: what builds
#   tools/setup.sh lint                             adds what lints, and docs
#   tools/setup.sh run FOLDER [TENSORFLOW] [PYTHON]   FOLDER: what tests and
#                                                   examples need, asked of the
#                                                   wheel in dist/
#
# TENSORFLOW is a version, or one of 2.16 and later and -keras3 (without
# tf_keras), or intel- and a version of intel-tensorflow. Without one it is
# 1.13.1, and on a machine without Python 3.7 and 3.6 the newest tested one.
#
# A line says what each step does, and one every 20 seconds that it is still at
# it; what pip says is shown when it fails.
set -eum  # m: each step is a group of processes, to be stopped as one
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Runs a command, in the background: bash then hears of Ctrl-C at once.
step() {
  local message=$1 start=$SECONDS shown=$SECONDS log child
  shift
  log=$(mktemp)
  echo "$message"
  "$@" >"$log" 2>&1 &
  child=$!
  trap 'stop "$child" "$log" "$message"' INT TERM
  while kill -0 $child 2>/dev/null; do
    sleep 0.2
    if ((SECONDS - shown >= 20)); then
      shown=$SECONDS
      echo "  $((SECONDS - start)) s: $(latest "$log")"
    fi
  done
  trap - INT TERM
  if ! wait $child; then
    tail -n 30 "$log" >&2
    echo "Failed: $message" >&2
    grep -m 1 '^Looking in ' "$log" >&2 ||
      echo "pip asked https://pypi.org/simple, or what it is configured to." >&2
    rm "$log"
    return 1
  fi
  echo "  done in $((SECONDS - start)) s"
  rm "$log"
}

# What the log says last, to the width of a line.
latest() {
  tr '\r' '\n' <"$1" | grep -v '^ *$' | tail -n 1 | cut -c 1-65
}

stop() {
  kill -- "-$1" 2>/dev/null || true
  rm -f "$2"
  echo "Stopped at: $3. Run make again to start it anew." >&2
  exit 130
}

# A fresh environment in $2 with the Python $1. The pip it comes with may be too
# old to know today's wheels; for Python 3.6 21.3.1 is the last.
environment() {
  rm -rf "$2" && "$1" -m venv "$2" &&
    "$2/bin/python" -m pip install --upgrade "pip>=21.3.1,<25"
}

# The newest tested TensorFlow for the Python $1.
newest() {
  case $("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])') in
    3.6 | 3.7) echo 1.13.1 ;;
    3.8) echo 2.8.4 ;;
    3.9) echo 2.15.1 ;;
    *) echo 2.21.0 ;;
  esac
}

# Sets `wanted` to what pip is to install beside the package for TensorFlow $1.
# tensorflow-cpu is half of tensorflow's size, where there is one.
choose() {
  local name=tensorflow
  [ "$(uname -sm)" = "Linux x86_64" ] && name=tensorflow-cpu
  case $1 in
    intel-*) wanted=("intel-tensorflow==${1#intel-}") ;;
    1.*) wanted=("tensorflow==$1") ;;
    2.4.* | 2.8.*) wanted=("$name==$1" "protobuf<3.21" "numpy<1.24") ;;
    *-keras3) wanted=("$name==${1%-keras3}") ;;
    2.?.* | 2.1[0-5].*) wanted=("$name==$1") ;;
    *) wanted=("$name==$1" "tf_keras==$1") ;;
  esac
}

case ${1:-} in
  build)
    python=$(tools/find_python.sh)
    # Ruff needs 3.7. A Python 3.6 will do for TensorFlow, but not for this.
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 7))' ||
      python=python3
    step "Making .tools/env (what builds the package) with $python" \
      environment "$python" .tools/env
    step "Installing tools/build.txt in .tools/env" \
      .tools/env/bin/python -m pip install -r tools/build.txt
    ;;
  lint)
    step "Installing tools/lint.txt in .tools/env" \
      .tools/env/bin/python -m pip install -r tools/lint.txt
    ;;
  run)
    folder=$2 tensorflow=${3:-}
    wheel=$(echo dist/*.whl)
    python=$(tools/find_python.sh "$tensorflow" "${4:-}")
    if [ -z "$tensorflow" ]; then
      tensorflow=$(newest "$python")
      [ "$tensorflow" = 1.13.1 ] ||
        echo "No Python 3.7 or 3.6 here: TensorFlow $tensorflow, not 1.13.1"
    fi
    step "Making $folder with $python" environment "$python" "$folder"
    choose "$tensorflow"
    extras=dev
    case $tensorflow in 1.* | intel-*) extras=pins,dev ;; esac
    step "Installing ${wanted[*]} and what tests and examples need in $folder" \
      "$folder/bin/python" -m pip install "$wheel[$extras]" "${wanted[@]}"
    echo "$tensorflow" >"$folder/.tensorflow"
    # 2.16 and later take Keras 3 for tf.keras unless told to take tf_keras.
    case ${wanted[*]} in
      *tf_keras*) echo TF_USE_LEGACY_KERAS=1 ;;
    esac >"$folder/.environment"
    ;;
  *)
    sed -n '2,13s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
    ;;
esac
