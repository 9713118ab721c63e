"""What is compared: encoders, batches and the four fidelity modes.  No PyTorch here."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

from mla_jax.config import fields
from mla_jax.convert.names import Tensors
from mla_jax.encoders import Encoders
from mla_jax.encoders.resnet import ResNet18
from mla_jax.encoders.small import Mlp
from mla_jax.parity import formula
from mla_jax.state import Batch

MODALITIES = ("audio", "visual")
CLASSES = 6
SMALL = 0.03
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

    @property
    def modalities(self) -> tuple[str, ...]:
        return self.encoders.modalities

    def batch(self, number: int, size: int | None = None, dtype: Any = np.float32) -> Batch:
        """Batch ``number`` by formula; test batches are numbered from 100."""
        size = size or self.batch_size
        seeds = {m: 1000 * number + i for i, m in enumerate(self.modalities)}
        return {
            "inputs": {
                m: formula.uniform((size, *self.inputs[m]), seeds[m]).astype(dtype) * 2
                for m in self.modalities
            },
            "present": np.ones((size, len(self.modalities)), bool),
            "label": formula.labels(size, CLASSES, 1000 * number + 99),
            "index": np.arange(size, dtype=np.int32),
            "valid": np.ones((size,), bool),
        }

    def test_batches(self, dtype: Any = np.float32) -> list[Batch]:
        """The ragged test set."""
        return [self.batch(100 + i, size, dtype) for i, size in enumerate(TEST_BATCHES)]

    def optimizer_config(self) -> ConfigDict:
        """The reference's optimiser, which is our default (``main.py:749,760``)."""
        config = fields.base_config().optimizer
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


def formula_tensors(case: Case, seed: int = 5) -> Tensors:
    """Weights by formula for both encoders and the shared head, as ``{"params/...": array}``."""
    shapes = {
        "params/head/shared/kernel": (case.encoders.feature_dim, CLASSES),
        "params/head/shared/bias": (CLASSES,),
    }
    for m, module in case.encoders.modules.items():
        example = jnp.zeros((1, *case.inputs[m]))
        own = jax.eval_shape(module.init, jax.random.key(0), example)
        for collection, at in (
            ("params", f"params/encoder/{m}"),
            ("batch_stats", f"batch_stats/{m}"),
        ):
            flat = traverse_util.flatten_dict(own[collection], sep="/")
            shapes |= {f"{at}/{name}": leaf.shape for name, leaf in flat.items()}
    return comparable(formula.tensors(shapes, seed), few_ties=True)


def nested(tensors: Tensors) -> tuple[Any, Any]:
    """``(params, batch_stats)`` as ``TrainState`` holds them, of flat tensors."""
    tree = jax.tree.map(jnp.asarray, traverse_util.unflatten_dict(tensors, sep="/"))
    return tree["params"], tree.get("batch_stats", {})


def comparable(tensors: Tensors, few_ties: bool) -> Tensors:
    """An initialisation on which two correct programs stay together.

    Two things part them.  On large features the element-wise projection amplifies rounding until
    nothing is left to compare, so the last layer's features are made small.  And at the usual
    initialisation some of a ResNet's million ReLU inputs lie within rounding of zero; one that
    falls on the other side changes a kernel's gradient in the second digit.  With ``few_ties``
    even channels get a bias of +3 and odd ones of -3 standard deviations, which leaves few inputs
    near zero, and residual branches are scaled down, which halves the rounding that 18 layers add
    up.  In float64 that is not needed.
    """
    found = dict(tensors)
    for name, value in tensors.items():
        module, _, leaf = name.rpartition("/")
        if leaf not in ("scale", "bias") or not module.endswith(("bn1", "bn2", "proj_bn")):
            continue
        if few_ties:
            value = value.copy()
            if leaf == "bias":
                value[0::2] += 3
                value[1::2] -= 3
            if module.endswith("bn2"):
                value /= 4
        if "/layer4_" in module and not module.endswith("bn1"):
            value = value * np.asarray(SMALL, value.dtype)
        found[name] = value
    for name in tensors:  # the toy's last layer
        if "/Dense_1/" in name:
            found[name] = tensors[name] * np.asarray(SMALL, tensors[name].dtype)
    return found


def padded(values: np.ndarray, size: int) -> np.ndarray:
    """``values`` with zeros (False) appended up to ``size`` along the batch axis."""
    missing = size - len(values)
    return np.pad(values, [(0, missing), *[(0, 0)] * (values.ndim - 1)])


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
    chosen = ConfigDict(fields.resolve_switches(block))
    if broken == "projection_order":
        orders = ["project_then_update", "update_then_project"]
        orders.remove(chosen.projection.order)
        chosen.projection.order = orders[0]
    return chosen
