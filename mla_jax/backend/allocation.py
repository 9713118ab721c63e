"""The C library's memory allocator, set up for XLA on a CPU."""

import ctypes
import importlib.util
import os
import platform

import jax

# From glibc's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8


def keep_freed_memory() -> bool:
    """Tells glibc to keep freed memory, where the CPU is JAX's only device; returns whether it did.

    Before JAX starts its threads: those that have a memory arena of their own keep it.

    XLA frees and allocates the temporaries of a program at every call.  By default glibc gives
    large blocks back to the system, which maps and zeroes them anew, page by page: most of the
    system time of a training step.  With one arena, any thread reuses what another one has freed.

    Nothing changes with another C library, or if the environment configures glibc's allocator.
    """
    theirs = any(n == "GLIBC_TUNABLES" or n.startswith("MALLOC_") for n in os.environ)
    if theirs or platform.libc_ver()[0] != "glibc" or not _on_cpu():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = {_MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 2**28, _ARENA_MAX: 1}
    told = [mallopt(name, value) for name, value in settings.items()]
    return all(told)


def _on_cpu() -> bool:
    """Whether JAX will run on the CPU, found without starting JAX."""
    chosen = jax.config.jax_platforms  # type: ignore[attr-defined]
    plugins = any(importlib.util.find_spec(name) for name in ("jax_plugins", "libtpu"))
    return chosen == "cpu" or (not chosen and not plugins)
