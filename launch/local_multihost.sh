#!/usr/bin/env bash
set -euo pipefail
usage() {
    cat <<'TEXT'
usage: launch/local_multihost.sh [--processes=N] [--devices=D] [--port=P] [--module=M] [--dry-run]
                                 OPTION ...

Runs M (default: mla_jax.main) in N processes with D devices each, on the CPU of this machine
(default: 2 and 2).  The OPTIONs are those of M.  The code is that of a pod: try it here before you
pay for one.  Process 0 prints.  The others write to WORKDIR.process-I.log (WORKDIR as given,
default: runs/multihost).  SIGTERM to any process, or to this script, stops all processes after the
same batch, with a checkpoint.  If one process fails, the others are stopped.
--dry-run prints the commands instead.

example: launch/local_multihost.sh --config=configs/digits.py --workdir=runs/two

environment: PYTHON  the interpreter (default: .venv/bin/python if there is one, else python3)
TEXT
}
processes=2 devices=2 port=$((20000 + RANDOM % 20000)) workdir=runs/multihost
module=mla_jax.main dry_run=0 options=()
for argument in "$@"; do
    case "$argument" in
        -h | --help) usage && exit 0 ;;
        --dry-run) dry_run=1 ;;
        --processes=*) processes="${argument#*=}" ;;
        --devices=*) devices="${argument#*=}" ;;
        --port=*) port="${argument#*=}" ;;
        --module=*) module="${argument#*=}" ;;
        --workdir | --processes | --devices | --port | --module)
            echo "error: write $argument=VALUE (see --help)" >&2
            exit 2
            ;;
        --workdir=*) workdir="${argument#*=}" ;;
        *) options+=("$argument") ;;
    esac
done
if [ "${#options[@]}" -eq 0 ]; then
    usage >&2
    exit 2
fi
default_python="$(dirname "${BASH_SOURCE[0]}")/../.venv/bin/python"
[ -x "$default_python" ] || default_python=python3
python="${PYTHON:-$default_python}"
process() { # PROCESS_ID
    command=("$python" -m "$module" "${options[@]}" --workdir="$workdir" --distributed=on
        --coordinator_address="127.0.0.1:$port" --num_processes="$processes" --process_id="$1")
}
if [ "$dry_run" -eq 1 ]; then
    # shellcheck source=launch/perform.sh
    source "$(dirname "${BASH_SOURCE[0]}")/perform.sh"
    show export JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES="$devices"
    show mkdir -p "$(dirname "$workdir")"
    for ((i = 0; i < processes; i++)); do
        log=" >$(quote "$workdir.process-$i.log") 2>&1"
        [ "$i" -gt 0 ] || log=''
        process "$i" && behind="$log &" show "${command[@]}"
    done
    echo wait
    exit 0
fi
export JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES="$devices"
mkdir -p "$(dirname "$workdir")"

start() { # PROCESS_ID
    process "$1" && exec "${command[@]}"
}

pids=()
# shellcheck disable=SC2317  # called by the trap
forward() { kill -TERM "${pids[@]}" 2>/dev/null || true; }
trap forward TERM INT
start 0 &
pids+=("$!")
for ((i = 1; i < processes; i++)); do
    start "$i" >"$workdir.process-$i.log" 2>&1 &
    pids+=("$!")
done

status=0
running=("${pids[@]}")
while [ "${#running[@]}" -gt 0 ]; do
    sleep 0.2 || true # a trapped signal ends it early
    still=()
    for pid in "${running[@]}"; do
        if kill -0 "$pid" 2>/dev/null; then
            still+=("$pid")
            continue
        fi
        code=0
        wait "$pid" || code=$?
        if [ "$code" -ne 0 ] && [ "$status" -eq 0 ]; then
            status=$code
            [ "$code" -gt 128 ] || forward # it failed: the others would wait for ever
        fi
    done
    running=("${still[@]}")
done
exit "$status"
