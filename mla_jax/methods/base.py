"""The contract every method keeps: a named tuple of pure functions, in optax's manner."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from mla_jax.state import Batch, Clock, Metrics, Prediction, TrainState


class Phase(NamedTuple):
    """One jitted step on one batch; MLA has one per modality, joint methods have one."""

    name: str
    update: Callable[[TrainState, Batch, Clock], tuple[TrainState, Metrics]]


class Stage(NamedTuple):
    """A run of epochs through the same phases; most methods have one stage."""

    name: str
    epochs: int
    phases: tuple[Phase, ...]
    on_epoch: Callable[[TrainState, int], TrainState] | None = None
    """Called on the host before each epoch of the stage."""


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


class Problem(NamedTuple):
    """What a method needs to know about the task beyond its encoders and its optimiser."""

    classes: int
    epochs: int
