"""Reports while a run trains: a line every few batches, and a profiler trace of some of them.

    python -m mla_jax.main --config=configs/digits.py --config.log_every_steps=10
    python -m mla_jax.main --config=configs/digits.py --profile=100:110

The lines are in ``metrics.jsonl``, the trace in ``profile/``.
"""

import pathlib
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

from mla_jax import distributed, storage
from mla_jax.config import limits
from mla_jax.runs.run import Run

EVENT = "steps"
"""The name of these lines in ``metrics.jsonl``."""
TRACE = "profile"
"""The folder for a trace, in the run's folder."""


class StepLog:
    """Writes a line to ``metrics.jsonl`` and TensorBoard every ``config.log_every_steps`` batches.

    It has the ``loss`` of each phase for that batch and the ``learning_rate``.  Under ``time`` are
    ``examples_per_second`` and ``input_seconds``, the time spent waiting for input, both since the
    previous line and without compiling and evaluating.
    """

    def __init__(self, run: Run, done: int):
        """Starts counting after batch ``done``."""
        self._run, self._every = run, run.config.log_every_steps
        self.waiting = Waiting()
        """``with log.waiting: ...`` around code that waits for input."""
        self.shown = ""
        """The last line as text for the user."""
        self._start(done)

    def _start(self, done: int) -> None:
        self._since = done, self._run.seconds.spent["train"], self.waiting.seconds

    def due(self, done: int) -> bool:
        """Whether to write after ``done`` batches; the losses must be read first."""
        return bool(self._every) and done % self._every == 0

    def write(self, at: Mapping[str, Any], losses: Mapping[str, float]) -> None:
        """Writes the line of a batch.

        Args:
          at: its ``step``, and ``epoch``, ``stage`` and ``learning_rate``.
          losses: ``{phase: loss}`` of the batch.
        """
        done, train, waited = self._since
        self._start(at["step"])
        seconds = max(self._since[1] - train, 1e-9)
        speed = (at["step"] - done) * self._run.config.batch_size / seconds
        waited = self._since[2] - waited
        line = {"event": EVENT, **at, "loss": dict(losses)}
        line["time"] = {"examples_per_second": speed, "input_seconds": waited}
        self._run.record(line)
        told = [f"loss {', '.join(f'{phase} {loss:.3f}' for phase, loss in losses.items())}"]
        told += [f"{speed:,.0f} examples/s", f"{waited / seconds:.0%} of it waiting for input"]
        self.shown = ", ".join(told)


class Profile:
    """A ``jax.profiler`` trace of some batches, in the run's folder: ``config.profile``.

    ``FROM:TO`` traces batches FROM to TO of the run, counted from 1, on process 0; ``FROM:TO:all``
    on every process.  TensorBoard's profile plugin, XProf and Perfetto read it.
    """

    def __init__(self, wanted: str, folder: pathlib.Path, say: Callable[[str], None] = print):
        """``wanted``: ``config.profile``; ``folder``: the run's; ``say`` prints its place."""
        self._first, self._last, everywhere = limits.profiled_batches(wanted)
        self._on = bool(self._last) and (everywhere or distributed.is_main())
        self._folder, self._say = folder / TRACE, say
        self._local: str | pathlib.Path | None = None

    def begin(self, number: int, state: Any) -> None:
        """Starts the trace if batch ``number`` is the first one to trace."""
        if self._on and number == self._first:
            jax.block_until_ready(state)  # the batches before must not be in it
            self._local = tempfile.mkdtemp() if storage.in_bucket(self._folder) else self._folder
            jax.profiler.start_trace(str(self._local))

    def end(self, number: int, state: Any) -> None:
        """Ends the trace if batch ``number`` is the last one to trace."""
        if self._local is not None and number == self._last:
            jax.block_until_ready(state)
            self._write()

    def _write(self) -> None:
        jax.profiler.stop_trace()
        if self._local and storage.in_bucket(self._folder):
            storage.file_system().put(str(self._local), str(self._folder), recursive=True)
            shutil.rmtree(self._local)
        self._local = None
        self._say(f"trace from batch {self._first} on: {self._folder}")

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, *_: Any) -> None:
        if self._local is not None:  # the run ended, or was stopped, before the last one
            self._write()


class Waiting:
    """Seconds spent waiting for input: ``with waiting: ...``."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *_: Any) -> None:
        self.seconds += time.perf_counter() - self._began
