"""How many cores a process may use, which is often fewer than the machine has."""

import math
import os
import pathlib

from mla_jax import slurm

CGROUPS = pathlib.Path("/sys/fs/cgroup")
"""Where Linux shows a container the limits that it runs under."""
SHARE = "PYTHON_CPU_COUNT"
"""The variable that limits the cores that Python counts (Python 3.13); here in all versions."""


def usable_cores() -> int:
    """The cores that this process may use; at least 1.

    Those that the system lets it run on, and no more than a container's quota, its share of the
    cores of a SLURM node, or the variable ``SHARE``, which ``compare --workers`` sets.
    """
    allowed = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    share = os.environ.get(SHARE, "")
    limits = (quota(), slurm.cores_of_task(os.environ), int(share) if share.isdecimal() else 0)
    return min(allowed, *(limit or allowed for limit in limits))


def quota(folder: pathlib.Path = CGROUPS) -> int:
    """The cores whose time a control group of Linux may use, rounded up; 0 without a limit.

    ``folder`` holds ``cpu.max`` (version 2) or ``cpu/cpu.cfs_*_us`` (version 1).
    """
    first = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    for names in (("cpu.max",), [f"cpu/{name}" for name in first]):
        try:
            text = " ".join((folder / name).read_text(encoding="ascii") for name in names)
            time, period = map(int, text.split())
        except (OSError, ValueError):  # no such file; a cpu.max of "max 100000" has no limit
            continue
        if time > 0 and period > 0:
            return math.ceil(time / period)
    return 0
