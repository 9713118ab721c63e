"""Runs our DI-MML, FiLM and gated fusion on the weights and batches of ``dimml_theirs``."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from mla_jax.convert.names import Tensors
from mla_jax.functional import fusion, losses
from mla_jax.functional.heads import apply_head
from mla_jax.functional.optimizers import StepInfo, learning_rate_schedule
from mla_jax.parity.cases import Case
from mla_jax.parity.columns import (
    CERTAINTY_TEMPERATURE,
    DUC_DIMENSIONS,
    TEMPERATURE,
    fusion_inputs,
    fusion_rule,
    training_batch,
)
from mla_jax.parity.joint_ours import (
    Program,
    evaluate,
    gradients,
    record_gradients,
    record_step,
)
from mla_jax.state import Batch, TrainState

EPOCHS = 150
"""Of the published command (``main_CFT.py``)."""


def program(case: Case, **changes: Any) -> Program:
    """DI-MML as published, with the temperatures of the comparison."""
    switches = {
        "temperature": TEMPERATURE,
        "certainty_temperature": CERTAINTY_TEMPERATURE,
        **changes,
    }
    return Program(case, "dimml", "released", switches, EPOCHS)


def split(chosen: Program, state: TrainState, epoch: int, dtype: Any) -> TrainState:
    """What the method does on the host before an epoch of stage 1."""
    batches = [training_batch(chosen.case, i, dtype) for i in range(chosen.case.batches)]

    def reduce_training(accumulate: Any, variables: Any, carry: Any) -> Any:
        folded = jax.jit(accumulate)
        for batch in batches:
            carry = folded(variables, carry, batch)
        return carry

    return chosen.method.stages[0].on_epoch(state, epoch, reduce_training)


def detached(
    chosen: Program, tensors: Tensors, epoch: int, teaching: Tensors, dtype: Any
) -> Tensors:
    """One epoch of stage 1.

    Training goes on with the split that theirs found, ``teaching``: where a rounding decides on a
    dimension, that must show in the row of the split and not in all others.
    """
    case, state = chosen.case, chosen.state(tensors)
    found: Tensors = {}
    state = split(chosen, state, epoch, dtype)
    audio, visual = state.method_state["effective"]
    if epoch >= 20:
        found["dimensions that teach/audio to visual"] = audio & ~visual
        found["dimensions that teach/visual to audio"] = visual & ~audio
        effective = jnp.stack([jnp.asarray(teaching[name] > 0) for name in found])
        state = state.replace(method_state={**state.method_state, "effective": effective})
        audio, visual = effective
    phase = jax.jit(chosen.method.stages[0].phases[0].update)

    @jax.jit
    def look(state: TrainState, batch: Batch) -> tuple[dict[str, Any], jax.Array]:
        own, stats = state.params["encoder"], state.batch_stats
        z, _ = case.encoders.features(own, stats, batch, True)
        heads = state.params["head"]
        logits = {m: apply_head(heads[m], z[m]) for m in z}
        logits |= {f"shared {m}": apply_head(heads["shared"], z[m]) for m in z}
        shown = {f"features, training/{m}": z[m] for m in z}
        for name, value in logits.items():
            shown[f"logits/{name}"] = value
            mean = losses.cross_entropy(value, batch["label"]).mean()
            shown[f"loss/batch 1 {name}"] = mean
        return shown, duc(z, [audio & ~visual, visual & ~audio], TEMPERATURE)

    for number in range(1, case.batches + 1):
        later = "" if number == 1 else ", later batches"
        batch = jax.tree.map(jnp.asarray, training_batch(case, number - 1, dtype))
        shown, contrast_loss = look(state, batch)
        found |= shown if number == 1 else {}
        if epoch >= 20:
            found[f"DUC loss{later}/batch {number}"] = contrast_loss
        info = StepInfo(*map(np.int32, (epoch, number - 1, case.batches)))
        state, metrics = phase(state, batch, info)
        found[f"loss{later}/batch {number} total"] = metrics["loss"]
        if number == 1:
            record_gradients(found, state, case, (*case.modalities, "shared"))
        record_step(found, state, number, case.batches)
    return {n: np.asarray(value) for n, value in found.items() if "/fused/" not in n}


def duc(z: Any, teaching: Any, temperature: float) -> jax.Array:
    """The mean DUC loss of both directions; ``teaching``: first to second, second to first."""
    audio, visual = z["audio"], z["visual"]
    present = jnp.ones(len(audio), bool)
    there, back = (
        losses.dimension_contrastive(student, teacher, mask, present, temperature).mean()
        for student, teacher, mask in (
            (visual, audio, teaching[0]),
            (audio, visual, teaching[1]),
        )
    )
    return there + back


def fused(chosen: Program, tensors: Tensors, trained: Tensors, dtype: Any) -> Tensors:
    """An epoch of stage 2, and evaluation with the weights that theirs ended with."""
    case, state = chosen.case, chosen.state(tensors)
    found: Tensors = {}
    phase = jax.jit(chosen.method.stages[1].phases[0].update)
    predict = jax.jit(chosen.method.predict)
    for number in range(1, case.batches + 1):
        later = "" if number == 1 else ", later batches"
        batch = jax.tree.map(jnp.asarray, training_batch(case, number - 1, dtype))
        if number == 1:
            found["logits/joint"] = predict(state.variables, batch).joint
        info = StepInfo(*map(np.int32, (0, number - 1, case.batches)))
        state, metrics = phase(state, batch, info)
        found[f"loss{later}/batch {number} total"] = metrics["loss"]
        if number == 1:
            for name, value in gradients(state, "head", "fused", "applied").items():
                found[f"gradient of the head/fused/{name}"] = value
        record_step(found, state, number, case.batches)
    momentum = f"momentum after {case.batches}/"
    found = {
        n: np.asarray(value)
        for n, value in found.items()
        if not n.startswith(momentum) or "/fused/" in n
    }
    found |= evaluate(chosen, trained, dtype, state.method_state)
    return found | certainty(chosen, trained, dtype)


def certainty(chosen: Program, tensors: Tensors, dtype: Any) -> Tensors:
    """Joint logits of the test set and how much each of the three predictions weighs."""
    case, state = chosen.case, chosen.state(tensors)
    weigh = fusion.certainty_weights(CERTAINTY_TEMPERATURE)

    @jax.jit
    def look(variables: Any, batch: Batch) -> tuple[jax.Array, jax.Array]:
        prediction = chosen.method.predict(variables, batch)
        logits = jnp.concatenate([prediction.unimodal, prediction.joint[None]])
        return prediction.joint, weigh(logits, jnp.ones(logits.shape[1::-1], bool))

    found = [look(state.variables, batch) for batch in case.test_batches(dtype)]
    joint, weights = zip(*found, strict=True)
    logits = np.concatenate(joint)
    return {
        "joint logits, evaluation/joint": logits,
        "predictions/joint": logits.argmax(-1),
        "certainty weights/all": np.concatenate(weights),
    }


def calendar(chosen: Program) -> Tensors:
    """Learning rates by epoch, the epochs in which the training set is visited, and stages."""
    stages = chosen.method.stages
    shapes = jax.eval_shape(chosen.method.init, jax.random.key(0), chosen.case.batch(0))
    state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    splits: list[int] = []
    for epoch in range(stages[0].epochs):

        def reduce_training(accumulate: Any, variables: Any, carry: Any, epoch: int = epoch) -> Any:
            del accumulate, variables
            splits.append(epoch)
            return carry

        stages[0].on_epoch(state, epoch, reduce_training)
    rate = learning_rate_schedule(chosen.case.optimizer_config(), EPOCHS)
    rates = jax.vmap(lambda epoch: rate(StepInfo(epoch, 5, 10)))(np.arange(stages[0].epochs))
    return {
        f"StepLR over {len(rates)} epochs/": np.array(rates),
        "epoch of the split/": np.array(sorted(set(splits))),
        "epochs of the stages/": np.array([stage.epochs for stage in stages]),
    }


def fusion_module(name: str, dtype: Any) -> Tensors:
    """FiLM or gated fusion by itself: logits, loss and all gradients."""
    features, label, tensors = fusion_inputs(name, dtype)
    _, rule = fusion_rule(name)
    heads = traverse_util.unflatten_dict(tensors, sep="/")["params"]["head"]

    def objective(heads: Any, z: Any) -> tuple[jax.Array, jax.Array]:
        logits = rule.classify(heads, z, jnp.ones((len(label), 2), bool), True).joint
        return losses.cross_entropy(logits, label).mean(), logits

    grad = jax.jit(jax.value_and_grad(objective, (0, 1), has_aux=True))
    (loss, logits), (by_head, by_feature) = grad(heads, features)
    found = {"logits/joint": logits, "loss/batch 1 total": loss}
    found |= {f"gradient of the features/{m}": g for m, g in by_feature.items()}
    for n, g in traverse_util.flatten_dict(by_head, sep="/").items():
        found[f"gradient of the head/{n}"] = g
    return {n: np.asarray(value) for n, value in found.items()}


def contrast(dtype: Any) -> Tensors:
    """The DUC loss by itself: value and gradients."""
    features, _, _ = fusion_inputs("film", dtype)
    width = features["audio"].shape[1]
    teaching = [np.isin(np.arange(width), chosen) for chosen in DUC_DIMENSIONS]
    grad = jax.jit(jax.value_and_grad(lambda z: duc(z, teaching, TEMPERATURE)))
    value, by_feature = grad(jax.tree.map(jnp.asarray, features))
    found = {"DUC loss/by itself": value} | {
        f"gradient of DUC/{m}": g for m, g in by_feature.items()
    }
    return {n: np.asarray(value) for n, value in found.items()}
