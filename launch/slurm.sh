#!/usr/bin/env bash
#SBATCH --job-name=mla_jax
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120
set -euo pipefail
usage() {
    cat <<'TEXT'
usage: sbatch [OPTION of sbatch ...] launch/slurm.sh OPTION of mla_jax.main ...
       launch/slurm.sh --dry-run OPTION of mla_jax.main ...     prints what a job would run

There is one task per node, which uses all GPUs of the job on that node.  JAX finds the other nodes
through SLURM.  With --ntasks-per-node=N the N tasks of a node divide its GPUs evenly.

Two minutes before its time limit the job saves a checkpoint and requeues itself.  It resumes from
that checkpoint, until the run is finished.  (--signal=B:USR1@600 makes it ten minutes.)  A job that
fails or is cancelled is not requeued.  What happens on preemption depends on the cluster.  If it
sends this signal first (PreemptParameters=send_user_signal), the job saves a checkpoint.  If not,
the batches since the last checkpoint may be lost.

example: sbatch --nodes=2 --gpus-per-node=4 launch/slurm.sh --config=configs/digits.py
         scancel --signal=TERM JOB     stops it, with a checkpoint; submit it again to resume

environment: PYTHON  the interpreter (default: .venv/bin/python of the submitting directory)
TEXT
}
case "${1:-}" in -h | --help) usage && exit 0 ;; esac
dry_run=0
[ "${1:-}" != --dry-run ] || { dry_run=1 && shift; }
[ "$#" -gt 0 ] || { usage >&2 && exit 2; }
if [ "$dry_run" -eq 0 ] && [ -z "${SLURM_JOB_ID:-}" ]; then
    echo "error: submit me with sbatch (see --help)" >&2 && exit 2
fi
mode=auto
[ "${SLURM_NTASKS:-1}" -gt 1 ] && mode=on
step=(srun --kill-on-bad-exit=1 ${SLURM_CPUS_PER_TASK:+"--cpus-per-task=$SLURM_CPUS_PER_TASK"}
    "${PYTHON:-.venv/bin/python}" -m mla_jax.main --distributed="$mode" "$@")
if [ "$dry_run" -eq 1 ]; then
    # shellcheck source=launch/perform.sh
    source "$(dirname "${BASH_SOURCE[0]}")/perform.sh" # not beside a job's script, which is a copy
    show "${step[@]}" && exit 0
fi
cd "${SLURM_SUBMIT_DIR:-.}"

requeue=no heard=yes status=0
# shellcheck disable=SC2317,SC2329  # called by the trap
save() { # SLURM passes the signal on to the tasks; srun, given it, would kill them at once
    heard=yes requeue=yes
    scancel --signal=TERM "$SLURM_JOB_ID" || echo "error: the tasks cannot be told to save" >&2
}
trap save USR1
trap 'heard=yes requeue=no' TERM # SLURM ends the job
"${step[@]}" &
srun=$!
while [ "$heard" = yes ]; do # a signal ends the waiting
    heard=no status=0
    wait "$srun" || status=$?
done
if [ "$requeue" = yes ] && [ "$status" -eq 143 ]; then # stopped by SIGTERM, with a checkpoint
    scontrol requeue "$SLURM_JOB_ID" || echo "error: cannot be requeued: submit it again" >&2
fi
exit "$status"
