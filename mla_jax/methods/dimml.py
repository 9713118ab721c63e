"""DI-MML: detached and interactive multimodal learning (Fan et al., ACM MM 2024).

Stage 1, ``detached``.  Every modality has an encoder and a private head h_m; one head h_s is shared
by all.  No term sends a gradient into two encoders:

    L = sum_m [ CE(h_m(z_m), y) + lambda CE(h_s(z_m), y) ]  +  sum_{t != s} DUC(t -> s)

DUC (dimension-decoupled unidirectional contrastive loss, ``losses.dimension_contrastive``) pulls
modality s towards t, whose features get no gradient, on the dimensions that separate classes in
t but not in s (``dimml_dimensions.py``).  They are found once, before epoch ``split_epoch``,
where DUC starts.

Stage 2, ``fusion``.  Encoders, statistics and heads are frozen; a fused head learns on
[z_1; ...; z_M].

At test time the private and the fused logits o_k are weighted by their certainty
(``functional/fusion.py``):

    w = softmax_k(max_c softmax(o_k)_c / tau_2),   logits = sum_k w_k o_k

The published code has two modalities; with more, every ordered pair has its own DUC term.  A
missing modality adds no loss and no logits, and zero features to the fused head.

``split_epoch`` and ``fusion_epochs`` 0 mean the published share of the epochs, 20 of 150.
``released`` gives the heads of stage 1 PyTorch's default initialisation (``main_CFT.py`` calls no
``weight_init``) and draws the scales of batch normalisations from N(1, 0.02^2), as
``models/backbone.py`` does; ``released_<dataset>`` adds the temperatures published for a dataset.
``duc_weight=0`` leaves out DUC, ``shared_weight=0`` the shared head, and ``fusion=equal`` the
weights by certainty: w_k is then the same for all predictions.
Only the paper's abstract could be read, so ``paper`` follows the code too.
"""

import itertools
import math
import types
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from mla_jax.encoders import Encoders
from mla_jax.errors import UserError
from mla_jax.functional import fusion
from mla_jax.functional.heads import INITIALIZATIONS, apply_head, init_head
from mla_jax.functional.losses import (
    accuracy,
    cross_entropy,
    dimension_contrastive,
    shared_out,
    unimodal_cross_entropy,
)
from mla_jax.functional.optimizers import Optimizer, StepInfo
from mla_jax.methods import concat, film, gated, sum
from mla_jax.methods.base import Method, Phase, ReduceTraining, Stage, Task
from mla_jax.methods.dimml_dimensions import effective_dimensions
from mla_jax.methods.joint import JointRule, Step, joint_method
from mla_jax.state import Batch, Metrics, Prediction, TrainState

FUSED = {"concat": concat, "sum": sum, "film": film, "gated": gated}
PLAIN = types.SimpleNamespace(unimodal_bias="full", condition_on="", gate="")

STARTS = {"heads": "torch", "norm_scale_std": 0.02}
FIDELITY: dict[str, dict[str, Any]] = {
    "paper": {
        "heads": "xavier",
        "norm_scale_std": 0.0,
        "shared_weight": 1.0,
        "duc_weight": 1.0,
        "temperature": 10.0,
        "fusion": "certainty",
        "certainty_temperature": 1.0,
        "split_epoch": 0,
        "fusion_epochs": 0,
        "fused_head": "concat",
    },
    "released": STARTS,
    "released_cremad": {**STARTS, "temperature": 50.0, "certainty_temperature": 1.0},
    "released_ave": {**STARTS, "temperature": 10.0, "certainty_temperature": 3.0},
    "released_ucf101": {**STARTS, "temperature": 10.0, "certainty_temperature": 1.0},
    "released_modelnet40": {**STARTS, "temperature": 50.0, "certainty_temperature": 3.0},
}
DEPENDS_ON_EPOCHS = "dimml trains its fused head after the last epoch of its first stage"
LIMITS = {
    **dict.fromkeys(("norm_scale_std", "shared_weight", "duc_weight"), (0, math.inf)),
    **dict.fromkeys(("temperature", "certainty_temperature"), (0, math.inf)),
    **dict.fromkeys(("split_epoch", "fusion_epochs"), (0, 1_000_000)),
}
CHOICES = {
    "heads": INITIALIZATIONS,
    "fused_head": tuple(FUSED),
    "fusion": ("certainty", "equal"),
}


def build(switches: Any, encoders: Encoders, optimizer: Optimizer, task: Task) -> Method:
    """DI-MML over any number of modalities; with one there is no DUC term."""
    modalities, D, C = encoders.modalities, encoders.feature_dim, task.classes
    pairs = list(itertools.permutations(range(len(modalities)), 2))
    split_epoch, fusion_epochs = _epochs(switches, task)
    find_effective = effective_dimensions(encoders, C)
    fused_rule = FUSED[switches.fused_head].rule(PLAIN, encoders, task)
    weights: fusion.Weights = fusion.equal_weights
    if switches.fusion == "certainty":
        weights = fusion.certainty_weights(switches.certainty_temperature)

    def init_heads(rng: jax.Array) -> dict[str, Any]:
        rng, shared_rng, fused_rng = jax.random.split(rng, 3)
        heads = {m: init_head(encoders.key(rng, m), D, C, switches.heads) for m in modalities}
        heads["shared"] = init_head(shared_rng, D, C, switches.heads)
        return {**heads, "fused": fused_rule.init_heads(fused_rng)}

    def init_state(rng: jax.Array) -> dict[str, jax.Array]:
        del rng
        return {"effective": jnp.zeros((len(modalities), D), bool), "fused": jnp.zeros((), bool)}

    def classify(heads, features, present, train: bool) -> Prediction:
        private = jnp.stack([apply_head(heads[m], features[m]) for m in modalities])
        return Prediction(
            private, fused_rule.classify(heads["fused"], features, present, train).joint
        )

    def detached_loss(step: Step) -> jax.Array:
        label, present, valid = (step.batch[key] for key in ("label", "present", "valid"))
        z = [step.features[m] for m in modalities]
        shared = jnp.stack([apply_head(step.heads["shared"], features) for features in z])
        losses = unimodal_cross_entropy(step.prediction.unimodal, label, present, valid)
        losses += switches.shared_weight * unimodal_cross_entropy(shared, label, present, valid)
        effective = step.method_state["effective"]
        duc = jnp.zeros_like(losses)
        for t, s in pairs if switches.duc_weight else ():
            duc += dimension_contrastive(
                student=z[s],
                teacher=z[t],
                dimensions=effective[t] & ~effective[s],
                present=present[:, t] & present[:, s],
                temperature=switches.temperature,
                valid=valid,
            )
        begun = jnp.asarray(step.info.epoch) >= split_epoch
        return losses + jnp.where(begun, switches.duc_weight * duc, 0)

    def split(state: TrainState, epoch: int, reduce_training: ReduceTraining) -> TrainState:
        if epoch != split_epoch or not pairs or not switches.duc_weight:
            return state
        effective = find_effective(state.variables, reduce_training)
        return state.replace(method_state={**state.method_state, "effective": effective})

    def learn_fused(state: TrainState, batch: Batch, info: StepInfo) -> tuple[TrainState, Metrics]:
        frozen = state.params["encoder"], state.batch_stats
        z, _ = encoders.features(*frozen, batch, train=False)

        def objective(head):
            logits = fused_rule.classify(head, z, batch["present"], True).joint
            losses = shared_out(cross_entropy(logits, batch["label"]), batch["valid"])
            return losses.mean(), (losses, logits)

        head = state.params["head"]["fused"]
        (loss, (losses, logits)), gradient = jax.value_and_grad(objective, has_aux=True)(head)
        head, opt_state = optimizer.step(gradient, state.opt_state["head"]["fused"], head, info)
        right = accuracy(logits, batch["label"], batch["valid"])
        state = state.replace(
            params=_with_fused(state.params, head),
            opt_state=_with_fused(state.opt_state, opt_state),
            method_state={**state.method_state, "fused": jnp.ones((), bool)},
        )
        metrics = {"loss": loss, "accuracy": right, "examples": batch["valid"].sum()}
        return state, {**metrics, "example_loss": losses}

    def all_logits(prediction: Prediction) -> jax.Array:
        assert prediction.joint is not None  # classify gives it
        return jnp.concatenate([prediction.unimodal, prediction.joint[None]])

    def weigh(prediction: Prediction, present: jax.Array, method_state: Any) -> jax.Array:
        learnt = present.any(1, keepdims=True) & method_state["fused"]
        return weights(all_logits(prediction), jnp.concatenate([present, learnt], 1))

    def fuse(prediction: Prediction, present: jax.Array, method_state: Any) -> jax.Array:
        return fusion.combine(weigh(prediction, present, method_state), all_logits(prediction))

    rule = JointRule(
        init_heads, classify, detached_loss, fuse, init_state, idle_heads=("fused",), weigh=weigh
    )
    method = joint_method("dimml", rule, encoders, optimizer, task)
    (detached,) = method.stages
    phases = (Phase("detached", detached.phases[0].update),)

    def init(rng: jax.Array, batch: Batch) -> TrainState:
        state = method.init(rng, batch)
        if not switches.norm_scale_std:
            return state
        scales = _norm_scales(jax.random.fold_in(rng, 3), switches.norm_scale_std, encoders, state)
        return state.replace(params={**state.params, "encoder": scales})

    detached = detached._replace(name="detached", phases=phases, on_epoch=split)
    return method._replace(
        init=init,
        weighs_joint=True,
        describe=lambda state: _description(split_epoch, task.epochs, switches.duc_weight),
        stages=(detached, Stage("fusion", fusion_epochs, (Phase("fused", learn_fused),))),
    )


def _norm_scales(rng: jax.Array, std: float, encoders: Encoders, state: TrainState) -> Any:
    """The encoders' parameters, with the scales of batch normalisations drawn from N(1, std^2)."""
    drawn = {}
    for m, params in state.params["encoder"].items():
        flat = flatten_dict(params)
        norms = sorted({path[:-1] for path in flatten_dict(state.batch_stats[m])})
        for number, norm in enumerate(norms):
            key = jax.random.fold_in(encoders.key(rng, m), number)
            ones = flat[(*norm, "scale")]
            flat[(*norm, "scale")] = ones + std * jax.random.normal(key, ones.shape)
        drawn[m] = unflatten_dict(flat)
    return drawn


def _with_fused(tree: dict[str, Any], fused: Any) -> dict[str, Any]:
    return {**tree, "head": {**tree["head"], "fused": fused}}


def _epochs(switches: Any, task: Task) -> tuple[int, int]:
    """The epoch before which the dimensions are split, and the length of stage 2."""
    share = max(1, round(task.epochs * 20 / 150))
    if switches.split_epoch >= task.epochs:
        raise UserError(
            f"method.split_epoch={switches.split_epoch} must be one of the {task.epochs} "
            "epochs after the first, or 0 for the published share"
        )
    if not switches.temperature or not switches.certainty_temperature:
        raise UserError("method.temperature and method.certainty_temperature must be positive")
    return switches.split_epoch or share, switches.fusion_epochs or share


def _description(split_epoch: int, epochs: int, weight: float) -> list[str]:
    if not weight:
        return ["no contrastive loss: method.duc_weight=0"]
    if split_epoch < epochs:
        return [
            f"dimensions are split after epoch {split_epoch}; the contrastive loss starts there"
        ]
    return [f"no contrastive loss: the dimensions would be split after epoch {split_epoch}"]
