#!/usr/bin/env bash
# Makes .venv in the repository if there is none and installs mla_jax into it, once per change of
# setup.cfg.  Sourced by the other scripts: prepare_environment [EXTRA] then leaves $PYTHON set.

prepare_environment() {
    local extra="${1:-}" target="." venv="${MLA_JAX_VENV:-.venv}" base stamp
    base="${PYTHON_BASE:-python3}"
    [ -n "$extra" ] && target=".[$extra]"
    if ! "$base" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        echo "error: $base is not Python 3.11 or newer: install one and name it in PYTHON_BASE" >&2
        return 1
    fi
    [ -x "$venv/bin/python" ] || "$base" -m venv "$venv" || return 1
    PYTHON="$venv/bin/python"
    stamp="$venv/installed-${extra:-base}"
    if [ ! -f "$stamp" ] || [ setup.cfg -nt "$stamp" ]; then
        echo "installing mla_jax into $venv (a minute on a fast line)"
        "$PYTHON" -m pip install --quiet --disable-pip-version-check --editable "$target" || return 1
        touch "$stamp"
    fi
}
