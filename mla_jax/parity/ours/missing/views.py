"""Runs our CCA, DCCA and DCCAE on the published views, weights and means.

Training of the deep ones sees masked views and fills them itself, with the published means.  Closed
forms and evaluation get the filled views, because ours would take means of training examples only.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from mla_jax.encoders import Encoders
from mla_jax.functional.heads import apply_head
from mla_jax.methods import Task
from mla_jax.methods.missing.dccae import decode
from mla_jax.parity import missing_view_rows, rows
from mla_jax.parity.columns import Column
from mla_jax.parity.formula import Tensors
from mla_jax.parity.missing import STEPS, VIEWS
from mla_jax.parity.missing_names import VIEWS as LETTERS
from mla_jax.parity.ours.missing.encoders import View
from mla_jax.parity.ours.missing.stage import OneStage, given, in_precision, ones, reducer
from mla_jax.state import Batch

PLAIN = {"lr": 1e-3, "betas": (0.9, 0.999), "weight_decay": 0.0}
NETWORK = {"A": "A", "V": "V", "L": "V"}
"""Whose encoder each view goes through: ``third_encoder=second``."""
TASK = Task(VIEWS.classes, 20, VIEWS.examples[0])


def deep(column: Column, found: Tensors, dtype: Any) -> Tensors:
    """DCCA and DCCAE: three steps, then codes and SVM of the published weights after training."""
    start = in_precision(given(found, "views"), dtype)
    encoders = Encoders(dict.fromkeys(LETTERS, View(VIEWS.hidden)), VIEWS.hidden)
    stage = OneStage(column, encoders, TASK, start)
    train, test = _batch(start, "train", filled=False), _batch(start, "test", filled=True)
    fill = {f"params/head/fill/{m}": start[f"fill/{m}"] for m in LETTERS}
    state = stage.state(start | fill, train)
    own = jax.jit(functools.partial(_first, encoders))(state, _batch(start, "train", filled=True))
    if column.method == "dcca":
        own = {name: value for name, value in own.items() if not name.startswith("recon")}
    state, trained = stage.train(state, train)
    statistics = traverse_util.flatten_dict({"batch_stats": state.batch_stats}, sep="/")
    own |= trained | rows.with_prefix(statistics, f"batch statistics after {STEPS}/")
    own = {name: value for name, value in own.items() if name in found}  # all that learns

    last = rows.without_prefix(found, rows.TRAINED)
    stage = OneStage(column, encoders, TASK, start, 1)
    whole = _batch(start, "train", filled=True)
    state = stage.state(in_precision(last, dtype), whole)
    state = stage.on_epoch(state, 0, reducer(whole))
    codes = jax.jit(functools.partial(_codes, encoders, train=False))
    for name, batch in (("train", whole), ("test", test)):
        made = codes(state, batch)
        own[f"codes, evaluation/{name}"] = jnp.concatenate([made[m] for m in LETTERS], 1)
    svm = state.params["head"]["svm"]
    logits = stage.evaluate(state.variables, test)
    return own | missing_view_rows.classifier(svm["kernel"], svm["bias"], logits)


def closed(column: Column, found: Tensors, dtype: Any) -> Tensors:
    """CCA: means, projections, codes and SVM, all in closed form."""
    start = in_precision(given(found, "views"), dtype)
    encoders = Encoders(dict.fromkeys(LETTERS, View(VIEWS.hidden)), VIEWS.hidden)
    stage = OneStage(column, encoders, TASK, PLAIN)
    train, test = (_batch(start, name, filled=True) for name in ("train", "test"))
    state = stage.on_epoch(stage.state({}, train), 0, reducer(train))
    head = jax.device_get(state.params["head"])
    means, kernel, at = head["fill"], head["svm"]["kernel"], 0
    projections, by_code = {}, {}
    for pair, sides in head["projections"].items():
        for m in pair.split("+"):
            projections[pair, m] = sides[m]
            by_code[pair, m] = kernel[at : at + VIEWS.codes]
            at += VIEWS.codes
    own = rows.with_prefix(means, "means/")
    centred = {n: {m: b["inputs"][m] - means[m] for m in LETTERS} for n, b in
               (("train", train), ("test", test))}  # fmt: skip
    codes = {
        (name, *key): x[key[1]] @ projection
        for key, projection in projections.items()
        for name, x in centred.items()
    }
    own |= missing_view_rows.projected(projections, codes, by_code)
    logits = stage.evaluate(state.variables, test)
    return own | missing_view_rows.classifier(None, head["svm"]["bias"], logits)


def _batch(start: Tensors, name: str, filled: bool) -> Batch:
    """A set of the views, absent entries 0 and masked, or filled with the published means."""
    train, validation, test = VIEWS.examples
    first, size = {"train": (0, train), "test": (train + validation, test)}[name]
    part = slice(first, first + size)
    shown = start["inputs/present"][part].astype(bool)
    inputs = {}
    for i, m in enumerate(LETTERS):
        x, mask = start[f"inputs/{m}"][part], shown[:, [i]]
        inputs[m] = np.where(mask, x, start[f"fill/{m}"] if filled else 0).astype(x.dtype)
    return {
        "inputs": inputs,
        "present": ones(*shown.shape) if filled else shown,
        "label": start["inputs/label"][part].astype(np.int32),
        "index": np.arange(size, dtype=np.int32),
        "valid": ones(size),
    }


def _codes(encoders: Encoders, state: Any, batch: Batch, train: bool) -> dict[str, jax.Array]:
    """``{view: [B, k]}``, by the last layer of ours, which is a head."""
    params, stats, found = state.params, state.batch_stats, {}
    for m in LETTERS:
        n = NETWORK[m]
        z, _ = encoders.apply(n, params["encoder"][n], stats[n], batch["inputs"][m], train)
        found[m] = apply_head(params["head"][n], z)
    return found


def _first(encoders: Encoders, state: Any, batch: Batch) -> Tensors:
    """Codes of the first step and, with decoders, what they make of them."""
    codes, heads = _codes(encoders, state, batch, train=True), state.params["head"]
    found = rows.with_prefix(codes, "codes, training/")
    for m, code in codes.items():
        if f"{m}_decoder" in heads:
            decoder = heads[f"{NETWORK[m]}_decoder"]
            found[f"reconstruction/{m}"] = decode(decoder, code, batch["valid"])
    return found
