"""What a command does before it imports JAX, which takes a second."""

import atexit
import contextlib
import gc
import os
import re
import signal
import sys
from collections.abc import Sequence

import mla_jax

SILENT = {"--help", "-help", "--helpshort", "-h", "-?", "--process_id", "--json"}
"""Options with which nothing is printed: only the first process of a run prints."""
RANKS = ("SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK")
"""Environment variables in which clusters give a process its number."""
WITHOUT_JAX = ("prepare",)
MODULE = re.compile(r"-[bBdEiIOPqsSuvx]*m(.*)")
"""The option of Python that names a module: ``-m NAME``, ``-mNAME``, ``-um NAME``."""

GARBAGE_THRESHOLDS = (50_000, 10, 10)
"""``gc.set_threshold`` of a command.

Imports and tracing make objects by the hundred thousand and nearly no cycles.  With Python's own
thresholds, and with the search at its end, looking for cycles takes an eighth of a small run and
a third of ``--help``.
"""


def command_of(command_line: Sequence[str]) -> tuple[str, list[str]]:
    """``(COMMAND, options)`` of ``python ... -m mla_jax.COMMAND ...``, else ``("", [])``."""
    for place, word in enumerate(command_line):
        if found := MODULE.fullmatch(word):
            module, *options = [*filter(None, found.groups()), *command_line[place + 1 :]] or [""]
            package, _, command = module.partition(".")
            return (command, options) if package == "mla_jax" else ("", [])
    return "", []


def begin(command_line: Sequence[str]) -> None:
    """Before a command imports JAX: looks for reference cycles less often, and ``say_loading``.

    ``command_line`` is that of Python.  Where it names no command of ours, nothing happens: the
    process is somebody else's, whose package imports this one.
    """
    if command_of(command_line)[0]:
        gc.set_threshold(*GARBAGE_THRESHOLDS)
        # Python looks once more when it ends, whatever the thresholds, but not at frozen objects.
        # Registered before all others, so called after them; what is left then is not finalised.
        atexit.register(gc.freeze)
        say_loading(command_line)


def say_loading(command_line: Sequence[str]) -> None:
    """Says that JAX is being loaded; ``command_line`` is ``python ... -m mla_jax.COMMAND ...``.

    Commands that train print it with their other lines, the others on standard error.
    """
    command, options = command_of(command_line)
    other = any(
        option.startswith("--process_id=") and option != "--process_id=0" for option in options
    )
    other |= any(os.environ.get(name, "0") != "0" for name in RANKS)
    if not command or other or command in WITHOUT_JAX or SILENT & set(options):
        return
    stream = sys.stdout if command in ("main", "compare") else sys.stderr
    with contextlib.suppress(OSError):  # the command itself reports that nothing can be written
        print(f"mla_jax {mla_jax.__version__}: loading jax ...", file=stream, flush=True)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # A callback of XLA swallows the exception of a Ctrl-C during the import of JAX.
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def loaded() -> None:
    """Makes Ctrl-C raise ``KeyboardInterrupt`` again, once a command has begun."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        with contextlib.suppress(ValueError):  # not the main thread
            signal.signal(signal.SIGINT, signal.default_int_handler)
