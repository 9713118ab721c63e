"""A run of ``configs/tiny.py`` that kills itself: ARGUMENTS WORKDIR BATCH."""

import os
import signal
import sys

from mla_jax import train
from mla_jax.config import files
from mla_jax.data import pipeline

EPOCHS = 3


def main(arguments: str, workdir: str, batch: str) -> None:
    """Trains until batch number ``batch`` (from 0) is loaded; a checkpoint every ten batches."""
    original = pipeline.training_batches

    def loader(*options):
        for i, item in enumerate(original(*options)):
            if i == int(batch):
                os.kill(os.getpid(), signal.SIGKILL)
            yield item

    pipeline.training_batches = loader
    chosen = dict(item.split("=") for item in arguments.split(","))
    overrides = {"checkpoint.every_steps": 10}
    config = files.load_config("tests/configs/tiny.py", overrides, chosen)
    config.epochs = EPOCHS
    train.train(config, workdir)


if __name__ == "__main__":
    main(*sys.argv[1:])
