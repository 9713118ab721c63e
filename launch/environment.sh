#!/usr/bin/env bash
# Makes .venv in the repository if there is none and installs mla_jax into it, once per change of
# setup.cfg.  Sourced by the other scripts, in the repository: prepare_environment [EXTRA] then
# leaves $PYTHON set.  Where dry_run=1 it prints its commands.

# shellcheck source=launch/perform.sh
source launch/perform.sh

prepare_environment() {
    local extra="${1:-}" target="." venv="${MLA_JAX_VENV:-.venv}" base stamp
    base="${PYTHON_BASE:-python3}"
    [ -n "$extra" ] && target=".[$extra]"
    if ! "$base" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        echo "error: $base is not Python 3.11 or newer: install one and name it in PYTHON_BASE" >&2
        return 1
    fi
    [ "${dry_run:-0}" -eq 0 ] || show cd "$PWD"
    [ -x "$venv/bin/python" ] || perform "$base" -m venv "$venv" || return 1
    PYTHON="$venv/bin/python"
    stamp="$venv/installed-${extra:-base}"
    if [ ! -f "$stamp" ] || [ setup.cfg -nt "$stamp" ]; then
        [ "${dry_run:-0}" -eq 1 ] || echo "installing mla_jax into $venv (a minute on a fast line)"
        perform "$PYTHON" -m pip install --quiet --disable-pip-version-check \
            --editable "$target" || return 1
        perform touch "$stamp"
    fi
}
