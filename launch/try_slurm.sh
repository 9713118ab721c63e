#!/usr/bin/env bash
set -euo pipefail
usage() {
    cat <<'TEXT'
usage: launch/try_slurm.sh [--dry-run] [--folder=DIR] [--epochs=N]

Tries launch/slurm.sh with a real SLURM.  It starts munged, slurmctld and slurmd on this machine.
Their settings, keys and logs are in one folder, and they use their own ports.  It runs two tasks on
the embedded digits, on the CPU, and stops the daemons at the end.  It tries three jobs:

  1. a job without interruption;
  2. the same job, requeued by "scontrol requeue" in the middle: both tasks save the same checkpoint
     and the job resumes from it.  Its losses, its test results and the bytes of its last checkpoint
     must equal those of job 1;
  3. a job longer than its time limit: it saves, requeues itself and resumes, until it is done.

The exit status is 0 if all of this holds, and 1 if not.  If SLURM or munge is missing, it says so,
tries nothing and exits with 0.  It takes 5 to 15 minutes.

--dry-run     prints the commands that start the daemons and submit the jobs
--folder=DIR  the folder for everything, which is kept (default: a temporary folder, removed at the
              end unless something failed)
--epochs=N    epochs of jobs 1 and 2 (default: 20); raise it if job 2 ends before it is requeued

Debian and Ubuntu: apt-get install slurm-wlm munge.

environment: PYTHON  the interpreter (default: .venv/bin/python)
TEXT
}
dry_run=0 folder='' epochs=20
for argument in "$@"; do
    case "$argument" in
        -h | --help) usage && exit 0 ;;
        --dry-run) dry_run=1 ;;
        --folder=*[[:space:]]*) echo "error: name a --folder without spaces" >&2 && exit 2 ;;
        --folder=?*) folder="${argument#*=}" ;;
        --epochs=[1-9]*) epochs="${argument#*=}" ;;
        *) echo "error: unknown option $argument (see --help)" >&2 && exit 2 ;;
    esac
done
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/perform.sh
source launch/perform.sh

PATH="$PATH:/usr/sbin:/sbin" # where distributions put daemons
missing=()
for program in munged munge slurmctld slurmd sbatch srun scontrol squeue sinfo; do
    command -v "$program" >/dev/null || missing+=("$program")
done
if [ "${#missing[@]}" -gt 0 ] && [ "$dry_run" -eq 0 ]; then
    echo "skipped: ${missing[*]} not found; Debian and Ubuntu: apt-get install slurm-wlm munge"
    exit 0
fi
export PYTHON="${PYTHON:-.venv/bin/python}"
if [ "$dry_run" -eq 0 ] && ! "$PYTHON" -c 'import mla_jax' 2>/dev/null; then
    echo "error: $PYTHON cannot import mla_jax: name an interpreter that can in PYTHON" >&2
    exit 2
fi

keep=1
if [ -z "$folder" ]; then
    keep=0
    folder="${TMPDIR:-/tmp}/try_slurm" # as a dry run shows it
    [ "$dry_run" -eq 1 ] || { folder="$(mktemp -d)" && chmod 755 "$folder"; } # munged wants it open
fi
[ "$dry_run" -eq 1 ] || mkdir -p "$folder/state" "$folder/spool"
[ "$dry_run" -eq 1 ] || folder="$(cd "$folder" && pwd)"
export SLURM_CONF="$folder/slurm.conf" # where SLURM's commands find the settings
export JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=1

# ---- The daemons ---------------------------------------------------------------------------------

host="$(hostname -s)" user="$(id -un)" port=$((20000 + RANDOM % 10000))
settings() {
    cat <<TEXT
ClusterName=try
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmdPort=$((port + 1))
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket,cred_expire=10
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
JobRequeue=1
NodeName=$host NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=debug Nodes=$host Default=YES MaxTime=INFINITE State=UP
TEXT
}
key=(dd if=/dev/urandom "of=$folder/munge.key" bs=128 count=1 status=none)
munged=(munged --foreground --key-file="$folder/munge.key" --socket="$folder/munge.socket"
    --pid-file="$folder/munged.pid" --log-file="$folder/munged.log"
    --seed-file="$folder/munged.seed")
slurmctld=(slurmctld -D) slurmd=(slurmd -D)
submission() { # NAME EPOCHS [OPTION of sbatch ...]
    command=(sbatch --parsable --job-name="$1" --output="$folder/$1.log" --ntasks-per-node=2
        --cpus-per-task=1 "${@:3}" launch/slurm.sh --config="configs/digits.py:epochs=$2"
        --workdir="$folder/$1")
}
limit=(--time=2 --signal=B:USR1@10)

if [ "$dry_run" -eq 1 ]; then
    show cd "$PWD"
    show export "PYTHON=$PYTHON" "SLURM_CONF=$SLURM_CONF" JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=1
    # shellcheck disable=SC2016  # it is $PATH that is to be printed
    echo 'export PATH="$PATH:/usr/sbin:/sbin"'
    show mkdir -p "$folder/state" "$folder/spool"
    show chmod 755 "$folder"
    echo "cat >$(quote "$SLURM_CONF") <<'TEXT'" && settings && echo TEXT
    (umask 077 && show "${key[@]}") && show chmod 600 "$folder/munge.key"
    behind=' &' show "${munged[@]}"
    behind=' &' show "${slurmctld[@]}"
    behind=' &' show "${slurmd[@]}"
    submission straight "$epochs" && show "${command[@]}"
    submission requeued "$epochs" && show "${command[@]}"
    echo 'scontrol requeue NUMBER_OF_THE_JOB'
    submission limited 400 "${limit[@]}" && show "${command[@]}"
    exit 0
fi

daemons=()
start() { # COMMAND ...; its output goes to a file of its name
    "$@" >"$folder/$1.out" 2>&1 &
    daemons+=("$!")
}
TRY_SLURM_ID="$(cat /proc/sys/kernel/random/uuid)"
export TRY_SLURM_ID # inherited by all that the daemons start: by it they are found at the end
ours() {
    local id="$TRY_SLURM_ID"
    unset TRY_SLURM_ID # grep itself is not to be found
    grep -lzFx "TRY_SLURM_ID=$id" /proc/[0-9]*/environ 2>/dev/null | cut -d/ -f3 || true
}
# shellcheck disable=SC2317,SC2329  # called by the trap
clean_up() {
    local status=$? left pid i
    trap '' INT TERM
    trap - EXIT
    set +e
    if [ "${#daemons[@]}" -eq 3 ]; then
        timeout 10 scancel --user="$user" 2>/dev/null
        for _ in $(seq 20); do
            [ -n "$(timeout 10 squeue --noheader 2>/dev/null)" ] || break
            sleep 1
        done
    fi
    for ((i = ${#daemons[@]} - 1; i >= 0; i--)); do
        kill -TERM "${daemons[i]}" 2>/dev/null
        for _ in $(seq 50); do
            kill -0 "${daemons[i]}" 2>/dev/null || break
            sleep 0.2
        done
        kill -KILL "${daemons[i]}" 2>/dev/null
    done
    for pid in $(ours); do # something that outlived its daemon
        kill -KILL "$pid" 2>/dev/null
    done
    sleep 0.5
    left="$(ours)"
    echo "stopped ${#daemons[@]} daemons; processes left: ${left:-none}"
    if [ "$status" -ne 0 ] || [ "$keep" -eq 1 ]; then
        echo "logs: $folder"
    else
        rm -rf "$folder"
    fi
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

fail() {
    echo "FAILED: $*"
    for log in "$folder"/*.log "$folder"/*.out; do
        [ ! -s "$log" ] || { echo "--- $log" && tail -n 15 "$log"; }
    done
    exit 1
}
wait_for() { # SECONDS WHAT COMMAND ...: until the command succeeds
    local end=$((SECONDS + $1)) what="$2"
    shift 2
    until "$@"; do
        [ "$SECONDS" -lt "$end" ] || fail "after waiting: $what"
        for pid in "${daemons[@]}"; do
            kill -0 "$pid" 2>/dev/null || fail "a daemon has ended by itself"
        done
        sleep 0.5
    done
}
submit() { # NAME EPOCHS [OPTION of sbatch ...]: sets $job
    submission "$@"
    job="$("${command[@]}")"
    echo "$1 (job $job): ${*:3} $2 epochs"
}
gone() { [ -z "$(squeue --noheader --jobs="$job" 2>/dev/null)" ]; }
succeeded() { [[ "$(scontrol show job "$job")" == *JobState=COMPLETED*ExitCode=0:0* ]]; }
ended() {
    gone || [[ "$(scontrol show job "$job")" =~ JobState=(COMPLETED|FAILED|TIMEOUT|CANCELLED) ]]
}
epochs_done() { cat "$folder/$1/metrics.jsonl" 2>/dev/null | grep -c '"train"' || true; }
has_done() { [ "$(epochs_done "$1")" -ge "$2" ]; }
said() { grep -E "$2" "$folder/$1.log" || true; } # NAME PATTERN
stops_of() { said "$1" 'stopped after batch' | sed -E 's/.*stopped after batch ([0-9]+),.*/\1/'; }
resumptions_of() { said "$1" '^resuming ' | sed -E 's/.* after batch ([0-9]+) of .*/\1/'; }

check_stops() { # NAME: each stop was of both tasks, at one batch, and the next start went on there
    local stops resumptions
    mapfile -t stops < <(stops_of "$1")
    mapfile -t resumptions < <(resumptions_of "$1")
    [ "${#resumptions[@]}" -gt 0 ] || fail "job $1 has not been resumed"
    [ "${#stops[@]}" -eq $((2 * ${#resumptions[@]})) ] ||
        fail "job $1: ${#stops[@]} tasks stopped with a checkpoint, ${#resumptions[@]} resumptions"
    for ((i = 0; i < ${#resumptions[@]}; i++)); do
        [ "${stops[2 * i]} ${stops[2 * i + 1]}" = "${resumptions[i]} ${resumptions[i]}" ] ||
            fail "job $1 stopped after ${stops[*]}, resumed after ${resumptions[*]}"
    done
    echo "  both tasks saved a checkpoint after batch ${resumptions[*]}; resumed there"
}

start_daemons() {
    settings >"$SLURM_CONF"
    (umask 077 && "${key[@]}")
    start "${munged[@]}"
    wait_for 20 "munged does not answer" munge --socket="$folder/munge.socket" --no-input \
        --output=/dev/null 2>/dev/null
    start "${slurmctld[@]}"
    start "${slurmd[@]}"
    node_is_idle() { [ "$(timeout 10 sinfo --noheader --format=%T 2>/dev/null)" = idle ]; }
    wait_for 60 "the node is not idle" node_is_idle
}

# ---- What is tried -------------------------------------------------------------------------------

echo "$(date -u '+%Y-%m-%d %H:%M UTC'): $(slurmd -V), $(munged --version | cut -d' ' -f1),"
"$PYTHON" -c 'import jax, platform
print(f"Python {platform.python_version()}, jax {jax.__version__}")'
start_daemons
echo "one node of 2 CPUs: $(srun --ntasks=2 hostname | sort | uniq -c | tr -s ' ')"

submit straight "$epochs"
wait_for 1800 "job $job goes on" ended
succeeded || fail "job $job has not succeeded"
said straight '^ +(fused|[0-9]+ epochs)'

submit requeued "$epochs"
under_way() { has_done requeued 2 || ended; }
wait_for 600 "job $job has done no epoch" under_way
sleep 0.3 # inside of an epoch
! ended || fail "job $job ended before it could be requeued: give more --epochs"
scontrol requeue "$job"
echo "  scontrol requeue $job, after epoch $(epochs_done requeued)"
wait_for 1800 "job $job goes on" ended
succeeded || fail "job $job has not succeeded"
said requeued '^ +(fused|[0-9]+ epochs)'
check_stops requeued
"$PYTHON" - "$folder/straight" "$folder/requeued" <<'TEXT' || fail "the two runs differ"
import json, pathlib, sys

import numpy as np
from orbax.checkpoint import v1 as ocp

from mla_jax.runs import checkpoint, metrics


def kept(folder):
    """What a run has left: its losses and accuracies by epoch, its result, the last checkpoint."""
    lines = metrics.read_lines(folder / "metrics.jsonl")
    epochs = [{k: v for k, v in s.items() if k != "time"} for s in lines if "train" in s]
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    last = max(int(path.name) for path in (folder / "checkpoints").iterdir())
    saved = ocp.load_checkpointables(folder / "checkpoints" / str(last), checkpoint.PROGRESS)
    progress = json.loads(np.asarray(saved["progress"]["json"]).tobytes())
    return {"epochs": epochs, "test": result["test"], "last": last, "arrays": progress["checksum"]}


straight, requeued = (kept(pathlib.Path(name)) for name in sys.argv[1:])
for name, value in straight.items():
    if requeued[name] != value:
        sys.exit(f"{name} differs: {value} and {requeued[name]}")
epochs, last, arrays = len(straight["epochs"]), straight["last"], straight["arrays"]
print(f"  bit for bit as straight: the losses and accuracies of {epochs} epochs, the test results,")
print(f"  all arrays of checkpoint {last} (CRC-32 {arrays:08x})")
TEXT

# As many epochs as take 150 s: the signal comes 50 to 80 s after the start, SLURM looks every 30 s.
many="$("$PYTHON" -c 'import json, math, sys
train = json.load(open(sys.argv[1], encoding="utf-8"))["train"]
print(math.ceil(150 * train["epochs"] / train["seconds"]))' "$folder/straight/result.json")"
submit limited "$many" "${limit[@]}"
wait_for 1800 "job $job goes on" ended
succeeded || fail "job $job has not succeeded"
said limited '^ +(fused|[0-9]+ epochs)'
check_stops limited
[ "$(epochs_done limited)" -eq "$many" ] || fail "$(epochs_done limited) epochs, not $many"
echo "  $many epochs, each once, in $(($(resumptions_of limited | wc -l) + 1)) starts"
echo "all of it holds"
