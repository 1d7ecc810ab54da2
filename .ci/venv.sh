#!/bin/sh
# Make a virtual environment with Python 3.11 or newer, or keep the one that is there and works.
# Usage: venv.sh DIRECTORY [INTERPRETER]
set -eu

directory=$1
wanted=${2:-}
new_enough='import sys; sys.exit(sys.version_info < (3, 11))'

if "$directory/bin/python" -c "$new_enough" 2>/dev/null && "$directory/bin/python" -m pip --version >/dev/null 2>&1; then
    exit 0
fi

found=
for candidate in ${wanted:-python3 python3.14 python3.13 python3.12 python3.11 python}; do
    if "$candidate" -c "$new_enough" 2>/dev/null; then
        found=$candidate
        break
    fi
done
if [ -z "$found" ]; then
    echo "No Python 3.11 or newer was found (tried: ${wanted:-python3, python3.14 to python3.11, python})." >&2
    echo "Install one, or name it: make test PYTHON=/path/to/python3.12" >&2
    exit 1
fi

echo "== creating $directory with $("$found" --version)"
if ! "$found" -m venv --clear "$directory"; then
    echo "$found cannot create virtual environments; on Debian and Ubuntu run: apt install python3-venv" >&2
    exit 1
fi
