"""Rows of a comparison that are trained at once, each by a process of its own: ``--workers``.

A worker is the same command with ``--row``, which trains the runs of one row and writes no table.
The command that started it then finds these runs finished.
"""

import concurrent.futures
import contextlib
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from mla_jax.errors import UserError

RUN = re.compile(r"run \d+ of \d+: (?P<what>.*?)(?:; about [\d.]+ \w+ left)?\n")
"""A line of ``training.Progress``."""
LOADING = ": loading jax ...\n"
MOST = 64


def check_count(workers: int) -> None:
    """Raises ``UserError`` unless so many processes can train side by side here."""
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


def train_rows(labels: Sequence[str], workers: int, runs: int) -> None:
    """Trains the rows of these labels, ``workers`` of them at a time.

    A row that does not stay finite is reported by its worker and left as it is.

    Args:
      labels: of the rows.
      workers: processes that train at the same time.
      runs: how many runs the comparison has, for the lines that count them.

    Raises:
      SystemExit: a worker failed, with its status and after its own message, or a signal came.
        All workers have then ended; what they were training goes on from its checkpoint.
    """
    team = _Team(runs)
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


class _Team:
    """The worker processes, and how many runs they have finished."""

    def __init__(self, runs: int):
        self._runs, self._done = runs, 0
        self._lock = threading.Lock()
        self._processes: set[subprocess.Popen] = set()
        self._stopping = False

    def train(self, label: str) -> int:
        """Trains a row and passes on what its process says; its exit status."""
        # Of two values for a flag the later one counts.
        own = [*sys.argv[1:], "--workers=1", f"--row={label}"]
        command = [sys.executable, "-u", "-m", "mla_jax.compare", *own]
        with self._lock:
            if self._stopping:
                return 0
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, encoding="utf-8")
            self._processes.add(process)
        with process:
            for line in process.stdout or ():
                if line.endswith(LOADING):
                    continue
                with self._lock:
                    if found := RUN.fullmatch(line):
                        self._done += 1
                        line = f"run {self._done} of {self._runs}: {found['what']}\n"
                    print(line, end="", flush=True)
        with self._lock:
            self._processes.discard(process)
        return 128 - process.returncode if process.returncode < 0 else process.returncode

    def stop(self) -> None:
        """Lets every process save a checkpoint and end."""
        with self._lock:
            self._stopping = True
            for process in self._processes:
                process.send_signal(signal.SIGTERM)

    @contextlib.contextmanager
    def stopped_by_signals(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM end this process with the usual status, and its workers before it."""

        def end(number: int, frame: Any) -> None:
            del frame
            raise SystemExit(128 + number)

        numbers = (signal.SIGINT, signal.SIGTERM)
        before = [signal.signal(number, end) for number in numbers]
        try:
            yield
        finally:
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)
