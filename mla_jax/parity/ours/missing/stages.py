"""Runs our AE, CRA, MMIN and IF-MMIN on the published weights and batches, encoders injected.

Losses, gradients and parameters are those of our phases.  Tensors inside of them are made of the
same functions of the library, in the phases' order, and the loss terms of these tensors.
"""

import functools
import itertools
from typing import Any

import jax
import numpy as np

from mla_jax.encoders import Encoders
from mla_jax.functional.autoencoders import (
    invariant_autoencoder,
    leaky_layers,
    perceptron,
    residual_autoencoder,
    simple_autoencoder,
)
from mla_jax.functional.losses import central_moment_discrepancy, cross_entropy
from mla_jax.methods import Task
from mla_jax.methods.missing.blanks import features_or_blanks, joined, whole
from mla_jax.methods.missing.imagination import known_error
from mla_jax.parity import missing, missing_rows, rows
from mla_jax.parity.columns import Column
from mla_jax.parity.formula import Tensors
from mla_jax.parity.missing import STEPS, Sizes
from mla_jax.parity.missing_names import LETTERS
from mla_jax.parity.ours.missing import encoders as published
from mla_jax.parity.ours.missing.stage import OneStage, given, in_precision, ones
from mla_jax.state import Batch

ORDER = tuple(LETTERS)


def reconstruction(column: Column, found: Tensors, dtype: Any) -> Tensors:
    """AE and CRA, one stage."""
    stage, start, batch = _stage(column, found, dtype, "student", 0)
    state = stage.state(start, batch)
    own = jax.jit(functools.partial(_reconstruction, stage.encoders, column.method))(state, batch)
    _, trained = stage.train(state, batch)
    own |= trained | stage.learning_rates(found)
    return own | _evaluation(stage, found, batch, dtype)


def imagination(column: Column, found: Tensors, dtype: Any) -> Tensors:
    """MMIN and IF-MMIN: teacher and student, each from the published weights.

    The student's stage begins as ours does: what it freezes are copies of its own start, which is
    the teacher's end.
    """
    stage, start, batch = _stage(column, found, dtype, "teacher", 0)
    state = stage.state(start, batch)
    forward = jax.jit(functools.partial(_teacher, stage.encoders, stage.switches))
    own, _ = forward(state.params, batch)
    _, trained = stage.train(state, batch, ", teacher")
    params = _trained(stage, found, batch, dtype, ", teacher").params
    _, logits = forward(params, batch)
    own |= trained | missing_rows.evaluation(logits, ", teacher")
    own |= stage.learning_rates(found, ", teacher")

    stage, start, batch = _stage(column, found, dtype, "student", 1)
    state = stage.state(start, batch)
    state = stage.on_epoch(state, 0, None)
    own |= jax.jit(functools.partial(_student, stage.encoders, stage.switches))(state, batch)
    _, trained = stage.train(state, batch)
    own |= trained | stage.learning_rates(found) | _evaluation(stage, found, batch, dtype)
    return {name: value for name, value in own.items() if name in found}  # all that learns


def _stage(
    column: Column, found: Tensors, dtype: Any, name: str, number: int
) -> tuple[OneStage, Tensors, Batch]:
    start = in_precision(given(found, name), dtype)
    sizes = missing.UTTERANCES if start["inputs/A"].ndim == 2 else missing.FRAMES
    task = Task(sizes.classes, 20, len(sizes.present))
    stage = OneStage(column, _encoders(sizes), task, given(found, name), number)
    return stage, start, _batch(start)


def _encoders(sizes: Sizes) -> Encoders:
    D = sizes.embedding
    if not sizes.frames:
        return Encoders(dict.fromkeys(LETTERS, published.Perceptron(D, sizes.hidden)), D)
    text = published.TextCnn(D, missing.CHANNELS)
    return Encoders({m: text if m == "L" else published.Lstm(D) for m in LETTERS}, D)


def _batch(start: Tensors) -> Batch:
    """The published batch: inputs that masks hide are 0, and ``whole`` has them."""
    columns = [missing.LETTERS.index(m) for m in LETTERS]
    present = start["inputs/present"][:, columns].astype(bool)
    inputs = {m: start[f"inputs/{m}"] for m in LETTERS}
    shown = {
        m: x * present[:, i].reshape(-1, *[1] * (x.ndim - 1)).astype(x.dtype)
        for i, (m, x) in enumerate(inputs.items())
    }
    return {
        "inputs": shown,
        "present": present,
        "label": start["inputs/label"].astype(np.int32),
        "index": np.arange(len(present), dtype=np.int32),
        "valid": ones(len(present)),
        "whole": {"inputs": inputs, "present": ones(*present.shape)},
    }


def _features(encoders: Encoders, params: Any, batch: Batch) -> Any:
    nothing: dict[str, Any] = {m: {} for m in LETTERS}
    return features_or_blanks(encoders, params["encoder"], nothing, batch, train=True)[0]


def _reconstruction(encoders: Encoders, method: str, state: Any, batch: Batch) -> Tensors:
    heads, z = state.params["head"], _features(encoders, state.params, batch)
    autoencoder = {"ae": simple_autoencoder, "cra": residual_autoencoder}[method]
    code, latent = autoencoder(heads["autoencoder"], joined(z, ORDER))
    found = rows.with_prefix(z, "features, training/")
    found |= {"imagined features/forward": code, "latent vectors/forward": latent}
    logits = found["logits/joint"] = perceptron(heads["classifier"], code)
    found["loss/batch 1 cross-entropy"] = cross_entropy(logits, batch["label"]).mean()
    total = 0.0
    for i, m in enumerate(LETTERS):
        made = found[f"reconstruction/{m}"] = perceptron(heads[f"decoder_{m}"], code)
        error = ((made - batch["whole"]["inputs"][m]) ** 2).mean(-1)
        total += (error * ~batch["present"][:, i]).sum()
    return found | {"loss/batch 1 reconstruction": total}


def _teacher(encoders: Encoders, switches: Any, params: Any, batch: Batch) -> tuple[Tensors, Any]:
    """Rows and logits."""
    heads, batch = params["head"], whole(batch)
    z = _features(encoders, params, batch)
    found = rows.with_prefix(z, "features, training, teacher/")
    joint = joined(z, ORDER)
    if switches.name == "if_mmin":
        H = {m: leaky_layers(heads["invariant"], z[m]) for m in LETTERS}
        found |= rows.with_prefix(H, "invariant features, teacher/")
        joint = jax.numpy.concatenate([joint, joined(H, ORDER)], -1)
        there = batch["valid"]
        apart = [
            central_moment_discrepancy(H[m], H[n], switches.moments, there, there)
            for m, n in itertools.combinations(LETTERS, 2)
        ]
        found["loss, teacher/batch 1 discrepancy"] = sum(apart) / len(apart)
    logits = perceptron(heads["teacher"], joint)
    found["logits, teacher/joint"] = logits
    entropy = cross_entropy(logits, batch["label"]).mean()
    return found | {"loss, teacher/batch 1 cross-entropy": entropy}, logits


def _student(encoders: Encoders, switches: Any, state: Any, batch: Batch) -> Tensors:
    heads, frozen = state.params["head"], state.method_state["teacher"]
    z = _features(encoders, state.params, batch)
    f = joined(z, ORDER)
    hidden = {
        **whole(batch),
        "present": ~batch["present"],
        "inputs": {m: x - batch["inputs"][m] for m, x in batch["whole"]["inputs"].items()},
    }
    target = joined(_features(encoders, frozen, hidden), ORDER)
    found = rows.with_prefix(z, "features, training/")
    found["frozen teacher's features of what is hidden/"] = target
    losses = {}
    if switches.name == "if_mmin":
        H = {m: leaky_layers(heads["invariant"], z[m]) for m in LETTERS}
        everything = _features(encoders, frozen, whole(batch))
        kept = {m: leaky_layers(frozen["head"]["invariant"], everything[m]) for m in LETTERS}
        found |= rows.with_prefix(H, "invariant features/")
        found["frozen teacher's invariant features/"] = joined(kept, ORDER)
        imagined, latent = invariant_autoencoder(heads["forward"], f, joined(H, ORDER))
        apart = known_error(joined(kept, ORDER), joined(H, ORDER), batch)
        losses["invariance"] = switches.invariance_weight * apart
    else:
        imagined, latent = residual_autoencoder(heads["forward"], f)
        returned, back = residual_autoencoder(heads["backward"], imagined)
        found |= {"imagined features/backward": returned, "latent vectors/backward": back}
        losses["cycle"] = switches.cycle_weight * known_error(f, returned, batch)
    found |= {"imagined features/forward": imagined, "latent vectors/forward": latent}
    losses["imagination"] = switches.imagination_weight * known_error(target, imagined, batch)
    logits = found["logits/joint"] = perceptron(heads["classifier"], latent)
    losses["cross-entropy"] = cross_entropy(logits, batch["label"])
    return found | {f"loss/batch 1 {name}": value.mean() for name, value in losses.items()}


def _trained(stage: OneStage, found: Tensors, batch: Batch, dtype: Any, ending: str = "") -> Any:
    """The published weights after training, from which both are evaluated."""
    trained = rows.without_prefix(found, f"parameters after {STEPS}{ending}/")
    return stage.state(in_precision(trained, dtype), batch)


def _evaluation(stage: OneStage, found: Tensors, batch: Batch, dtype: Any) -> Tensors:
    trained = _trained(stage, found, batch, dtype)
    return missing_rows.evaluation(stage.evaluate(trained.variables, batch))
