"""Code that MMIN and IF-MMIN share: a teacher on complete data, a student on masked data.

Stage 1, ``teacher``: encoders and their own head are trained on the complete data, without masks.

Stage 2, ``imagination``: encoders start from the teacher's, a copy of which is frozen, and see
masked data.  Optimisers are reset.  The frozen copy gives, without a gradient, the features of what
the student does not see:

    t_im = T_m(x_im)  where masks hide m from example i,   T_m(0) where the student sees it

(``complement``) and of the complete data (``everything``).  So the target for a modality that the
student sees is the teacher's output for zeros, not zero or the true features, as published.  A
modality that the data lack has no target.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mla_jax.encoders import Encoders
from mla_jax.functional.autoencoders import Drop
from mla_jax.functional.optimizers import Optimizer, StepInfo
from mla_jax.methods.base import Method, Phase, ReduceTraining, Stage, Task
from mla_jax.methods.joint import (
    Features,
    Learnt,
    gradient_step,
    initial_opt_state,
    initial_state,
    joint_fusion,
)
from mla_jax.methods.missing.blanks import (
    blank_features,
    features_or_blanks,
    fill_in,
    joined,
    predict_from_features,
    whole,
)
from mla_jax.methods.missing.networks import STARTS, check_dropout, example_dropout
from mla_jax.state import Batch, Metrics, TrainState

Heads = Mapping[str, Any]

SWITCHES: dict[str, Any] = {
    "layers": (),
    "blocks": 5,
    "head_layers": (),
    "dropout": 0.5,
    "teacher_dropout": 0.3,
    "teacher_epochs": 0,
    "initialization": "head_init",
}
"""The switches of both methods, with their values under ``paper``."""
CHOICES = {"initialization": STARTS}
LIMITS = {
    "blocks": (1, 100),
    "dropout": (0, 1),
    "teacher_dropout": (0, 1),
    "teacher_epochs": (0, 1_000_000),
}
PUBLISHED_WIDTHS = (2 / 3, 1 / 3, 1 / 6)
"""Shares of the M D joined features: 256, 128, 64 of 384."""
WEIGHT = (0, math.inf)


class Seen(NamedTuple):
    """Everything that a loss may use in one training step."""

    batch: Batch
    heads: Heads
    features: Features
    """Of the student, or of the teacher while it learns; blank if a modality is missing."""
    drop: Callable[[str], Drop]
    """``(name of a network) -> its dropout``."""


class Taught(NamedTuple):
    """The outputs of the frozen teacher for a batch, without gradients."""

    complement: jax.Array
    """``[B, M D]``: t."""
    everything: Features
    heads: Heads
    """Its copies of ``Parts.shared``."""


class Parts(NamedTuple):
    """The differences between the two methods."""

    init_heads: Callable[[jax.Array], dict[str, Any]]
    """``(rng) -> {name: head}``, the heads of both stages."""
    teach: Callable[[Seen], tuple[jax.Array, jax.Array]]
    """The loss of each example ``float32[B]`` and the logits ``[B, C]`` of the first stage."""
    imagine: Callable[[Seen, Taught], tuple[jax.Array, jax.Array]]
    """The same for the second stage."""
    classify: Callable[[Heads, Features], jax.Array]
    """``(heads, features) -> [B, C]``: the prediction."""
    shared: tuple[str, ...] = ()
    """Heads of both stages: the teacher's are copied along with its encoders."""
    teacher: tuple[str, ...] = ("teacher",)
    """Heads of the first stage only."""


def known_error(target: jax.Array, found: jax.Array, batch: Batch) -> jax.Array:
    """The mean over all elements of ``(target - found)^2``, as each example's share ``float32[B]``.

    ``target, found: [B, M D]``; modalities that the data lack are left out of the mean.
    """
    known = whole(batch)["present"]
    errors = jnp.square(target - found).reshape(*known.shape, -1).mean(-1)
    mine = jnp.where(known, errors, 0).sum(-1)
    return mine * (batch["valid"].sum() / jnp.maximum(known.sum(), 1))


def imagination_method(
    name: str,
    parts: Parts,
    teacher_share: float,
    switches: Any,
    encoders: Encoders,
    optimizer: Optimizer,
    task: Task,
) -> Method:
    """The method with ``parts``; its teacher has ``teacher_share`` of the epochs by default."""
    modalities = encoders.modalities
    optimizers = {"encoder": optimizer, "head": optimizer}
    check_dropout("dropout", switches.dropout)
    check_dropout("teacher_dropout", switches.teacher_dropout)
    teacher_epochs = switches.teacher_epochs or max(1, round(task.epochs * teacher_share))

    def frozen(params: dict[str, Any], batch_stats: Any) -> dict[str, Any]:
        """Copies, so that the state contains no array twice and can be donated."""
        heads = {key: params["head"][key] for key in parts.shared}
        kept = {"encoder": params["encoder"], "head": heads, "batch_stats": batch_stats}
        return jax.tree.map(jnp.copy, kept)

    def init(rng: jax.Array, batch: Batch) -> TrainState:
        def init_state(rng: jax.Array) -> dict[str, Any]:
            return {"dropout": jax.random.key_data(rng)}

        state = initial_state(encoders, optimizers, parts.init_heads, init_state, rng, batch)
        teacher = frozen(state.params, state.batch_stats)
        return state.replace(method_state={**state.method_state, "teacher": teacher})

    def seen(
        params: dict[str, Any], state: TrainState, batch: Batch, info: StepInfo, rate: float
    ) -> tuple[Seen, Any]:
        before = params["encoder"], state.batch_stats
        z, stats = features_or_blanks(encoders, *before, batch, train=True)
        drop = example_dropout(state.method_state["dropout"], batch, info, rate)
        return Seen(batch, params["head"], z, drop), stats

    def taught(state: TrainState, batch: Batch) -> Taught:
        teacher, data = state.method_state["teacher"], whole(batch)
        t, _ = encoders.features(teacher["encoder"], teacher["batch_stats"], data, train=False)
        frozen_parts = teacher["encoder"], teacher["batch_stats"]
        blanks = blank_features(encoders, *frozen_parts, data["inputs"])
        hidden = data["present"] & ~batch["present"]
        everything = fill_in(t, data["present"], blanks)
        complement = joined(fill_in(t, hidden, blanks), modalities)
        return Taught(complement, everything, teacher["head"])

    def learn_whole(
        params: dict[str, Any], state: TrainState, batch: Batch, info: StepInfo
    ) -> Learnt:
        look, stats = seen(params, state, batch, info, switches.teacher_dropout)
        return Learnt(*parts.teach(look), stats, state.method_state)

    def learn_imagination(
        params: dict[str, Any], state: TrainState, batch: Batch, info: StepInfo
    ) -> Learnt:
        look, stats = seen(params, state, batch, info, switches.dropout)
        losses, logits = parts.imagine(look, taught(state, batch))
        return Learnt(losses, logits, stats, state.method_state)

    def hand_over(state: TrainState) -> TrainState:
        teacher = frozen(state.params, state.batch_stats)
        return state.replace(
            opt_state=initial_opt_state(optimizers, state.params),
            method_state={**state.method_state, "teacher": teacher},
        )

    def begin(state: TrainState, epoch: int, reduce_training: ReduceTraining) -> TrainState:
        del reduce_training
        if epoch:
            return state
        shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
        return jax.jit(hand_over, out_shardings=shardings)(state)

    head_names = tuple(jax.eval_shape(parts.init_heads, jax.random.key(0)))
    later = tuple(n for n in head_names if n not in (*parts.shared, *parts.teacher))
    teach = gradient_step(learn_whole, modalities, optimizers, idle_heads=later)
    imagine = gradient_step(learn_imagination, modalities, optimizers, idle_heads=parts.teacher)

    def teach_whole(state: TrainState, batch: Batch, info: StepInfo) -> tuple[TrainState, Metrics]:
        return teach(state, whole(batch), info)

    return Method(
        name,
        modalities,
        task.classes,
        init,
        stages=(
            Stage("teacher", teacher_epochs, (Phase("teacher", teach_whole),)),
            Stage("imagination", task.epochs, (Phase("imagination", imagine),), begin),
        ),
        predict=predict_from_features(encoders, parts.classify),
        fuse=joint_fusion,
        describe=lambda state: [
            f"the teacher learns for {teacher_epochs} epochs from the complete data; the "
            "accuracies of these epochs are those of the untrained student"
        ],
    )
