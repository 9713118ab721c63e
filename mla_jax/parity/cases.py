"""What is compared: encoders, batches and the four fidelity modes.  No PyTorch here."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from mla_jax import configuration
from mla_jax.encoders import Encoders
from mla_jax.encoders.resnet import ResNet18
from mla_jax.encoders.small import Mlp
from mla_jax.parity import formula
from mla_jax.state import Batch

MODALITIES = ("audio", "visual")
CLASSES = 6
TEST_BATCHES = (8, 8, 5)
"""Ragged on purpose: the released fusion rule depends on the company in a batch (Q5)."""


class Case(NamedTuple):
    """Two encoders, the shape of their inputs, and how they are trained."""

    name: str
    encoders: Encoders
    inputs: Mapping[str, tuple[int, ...]]
    learning_rate: float
    batch_size: int = 8
    batches: int = 3
    named: tuple[str, ...] = ()
    """The encoder tensors whose gradients are compared one by one."""

    def batch(self, number: int, size: int | None = None, dtype: Any = np.float32) -> Batch:
        """Batch ``number`` by formula; test batches are numbered from 100."""
        size = size or self.batch_size
        seeds = {m: 1000 * number + i for i, m in enumerate(MODALITIES)}
        return {
            "inputs": {
                m: formula.uniform((size, *self.inputs[m]), seeds[m]).astype(dtype) * 2
                for m in MODALITIES
            },
            "present": np.ones((size, len(MODALITIES)), bool),
            "label": formula.labels(size, CLASSES, 1000 * number + 99),
            "index": np.arange(size, dtype=np.int32),
            "valid": np.ones((size,), bool),
        }

    def test_batches(self, dtype: Any = np.float32) -> list[Batch]:
        """The ragged test set."""
        return [self.batch(100 + i, size, dtype) for i, size in enumerate(TEST_BATCHES)]

    def optimizer_config(self) -> ConfigDict:
        """The reference's optimiser, which is our default (``main.py:749,760``)."""
        config = configuration.base_config().optimizer
        config.learning_rate = self.learning_rate
        return config


def resnet_case(epsilon: float = 1e-5, dtype: Any = jnp.float32) -> Case:
    """Two full-width ResNet-18 on spectrograms and clips, small in extent.

    ``epsilon`` is that of batch normalisation; the tool's ``--break=epsilon`` sets it wrong.
    """
    modules = {m: ResNet18(512, epsilon, dtype=dtype) for m in MODALITIES}
    return Case(
        "resnet18",
        Encoders(modules, 512),
        {"audio": (64, 32, 1), "visual": (2, 32, 32, 3)},
        learning_rate=1e-3,
        named=("conv1/kernel", "layer2_0/proj/kernel", "layer4_1/bn2/scale"),
    )


def toy_case(dtype: Any = jnp.float32) -> Case:
    """Two narrow perceptrons with batch normalisation: small enough to store whole."""
    modules = {m: Mlp(feature_dim=16, hidden=24, dtype=dtype) for m in MODALITIES}
    return Case(
        "toy",
        Encoders(modules, 16),
        {"audio": (12,), "visual": (20,)},
        learning_rate=5e-2,
        named=("Dense_0/kernel", "BatchNorm_0/scale", "Dense_1/bias"),
    )


class Mode(NamedTuple):
    """One column: our switches, and what is done to the reference to make it the same thing."""

    title: str
    fidelity: str
    drift: bool
    """``zero_grad`` fills zeros, as PyTorch before 2.0 did, instead of dropping gradients (Q7)."""
    plugin: str
    """``released``: called as published, so that nothing happens (Q1); ``first_drop``: given a
    parameter name that makes it fire; ``paper``: no reference code exists, so its training loop
    is given an independent float64 recursion in its place (``recursion.py``)."""


MODES = {
    "released": Mode("released, PyTorch >= 2", "released", drift=False, plugin="released"),
    "released_torch1": Mode("released, PyTorch 1.8", "released", drift=True, plugin="released"),
    "first_drop": Mode("first drop, PyTorch 1.8", "first_drop", drift=True, plugin="first_drop"),
    "paper": Mode("paper", "paper", drift=False, plugin="paper"),
}

BREAKS = ("epsilon", "zero_grad_drift", "projection_order")


def switches(mode: Mode, broken: str = "", **changes: Any) -> ConfigDict:
    """The resolved ``config.method`` of a mode; ``broken`` sets one switch wrong on purpose."""
    drift = mode.drift != (broken == "zero_grad_drift")
    block = {"name": "mla", "fidelity": mode.fidelity, "zero_grad_drift": drift, **changes}
    chosen = ConfigDict(configuration.resolve_switches(block))
    if broken == "projection_order":
        orders = ["project_then_update", "update_then_project"]
        orders.remove(chosen.projection.order)
        chosen.projection.order = orders[0]
    return chosen
