#!/usr/bin/env bash
# Run the tests in .venv (made where it is missing), files side by side in as many processes as there are cores, four at
# most, in the order of tests/conftest.py. Options go to pytest: bash run_tests.sh --long tests/engine
set -euo pipefail

EXTRAS=test
# Without bytecode each process would compile all files again.
unset PYTHONDONTWRITEBYTECODE
unset CDPATH
root=$(cd -P -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")" && pwd)
. "$root/scripts/environment.sh"
cd "$root"
exec "$PYTHON" -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder "$@"
