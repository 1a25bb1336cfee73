#!/usr/bin/env bash
# Prints the path of a Python that TensorFlow $1 runs on; with $2 (3.6 to 3.13),
# of one of that version. Without $1, or with an empty one: of a Python 3.7 or
# 3.6, for TensorFlow 1.13.1, and where there is none, of one of 3.8 to 3.13.
#
#   PYTHON=/path/to/python tools/find_python.sh     takes that one or fails
#
# Otherwise, for each version in turn: the one on PATH, any of pyenv's, any of
# conda's, one that uv has; and at last one that uv fetches into .python/. A
# candidate counts only if it runs: pyenv puts a `python3.7` on PATH that does
# nothing but say it is not selected.
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit

tensorflow=${1:-}
case $tensorflow in
  "") wanted=(3.7 3.6 3.12 3.11 3.10 3.13 3.9 3.8) ;;
  1.1[0-2].* | 1.[0-9].*) wanted=(3.6) ;;
  1.* | intel-*) wanted=(3.7 3.6) ;;
  2.4.*) wanted=(3.8 3.7 3.6) ;;
  2.8.*) wanted=(3.10 3.9 3.8 3.7) ;;
  2.15.*) wanted=(3.11 3.10 3.9) ;;
  *) wanted=(3.12 3.11 3.10 3.13 3.9 3.8) ;;
esac
wanted=(${2:-"${wanted[@]}"})
names=${wanted[*]}
names=${names// /, }
# uv 0.6 is the last to offer Python 3.7.
uv_version=0.6.17

# Whether $1 runs, is Python $2, and can make an environment. TensorFlow 1.x
# has wheels for 64-bit x86 alone. Prints the interpreter's own path.
try() {
  "$1" - "$2" 2>/dev/null <<'PYTHON'
import ensurepip, platform, ssl, sys, venv
if "%d.%d" % sys.version_info[:2] != sys.argv[1] or (
    sys.version_info < (3, 8)
    and platform.machine().lower() not in ("x86_64", "amd64")
):
    sys.exit(1)
print(sys.executable)
PYTHON
}

candidates() {
  local root
  echo "python$1"
  echo python3
  echo python
  root=${PYENV_ROOT:-$(pyenv root 2>/dev/null || echo ~/.pyenv)}
  printf '%s\n' "$root/versions/$1".*/bin/python
  root=$(conda info --base 2>/dev/null) &&
    printf '%s\n' "$root"/envs/*/bin/python
  uv python find --no-project "$1" 2>/dev/null
  printf '%s\n' "$PWD"/.python/*/bin/"python$1"
}

fetch() {
  local uv=.tools/uv/bin/uv
  echo "Found no Python $names; fetching ${wanted[0]} with uv" >&2
  [ -x $uv ] || {
    python3 -m venv .tools/uv &&
      .tools/uv/bin/python -m pip install --quiet "uv==$uv_version"
  } >&2 || return
  UV_PYTHON_INSTALL_DIR=$PWD/.python $uv python install "${wanted[0]}" >&2
}

search() {
  local version candidate
  for version in "${wanted[@]}"; do
    while read -r candidate; do
      try "$candidate" "$version" && return
    done < <(candidates "$version")
  done
  return 1
}

if [ -n "${PYTHON:-}" ]; then
  for version in "${wanted[@]}"; do
    try "$PYTHON" "$version" && exit
  done
  echo "PYTHON must be a Python of $names, with venv and ssl (and for" \
    "TensorFlow 1.x for 64-bit x86), got $PYTHON (it may not run at all)." >&2
  exit 1
fi
search || { fetch && search; } && exit

cat >&2 <<MESSAGE

TensorFlow ${tensorflow:-1.13.1} needs a Python of $names. None was found, and uv
could not fetch one (see above). Each of these brings one; then run make again:

  pyenv install ${wanted[0]}
  conda create --name py${wanted[0]} python=${wanted[0]}
  apt-get install python${wanted[0]} python${wanted[0]}-venv   (Ubuntu with deadsnakes)

Or name one that you have: make test PYTHON=/path/to/python${wanted[0]}
MESSAGE
exit 1
