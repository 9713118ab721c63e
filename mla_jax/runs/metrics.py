"""Running means, the check for non-finite losses, and the metrics file."""

import importlib.util
import json
import math
import pathlib
import sys
from collections.abc import Callable
from typing import Any, NamedTuple
from unittest import mock

import jax
import numpy as np

from mla_jax import storage
from mla_jax.distributed import rows_of_all
from mla_jax.errors import NonFiniteLossError, UserError
from mla_jax.runs.nulls import with_nulls
from mla_jax.state import Batch, Metrics

NON_FINITE = "non-finite loss"
"""The ``event`` of the last line of a run that a ``NonFiniteLossError`` ended."""


class _Pending(NamedTuple):
    step: int
    epoch: int
    phase: str
    metrics: Metrics
    index: np.ndarray  # type: ignore[assignment]  # hides tuple.index
    place: int | None
    """Along the first axis of the metrics, if they are those of several phases."""

    def of_phase(self, array: Any) -> Any:
        return array if self.place is None else array[self.place]


class RunningMeans:
    """Means over an epoch of what the phases report, read from the devices late and seldom.

    ``fetch(index)`` loads the training examples of a batch again, if its loss is not finite.
    """

    def __init__(self, sums: dict[str, list[float]], fetch: Callable[[np.ndarray], Batch]):
        self.sums = dict(sums)
        """``{"phase/metric": [sum, batches]}``: numbers, so that a checkpoint can hold them."""
        self._fetch = fetch
        self._pending: list[_Pending] = []
        self.newest: dict[str, float] = {}
        """The losses of the newest batch that was read, by phase."""

    def add(
        self,
        step: int,
        epoch: int,
        phase: str,
        metrics: Metrics,
        index: np.ndarray,
        place: int | None = None,
    ) -> None:
        """Records a phase's metrics for the examples ``index`` of this process; reads nothing.

        ``place``: as in ``Phase.named_metrics``.
        """
        self._pending.append(_Pending(step, epoch, phase, metrics, index, place))

    def wait(self, batches: int) -> None:
        """Waits until at most the newest ``batches`` are still being computed."""
        for pending in reversed(self._pending):
            if pending.step <= self._pending[-1].step - batches:
                jax.block_until_ready(pending.metrics["loss"])
                return

    def drain(self) -> None:
        """Reads everything that is pending.

        Raises:
          NonFiniteLossError: at the first loss that is not finite.
        """
        self.newest = {} if self._pending else self.newest
        scalars = [
            {k: v for k, v in p.metrics.items() if v.ndim == (p.place is not None)}
            for p in self._pending
        ]
        for pending, found in zip(self._pending, jax.device_get(scalars), strict=True):
            values = {k: pending.of_phase(v) for k, v in found.items()}
            if not math.isfinite(values["loss"]):
                raise NonFiniteLossError(self._explain(pending, float(values["loss"])))
            if pending.step == self._pending[-1].step:
                self.newest[pending.phase] = float(values["loss"])
            size = pending.metrics["example_loss"].shape[-1]
            weight = float(values.pop("examples", size)) / size
            for name, value in values.items():
                entry = self.sums.setdefault(f"{pending.phase}/{name}", [0.0, 0])
                entry[0] += weight * float(value)
                entry[1] += weight
        self._pending.clear()

    def _explain(self, pending: _Pending, loss: float) -> dict[str, Any]:
        """Which examples of the global batch are the cause: by their inputs, else by their losses.

        The loss is that of all processes, so all of them make this call.
        """
        index = rows_of_all(pending.index)
        inputs = {
            m: rows_of_all(~np.isfinite(array.reshape(len(array), -1)).all(1))
            for m, array in self._fetch(pending.index)["inputs"].items()
            if np.issubdtype(array.dtype, np.floating)
        }
        damaged = [m for m, rows in inputs.items() if rows.any()]
        if damaged:
            guilty = np.any([inputs[m] for m in damaged], axis=0)
        else:
            losses = pending.of_phase(pending.metrics["example_loss"])
            guilty = ~np.isfinite(rows_of_all(local_rows(losses)))
        if len(guilty) != len(index) or not guilty.any():
            guilty = np.ones(len(index), bool)
        return {
            "step": pending.step,
            "epoch": pending.epoch,
            "phase": pending.phase,
            "loss": repr(loss),
            "examples": index[guilty].tolist(),
            "inputs": damaged,
        }

    def means(self) -> dict[str, float]:
        """The means so far; a batch is weighted by the share of its examples that took part.

        NaN if none did, as in a phase whose modality no example has.
        """
        return {
            name: total / count if count else math.nan for name, (total, count) in self.sums.items()
        }


def local_rows(array: jax.Array) -> np.ndarray:
    """The rows of a batch-sharded array that are on this process, in order."""
    rows = {s.index[0].start or 0: np.asarray(s.data) for s in array.addressable_shards}
    return np.concatenate([rows[start] for start in sorted(rows)])


class MetricsFile:
    """``metrics.jsonl``: one JSON object per line, with ``step``, and with timing under ``time``.

    Figures that are NaN or infinite are null: the accuracy of a modality that no example has.

    Its scalars also go to TensorBoard if tensorboardX is installed.

    In a bucket, where nothing can be appended, the whole file is uploaded with the line of an epoch
    and at the end.
    """

    def __init__(
        self, path: pathlib.Path, resume_at: int, before_put: Callable[[], None] = lambda: None
    ):
        """Drops the lines past step ``resume_at``: the steps after the checkpoint are repeated.

        ``before_put`` is called before the file is uploaded to a bucket; it may raise.
        """
        kept = [line for line in read_lines(path) if line["step"] <= resume_at]
        self.epochs = {line["epoch"] for line in kept if "epoch" in line and "event" not in line}
        """The epochs that had a line when the file was opened."""
        self._path, self._before_put = path, before_put
        storage.put(path, "".join(_written(line) + "\n" for line in kept))
        self._lines = list(map(_written, kept)) if storage.in_bucket(path) else []
        self._file = None if storage.in_bucket(path) else path.open("a", encoding="utf-8")
        self._board = _tensorboard(path.with_name("tensorboard"), resume_at)

    def write(self, line: dict[str, Any]) -> None:
        """Appends one line and flushes it."""
        if self._file:
            self._file.write(_written(line) + "\n")
            self._file.flush()
        else:
            self._lines.append(_written(line))
            if "event" not in line:
                self._put()
        if self._board:
            for name, value in _scalars(line):
                self._board.add_scalar(name, value, line["step"])

    def _put(self) -> None:
        self._before_put()
        storage.put(self._path, "".join(line + "\n" for line in self._lines))

    def close(self) -> None:
        if self._board:
            self._board.close()
        if self._file:
            self._file.close()
        elif not storage.is_lost(self._path):  # otherwise the error has been raised already
            self._put()


def _written(line: dict[str, Any]) -> str:
    return json.dumps(with_nulls(line), allow_nan=False)


def read_lines(path: pathlib.Path) -> list[dict[str, Any]]:
    """The objects of a metrics file; a last line cut short by a crash is left out.

    Raises:
      UserError: the file is unreadable, or a line other than the last is damaged.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is unreadable ({error}): give another --workdir") from error
    objects = []
    for number, line in enumerate(lines, 1):
        try:
            objects.append(json.loads(line))
            objects[-1]["step"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}, line {number} is damaged: give another --workdir") from error
    return objects


def _tensorboard(directory: pathlib.Path, resume_at: int) -> Any:
    if importlib.util.find_spec("tensorboardX") is None:
        return None
    with mock.patch.dict(sys.modules, {"torch": None}):  # it would import torch if installed
        import tensorboardX

    return tensorboardX.SummaryWriter(str(directory), purge_step=resume_at + 1)


def _scalars(line: dict[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    found = []
    for name, value in line.items():
        if isinstance(value, dict):
            found += _scalars(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            found.append((prefix + name, value))
    return found
