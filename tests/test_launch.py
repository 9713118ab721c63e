"""The launch scripts: sound shell, help, and refusals that say what to do."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
SOURCED = ("environment.sh", "perform.sh")
SCRIPTS = sorted(p.name for p in (ROOT / "launch").glob("*.sh") if p.name not in SOURCED)


def run(*command: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True
    )


def test_the_scripts_are_all_there():
    expected = {"quickstart.sh", "test.sh", "tpu_pod.sh", "slurm.sh", "local_multihost.sh"}
    assert set(SCRIPTS) >= expected | {"gke.sh", "try_slurm.sh"}


def test_shellcheck():
    beside = pathlib.Path(sys.executable).with_name("shellcheck")
    shellcheck = str(beside) if beside.exists() else shutil.which("shellcheck")
    assert shellcheck, "shellcheck is missing: install the test extra"
    scripts = [str(p) for p in (*(ROOT / "launch").glob("*.sh"), ROOT / ".ci" / "run")]
    done = run(shellcheck, "-x", *scripts)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_help(script):
    for option in ("--help", "-h"):
        done = run(f"launch/{script}", option)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("usage: ") and done.stderr == ""
        assert "--dry-run" in done.stdout
        assert max(map(len, done.stdout.splitlines())) <= 100


def test_tpu_pod_dry_run():
    names = {"TPU_NAME": "mla", "ZONE": "us-west4-a"}
    options = ["--config=configs/digits.py:method=mla", "--workdir=/mnt/b/run"]
    done = run("launch/tpu_pod.sh", "run", "--dry-run", "--", *options, **names)
    assert done.returncode == 0, done.stderr
    on_one_line = done.stdout.replace(" \\\n    ", " ")
    assert "tpu-vm ssh mla --zone=us-west4-a --worker=all" in on_one_line
    assert "configs/digits.py:method=mla" in done.stdout
    for command in ("create", "setup", "stop", "delete"):
        done = run("launch/tpu_pod.sh", command, "--dry-run", **names)
        assert done.returncode == 0 and done.stdout.startswith("g"), done.stderr


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (["launch/tpu_pod.sh", "create"], "set TPU_NAME"),
        (["launch/tpu_pod.sh", "fly"], "usage: launch/tpu_pod.sh"),
        (["launch/gke.sh", "run"], "set PROJECT"),
        (["launch/gke.sh", "fly"], "usage: launch/gke.sh"),
        (["launch/try_slurm.sh", "--fast"], "unknown option --fast"),
        (["launch/local_multihost.sh"], "usage: launch/local_multihost.sh"),
        (["launch/slurm.sh", "--config=x"], "submit me with sbatch"),
    ],
)
def test_refusals(command, sentence):
    done = run(*command)
    assert done.returncode == 2
    assert sentence in done.stderr


def test_an_old_python_is_refused(tmp_path):
    old = tmp_path / "python"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    for script in ("quickstart.sh", "test.sh"):
        done = run(f"launch/{script}", PYTHON_BASE=str(old), MLA_JAX_VENV=str(tmp_path / "venv"))
        assert done.returncode == 1
        assert "is not Python 3.11 or newer" in done.stderr


def test_where_there_is_no_slurm(tmp_path):
    for name in ("bash", "dirname"):
        (tmp_path / name).symlink_to(shutil.which(name))
    text = (ROOT / "launch" / "try_slurm.sh").read_text()
    alone = tmp_path / "launch" / "try_slurm.sh"
    alone.parent.mkdir()
    alone.write_text(text.replace(":/usr/sbin:/sbin", ""))
    shutil.copy(ROOT / "launch" / "perform.sh", alone.parent)
    done = run("bash", str(alone), PATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("skipped: munged munge slurmctld ") and done.stderr == ""
    assert "apt-get install slurm-wlm munge" in done.stdout


def test_the_dry_run_of_a_slurm_of_ones_own(tmp_path):
    done = run("launch/try_slurm.sh", "--dry-run", f"--folder={tmp_path / 'folder'}")
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []
    assert run("bash", "-n", "-c", done.stdout).returncode == 0
    for command in ("munged", "slurmctld", "slurmd", "sbatch"):
        assert re.search(rf"^{command} ", done.stdout, re.MULTILINE)
    assert "ProctrackType=proctrack/linuxproc\n" in done.stdout
