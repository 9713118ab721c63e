"""The encoders, batches and weights that both sides run on, without PyTorch."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

from mla_jax.config import fields
from mla_jax.encoders import Encoders
from mla_jax.encoders.cavmae import CAVMAEAudio
from mla_jax.encoders.m3ae import M3AEImage, M3AEText
from mla_jax.encoders.resnet import ResNet18
from mla_jax.encoders.small import Conv2D, Mlp
from mla_jax.parity import formula
from mla_jax.parity.formula import Tensors
from mla_jax.state import Batch

MODALITIES = ("audio", "visual")
CLASSES = 6
EXAMPLES = 20
"""The size of QMF's history: less than three batches of 8, so that some examples occur twice."""
SMALL = 0.03
PER_EPOCH = 10
"""Batches per epoch when the projection is compared by itself."""
TEST_BATCHES = (8, 8, 5)
"""Deliberately uneven: the released fusion rule depends on the other examples in a batch (Q5)."""


class Case(NamedTuple):
    """The encoders, the shape of their inputs, and how they are trained."""

    encoders: Encoders
    inputs: Mapping[str, tuple[int, ...]]
    learning_rate: float
    named: tuple[str, ...]
    """The encoder tensors whose gradients are compared one by one."""
    head_scale: float
    """The factor by which the kernels of heads are enlarged (``weights``)."""
    published: bool = False
    """Whether the reference side uses the clone's own model."""
    vocabulary: int = 0
    """The number of text tokens for transformers."""
    batch_size: int = 8
    batches: int = 3
    last: int = 0
    """The size of the last training batch, if the training set does not divide evenly."""

    @property
    def resnet(self) -> bool:
        """Whether the model is the ResNets, whose initialisation is compared."""
        return self.published and not self.vocabulary

    @property
    def modalities(self) -> tuple[str, ...]:
        return self.encoders.modalities

    def batch(self, number: int, size: int | None = None, dtype: Any = np.float32) -> Batch:
        """Batch ``number`` by formula; test batches are numbered from 100.

        The examples of a training batch overlap with those of the others.
        """
        size = size or self.batch_size
        seeds = {m: 1000 * number + i for i, m in enumerate(self.modalities)}
        return {
            "inputs": {m: self.input(m, size, seeds[m], dtype) for m in self.modalities},
            "present": np.ones((size, len(self.modalities)), bool),
            "label": formula.labels(size, CLASSES, 1000 * number + 99),
            "index": ((np.arange(size) * 3 + 5 * number) % EXAMPLES).astype(np.int32),
            "valid": np.ones((size,), bool),
        }

    def input(self, modality: str, size: int, seed: int, dtype: Any) -> np.ndarray:
        """``[size, ...]``: token ids, some of them padding, or anything else uniform."""
        shape = (size, *self.inputs[modality])
        if modality != "text" or not self.vocabulary:
            return formula.uniform(shape, seed).astype(dtype) * 2
        ids = 1 + formula.labels(int(np.prod(shape)), self.vocabulary - 1, seed).reshape(shape)
        lengths = 1 + formula.labels(size, shape[1], seed + 1)
        return np.where(np.arange(shape[1]) < lengths[:, None], ids, 0).astype(np.int32)

    def training_batches(self, dtype: Any = np.float32) -> list[Batch]:
        """The training set, in order."""
        sizes = [self.batch_size] * (self.batches - 1) + [self.last or self.batch_size]
        return [self.batch(i, size, dtype) for i, size in enumerate(sizes)]

    def test_batches(self, dtype: Any = np.float32) -> list[Batch]:
        """The test set, with an incomplete last batch."""
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
        Encoders(modules, 512),
        {"audio": (64, 32, 1), "visual": (2, 32, 32, 3)},
        learning_rate=1e-3,
        named=("conv1/kernel", "layer2_0/proj/kernel", "layer4_1/bn2/scale"),
        head_scale=1 / SMALL,
        published=True,
    )


def toy_case(
    modalities: tuple[str, ...] = MODALITIES, dtype: Any = jnp.float32, vectors: bool = False
) -> Case:
    """Narrow encoders with batch normalisation: small enough to store whole.

    One convolution each, because OGM acts on kernels of convolutions and on nothing else; with
    ``vectors`` two dense layers.
    """
    inputs: dict[str, tuple[int, ...]]
    module: nn.Module
    if vectors:
        inputs, rate = {"audio": (12,), "visual": (20,)}, 5e-2
        module = Mlp(feature_dim=16, hidden=24, dtype=dtype)
        named = ("Dense_0/kernel", "BatchNorm_0/scale", "Dense_1/bias")
    else:
        inputs, rate = {"audio": (8, 8, 1), "visual": (8, 6, 2), "text": (6, 6, 3)}, 1e-2
        module = Conv2D(feature_dim=16, widths=(), dtype=dtype)
        named = ("Conv_0/kernel", "BatchNorm_0/scale", "BatchNorm_0/bias")
    encoders = Encoders(dict.fromkeys(modalities, module), 16)
    return Case(encoders, {m: inputs[m] for m in modalities}, rate, named, head_scale=12)


def transformer_case(modalities: tuple[str, ...], dtype: Any) -> Case:
    """CAV-MAE for filter banks and M3AE for images and text, of our size ``tiny``."""
    size: dict[str, Any] = {"feature_dim": 64, "size": "tiny", "convention": "released"}
    vocabulary = 50
    modules = {
        "audio": CAVMAEAudio(dtype=dtype, **size),
        "visual": M3AEImage(dtype=dtype, **size),
        "text": M3AEText(dtype=dtype, vocabulary=vocabulary, **size),
    }
    inputs = {"audio": (64, 128), "visual": (48, 48, 3), "text": (7,)}
    return Case(
        Encoders({m: modules[m] for m in modalities}, 64),
        {m: inputs[m] for m in modalities},
        learning_rate=1e-3,
        named=("block_0/attention/qkv/kernel", "block_1/perceptron/fc1/bias", "norm/scale"),
        head_scale=1,
        last=5,
        published=True,
        vocabulary=vocabulary,
    )


def module_inputs(dtype: Any) -> tuple[Tensors, np.ndarray]:
    """``({modality: features [B, D]}, labels)`` for a fusion module or a loss by itself."""
    features = {
        m: np.maximum(formula.uniform((8, 16), 60 + i), -0.25) + 0.25
        for i, m in enumerate(MODALITIES)
    }
    return {m: z.astype(dtype) for m, z in features.items()}, formula.labels(8, CLASSES, 62)


def projection_inputs(width: int) -> tuple[np.ndarray, np.ndarray]:
    """Head gradients ``[N, C, D]`` and features ``[N, B, D]`` for updates of only the projection.

    The features are non-negative, as after a ReLU, and small, with a mean of 0.025.  From about
    0.05 on, denominators of the element-wise formula cross zero and the recursion is chaotic: after
    20 updates even two float64 implementations have nothing in common (docs/fidelity.md).
    """
    gradients = formula.uniform((20, 6, width), 41)
    features = np.maximum(formula.uniform((20, 8, width), 42), 0) / 10
    return gradients.astype(np.float32), features.astype(np.float32)


def weights(shapes: Mapping[str, tuple[int, ...]], seed: int, head_scale: float = 1) -> Tensors:
    """Weights by formula, ``{"params/...": array}``.

    ``head_scale`` enlarges the kernels of heads: small logits would leave QMF's ranking loss at 0,
    and the encoders of the ResNet case have small features (``comparable``).  Biases are not 0.
    """
    found = comparable(formula.tensors(shapes, seed), few_ties=True)
    for name in found:
        if name.startswith("params/head/") and name.endswith("kernel"):
            found[name] = found[name] * np.float32(head_scale)
    return found


def nested(tensors: Tensors) -> tuple[Any, Any]:
    """``(params, batch_stats)`` as ``TrainState`` holds them, of flat tensors."""
    tree = jax.tree.map(jnp.asarray, traverse_util.unflatten_dict(tensors, sep="/"))
    return tree["params"], tree.get("batch_stats", {})


def comparable(tensors: Tensors, few_ties: bool) -> Tensors:
    """An initialisation on which two correct programs stay together.

    Two things make programs differ.  On large features the element-wise projection amplifies
    rounding until nothing is left to compare, so the last layer's features are made small.  And at
    the usual initialisation some of a ResNet's million ReLU inputs are within rounding of zero; one
    that falls on the other side changes a kernel's gradient in the second digit.  With ``few_ties``
    even channels get a bias of +3 and odd ones of -3 standard deviations, which leaves few inputs
    near zero, and residual branches are scaled down, which halves the rounding that 18 layers
    accumulate.  Float64 does not need this.
    """
    found = dict(tensors)
    for name, value in tensors.items():
        module, _, leaf = name.rpartition("/")
        if module.endswith("/Dense_1"):  # the toy's last layer
            found[name] = value * np.asarray(SMALL, value.dtype)
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
    return found


def padded(values: np.ndarray, size: int) -> np.ndarray:
    """``values`` with zeros (False) appended up to ``size`` along the batch axis."""
    missing = size - len(values)
    return np.pad(values, [(0, missing), *[(0, 0)] * (values.ndim - 1)])
