"""``python -m tests.impatient_main``: ``mla_jax.main`` with a gcsfs that waits a hundredth as long.

It repeats a request to a bucket for half a minute, by default, before it says that it failed.
"""

import asyncio
import runpy
import types

import gcsfs.retry


def sleep(seconds: float):
    return asyncio.sleep(seconds / 100)


gcsfs.retry.asyncio = types.SimpleNamespace(sleep=sleep)
runpy.run_module("mla_jax.main", run_name="__main__", alter_sys=True)
