"""The rows of the methods for missing modalities: the references' values under our names.

    inputs, initial weights, settings    behind ``rows.INITIAL``, with the stage
    forward tensors, loss terms, gradients and parameters    ``row[, teacher]/detail``

A teacher's rows end with ``, teacher``.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mla_jax.parity import missing_names, rows
from mla_jax.parity.formula import Tensors
from mla_jax.parity.missing import STEPS
from mla_jax.parity.missing_names import LETTERS, OF_RECONSTRUCTION, OF_TEACHER

FORWARD = {
    **{f"feat_{m}": f"features, training{{}}/{m}" for m in LETTERS},
    **{f"feat_{m}_miss": f"features, training{{}}/{m}" for m in LETTERS},
    **{f"feat_shared_{m}": f"invariant features{{}}/{m}" for m in LETTERS},
    **{f"feat_{m}_invariant": f"invariant features{{}}/{m}" for m in LETTERS},
    **{f"{m}_rec": f"reconstruction{{}}/{m}" for m in LETTERS},
    "logits": "logits{}/joint",
    "recon_fusion": "imagined features{}/forward",
    "recon_cycle": "imagined features{}/backward",
    "latent": "latent vectors{}/forward",
    "latent_cycle": "latent vectors{}/backward",
    "T_embds": "frozen teacher's features of what is hidden{}/",
    "invariant": "frozen teacher's invariant features{}/",
}
"""``{published tensor: row}``; all others are inputs, masks, or one of these again."""

LOSSES = {
    **dict.fromkeys(("ce", "CE"), "cross-entropy"),
    "recon": "reconstruction",
    "mse": "imagination",
    "cycle": "cycle",
    "CMD": "discrepancy",
    "invariant": "invariance",
}


def of_stages(found: Tensors, published: str) -> Tensors:
    """AE, CRA, MMIN and IF-MMIN: ``published`` is the name in ``theirs.missing.RUN``."""
    teacher = rows.without_prefix(found, "teacher ")
    student = {n: v for n, v in found.items() if not n.startswith("teacher ")}
    own = OF_RECONSTRUCTION if published in ("gcnet_ae", "gcnet_cra") else {}
    first = _of_stage(teacher, ", teacher", OF_TEACHER) if teacher else {}
    return first | _of_stage(student, "", own)


def _of_stage(found: Tensors, ending: str, own: Mapping[str, str]) -> Tensors:
    def part(prefix: str) -> Tensors:
        return rows.without_prefix(found, prefix)

    def named(prefix: str) -> Tensors:
        return missing_names.named(part(prefix), own)

    initial = f"{rows.INITIAL}{ending or ', student'}/".replace("/, ", "/")
    inputs = rows.with_prefix(part("inputs/"), "inputs/")
    made = rows.with_prefix(inputs | named("initial/") | part("optimizer/"), initial)
    (largest,) = {float(value) for value in part("clip/").values()}
    made[f"{initial}clip"] = np.array(largest)
    for name, value in part("forward/").items():
        if name in FORWARD:
            made[FORWARD[name].format(ending)] = value
    for name, value in part("loss/").items():
        if name in LOSSES and value.ndim == 0:  # not GCNet's zeros(1)
            made[f"loss{ending}/batch 1 {LOSSES[name]}"] = value
    for step in range(1, STEPS + 1):
        at = f"loss{ending}{rows.later(step)}/batch {step} total"
        made[at] = found[f"loss/total, step {step}"]
    made |= gradients(named("gradient/"), ending)
    made |= rows.with_prefix(named("trained/"), f"parameters after {STEPS}{ending}/")
    if is_linear(found["rates/"]):
        made[f"learning rates{ending}/"] = found["rates/"]
    return made | evaluation(found["evaluation/logits"], ending)


def is_linear(rates: np.ndarray) -> bool:
    """Whether a rate is constant for a fifth of the epochs and then falls, as GCNet trains.

    That is ``optimizer.schedule=linear``.  The other repositories fall after half of them.
    """
    return bool(5 * np.sum(rates == rates[0]) == len(rates))


def gradients(tensors: Tensors, ending: str = "") -> Tensors:
    """The first gradients of all encoders and heads, before any clipping."""
    kinds = {"encoder": "gradient of the encoders", "head": "gradient of the head"}
    return {
        f"{kinds[name.split('/')[1]]}{ending}/{name.split('/', 2)[2]}": value
        for name, value in tensors.items()
    }


def evaluation(logits: Any, ending: str = "") -> Tensors:
    """The logits of a trained model and its predictions."""
    logits = np.asarray(logits)
    return {
        f"joint logits, evaluation{ending}/joint": logits,
        f"predictions{ending}/joint": logits.argmax(-1),
    }
