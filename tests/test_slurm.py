"""SLURM: which GPUs a task takes, and what the batch script does when its time is up.

No SLURM is needed: its variables are set, and its commands are stand-ins that write down what they
were asked.
"""

import os
import pathlib
import signal
import subprocess
import time
from unittest import mock

import jax
import pytest
from jax._src.distributed import State

from mla_jax import distributed
from mla_jax.errors import UserError

ROOT = pathlib.Path(__file__).parents[1]
TIME_IS_UP = signal.SIGUSR1
TASK = {
    "SLURM_JOB_ID": "17", "SLURM_STEP_NODELIST": "node[1-2]", "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1", "SLURM_LOCALID": "0", "SLURM_NODEID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "1(x2)", "SLURMD_NODENAME": "node2",
}  # fmt: skip
"""The second of two tasks, each on a node of its own."""


@pytest.fixture
def task(monkeypatch):
    """``task(**changes)``: makes this process the task that ``TASK`` and the changes describe."""

    def become(**changes: str | None) -> None:
        names = ("SLURM_GPUS_ON_NODE", "CUDA_VISIBLE_DEVICES", "JAX_LOCAL_DEVICE_IDS")
        for name, value in (dict.fromkeys(names) | TASK | changes).items():
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, value)

    return become


@pytest.fixture
def visible(monkeypatch):
    """``visible(...)``: the devices that JAX shows after ``distributed.initialize(...)``.

    All of JAX's set-up is run but for the connection.
    """
    monkeypatch.setattr(jax.distributed, "initialize", lambda *a, **k: State().initialize(*a, **k))

    def initialize(*arguments) -> str:
        with mock.patch("jax._src.distributed._jax"):
            distributed.initialize(*arguments)
        return jax.config.read("jax_cuda_visible_devices")

    yield initialize
    jax.config.update("jax_cuda_visible_devices", "all")
    jax.config.update("jax_rocm_visible_devices", "all")


GPUS = {"SLURM_GPUS_ON_NODE": "4", "CUDA_VISIBLE_DEVICES": "0,1,2,3"}
FOUR = {"SLURM_STEP_TASKS_PER_NODE": "1,4", "SLURM_NTASKS": "5", "SLURM_LOCALID": "2"}
TWO = {"SLURM_STEP_TASKS_PER_NODE": "4,2(x3)", "SLURM_NTASKS": "10", "SLURM_LOCALID": "1"}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (GPUS, "all"),  # one task takes all
        ({"SLURM_GPUS_ON_NODE": "4"}, "all"),
        ({}, "all"),
        (GPUS | FOUR, "2"),  # all tasks see all GPUs: each takes its share
        (GPUS | TWO, "2,3"),
        (FOUR | {"SLURM_GPUS_ON_NODE": "8"}, "4,5"),
        (FOUR | {"SLURM_GPUS_ON_NODE": "4", "CUDA_VISIBLE_DEVICES": "2"}, "all"),  # bound already
        (TWO | {"SLURM_GPUS_ON_NODE": "4", "CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b"}, "all"),
        (FOUR | {"CUDA_VISIBLE_DEVICES": "0"}, "all"),
        (FOUR | {"CUDA_VISIBLE_DEVICES": ""}, "all"),
        (FOUR, "2"),  # nothing is known: one GPU per task, as JAX has it
        (GPUS | {"JAX_LOCAL_DEVICE_IDS": "0,3"}, "0,3"),  # the user knows better
        (GPUS | {"SLURM_STEP_TASKS_PER_NODE": None, "SLURM_NTASKS_PER_NODE": "2"}, "0,1"),
        (GPUS | {"SLURM_STEP_TASKS_PER_NODE": None}, "all"),
    ],
)
@pytest.mark.parametrize("arguments", [(), ("auto", "node1:1234", 2, 1)])
def test_the_gpus_of_a_task(task, visible, changes, expected, arguments):
    task(**changes)
    assert visible(*arguments) == expected


def test_tasks_that_cannot_share_the_gpus(task, visible):
    task(**FOUR, SLURM_GPUS_ON_NODE="6")
    with pytest.raises(UserError, match="6 GPUs of node2 do not divide among its 4 tasks: use"):
        visible()


@pytest.mark.parametrize(
    ("seen", "given", "changes", "sentence"),
    [
        (1, "4", {}, "of the 4 GPUs that SLURM has allocated on node2, this process uses 1, and"),
        (0, "4", {}, "uses 0, and the tasks of the node 0 in all: install the extra cuda12"),
        (1, "8", FOUR, "uses 1, and the tasks of the node 4 in all: start one task per node"),
        (1, "4", FOUR, ""),
        (4, "4", {}, ""),
        (0, None, {}, ""),
    ],
)
def test_gpus_that_are_left_over(task, monkeypatch, seen, given, changes, sentence):
    devices = [mock.Mock(platform="gpu")] * seen or [mock.Mock(platform="cpu")] * 8
    monkeypatch.setattr(jax, "local_devices", lambda: devices)
    task(**changes, SLURM_GPUS_ON_NODE=given)
    said = distributed.unused_gpus()
    assert sentence in said if sentence else said == ""


def test_a_command_says_that_gpus_are_left_over(commands, tmp_path):
    options = ["--config=tests/configs/tiny.py", "--distributed=off", "--config.batch_size=9999999"]
    options.append(f"--workdir={tmp_path / 'run'}")
    done = commands.run("mla_jax.main", options, SLURM_GPUS_ON_NODE="4")
    warning, error = done.stderr.splitlines()
    assert warning.startswith("warning: of the 4 GPUs that SLURM has allocated on this node")
    assert error.startswith("error: ") and "9999999" in error and done.returncode == 2


# ---- The batch script ------------------------------------------------------------------------

SRUN = """#!/usr/bin/env bash
echo "srun $*" >>"$CALLS"
until [ -e "$CALLS.end" ]; do sleep 0.01; done
exit "$ENDS"
"""
ANOTHER = """#!/usr/bin/env bash
echo "${0##*/} $*" >>"$CALLS"
[ "${0##*/}" != scancel ] || touch "$CALLS.end"
"""
RUN = "srun --kill-on-bad-exit=1 python -m mla_jax.main --distributed=auto --config=x y.py"


@pytest.fixture
def batch(tmp_path):
    """``batch(sends, ends, ...)``: runs the script; its status and the commands it gave.

    It gets a signal while its ``srun`` is at work, which ends with a status: after ``scancel`` if
    the signal is that of the time limit, else at once.
    """
    for name, text in (("srun", SRUN), ("scancel", ANOTHER), ("scontrol", ANOTHER)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    calls = tmp_path / "calls"

    def run(sends: signal.Signals | None, ends: int, **changes: str) -> tuple[int, list[str]]:
        environment = {
            "PATH": f"{tmp_path}:{os.environ['PATH']}", "CALLS": str(calls), "ENDS": str(ends),
            "SLURM_JOB_ID": "17", "PYTHON": "python",
        } | changes  # fmt: skip
        process = subprocess.Popen(
            ["launch/slurm.sh", "--config=x y.py"], cwd=ROOT, env=environment
        )
        while not calls.exists():
            time.sleep(0.01)
            assert process.poll() is None
        if sends:
            process.send_signal(sends)
        if sends != TIME_IS_UP:
            calls.with_name("calls.end").touch()
        return process.wait(timeout=60), calls.read_text().splitlines()

    return run


def test_a_job_whose_time_is_up_goes_on_by_itself(batch):
    assert batch(TIME_IS_UP, 143) == (
        143, [RUN, "scancel --signal=TERM 17", "scontrol requeue 17"]
    )  # fmt: skip
    script = (ROOT / "launch" / "slurm.sh").read_text()
    assert f"#SBATCH --signal=B:{TIME_IS_UP.name.removeprefix('SIG')}@" in script


@pytest.mark.parametrize("ends", [0, 1, 3, 137])
def test_a_job_that_ends_otherwise_when_its_time_is_up_is_not_requeued(batch, ends):
    assert batch(TIME_IS_UP, ends) == (ends, [RUN, "scancel --signal=TERM 17"])


@pytest.mark.parametrize("sends", [None, signal.SIGTERM])
def test_a_job_that_was_cancelled_is_not_requeued(batch, sends):
    assert batch(sends, 143) == (143, [RUN])


def test_a_job_of_several_tasks(batch):
    status, calls = batch(None, 0, SLURM_NTASKS="2", SLURM_CPUS_PER_TASK="8")
    expected = RUN.replace("=auto", "=on").replace(" python", " --cpus-per-task=8 python")
    assert (status, calls) == (0, [expected])
