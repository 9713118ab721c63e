"""The rows that several columns share: names for what both sides record.

A quantity has the name ``row of the table/detail``.  Tensors and gradients come in our names,
``params/encoder/<modality>/...``, ``params/head/<head>/...`` and ``batch_stats/<modality>/...``.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from mla_jax.parity.formula import Tensors

INITIAL, TRAINED = "initial/", "trained/"
"""Prefixes of tensors that are not compared: the initial weights of both, and theirs after
training, from which both are evaluated, so that those rows show only the forward pass."""


def without_prefix(found: Tensors, prefix: str) -> Tensors:
    """The tensors whose names begin with ``prefix``, which is taken off."""
    return {n.removeprefix(prefix): v for n, v in found.items() if n.startswith(prefix)}


def with_prefix(found: Tensors, prefix: str) -> Tensors:
    """The tensors with ``prefix`` added to their names."""
    return {prefix + name: value for name, value in found.items()}


def quantities(found: Tensors) -> Tensors:
    """The quantities to compare."""
    return {n: v for n, v in found.items() if not n.startswith((INITIAL, TRAINED))}


def later(number: int) -> str:
    """The end of a row's name from the second batch on, after a first training step."""
    return "" if number == 1 else ", later batches"


def state(tensors: Tensors, momentum: Tensors, number: int) -> Tensors:
    """Parameters, running statistics and momentum after batch ``number``."""
    named = {"params": "parameters", "batch_stats": "batch statistics"}
    found = {f"{named[n.split('/', 1)[0]]} after {number}/{n}": v for n, v in tensors.items()}
    return found | with_prefix(momentum, f"momentum after {number}/")


def encoder_gradients(
    gradients: Tensors, modalities: Iterable[str], named: Iterable[str], what: str = ""
) -> Tensors:
    """The gradients of the tensors ``named`` of each encoder."""
    return {
        f"gradient of {m} {name}{what}/{m}": gradients[f"params/encoder/{m}/{name}"]
        for m in modalities
        for name in named
    }


def head_gradients(gradients: Tensors) -> Tensors:
    """The gradients of all heads."""
    return with_prefix(without_prefix(gradients, "params/head/"), "gradient of the head/")


def shared_head(tensors: Tensors, at: str) -> Tensors:
    """MLA's one head, or its gradient."""
    return {f"{at} {name}": tensors[f"params/head/shared/{name}"] for name in ("kernel", "bias")}


def rates(by_epoch: np.ndarray) -> Tensors:
    """The published learning rate in each epoch."""
    return {f"StepLR over {len(by_epoch)} epochs/": by_epoch}


def initialization(tensors: Tensors) -> Tensors:
    """The least and the largest value of each tensor, of an initialisation by ``unit_noise``."""
    row = "initialisation, draws of one deviation/"
    return {row + name: np.array([np.min(x), np.max(x)]) for name, x in tensors.items()}


def predictions(logits: Mapping[str, np.ndarray], accuracy: Mapping[str, Any]) -> Tensors:
    """Logits and predicted classes of the test set, by modality, ``fused`` and ``joint``."""
    named = {"fused": "fused logits", "joint": "joint logits, evaluation"}
    found = {f"accuracy on a ragged test set/{n}": np.array(value) for n, value in accuracy.items()}
    for name, value in logits.items():
        found[f"{named.get(name, 'unimodal logits, evaluation')}/{name}"] = value
        found[f"predictions/{name}"] = value.argmax(-1)
    return found
