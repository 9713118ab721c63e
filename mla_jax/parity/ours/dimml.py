"""Runs our DI-MML, FiLM and gated fusion on the same weights and batches."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from mla_jax.functional import fusion, losses
from mla_jax.functional.heads import apply_head
from mla_jax.parity import rows
from mla_jax.parity.cases import module_inputs
from mla_jax.parity.columns import CERTAINTY_TEMPERATURE, DUC_DIMENSIONS, TEMPERATURE
from mla_jax.parity.formula import Tensors
from mla_jax.parity.ours import joint
from mla_jax.parity.ours.compiled import CompiledMethod, gradients, learning_rates
from mla_jax.state import Batch, TrainState


def detached(compiled: CompiledMethod, found: Tensors) -> Tensors:
    """One epoch of stage 1.

    Training continues with the reference's split: if rounding decides on a dimension, that
    must show only in the row of the split.
    """
    state = split(compiled, compiled.start(found))
    if compiled.column.epoch < 20:
        return without_fused(joint.train(compiled, state, detached_logits))
    audio, visual = state.method_state["effective"]
    own = {
        "dimensions that teach/audio to visual": audio & ~visual,
        "dimensions that teach/visual to audio": visual & ~audio,
    }
    effective = jnp.stack([jnp.asarray(found[name] > 0) for name in own])
    state = state.replace(method_state={**state.method_state, "effective": effective})
    teaching = effective[0] & ~effective[1], effective[1] & ~effective[0]
    own |= joint.train(compiled, state, detached_logits, lambda z: duc(z, teaching))
    return without_fused(own) | contrast(compiled.dtype)


def without_fused(found: Tensors) -> Tensors:
    """All but the fused head, which does not learn in stage 1."""
    return {name: value for name, value in found.items() if "/fused/" not in name}


def split(compiled: CompiledMethod, state: TrainState) -> TrainState:
    """What the method does on the host before an epoch of stage 1."""
    batches = [batch for _, batch, _ in compiled.batches()]

    def reduce_training(accumulate: Any, variables: Any, carry: Any) -> Any:
        folded = jax.jit(accumulate)
        for batch in batches:
            carry = folded(variables, carry, batch)
        return carry

    on_epoch: Any = compiled.method.stages[0].on_epoch
    return on_epoch(state, compiled.column.epoch, reduce_training)


def detached_logits(compiled: CompiledMethod, state: TrainState, z: Any, batch: Batch) -> Any:
    """``{name: [B, C]}`` of the private heads and of the shared one."""
    del compiled, batch
    heads = state.params["head"]
    private = {m: apply_head(heads[m], z[m]) for m in z}
    return private | {f"shared {m}": apply_head(heads["shared"], z[m]) for m in z}


def duc(z: Any, teaching: Any) -> jax.Array:
    """The mean DUC loss of both directions; ``teaching``: first to second, second to first."""
    audio, visual = z["audio"], z["visual"]
    present = jnp.ones(len(audio), bool)
    there, back = (
        losses.dimension_contrastive(student, teacher, mask, present, TEMPERATURE).mean()
        for student, teacher, mask in ((visual, audio, teaching[0]), (audio, visual, teaching[1]))
    )
    return there + back


def contrast(dtype: Any) -> Tensors:
    """The DUC loss by itself: value and gradients."""
    features, _ = module_inputs(dtype)
    width = features["audio"].shape[1]
    teaching = [np.isin(np.arange(width), chosen) for chosen in DUC_DIMENSIONS]
    grad = jax.jit(jax.value_and_grad(lambda z: duc(z, teaching)))
    value, by_feature = grad(jax.tree.map(jnp.asarray, features))
    return {"DUC loss/by itself": value} | rows.with_prefix(by_feature, "gradient of DUC/")


def fused(compiled: CompiledMethod, found: Tensors) -> Tensors:
    """An epoch of stage 2, and evaluation with the reference's final weights."""
    state, (phase,) = compiled.start(found), compiled.stages[1]
    own = calendar(compiled, state)
    for number, batch, info in compiled.batches():
        if number == 1:
            own["logits/joint"] = jax.jit(compiled.method.predict)(state.variables, batch).joint
        state, metrics = phase(state, batch, info)
        own[f"loss{rows.later(number)}/batch {number} total"] = metrics["loss"]
        if number == 1:
            own |= rows.head_gradients(gradients(state, "applied"))
        own |= compiled.after(state, number)
    trained = rows.without_prefix(found, rows.TRAINED)
    shown, counts = compiled.evaluate(trained, state.method_state)
    own |= joint.predictions(compiled, shown, counts)
    own |= rows.predictions({"joint": shown["joint"]}, {})
    logits = jnp.stack([shown[name] for name in (*compiled.case.modalities, "joint")])
    weigh = fusion.certainty_weights(CERTAINTY_TEMPERATURE)
    own["certainty weights/all"] = weigh(logits, jnp.ones(logits.shape[1::-1], bool))
    return {name: value for name, value in own.items() if name in found}  # all that learns


def calendar(compiled: CompiledMethod, state: TrainState) -> Tensors:
    """Learning rates by epoch, the epochs in which the training set is visited, and stages."""
    stages = compiled.method.stages
    on_epoch: Any = stages[0].on_epoch
    splits: list[int] = []
    for epoch in range(stages[0].epochs):

        def reduce_training(accumulate: Any, variables: Any, carry: Any, epoch: int = epoch) -> Any:
            del accumulate, variables
            splits.append(epoch)
            return carry

        on_epoch(state, epoch, reduce_training)
    return learning_rates(stages[0].epochs) | {
        "epoch of the split/": np.array(sorted(set(splits))),
        "epochs of the stages/": np.array([stage.epochs for stage in stages]),
    }


def fusion_module(compiled: CompiledMethod, found: Tensors) -> Tensors:
    """FiLM or gated fusion by itself: logits, loss and all gradients."""
    heads, rule = compiled.start(found).params["head"], compiled.rule
    label: Any
    features, label = module_inputs(compiled.dtype)

    def objective(heads: Any, z: Any) -> tuple[jax.Array, jax.Array]:
        logits: Any = rule.classify(heads, z, jnp.ones((len(label), 2), bool), True).joint
        return losses.cross_entropy(logits, label).mean(), logits

    grad = jax.jit(jax.value_and_grad(objective, (0, 1), has_aux=True))
    (loss, logits), (by_head, by_feature) = grad(heads, features)
    own = {"logits/joint": logits, "loss/batch 1 total": loss}
    own |= rows.with_prefix(by_feature, "gradient of the features/")
    flat = traverse_util.flatten_dict(by_head, sep="/")
    return own | rows.with_prefix(flat, "gradient of the head/")
