"""The C library's memory allocator, set up for XLA on a CPU."""

import ctypes
import os
import platform

# From glibc's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8


def keep_freed_memory() -> bool:
    """Tells glibc to keep what is freed; returns whether it was told.

    XLA frees and allocates the temporaries of a program at every call.  By default glibc gives
    large blocks back to the system, which maps and zeroes them anew, page by page: most of the
    system time of a training step.  With one arena, any thread reuses what another one has freed.

    Nothing changes with another C library, or where the environment sets glibc's allocator up.
    """
    theirs = any(n == "GLIBC_TUNABLES" or n.startswith("MALLOC_") for n in os.environ)
    if theirs or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = {_MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 2**28, _ARENA_MAX: 1}
    told = [mallopt(name, value) for name, value in settings.items()]
    return all(told)
