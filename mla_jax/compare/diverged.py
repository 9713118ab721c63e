"""Rows whose loss became NaN or infinite: they are left out, and the comparison continues."""

import contextlib
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from absl import flags

from mla_jax import distributed
from mla_jax.compare.variants import Variant
from mla_jax.config import command_line
from mla_jax.errors import NonFiniteLossError
from mla_jax.runs.metrics import NON_FINITE, read_lines
from mla_jax.runs.workdir import Workdir

Runs = TypeVar("Runs")
"""What a row has to train."""


class Diverged:
    """The rows that were left out."""

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}
        """``{label: reason}``."""
        self._last: BaseException = SystemExit(command_line.NON_FINITE)  # workers have said why

    def other_rows(
        self,
        variants: Sequence[Variant],
        plan: dict[str, Runs],
        train: Callable[[Variant, Runs], dict[str, Any]],
    ) -> list[dict[str, Any]]:
        """The rows that ``train`` makes of variants and their entries of ``plan``.

        An entry leaves the plan when it is used: the programs of a row end with it.

        Raises:
          NonFiniteLossError: every row was left out.
        """
        rows = []
        for variant in variants:
            if variant.label not in self.reasons:
                with self._noted(variant.label):
                    rows.append(train(variant, plan.pop(variant.label)))
        if not rows and flags.FLAGS.row is None:
            raise self._last
        return rows

    @contextlib.contextmanager
    def _noted(self, label: str) -> Iterator[None]:
        """Records a row whose training ends because a loss is not finite."""
        try:
            yield
        except NonFiniteLossError as error:
            report = error.report
            where = f"batch {report['step']} (epoch {report['epoch']})"
            self.reasons[label] = f"the loss of '{report['phase']}' is {report['loss']} at {where}"
            self._last = error
            if distributed.is_main():
                print(f"{label}: left out, {self.reasons[label]}", flush=True)
            distributed.barrier("diverged")  # the run's own record of it is complete


def require_finite(folders: Iterable[pathlib.Path]) -> None:
    """Raises the ``NonFiniteLossError`` that ended a run in one of these folders, if one did.

    The same training would end at the same batch.  For a row that is evaluated from these runs,
    there is then nothing to evaluate.
    """
    for folder in folders:
        last = (read_lines(Workdir(folder).metrics) or [{}])[-1]
        if last.pop("event", "") == NON_FINITE:
            if distributed.is_main():
                print(
                    f"{folder}: the loss was not finite; to train it again, delete it", flush=True
                )
            raise NonFiniteLossError(last)
