"""``python -m mla_jax.main OPTION ...`` of which process 1 sends itself SIGTERM at ``BATCH``.

From then on a batch takes long: JAX looks for signals once per second, and until it has told the
other process the run must not come to its end.
"""

import os
import runpy
import signal
import time

import jax

from mla_jax.data import pipeline

BATCH = 11


def main() -> None:
    """Runs the command to its end."""
    original = pipeline.training_batches

    def loader(split, batch_size, seed, start, *others):
        batches = original(split, batch_size, seed, start, *others)
        try:
            for number, batch in enumerate(batches, start):
                if number == BATCH and jax.process_index() == 1:
                    os.kill(os.getpid(), signal.SIGTERM)
                if number >= BATCH:
                    time.sleep(1)
                yield batch
        finally:
            batches.close()

    pipeline.training_batches = loader
    runpy.run_module("mla_jax.main", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
