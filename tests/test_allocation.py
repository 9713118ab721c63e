"""Freed memory is kept, where glibc is the C library and the environment does not say otherwise."""

import platform
import subprocess
import sys

import jax
import pytest

from mla_jax.backend import allocation

FAULTS = """
import resource, sys
import numpy as np
from mla_jax.backend import allocation
told = len(sys.argv) > 1 and allocation.keep_freed_memory()
for _ in range(5):
    np.ones(2**22)  # 32 MB, freed at once
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    np.ones(2**22)
print(told, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_pages_are_faulted_in_once(monkeypatch):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)

    def faults(*arguments):
        command = [sys.executable, "-c", FAULTS, *arguments]
        told, count = subprocess.check_output(command, text=True).split()
        assert told == str(bool(arguments))
        return int(count)

    assert faults("keep") < faults() / 20


@pytest.mark.parametrize(
    ("library", "environment"),
    [("musl", {}), ("glibc", {"MALLOC_ARENA_MAX": "2"}), ("glibc", {"GLIBC_TUNABLES": "x=1"})],
)
def test_others_are_left_alone(monkeypatch, library, environment):
    monkeypatch.setattr(platform, "libc_ver", lambda: (library, "1"))
    monkeypatch.setattr(allocation.ctypes, "CDLL", lambda name: pytest.fail("called"))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert not allocation.keep_freed_memory()


@pytest.mark.parametrize(
    ("platforms", "plugins", "expected"),
    [("", (), True), ("", ("libtpu",), False), ("cpu", ("libtpu",), True), ("cuda", (), False)],
)
def test_only_where_jax_has_the_cpu_alone(monkeypatch, platforms, plugins, expected):
    found = {name: object() for name in plugins}
    monkeypatch.setattr(allocation.importlib.util, "find_spec", found.get)
    before = jax.config.jax_platforms
    jax.config.update("jax_platforms", platforms)
    try:
        assert allocation._on_cpu() is expected
    finally:
        jax.config.update("jax_platforms", before)
