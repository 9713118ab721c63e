"""How far a preparation is: a bar on a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Callable
from typing import Any

import tqdm


class Progress:
    """Rate and time left; ``say`` takes the lines where there is no terminal."""

    def __init__(
        self, total: int, done: int, say: Callable[[str], None], every_seconds: float = 30
    ):
        self._total, self._start, self._done = total, done, done
        self._say, self._every = say, every_seconds
        self._began = self._said = time.monotonic()
        self._bar = tqdm.tqdm(
            total=total,
            initial=done,
            unit="example",
            smoothing=0.05,
            disable=not sys.stderr.isatty(),
            leave=False,
        )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: Any) -> None:
        self._bar.close()

    def advance(self, examples: int) -> None:
        self.reach(self._done - self._start + examples)

    def reach(self, examples: int) -> None:
        """``examples`` are done since the start of this run."""
        self._bar.update(self._start + examples - self._done)
        self._done = self._start + examples
        now = time.monotonic()
        if self._bar.disable and now - self._said >= self._every:
            self._said = now
            rate = examples / (now - self._began)
            left = (self._total - self._done) / rate if rate else float("inf")
            self._say(
                f"{self._done} of {self._total} examples, {rate:.1f} a second, {left:.0f} s left"
            )
