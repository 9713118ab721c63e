"""How many cores a process counts: ``loader.workers=auto``, and ``--workers`` of commands."""

import os

import pytest

from mla_jax import slurm
from mla_jax.data import cores


def test_usable_cores_are_those_of_this_process(monkeypatch):
    assert 1 <= cores.usable_cores() <= os.cpu_count()
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(12), raising=False)
    monkeypatch.setattr(cores, "quota", lambda: 0)
    monkeypatch.delenv(cores.SHARE, raising=False)
    monkeypatch.delenv("SLURM_CPUS_ON_NODE", raising=False)
    assert cores.usable_cores() == 12
    monkeypatch.setenv(cores.SHARE, "default")  # which Python allows
    assert cores.usable_cores() == 12
    monkeypatch.setenv(cores.SHARE, "8")
    assert cores.usable_cores() == 8
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "24")
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", "4")
    assert cores.usable_cores() == 6
    monkeypatch.setattr(cores, "quota", lambda: 2)
    assert cores.usable_cores() == 2


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "max 100000\n"}, 0),
        ({"cpu.max": "nonsense"}, 0),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0),
        ({"cpu/cpu.cfs_quota_us": "400000\n"}, 0),
        ({}, 0),
    ],
)
def test_the_quota_of_a_container(tmp_path, files, expected):
    (tmp_path / "cpu").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="ascii")
    assert cores.quota(tmp_path) == expected


@pytest.mark.parametrize(
    ("variables", "cores"),
    [
        ({}, 0),
        ({"SLURM_CPUS_ON_NODE": "16"}, 16),
        ({"SLURM_CPUS_ON_NODE": "16", "SLURM_STEP_TASKS_PER_NODE": "4(x2)"}, 4),
        ({"SLURM_CPUS_ON_NODE": "6", "SLURM_STEP_TASKS_PER_NODE": "2,4", "SLURM_NODEID": "1"}, 1),
        ({"SLURM_CPUS_ON_NODE": "2", "SLURM_NTASKS_PER_NODE": "4"}, 1),
    ],
)
def test_the_tasks_of_a_node_share_its_cores(variables, cores):
    assert slurm.cores_of_task(variables) == cores
