"""The contract every method keeps: a named tuple of pure functions, in optax's manner."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from mla_jax.state import Batch, Clock, Metrics, Prediction, TrainState


class Phase(NamedTuple):
    """One jitted step on one batch; MLA has one per modality, joint methods have one."""

    name: str
    update: Callable[[TrainState, Batch, Clock], tuple[TrainState, Metrics]]


Fold = Callable[[dict[str, Any], Any, Batch], Any]
"""``(variables, carry, batch) -> carry``: pure; ``batch["valid"]`` is False on padding."""

Visit = Callable[[Fold, dict[str, Any], Any], Any]
"""``visit(fold, variables, carry) -> carry``: folds over every training example exactly once."""


class Stage(NamedTuple):
    """A run of epochs through the same phases; most methods have one stage.

    The clock's epoch starts from 0 in every stage, and so does the learning rate's schedule.  The
    result of a run is an epoch of its last stage.
    """

    name: str
    epochs: int
    phases: tuple[Phase, ...]
    on_epoch: Callable[[TrainState, int, Visit], TrainState] | None = None
    """``(state, epoch, visit) -> state``, on the host before each epoch of the stage."""


class Method(NamedTuple):
    """A way to train several encoders together and to predict with them."""

    name: str
    modalities: tuple[str, ...]
    classes: int
    init: Callable[[jax.Array, Batch], TrainState]
    """``(rng, batch)``: parameters, statistics, optimiser states; ``batch`` gives the shapes."""
    stages: tuple[Stage, ...]
    predict: Callable[[dict[str, Any], Batch], Prediction]
    """``({"params", "batch_stats"}, batch)`` in evaluation mode."""
    fuse: Callable[[Prediction, jax.Array, Any], jax.Array]
    """``(prediction, present: bool[B, M], method_state) -> float32[B, C]``; the only place that
    weighs modalities at test time."""
    describe: Callable[[TrainState], Sequence[str]] = lambda state: ()
    """Lines a run prints at its start, about what this method does to which parameters."""


class Problem(NamedTuple):
    """What a method needs to know about the task beyond its encoders and its optimiser."""

    classes: int
    epochs: int
    examples: int
    """Training examples; ``batch["index"]`` counts them."""
