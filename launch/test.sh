#!/usr/bin/env bash
set -euo pipefail
usage() {
    cat <<'TEXT'
usage: launch/test.sh [--dry-run] [OPTION of pytest ...]

Makes .venv if needed, installs mla_jax with its test extra, and runs the whole suite, in as many
processes as there are cores (at most 4; -n 0 for one).  A test that hangs for five minutes ends it.
--dry-run prints the commands instead.

environment: PYTHON_BASE   the Python to make .venv from (default: python3; 3.11 or newer)
             MLA_JAX_VENV  where the environment goes (default: .venv)
             OPENBLAS_NUM_THREADS  threads of numpy's matrix products, per process (default: 1)
TEXT
}
case "${1:-}" in -h | --help) usage && exit 0 ;; esac
dry_run=0
[ "${1:-}" != --dry-run ] || { dry_run=1 && shift; }
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/environment.sh
source launch/environment.sh
prepare_environment test
command=("$PYTHON" -m pytest tests -n auto --maxprocesses=4 --dist=loadfile
    --no-loadscope-reorder --max-worker-restart=0 "$@")
# Where this is set, each process that the tests start compiles all our files again.
perform unset PYTHONDONTWRITEBYTECODE
# One thread per process: more would wait for each other, and they spin while they wait.
perform export OPENBLAS_NUM_THREADS="${OPENBLAS_NUM_THREADS:-1}"
[ "$dry_run" -eq 0 ] || { show "${command[@]}" && exit 0; }
exec "${command[@]}"
