"""How a run's time is spent, and its progress bar."""

import sys
import time
from collections.abc import Callable
from typing import Any

import tqdm

from mla_jax import distributed

HEARTBEAT = 30.0
"""Seconds without a line after which one is printed, if there is no terminal."""


KINDS = ("setup", "compile", "train", "evaluate", "checkpoint", "telemetry")


class Stopwatch:
    """Seconds spent by kind of work, carried over by checkpoints: ``with watch("train"): ...``."""

    def __init__(self) -> None:
        self.spent = dict.fromkeys(KINDS, 0.0)

    def continue_from(self, spent: dict[str, float]) -> None:
        """Adds the time that an earlier part of the run has spent."""
        for kind, seconds in spent.items():
            self.add(kind, seconds)

    def add(self, kind: str, seconds: float) -> None:
        self.spent[kind] += seconds

    def move(self, source: str, target: str, seconds: float) -> None:
        self.add(source, -seconds)
        self.add(target, seconds)

    def __call__(self, kind: str) -> "Stopwatch":
        self._kind = kind
        return self

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *_: Any) -> None:
        self.add(self._kind, time.perf_counter() - self._started)


class ProgressBar(tqdm.tqdm):
    """A progress bar on a terminal; lines are printed above it.

    Elsewhere ``say`` prints the progress whenever ``HEARTBEAT`` has passed without a line.
    """

    def __init__(self, total: int, initial: int, say: Callable[[str], None] | None = None):
        hidden = not (sys.stderr.isatty() and distributed.is_main())
        super().__init__(
            total=total, initial=initial, unit="batch", disable=hidden, leave=False, mininterval=0.2
        )
        self._say = say if hidden else None
        self.note = ""
        """A text that is shown beside the progress."""
        self._first: float = initial
        self._done: float = initial
        self._began = self._said = time.monotonic()

    def update(self, n: float | None = 1) -> bool | None:
        displayed = super().update(n)
        self._done += n or 0
        now = time.monotonic()
        if self._say and now - self._said >= HEARTBEAT:
            rate = (self._done - self._first) / max(now - self._began, 1e-9)
            left = self.format_interval((self.total - self._done) / rate)
            line = f"batch {self._done} of {self.total}, about {left} left"
            self.write_line(f"{line}; {self.note}" if self.note else line, self._say)
        if self.note and not self.disable:
            self.set_postfix_str(self.note, refresh=False)
        return displayed

    def leave_out(self, seconds: float) -> None:
        """Leaves the last ``seconds`` out of the estimate of the time left."""
        self._began += seconds
        self._said += seconds
        if not self.disable:
            self.start_t += seconds
            self.last_print_t += seconds

    def write_line(self, line: str, say: Callable[[str], None]) -> None:
        self.clear()
        say(line)
        self.refresh()
        self._said = time.monotonic()
