"""The contract every method keeps: a named tuple of pure functions, in optax's manner."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from mla_jax.functional import fusion
from mla_jax.functional.optimizers import StepInfo
from mla_jax.state import Batch, Metrics, Prediction, Stacks, TrainState

Update = Callable[[TrainState, Batch, StepInfo], tuple[TrainState, Metrics]]
"""Pure: the state after one step on a batch, and what the step reports."""

UpdateOfAll = Callable[[TrainState, Batch, StepInfo], tuple[TrainState, Mapping[str, Metrics]]]
"""``Update`` of several phases at once: what each reports, by its name."""


class Solo(NamedTuple):
    """A step that reads and writes one encoder and what all modalities share.

    Written down so that modalities with encoders of one kind share one compiled program
    (``dispatch.py``).
    """

    modality: str
    update: Update
    """As ``Phase.update``, on less: the state has the one encoder, with its statistics and its
    optimiser's state, and all heads; the batch has the inputs of the one modality, and in
    ``present`` only the columns that ``columns`` names."""
    kind: Any
    """Two solos of equal kind and shapes differ in nothing but the modality.  Hashable."""
    columns: tuple[int, ...]
    """Of ``present``: the place of ``modality``, then of others that ``update`` asks for."""
    draw_name: int | None = None
    """What stands for the modality in the draws of its augmentation, where the data set has one."""

    def of_batch(self, batch: Batch, name: str) -> Batch:
        """What ``update`` needs of a batch, before ``with_preparation``: one input, under ``name``,
        and as numbers, which are no part of the program, what else the modality is known by."""
        own: Batch = {"inputs": {name: batch["inputs"][self.modality]}}
        own["columns"] = np.array(self.columns, np.int32)
        if self.draw_name is not None:
            own["draw_name"] = np.uint32(self.draw_name)
        return {**batch, **own}


class Phase(NamedTuple):
    """One jitted step on one batch; MLA has one per modality, joint methods have one."""

    name: str
    update: Update | UpdateOfAll
    parts: tuple["Phase", ...] = ()
    """The phases that this one does in one program, if it does several; then its metrics are
    ``{name of a part: Metrics}``."""
    solos: tuple[Solo, ...] = ()
    """The same step as several that see one encoder each, one after the other; () where it cannot
    be divided.  The first reports the metrics.  They may run in place of ``update``, so whoever
    changes that changes them too, or sets them to ()."""
    alike: Callable[[TrainState, Batch], Mapping[str, Sequence[Sequence[str]]]] | None = None
    """``(state, batch) -> {"encoder": groups of names, "head": groups}``: the modules that
    ``update`` also takes as ``Stacks`` of these groups, from shapes alone; None: it takes none."""

    def named_metrics(self, metrics: Any) -> Sequence[tuple[str, Metrics, int | None]]:
        """What ``update`` returned beside the state, by the name that a run reports it under.

        With a number: these are the metrics of several names, each array with them along its first
        axis, and the number is the place of this name.
        """
        if not self.parts:
            return [(self.name, metrics, None)]
        if not isinstance(metrics, Stacks):
            return [(part.name, metrics[part.name], None) for part in self.parts]
        (of_all,) = metrics.trees
        return [(part.name, of_all, place) for place, part in enumerate(self.parts)]


Accumulate = Callable[[dict[str, Any], Any, Batch], Any]
"""``(variables, carry, batch) -> carry``: pure; ``batch["valid"]`` is False on padding."""

ReduceTraining = Callable[[Accumulate, dict[str, Any], Any], Any]
"""``reduce_training(accumulate, variables, carry) -> carry``: every training example once."""


Weigh = Callable[[Prediction, jax.Array, Any], jax.Array]
"""``(prediction, present: bool[B, M], method_state) -> float32[B, M]``: how much each modality's
logits count; ``[B, M + 1]``, with the joint logits last, for a method that weighs them too."""


def weighted_sum(weigh: Weigh) -> Callable[[Prediction, jax.Array, Any], jax.Array]:
    """``Method.fuse`` as the sum of the modalities' logits times their weights."""

    def fuse(prediction: Prediction, present: jax.Array, method_state: Any) -> jax.Array:
        return fusion.combine(weigh(prediction, present, method_state), prediction.unimodal)

    return fuse


class Stage(NamedTuple):
    """A run of epochs through the same phases; most methods have one stage.

    ``StepInfo.epoch`` starts from 0 in every stage, and so does the learning rate's schedule.  The
    result of a run is an epoch of its last stage.
    """

    name: str
    epochs: int
    phases: tuple[Phase, ...]
    """() for a stage that is solved in closed form, by ``on_epoch`` alone, in one epoch."""
    on_epoch: Callable[[TrainState, int, ReduceTraining], TrainState] | None = None
    """``(state, epoch, reduce_training) -> state``, on the host before each epoch of the stage."""

    @property
    def single_phases(self) -> tuple[Phase, ...]:
        """The phases, with those that run as one program listed one by one."""
        return tuple(part for phase in self.phases for part in phase.parts or (phase,))


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
    weigh: Weigh | None = None
    """The weights behind ``fuse``, for a method that fuses predictions; None where it fuses
    features."""
    weighs_joint: bool = False
    """Whether ``weigh`` weighs the joint logits too, which depend on what is present."""
    features: Callable[[dict[str, Any], Batch], dict[str, jax.Array]] | None = None
    """``({"params", "batch_stats"}, batch) -> {modality: float32[B, D]}`` in evaluation mode: what
    the heads get of each modality.  Where a method sets none, ``build_program`` gives it those of
    its encoders; None stays for methods that train no encoder."""


class Task(NamedTuple):
    """What a method needs to know about the task beyond its encoders and its optimiser."""

    classes: int
    epochs: int
    examples: int
    """Training examples; ``batch["index"]`` counts them."""
    head_init: str = "xavier"
    """Of every linear layer on features: one of ``heads.INITIALIZATIONS``."""
