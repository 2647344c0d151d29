#!/usr/bin/env bash
# Runs the tests; arguments go to pytest (`bash scripts/test.sh -m slow`, `bash scripts/test.sh tests/core -k resume`).
set -euo pipefail
source "$(dirname "$0")/setup.sh"
export OMP_NUM_THREADS=1  # each worker has one core; more threads would only wait for each other
unset PYTHONDONTWRITEBYTECODE  # else each of the hundreds of processes that tests start compiles the repository anew
if [ $# -gt 0 ]; then
    exec python -m pytest "$@"
fi
ruff check .
ruff format --check .
mypy
exec python -m pytest -n 2 --dist worksteal --cov --cov-report=term --cov-fail-under=90
