"""The rows of CCA, DCCA and DCCAE: the references' values under our names.

A pair of views is written as ours is, ``A+L``.  Both directions of a pair may change their sign
together: here the largest number of the first view's is positive, on both sides.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mla_jax.parity import missing_names, rows
from mla_jax.parity.formula import Tensors
from mla_jax.parity.missing import STEPS, VIEWS
from mla_jax.parity.missing_names import VIEWS as LETTERS
from mla_jax.parity.missing_rows import gradients

PAIRS = {"AV": "A+V", "AL": "A+L", "VL": "L+V"}

Directions = Mapping[tuple[str, str], np.ndarray]
"""``{(pair, view): [F, k]}``."""


def of_views(found: Tensors) -> Tensors:
    """All rows of a column."""
    initial = f"{rows.INITIAL}views/"
    made = {n: v for n, v in found.items() if n.startswith("inputs/")}
    made |= {f"fill/{m}": fill(found, i, m) for i, m in enumerate(LETTERS)}
    made |= rows.without_prefix(found, "optimizer/")
    made |= missing_names.named(rows.without_prefix(found, "initial/"), {})
    made = rows.with_prefix(made, initial)
    bias, logits = found["svm/exact intercept"], _logits(found)
    if "loss/step 1" not in found:
        made |= _of_projections(found)
        made |= classifier(None, bias, logits)
    else:
        made |= _of_training(found)
        made |= {f"codes, evaluation/{n}": found[f"codes/{n}"] for n in ("train", "test")}
        made |= classifier(found["svm/exact coefficients"].T, bias, logits)
    return made | {"predictions/SVM": found["svm/predictions"]}


def fill(found: Tensors, place: int, letter: str) -> np.ndarray:
    """The value that fills an absent entry, the same in every set."""
    filled = np.concatenate(
        [found[f"filled/{s}/{letter}"] for s in ("train", "validation", "test")]
    )
    return filled[found["inputs/present"][:, place] == 0][0]


def _logits(found: Tensors) -> np.ndarray:
    return found["codes/test"] @ found["svm/exact coefficients"].T + found["svm/exact intercept"]


def _of_training(found: Tensors) -> Tensors:
    made: Tensors = {}
    if found.get("chosen", STEPS) != STEPS:
        raise ValueError(f"the published codes are those of epoch {found['chosen']}")
    for kind, row in (("forward", "codes, training"), ("reconstruction", "reconstruction")):
        made |= rows.with_prefix(rows.without_prefix(found, f"{kind}/"), f"{row}/")
    for step in range(1, STEPS + 1):
        made[f"loss{rows.later(step)}/batch {step} total"] = found[f"loss/step {step}"]
    slopes = missing_names.named(rows.without_prefix(found, "gradient/"), {})
    last = missing_names.named(rows.without_prefix(found, "trained/"), {})
    made |= sloping(gradients(slopes)) | rows.with_prefix(last, f"parameters after {STEPS}/")
    statistics: Tensors = {}
    for name, value in rows.without_prefix(found, "statistics/").items():
        if "running" in name and not name.startswith("decoder"):
            own = missing_names.ours(name, {}, 1).removeprefix("encoder/")
            statistics[f"batch_stats/{own}"] = value
    made |= rows.with_prefix(statistics, f"batch statistics after {STEPS}/")
    return made | rows.with_prefix(last | statistics, rows.TRAINED)


def sloping(found: Tensors) -> Tensors:
    """Without biases before a mean is subtracted: their gradients are 0 except for rounding.

    They come before a batch normalisation or, in the last layer, before a covariance.
    """
    return {
        n: v for n, v in found.items() if not n.endswith("/bias") or "norm" in n or "output" in n
    }


def steady(found: Tensors) -> Tensors:
    """The rows that float32 can compare: without those that follow gradients of pure rounding.

    Adam turns those into full steps, unless the decay outweighs them, as it does in float64.
    """
    after = (f"parameters after {STEPS}", f"batch statistics after {STEPS}")
    moved = {n: v for n, v in found.items() if n.startswith(after)}
    kept = {n for n in sloping(moved) if not n.endswith("/mean")}
    return {n: v for n, v in found.items() if n not in moved or n in kept}


def _of_projections(found: Tensors) -> Tensors:
    projections, codes, by_code = {}, {}, {}
    k = VIEWS.codes
    order = [(pair, m) for pair in PAIRS for m in pair]
    for i, (pair, m) in enumerate(order):
        key, part = (PAIRS[pair], m), slice(i * k, (i + 1) * k)
        projections[key] = found[f"projection/{pair}/{m}"]
        by_code[key] = found["svm/exact coefficients"].T[part]
        for name in ("train", "test"):
            codes[name, *key] = found[f"codes/{name}"][:, part]
    means = {m: found[f"mean/{pair}/{m}"][0] for pair, m in order}
    return rows.with_prefix(means, "means/") | projected(projections, codes, by_code)


def projected(
    projections: Directions, codes: Mapping[tuple[str, str, str], np.ndarray], by_code: Directions
) -> Tensors:
    """Rows of directions, codes by set, pair and view, and the SVM's weights of these codes."""
    made: Tensors = {}
    for (pair, m), projection in projections.items():
        first = projections[pair, pair[0]]
        sign = np.sign(first[np.abs(first).argmax(0), np.arange(first.shape[1])])
        made[f"projections/{pair} {m}"] = projection * sign
        for name in ("train", "test"):
            made[f"codes, evaluation/{name} {pair} {m}"] = codes[name, pair, m] * sign
        made[f"weights of the SVM/{pair} {m}"] = by_code[pair, m] * sign[:, None]
    return made


def classifier(kernel: Any, bias: Any, logits: Any) -> Tensors:
    """Rows of the SVM on codes; ``kernel`` is None where it is in ``projected``."""
    found = {} if kernel is None else {"weights of the SVM/kernel": kernel}
    logits = np.asarray(logits)
    return found | {
        "weights of the SVM/bias": bias,
        "joint logits, evaluation/joint": logits,
        "predictions/SVM": logits.argmax(-1),
    }
