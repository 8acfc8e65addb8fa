#!/usr/bin/env bash
# Makes the virtual environment: make_venv.sh FOLDER EXTRAS, e.g. make_venv.sh .venv worker,test
# Called by `make venv`. Takes the first Python >= 3.11 found by name; uses that Python's own pip where its
# ensurepip is missing (Debian's python3 without python3-venv); says what to install where both are.
set -euo pipefail

folder=$1
extras=$2
# The default Python first: it is the one a machine's owner meant.
names=(python3 python3.13 python3.12 python3.11 python3.14 python)

too_old=()
for name in "${names[@]}"; do
    version=$("$name" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
    if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        python=$name
        break
    fi
    too_old+=("$name is $version")
done
if [ -z "${python:-}" ]; then
    echo "make venv: no Python 3.11 or newer found (looked for: ${names[*]}${too_old:+; ${too_old[*]}})" >&2
    exit 1
fi
if "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    "$python" -m venv "$folder"
    pip=("$folder/bin/python" -m pip)
elif "$python" -c 'import pip, venv' 2>/dev/null; then
    "$python" -m venv --without-pip "$folder"
    pip=("$python" -m pip --python "$folder/bin/python")
else
    echo "make venv: $python has neither ensurepip nor pip, so it cannot fill a virtual environment." >&2
    echo "On Debian and Ubuntu: apt install python3-venv" >&2
    exit 1
fi
echo "make venv: $("$python" --version), into $folder; torch and its company take a few minutes" >&2
"${pip[@]}" install --quiet --constraint constraints.txt --editable ".[$extras]"
