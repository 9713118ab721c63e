#!/usr/bin/env bash
set -euo pipefail
usage() {
    cat <<'TEXT'
usage: launch/quickstart.sh [--dry-run] [OPTION of mla_jax.compare ...]

Makes .venv, installs mla_jax, and compares unimodal training, concatenation, late fusion and MLA
on the embedded digits, three seeds each.  Writes runs/quickstart/comparison.md, .png, .json
and .html.
To see the table again, run it again: finished runs are not repeated.
--dry-run prints the commands instead.

environment: PYTHON_BASE   the Python to make .venv from (default: python3; 3.11 or newer)
             MLA_JAX_VENV  where the environment goes (default: .venv)
TEXT
}
case "${1:-}" in -h | --help) usage && exit 0 ;; esac
dry_run=0
[ "${1:-}" != --dry-run ] || { dry_run=1 && shift; }
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/environment.sh
source launch/environment.sh
prepare_environment
# shellcheck disable=SC2054  # the commas are those of the options
command=("$PYTHON" -m mla_jax.compare --config=configs/digits.py --workdir=runs/quickstart
    --methods=unimodal,concat,late_fusion,mla --seeds=0,1,2 "$@")
[ "$dry_run" -eq 0 ] || { show "${command[@]}" && exit 0; }
exec "${command[@]}"
