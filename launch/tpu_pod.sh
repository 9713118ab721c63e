#!/usr/bin/env bash
set -euo pipefail
usage() {
    cat <<'TEXT'
usage: launch/tpu_pod.sh COMMAND [--dry-run] [-- OPTION of mla_jax.main ...]

Runs mla_jax on a Cloud TPU pod slice, the same command on every worker.

commands: create  asks for the slice (a queued resource; set SPOT=1 for a spot one)
          setup   copies this repository to every worker and installs it there
          run     starts or resumes the run on every worker; needs -- --config=... --workdir=gs://...
          stop    sends SIGTERM to every worker: the run saves a checkpoint and ends
          delete  gives the slice back
--dry-run prints the commands instead of running them.

environment: TPU_NAME, ZONE      name and zone (required)
             ACCELERATOR         default v5litepod-16
             RUNTIME             default v2-alpha-tpuv5-lite
             REMOTE_PYTHON       the workers' Python, 3.11 or newer (default: python3.11)

example: export TPU_NAME=mla ZONE=us-west4-a
         launch/tpu_pod.sh create && launch/tpu_pod.sh setup
         launch/tpu_pod.sh run -- --config=configs/digits.py --workdir=gs://bucket/run
TEXT
}
command="${1:-}"
[ "$#" -gt 0 ] && shift
dry_run=0 options=()
while [ "$#" -gt 0 ]; do
    case "$1" in
        --dry-run) dry_run=1 ;;
        -h | --help) usage && exit 0 ;;
        --) shift && options=("$@") && break ;;
        *) echo "error: unknown option $1 (see --help)" >&2 && exit 2 ;;
    esac
    shift
done
case "$command" in
    -h | --help) usage && exit 0 ;;
    create | setup | run | stop | delete) ;;
    *) usage >&2 && exit 2 ;;
esac
for name in TPU_NAME ZONE; do
    [ -n "${!name:-}" ] || { echo "error: set $name (see --help)" >&2 && exit 2; }
done
cd "$(dirname "${BASH_SOURCE[0]}")/.."

perform() {
    if [ "$dry_run" -eq 1 ]; then
        printf '%q ' "$@" && echo
    else
        "$@"
    fi
}
everywhere() {
    perform gcloud compute tpus tpu-vm ssh "$TPU_NAME" --zone="$ZONE" --worker=all --command="$1"
}
case "$command" in
    create)
        spot=()
        [ -n "${SPOT:-}" ] && spot=(--spot)
        perform gcloud compute tpus queued-resources create "$TPU_NAME-request" \
            --node-id="$TPU_NAME" --zone="$ZONE" \
            --accelerator-type="${ACCELERATOR:-v5litepod-16}" \
            --runtime-version="${RUNTIME:-v2-alpha-tpuv5-lite}" "${spot[@]}"
        ;;
    setup)
        archive="$(mktemp -d)/mla_jax.tar.gz"
        perform git archive --format=tar.gz --output="$archive" HEAD
        perform gcloud compute tpus tpu-vm scp "$archive" "$TPU_NAME:mla_jax.tar.gz" \
            --zone="$ZONE" --worker=all
        everywhere "mkdir -p mla_jax && tar -xzf mla_jax.tar.gz -C mla_jax && cd mla_jax && \
${REMOTE_PYTHON:-python3.11} -m venv .venv && .venv/bin/pip install --quiet --editable '.[tpu]'"
        ;;
    run)
        [ "${#options[@]}" -gt 0 ] || { echo "error: give -- --config=..." >&2 && exit 2; }
        everywhere "cd mla_jax && .venv/bin/python -m mla_jax.main --distributed=on \
$(printf '%q ' "${options[@]}")"
        ;;
    stop) everywhere "pkill -TERM -f mla_jax.main" ;;
    delete)
        perform gcloud compute tpus queued-resources delete "$TPU_NAME-request" \
            --zone="$ZONE" --force
        ;;
esac
