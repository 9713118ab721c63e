"""The first line of a command, while it imports JAX."""

import os
import sys
from collections.abc import Sequence

import mla_jax

SILENT = {"--help", "-help", "--helpshort", "-h", "-?", "--process_id", "--json"}
"""Options with which nothing is said: only the first process of a run prints."""
RANKS = ("SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK")
"""Where clusters tell a process its number."""
WITHOUT_JAX = ("prepare",)


def say_loading(command_line: Sequence[str]) -> None:
    """Says that JAX is being loaded; ``command_line`` is ``python ... -m mla_jax.COMMAND ...``.

    Commands that train print it with their other lines, the others on standard error.
    """
    module, *options = command_line[command_line.index("-m") + 1 :]
    command = module.removeprefix("mla_jax.")
    other = any(
        option.startswith("--process_id=") and option != "--process_id=0" for option in options
    )
    other |= any(os.environ.get(name, "0") != "0" for name in RANKS)
    if other or command in WITHOUT_JAX or SILENT & set(options):
        return
    stream = sys.stdout if command in ("main", "compare") else sys.stderr
    print(f"mla_jax {mla_jax.__version__}: loading jax ...", file=stream, flush=True)
