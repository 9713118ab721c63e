"""Runs our other methods of the MLA repository on the same weights and batches."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mla_jax.evaluate.figures import accuracy
from mla_jax.functional import fusion, losses
from mla_jax.parity import rows
from mla_jax.parity.formula import Tensors
from mla_jax.parity.ours.compiled import CompiledMethod, gradients, unit_noise
from mla_jax.state import Batch, TrainState


def run(compiled: CompiledMethod, found: Tensors) -> Tensors:
    """Every quantity of a column."""
    own = train(compiled, compiled.start(found))
    return own | evaluate(compiled, rows.without_prefix(found, rows.TRAINED))


def joint_logits(compiled: CompiledMethod, state: TrainState, z: Any, batch: Batch) -> Any:
    """``{name: [B, C]}`` of every modality and, where the loss has them, the fused ones."""
    prediction = compiled.rule.classify(state.params["head"], z, batch["present"], True)
    named = dict(zip(compiled.case.modalities, prediction.unimodal, strict=True))
    if compiled.switches.fidelity != "released_m3ae":  # whose loss has no fused logits
        fuse = compiled.method.fuse
        named["joint"] = fuse(prediction, batch["present"], state.method_state)
    return named


def train(
    compiled: CompiledMethod,
    state: TrainState,
    logits_of: Callable[..., dict[str, jax.Array]] = joint_logits,
    contrast: Callable[[Any], jax.Array] | None = None,
) -> Tensors:
    """The first phase of our method over the batches of the case.

    ``logits_of``: as ``joint_logits``; ``contrast``: the DUC loss of features, where there is one.
    """
    case, column, phase = compiled.case, compiled.column, compiled.stages[0][0]
    found: Tensors = {}
    for number, batch, info in compiled.batches():
        at = f"{rows.later(number)}/batch {number}"
        if number == 1 or contrast or column.method == "qmf":
            z = compiled.features(state, batch)
            named = logits_of(compiled, state, z, batch)
        if number == 1:
            label = batch["label"]
            means = {n: losses.cross_entropy(x, label).mean() for n, x in named.items()}
            found |= rows.with_prefix(z, "features, training/")
            found |= rows.with_prefix(named, "logits/") | rows.with_prefix(means, "loss/batch 1 ")
        if contrast:
            found[f"DUC loss{at}"] = contrast(z)
        with unit_noise():
            state, metrics = phase(state, batch, info)
        found[f"loss{at} total"] = metrics["loss"]
        raw, applied = gradients(state, "raw"), gradients(state, "applied")
        if number == 1:
            found |= rows.encoder_gradients(raw, case.modalities, case.named)
            found |= rows.head_gradients(applied)
        if column.method == "qmf":
            history = state.method_state["history"]
            unimodal = jnp.stack([named[m] for m in case.modalities])
            ranking = ranking_losses(compiled.switches.margin, unimodal, history, batch)
            for i, m in enumerate(case.modalities):
                found |= {f"ranking loss{at} {m}": ranking[i], f"history{at} {m}": history[i]}
        if column.method.startswith("ogm"):
            found |= modulation(compiled, raw, applied, number)
        found |= compiled.after(state, number)
    return found


def ranking_losses(margin: str, unimodal: jax.Array, history: jax.Array, batch: Batch) -> jax.Array:
    """QMF's ``[M]``, of the logits before a step and the history after it."""
    confidence = fusion.energy_weights(unimodal, batch["present"]).T
    least, most = history.min(1, keepdims=True), history.max(1, keepdims=True)
    badness = (history[:, batch["index"]] - least) / (most - least)
    rank = jax.vmap(losses.confidence_ranking, in_axes=(0, 0, 1, None))
    return rank(confidence, badness, batch["present"], margin == "enforced").mean(1)


def modulation(compiled: CompiledMethod, raw: Tensors, applied: Tensors, number: int) -> Tensors:
    """What came out of the modulated gradients, and k and sigma, regressed from the first."""
    case, column = compiled.case, compiled.column
    found: Tensors = {}
    if number == 1:
        found |= rows.encoder_gradients(applied, case.modalities, case.named, ", modulated")
    for m in case.modalities if column.epoch == 0 else ():
        at = f"{rows.later(number)}/batch {number} {m}"
        first = f"params/encoder/{m}/{case.named[0]}"
        x, y = (np.asarray(g[first], np.float64).ravel() for g in (raw, applied))
        k = np.sum((x - x.mean()) * (y - y.mean())) / np.sum((x - x.mean()) ** 2)
        found[f"coefficient k{at}"] = k
        if column.method == "ogm_ge":
            found[f"deviation of the noise{at}"] = np.mean(y - k * x)
    return found


def evaluate(compiled: CompiledMethod, tensors: Tensors, learnt: Any = None) -> Tensors:
    """Prediction, fusion and counts on the ragged test set."""
    return predictions(compiled, *compiled.evaluate(tensors, learnt))


def predictions(compiled: CompiledMethod, shown: dict[str, Any], counts: np.ndarray) -> Tensors:
    """Rows of what ``compiled.evaluate`` returned."""
    names = ("fused", *compiled.case.modalities)
    scores = {name: accuracy(confusion) for name, confusion in zip(names, counts, strict=True)}
    return rows.predictions({name: shown[name] for name in names}, scores)
