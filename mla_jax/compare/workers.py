"""Trains several rows of a comparison at the same time, each in its own process: ``--workers``.

A worker is the same command with ``--row``, which trains only one row and writes no table.
The command that started it then finds these runs finished.
"""

import concurrent.futures
import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from mla_jax.data.cores import SHARE, usable_cores
from mla_jax.errors import UserError

RUN = re.compile(r"run \d+ of \d+: (?P<what>.*?)(?:; about [\d.]+ \w+ left)?\n")
"""A line of ``training.Progress``."""
LOADING = ": loading jax ...\n"
MOST = 64


def check_count(workers: int) -> None:
    """Raises ``UserError`` unless this many processes can train side by side here."""
    if not 1 <= workers <= MOST:
        raise UserError(f"--workers={workers} must be at least 1 and at most {MOST}")
    if workers > 1 and jax.default_backend() != "cpu":
        raise UserError(
            f"--workers={workers} is for CPUs: one process takes the whole "
            f"{jax.default_backend().upper()}, so leave it out"
        )
    if workers > 1 and jax.process_count() > 1:
        raise UserError(
            f"--workers={workers} is for one process, and this run has {jax.process_count()}: "
            "leave it out"
        )


def train_rows(labels: Sequence[str], workers: int, runs: int) -> dict[str, str]:
    """Trains the rows with these labels, ``workers`` of them at a time.

    Returns the rows that were left out because a loss was not finite, ``{label: reason}``.

    Args:
      labels: the rows to train.
      workers: processes that train at the same time.
      runs: how many runs the comparison has, for the lines that count them.

    Raises:
      SystemExit: a worker failed (its message was printed; its status is used), or a signal came.
        All workers have then ended; the same command continues from their checkpoints.
    """
    team = _Team(runs, max(1, usable_cores() // workers))
    with team.stopped_by_signals(), concurrent.futures.ThreadPoolExecutor(workers) as threads:
        try:
            for ended in concurrent.futures.as_completed(
                [threads.submit(team.train, label) for label in labels]
            ):
                if status := ended.result():
                    raise SystemExit(status)
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
            team.stop()
    return team.left_out


class _Team:
    """The worker processes, and how many runs they have finished."""

    def __init__(self, runs: int, cores: int):
        self._environment = {**os.environ, SHARE: str(cores)}  # for loader.workers=auto
        self._runs, self._done = runs, 0
        self._lock = threading.Lock()
        self._processes: set[subprocess.Popen] = set()
        self._stopping = False
        self.left_out: dict[str, str] = {}

    def train(self, label: str) -> int:
        """Trains a row and prints the output of its process; returns its exit status."""
        # If a flag is given twice, the later value counts.
        own = [*sys.argv[1:], "--workers=1", f"--row={label}"]
        command = [sys.executable, "-u", "-m", "mla_jax.compare", *own]
        with self._lock:
            if self._stopping:
                return 0
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, text=True, encoding="utf-8", env=self._environment
            )
            self._processes.add(process)
        with process:
            for line in process.stdout or ():
                if line.endswith(LOADING):
                    continue
                if line.startswith(start := f"{label}: left out, "):
                    self.left_out[label] = line.removeprefix(start).rstrip("\n")
                with self._lock:
                    if found := RUN.fullmatch(line):
                        self._done += 1
                        line = f"run {self._done} of {self._runs}: {found['what']}\n"
                    print(line, end="", flush=True)
        with self._lock:
            self._processes.discard(process)
        if process.returncode >= 0:
            return process.returncode
        if not self._stopping:  # it could not say anything itself
            name = signal.Signals(-process.returncode).name
            print(
                f"error: the process of the row '{label}' was ended by {name}, perhaps because "
                "memory ran out: repeat the command, with fewer --workers",
                file=sys.stderr,
                flush=True,
            )
        return 128 - process.returncode

    def stop(self) -> None:
        """Makes every process save a checkpoint and end."""
        with self._lock:
            self._stopping = True
            for process in self._processes:
                process.send_signal(signal.SIGTERM)

    @contextlib.contextmanager
    def stopped_by_signals(self) -> Iterator[None]:
        """On Ctrl-C and SIGTERM, ends the workers and then this process, with the usual status."""

        def end(number: int, frame: Any) -> None:
            del frame
            for later in numbers:  # the workers are saving: a second signal changes nothing
                signal.signal(later, signal.SIG_IGN)
            raise SystemExit(128 + number)

        numbers = (signal.SIGINT, signal.SIGTERM)
        before = [signal.signal(number, end) for number in numbers]
        try:
            yield
        finally:
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)
