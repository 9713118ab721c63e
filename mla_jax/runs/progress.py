"""Where a run's time goes, and the bar that shows how far it is."""

import sys
import time
from collections.abc import Callable
from typing import Any

import tqdm

from mla_jax import distributed


class Stopwatch:
    """Seconds spent by kind of work, carried over by checkpoints: ``with watch("train"): ...``."""

    def __init__(self) -> None:
        self.spent = dict.fromkeys(("setup", "compile", "train", "evaluate", "checkpoint"), 0.0)

    def continue_from(self, spent: dict[str, float]) -> None:
        """Adds what an earlier part of the run has spent."""
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
    """A bar on a terminal, nothing elsewhere; lines are printed above it."""

    def __init__(self, total: int, initial: int):
        hidden = not (sys.stderr.isatty() and distributed.is_main())
        super().__init__(
            total=total, initial=initial, unit="batch", disable=hidden, leave=False, mininterval=0.2
        )

    def write_line(self, line: str, say: Callable[[str], None]) -> None:
        self.clear()
        say(line)
        self.refresh()
