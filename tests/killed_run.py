"""A run of ``configs/tiny.py`` that signals itself: ARGUMENTS WORKDIR BATCH [SIGNAL [WORKERS]]."""

import os
import signal
import subprocess
import sys

from mla_jax import train
from mla_jax.config import files
from mla_jax.data import pipeline
from mla_jax.errors import Interrupted

EPOCHS = 3


def main(
    arguments: str, workdir: str, batch: str, number: str = "SIGKILL", workers: str = "0"
) -> None:
    """Trains until batch number ``batch`` (from 0) is loaded; a checkpoint every ten batches.

    SIGKILL goes to this process alone, any other signal to the process group, which is its own.
    """
    os.setsid()
    print(os.getpgrp(), flush=True)
    original = pipeline.training_batches

    def loader(*options):
        batches = original(*options)
        try:
            for i, item in enumerate(batches):
                if i == int(batch):
                    send = os.kill if number == "SIGKILL" else os.killpg
                    send(os.getpid(), getattr(signal, number))
                yield item
        finally:
            batches.close()

    pipeline.training_batches = loader
    chosen = dict(item.split("=") for item in arguments.split(","))
    overrides = {"checkpoint.every_steps": 10, "loader.workers": int(workers)}
    config = files.load_config("tests/configs/tiny.py", overrides, chosen)
    config.epochs = EPOCHS
    try:
        train.train(config, workdir)
    except Interrupted as interruption:
        sys.exit(128 + interruption.signal)


def processes_of_group(group: int) -> list[str]:
    """The command lines of the processes of a group that still run."""
    found = subprocess.run(["ps", "-A", "-o", "pgid=,stat=,args="], capture_output=True, text=True)
    rows = [line.split(maxsplit=2) for line in found.stdout.splitlines()]
    return [row[2] for row in rows if int(row[0]) == group and not row[1].startswith("Z")]


if __name__ == "__main__":
    main(*sys.argv[1:])
