"""``launch/tpu_pod.sh run`` and ``stop`` on two workers: shells with homes of their own."""

import os
import pathlib
import signal
import subprocess
import time

import pytest

from tests.stand_ins import ROOT, StandIns

NAMES = {"TPU_NAME": "mla", "ZONE": "us-west4-a"}
GCLOUD = """
for word in "$@"; do
    case "$word" in --command=*) command="${word#*=}" ;; esac
done
pids=() status=0
for home in "$WORKERS"/*; do
    (cd "$home" && HOME="$home" exec bash -c "$command") &
    pids+=("$!")
done
for pid in "${pids[@]}"; do wait "$pid" || status=$?; done
exit "$status"
"""
PYTHON = """#!/usr/bin/env bash
trap 'echo "saved $*" >>"$HOME/said"; exit 143' TERM
echo "started $*" >>"$HOME/said"
while sleep 0.05; do :; done
"""
OPTIONS = ["--config=configs/digits.py", "--workdir=/mnt/it's shared"]
ASKED = f"-m mla_jax.main --distributed=on {' '.join(OPTIONS)}"


class Pod:
    """Two workers, and a run on them."""

    def __init__(self, folder: pathlib.Path):
        self.stand_ins = StandIns(folder)
        self.stand_ins.add("gcloud", then=GCLOUD)
        self.homes = [folder / "workers" / str(i) for i in range(2)]
        for home in self.homes:
            python = home / "mla_jax" / ".venv" / "bin" / "python"
            python.parent.mkdir(parents=True)
            python.write_text(PYTHON)
            python.chmod(0o755)
        self.environment = NAMES | {"WORKERS": str(folder / "workers")}
        self.running: list[subprocess.Popen] = []

    def do(self, command: str, **changes: str) -> subprocess.CompletedProcess:
        options = ["--", *OPTIONS] if command == "run" else []
        environment = self.environment | changes
        return self.stand_ins.run("launch/tpu_pod.sh", command, *options, **environment)

    def start(self, **changes: str) -> subprocess.Popen:
        """Starts the run, and waits until it is at work on both workers."""
        path = f"{self.stand_ins.folder}:{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "CALLS": "/dev/null", **self.environment}
        process = subprocess.Popen(
            ["launch/tpu_pod.sh", "run", "--", *OPTIONS], cwd=ROOT, env=environment | changes,
            start_new_session=True,
        )  # fmt: skip
        self.running.append(process)
        deadline = time.monotonic() + 30
        while not all((home / "said").exists() for home in self.homes):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        return process

    def said(self) -> list[str]:
        return [(home / "said").read_text() for home in self.homes]


@pytest.fixture
def pod(tmp_path):
    made = Pod(tmp_path)
    yield made
    for process in made.running:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def another():
    """A process of somebody else that is called like a run."""
    process = subprocess.Popen(["python -m mla_jax.main --config=x", "60"], executable="/bin/sleep")
    yield process
    process.kill()
    process.wait()


def test_stop_signals_the_run_and_nothing_else(pod, another):
    run = pod.start()
    assert pod.said() == [f"started {ASKED}\n"] * 2
    stopped = pod.do("stop")
    assert stopped.returncode == 0, stopped.stderr
    assert stopped.stdout.count("saves a checkpoint and ends") == 2
    assert run.wait(timeout=30) == 143
    assert pod.said() == [f"started {ASKED}\nsaved {ASKED}\n"] * 2
    assert another.poll() is None


def test_a_second_run_on_the_same_slice_is_refused(pod):
    run = pod.start()
    done = pod.do("run")
    assert done.returncode == 1
    assert done.stderr.count("is running already: launch/tpu_pod.sh stop") == 2
    assert run.poll() is None and pod.said() == [f"started {ASKED}\n"] * 2


def test_stop_where_nothing_runs(pod, another):
    """Not even a process whose number is that of a run which is over."""
    for home in pod.homes:
        (home / "mla_jax-mla.process").write_text(f"{another.pid} 1\n")
    for _ in ("stale", "missing"):
        done = pod.do("stop")
        assert done.returncode == 0 and done.stdout.count("no run of mla") == 2, done.stderr
        assert another.poll() is None
        for home in pod.homes:
            (home / "mla_jax-mla.process").unlink(missing_ok=True)


def test_stop_of_another_slice(pod):
    run = pod.start()
    done = pod.do("stop", TPU_NAME="other")
    assert done.stdout.count("no run of other") == 2 and run.poll() is None


def test_a_run_goes_on_after_one_that_was_stopped(pod):
    for _ in range(2):
        for home in pod.homes:
            (home / "said").unlink(missing_ok=True)
        run = pod.start()
        assert pod.do("stop").returncode == 0
        assert run.wait(timeout=30) == 143


def test_names_that_are_none():
    for name, value in {"TPU_NAME": "a b", "ZONE": "x;y"}.items():
        done = subprocess.run(
            ["launch/tpu_pod.sh", "stop"], cwd=ROOT, env={**os.environ, **NAMES, name: value},
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 2 and f"error: {name}={value} is no name" in done.stderr
