"""What MMIN and IF-MMIN share: a teacher that saw everything, and a student that must imagine it.

Stage 1, ``teacher``: encoders and a head of its own on the whole data, masks or not.

Stage 2, ``imagination``: encoders start as the teacher's, a copy of which is frozen, and see what
masks leave.  Optimisers start anew.  The frozen copy answers, without a gradient, to what the
student does not see:

    t_im = T_m(x_im)  where masks hide m from example i,   T_m(0) where the student sees it

(``complement``) and to the whole data (``everything``).  So the target for a modality that is there
is the teacher's answer to zeros, neither zero nor the true features, as published.  A modality that
the data lack has no target.
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
"""Those of both methods, with their values under ``paper``."""
CHOICES = {"initialization": STARTS}
LIMITS = {
    "blocks": (1, 100),
    "dropout": (0, 1),
    "teacher_dropout": (0, 1),
    "teacher_epochs": (0, 1_000_000),
}
PUBLISHED_WIDTHS = (2 / 3, 1 / 3, 1 / 6)
"""Of the M D joined features: 256, 128, 64 of 384."""
WEIGHT = (0, math.inf)


class Seen(NamedTuple):
    """All that a loss may look at in one training step."""

    batch: Batch
    heads: Heads
    features: Features
    """Of the student, or of the teacher while it learns; blank where a modality is absent."""
    drop: Callable[[str], Drop]
    """The dropout of a network, by its name."""


class Taught(NamedTuple):
    """What the frozen teacher makes of a batch; no gradient passes."""

    complement: jax.Array
    """``[B, M D]``: t."""
    everything: Features
    heads: Heads
    """Its copies of ``Parts.shared``."""


class Parts(NamedTuple):
    """What makes one method differ from the other."""

    init_heads: Callable[[jax.Array], dict[str, Any]]
    """``(rng) -> {name: head}``, those of both stages."""
    teach: Callable[[Seen], tuple[jax.Array, jax.Array]]
    """The loss of each example ``float32[B]`` and the logits ``[B, C]`` of the first stage."""
    imagine: Callable[[Seen, Taught], tuple[jax.Array, jax.Array]]
    """Those of the second."""
    classify: Callable[[Heads, Features], jax.Array]
    """``(heads, features) -> [B, C]``: the prediction."""
    shared: tuple[str, ...] = ()
    """Heads of both stages: the teacher's are copied along with its encoders."""
    teacher: tuple[str, ...] = ("teacher",)
    """Heads of the first stage only."""


def known_error(target: jax.Array, found: jax.Array, batch: Batch) -> jax.Array:
    """The mean over all elements of ``(target - found)^2``, an example's share ``float32[B]``.

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
    """The method of ``parts``; its teacher has ``teacher_share`` of the epochs by default."""
    modalities = encoders.modalities
    optimizers = {"encoder": optimizer, "head": optimizer}
    check_dropout("dropout", switches.dropout)
    check_dropout("teacher_dropout", switches.teacher_dropout)
    teacher_epochs = switches.teacher_epochs or max(1, round(task.epochs * teacher_share))

    def frozen(params: dict[str, Any], batch_stats: Any) -> dict[str, Any]:
        """Copies, so that the state holds no array twice and can be donated."""
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
            f"the teacher learns for {teacher_epochs} epochs from all that the data hold; the "
            "accuracies of its epochs are those of a student that has not begun"
        ],
    )
