#!/usr/bin/env bash
#SBATCH --job-name=mla_jax
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@120
set -euo pipefail
usage() {
    cat <<'TEXT'
usage: sbatch [OPTION of sbatch ...] launch/slurm.sh OPTION of mla_jax.main ...

One task a node (or a GPU); JAX finds the other tasks through SLURM.  Two minutes before its time
is up, or when it is preempted, the job saves a checkpoint; requeued, it goes on from there.

example: sbatch --nodes=2 --gpus-per-node=4 launch/slurm.sh --config=configs/digits.py

environment: PYTHON  the interpreter (default: .venv/bin/python of the submitting directory)
TEXT
}
case "${1:-}" in -h | --help) usage && exit 0 ;; esac
[ "$#" -gt 0 ] || { usage >&2 && exit 2; }
[ -n "${SLURM_JOB_ID:-}" ] || { echo "error: submit me with sbatch (see --help)" >&2 && exit 2; }
cd "${SLURM_SUBMIT_DIR:-.}"
mode=auto
[ "${SLURM_NTASKS:-1}" -gt 1 ] && mode=on
exec srun --kill-on-bad-exit=1 "${PYTHON:-.venv/bin/python}" -m mla_jax.main \
    --distributed="$mode" "$@"
