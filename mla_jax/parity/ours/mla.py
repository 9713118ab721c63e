"""Runs our MLA on the same weights and batches, and its projection by itself."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from mla_jax.evaluate.figures import accuracy
from mla_jax.functional.heads import apply_head
from mla_jax.functional.projection import alpha_schedule, orthogonal_projection
from mla_jax.parity import rows
from mla_jax.parity.cases import MODALITIES, PER_EPOCH, projection_inputs
from mla_jax.parity.formula import Tensors
from mla_jax.parity.ours.compiled import CompiledMethod, gradients, learning_rates
from mla_jax.state import TrainState


def run(compiled: CompiledMethod, found: Tensors) -> Tensors:
    """Every quantity of one of MLA's columns."""
    case = compiled.case
    own = train(compiled, compiled.start(found))
    own |= evaluate(compiled, rows.without_prefix(found, rows.TRAINED))
    own |= projection_updates(compiled.switches, case.encoders.feature_dim, compiled.dtype)
    if case.published:  # of the fixtures, that of the optimisers has it
        own |= learning_rates(compiled.column.epochs)
    if case.resnet:
        own |= compiled.initialization()
    return own


def train(compiled: CompiledMethod, state: TrainState) -> Tensors:
    """The phases of our method over the batches of the case."""
    case, (phases,) = compiled.case, compiled.stages
    found: Tensors = {}
    identity = np.eye(case.encoders.feature_dim)  # where there is no projection
    for number, batch, info in compiled.batches():
        if number == 1:
            z = compiled.features(state, batch)
            found |= rows.with_prefix(z, "features, training/")
        for m, phase in zip(case.modalities, phases, strict=True):
            if number == 1:
                found[f"logits/{m}"] = apply_head(state.params["head"]["shared"], z[m])
            state, metrics = phase(state, batch, info)
            found[f"loss{rows.later(number)}/batch {number} {m}"] = metrics["loss"]
            head = rows.with_prefix(state.params["head"]["shared"], "params/head/shared/")
            found |= rows.shared_head(head, f"head after each sub-step/batch {number} {m}")
            if number == 1:
                raw, applied = gradients(state, "raw"), gradients(state, "applied")
                found |= rows.shared_head(raw, f"gradient of the head/{m}")
                found |= rows.shared_head(applied, f"gradient of the head, projected/{m}")
                found |= rows.encoder_gradients(applied, [m], case.named)
            P = optax.tree_utils.tree_get(state.opt_state["head"], "P", identity)
            found[f"projection matrix in training/batch {number} {m}"] = P
        found |= compiled.after(state, number)
    return found


def evaluate(compiled: CompiledMethod, tensors: Tensors) -> Tensors:
    """Prediction and both rules of fusion on the ragged test set."""
    fixed = CompiledMethod(compiled.column, compiled.case, compiled.dtype, fusion="fixed")
    found: Tensors = {}
    for rule, method in (("fixed", fixed), ("dynamic", compiled)):
        shown, counts = method.evaluate(tensors)
        scores = np.array([accuracy(confusion) for confusion in counts])
        found[f"fused logits, {rule} fusion/all"] = shown["fused"]
        found[f"predictions/{rule} fusion"] = shown["fused"].argmax(-1)
        found[f"accuracy on a ragged test set/{rule} fusion"] = scores
        found |= rows.with_prefix(shown["features"], "features, evaluation/")
        found |= {f"predictions/{m}": shown[m].argmax(-1) for m in compiled.case.modalities}
    return found


def projection_updates(switches: ConfigDict, width: int, dtype: Any) -> Tensors:
    """Our projection by itself, on 20 gradients ``[C, D]``."""
    options = dict(switches.projection)
    enabled, _ = options.pop("enabled"), options.pop("alpha")
    transform = orthogonal_projection(width, **options)
    found: Tensors = {}
    gradients, features = (x.astype(dtype) for x in projection_inputs(width))
    update = jax.jit(transform.update)
    state = transform.init({"kernel": jnp.asarray(gradients[0].T)})
    for n, (G, Z) in enumerate(zip(gradients, features, strict=True)):
        kernel = jnp.asarray(G.T)
        if enabled:
            alpha = alpha_schedule(n // len(MODALITIES) % PER_EPOCH, PER_EPOCH)
            mean = jnp.asarray(Z).mean(0)
            updates, state = update({"kernel": kernel}, state, feature_mean=mean, alpha=alpha)
            kernel = updates["kernel"]
        found[f"projection matrix, 20 updates/{n + 1}"] = state.P
        found[f"projected gradient, 20 updates/{n + 1}"] = kernel
    return found
