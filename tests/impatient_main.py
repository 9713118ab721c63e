"""``python -m tests.impatient_main``: ``mla_jax.main`` that waits less for a bucket.

gcsfs repeats a request for half a minute, by default, before it says that it failed; here it waits
a hundredth as long.  A lock in a bucket has a heartbeat every second in place of every ten.
"""

import asyncio
import runpy
import types

import gcsfs.retry

from mla_jax.storage import lease


def sleep(seconds: float):
    return asyncio.sleep(seconds / 100)


IMPATIENT = types.SimpleNamespace(sleep=sleep)
"""What ``gcsfs.retry`` takes for ``asyncio``."""

if __name__ == "__main__":
    gcsfs.retry.asyncio = IMPATIENT
    lease.RENEWAL = 1.0
    runpy.run_module("mla_jax.main", run_name="__main__", alter_sys=True)
