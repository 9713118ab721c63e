"""Trains one method on one data set.

    python -m mla_jax.main --config=configs/digits.py
    python -m mla_jax.main --config=configs/digits.py:method=concat,modalities=image+audio+text
    python -m mla_jax.main --config=configs/digits.py --config.optimizer.learning_rate=0.02

Writes config.json, metrics.jsonl, checkpoints, result.json, report.md and plots into --workdir.
The same command again resumes an interrupted run and shows the result of a finished one.
"""

from absl import flags

from mla_jax.config import command_line
from mla_jax.train import train


def main() -> None:
    """Runs the configuration of the command line; see ``train.train``."""
    train(flags.FLAGS.config, command_line.workdir())


if __name__ == "__main__":
    command_line.define_flags()
    command_line.run_command(main)
