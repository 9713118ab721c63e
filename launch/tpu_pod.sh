#!/usr/bin/env bash
set -euo pipefail
usage() {
    cat <<'TEXT'
usage: launch/tpu_pod.sh COMMAND [--dry-run] [-- OPTION of mla_jax.main ...]

Runs mla_jax on a Cloud TPU pod slice, with the same command on every worker.

commands: create  asks for the slice (a queued resource; set SPOT=1 for a spot one)
          setup   copies this repository to every worker and installs it there
          run     starts or resumes the run on every worker; needs -- --config=... --workdir=...
          stop    sends SIGTERM to that run on every worker: it saves a checkpoint and ends
          delete  deletes the slice
--dry-run prints the commands instead, to be read or pasted.

environment: TPU_NAME, ZONE      name and zone (required)
             ACCELERATOR         default v5litepod-16
             RUNTIME             default v2-alpha-tpuv5-lite
             REMOTE_PYTHON       the workers' Python, 3.11 or newer (default: python3.11)
             EXTRAS              extras to install on the workers (default: tpu,gcs)

example: export TPU_NAME=mla ZONE=us-west4-a
         launch/tpu_pod.sh create && launch/tpu_pod.sh setup
         launch/tpu_pod.sh run -- --config=configs/digits.py --workdir=gs://BUCKET/runs/digits

All workers need access to --workdir: a bucket, gs://BUCKET/..., or a shared folder (NFS).
Data sets can be in a bucket too: --data_dir=gs://BUCKET/data.  Buckets need the extra gcs.
A run may end if this terminal loses its connection.  Start it in tmux; the same command resumes it.
TEXT
}
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/perform.sh
source launch/perform.sh
read_command "$@"
case "$command" in
    -h | --help) usage && exit 0 ;;
    create | setup | run | stop | delete) ;;
    *) usage >&2 && exit 2 ;;
esac
for name in TPU_NAME ZONE; do
    [ -n "${!name:-}" ] || { echo "error: set $name (see --help)" >&2 && exit 2; }
    [[ "${!name}" =~ ^[a-z][a-z0-9-]*$ ]] ||
        { echo "error: $name=${!name} is no name" >&2 && exit 2; }
done

everywhere() {
    perform gcloud compute tpus tpu-vm ssh "$TPU_NAME" --zone="$ZONE" --worker=all --command="$1"
}
# What `run` leaves on each worker: the process's id and when it started, in clock ticks since boot.
# A number alone may be another process's by the time it is used; the two together are not.
process_file="mla_jax-$TPU_NAME.process"
# shellcheck disable=SC2016  # the workers' shells expand it
running='started() { sed "s/.*) //" "/proc/$1/stat" 2>/dev/null | cut -d" " -f20; }
read -r id at 2>/dev/null <"$file" || id=
[ -n "$id" ] && [ -n "$at" ] && [ "$(started "$id")" = "$at" ] || id='
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
        archive="${TMPDIR:-/tmp}/mla_jax-$TPU_NAME.tar.gz"
        perform git archive --format=tar.gz --output="$archive" HEAD
        perform gcloud compute tpus tpu-vm scp "$archive" "$TPU_NAME:mla_jax.tar.gz" \
            --zone="$ZONE" --worker=all
        everywhere "set -e
mkdir -p mla_jax
tar -xzf mla_jax.tar.gz -C mla_jax
cd mla_jax
$(inside=1 quote "${REMOTE_PYTHON:-python3.11}") -m venv .venv
.venv/bin/python -m pip install --quiet --editable $(inside=1 quote ".[${EXTRAS:-tpu,gcs}]")"
        ;;
    run)
        [ "${#options[@]}" -gt 0 ] || { echo "error: give -- --config=..." >&2 && exit 2; }
        everywhere "file=\$HOME/$process_file
$running
[ -z \"\$id\" ] ||
    { echo \"error: process \$id is running already: launch/tpu_pod.sh stop\" >&2; exit 1; }
cd mla_jax || exit
echo \"\$\$ \$(started \$\$)\" >\"\$file\"
exec $(inside=1 show .venv/bin/python -m mla_jax.main --distributed=on "${options[@]}")"
        ;;
    stop)
        everywhere "file=\$HOME/$process_file
$running
[ -n \"\$id\" ] || { echo \"\$(hostname): no run of $TPU_NAME\"; exit 0; }
kill -TERM \"\$id\" && echo \"\$(hostname): process \$id saves a checkpoint and ends\""
        ;;
    delete)
        perform gcloud compute tpus queued-resources delete "$TPU_NAME-request" \
            --zone="$ZONE" --force
        ;;
esac
