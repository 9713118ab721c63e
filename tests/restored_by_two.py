"""One of two processes that restore a checkpoint together: PORT INDEX DIRECTORY.

They save checkpoints 1 and 2 first.  Process 1 cannot read number 2: once, then for
ever.  In the end it is damaged.
"""

import os
import pathlib
import sys

import jax
import jax.numpy as jnp

from mla_jax import distributed
from mla_jax.errors import UserError
from mla_jax.runs import checkpoint


def main(port: str, index: str, directory: str) -> None:
    """Prints the outcome of each attempt, and what lies in the folder at the end."""
    distributed.initialize("on", f"127.0.0.1:{port}", 2, int(index))
    where, folder = distributed.data_parallel(2).replicated, pathlib.Path(directory)
    state = jax.jit(lambda: {"w": jnp.arange(2.0**16)}, out_shardings=where)()
    checkpoints = checkpoint.Checkpoints(folder / "checkpoints")
    for step in (1, 2):
        checkpoints.save(step, state, {"batches": step})
    checkpoints.close()
    parts = [*(folder / "checkpoints" / "2" / "state").glob("ocdbt.process_*")]
    assert len(parts) == 2, "each process writes a part of a large array"

    checkpoint.PAUSES = (0.0, 0.0)
    whole = checkpoint.checksum
    failures = []

    def stale(state):
        if failures and index == "1":
            raise failures.pop()
        return whole(state)

    checkpoint.checksum = stale
    for count in (0, 1, 3):
        failures[:] = [OSError(116, "Stale file handle")] * count
        checkpoints = checkpoint.Checkpoints(folder / "checkpoints")
        try:
            _, progress = checkpoints.restore(state)
            print(f"restored {progress['batches']}", flush=True)
        except UserError as error:
            print(error, flush=True)
        checkpoints.close()

    if index == "0":
        for file in (folder / "checkpoints" / "2" / "state").rglob("d/*"):
            file.write_bytes(b"")
    distributed.barrier("emptied")
    checkpoints = checkpoint.Checkpoints(folder / "checkpoints")
    print(f"restored {checkpoints.restore(state, lambda line: None)[1]['batches']}", flush=True)
    checkpoints.close()
    print(*sorted(p.name for p in folder.iterdir()), flush=True)
    jax.distributed.shutdown()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
