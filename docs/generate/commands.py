"""What each command prints with ``--help``, for the site's reference."""

import concurrent.futures
import contextlib
import importlib
import io
import os
import pathlib
import subprocess
import sys
from unittest import mock

COMMANDS = (
    "main", "compare", "evaluate", "predict", "convert", "export", "prepare", "preflight",
    "benchmark step", "benchmark input", "benchmark memory", "benchmark modalities", "parity",
    "leaderboard",
)  # fmt: skip
OF_ABSL = ("main", "compare", "preflight")
"""Commands whose flags are global, so that each needs a process of its own."""
ROOT = pathlib.Path(__file__).parents[2]
WIDTH = {"COLUMNS": "96", "JAX_PLATFORMS": "cpu"}
ENVIRONMENT = {**os.environ, **WIDTH}  # copied once: threads must not read what ``printed`` changes


def help_of(command: str) -> str:
    """The help of ``python -m mla_jax.COMMAND``.

    Raises:
      RuntimeError: the command does not print it.
    """
    name, *kind = command.split()
    if name in OF_ABSL:
        line = [sys.executable, "-m", f"mla_jax.{name}", "--help"]
        done = subprocess.run(line, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
        text, problem = done.stdout, done.stderr[-400:]
    else:
        text, problem = printed(name, [*kind, "--help"]), "nothing was printed"
    if not text.startswith("usage:"):
        raise RuntimeError(f"python -m mla_jax.{command} --help: {problem}")
    return text


def printed(name: str, arguments: list[str]) -> str:
    """What a command without global flags prints, called in this process."""
    package = (ROOT / "mla_jax" / name).is_dir()
    module = importlib.import_module(f"mla_jax.{name}.__main__" if package else f"mla_jax.{name}")
    out = io.StringIO()
    with (
        mock.patch.dict(os.environ, WIDTH),
        contextlib.redirect_stdout(out),
        contextlib.suppress(SystemExit),
    ):
        module.main(arguments)
    return out.getvalue()


def all_commands() -> str:
    """A section per command."""
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        waiting = {command: pool.submit(help_of, command) for command in OF_ABSL}
        texts = {c: help_of(c) for c in COMMANDS if c not in OF_ABSL}
        texts |= {command: future.result() for command, future in waiting.items()}
    return "\n\n".join(f"## {c}\n\n```text\n{texts[c].rstrip()}\n```" for c in COMMANDS)
