"""Which epoch's test figures are the result."""

import math
from typing import Any

from ml_collections import FrozenConfigDict

from mla_jax.data.dataset import DataSpec
from mla_jax.errors import UserError
from mla_jax.runs.nulls import number


class Selector:
    """Chooses the epoch whose test figures are the result, by the rule of the configuration."""

    def __init__(self, config: FrozenConfigDict, data: DataSpec):
        self.rule = config.selection
        validated = "validation" in data.examples
        if self.rule == "auto":
            self.rule = "validation" if validated and data.select_on_validation else "last"
            self.rule = "best_test" if config.protocol == "paper" else self.rule
        if self.rule == "validation" and not validated:
            raise UserError(f"dataset {data.name} has no validation split: set selection=last")
        self.chosen: dict[str, Any] | None = None
        """``{"epoch", "step", "score", <split>: figures}`` of the best epoch so far."""

    @property
    def keeps_best(self) -> bool:
        """Whether the chosen epoch's checkpoint must be kept when newer ones are saved."""
        return self.rule != "last"

    def offer(self, epoch: int, step: int, scores: dict[str, dict[str, Any]]) -> bool:
        """Considers an epoch; returns whether it is now the chosen one."""
        split = "test" if self.rule == "best_test" else "validation"
        score = epoch if self.rule == "last" else scores[split]["fused"]
        if self.chosen and not _better(score, self.chosen["score"]):
            return False
        self.chosen = {"epoch": epoch, "step": step, "score": score, **scores}
        return True


def _better(score: float | None, than: float | None) -> bool:
    """Whether a score is higher; any number is better than None or NaN."""
    score, than = number(score), number(than)
    return not math.isnan(score) and (math.isnan(than) or score > than)
