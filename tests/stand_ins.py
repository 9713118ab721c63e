"""Programs that stand in for others: they write down how they were called, and do no more."""

import os
import pathlib
import subprocess

ROOT = pathlib.Path(__file__).parents[1]
RECORD = """#!/usr/bin/env bash
printf '%s\\0' "${0##*/}" "$@" $'\\1' >>"$CALLS" # in one go: several may run at once
"""


class StandIns:
    """A folder of programs, at the head of ``PATH``."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.calls = folder / "calls"

    def add(self, *names: str, then: str = "") -> pathlib.Path:
        """Makes programs that record their arguments and ``then`` go on; the last one's path."""
        for name in names:
            path = self.folder / name
            path.write_text(RECORD + then)
            path.chmod(0o755)
        return path

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess:
        """Runs the command in the repository."""
        inherited = {**os.environ, "PATH": f"{self.folder}:{os.environ['PATH']}"}
        return subprocess.run(
            command,
            cwd=ROOT,
            env={**inherited, "CALLS": str(self.calls), **environment},
            capture_output=True,
            text=True,
            timeout=60,
        )

    def called(self) -> list[list[str]]:
        """Every call so far, its name first; forgets them."""
        text = self.calls.read_text() if self.calls.exists() else ""
        self.calls.unlink(missing_ok=True)
        return [call.split("\0")[:-1] for call in text.split("\1\0")[:-1]]
