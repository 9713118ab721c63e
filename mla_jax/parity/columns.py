"""What is compared of the other methods: one column a method and variant.  No PyTorch here."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

from mla_jax import methods
from mla_jax.config import fields
from mla_jax.convert.names import Tensors
from mla_jax.encoders import Encoders
from mla_jax.encoders.small import Conv2D
from mla_jax.methods import Method, Task
from mla_jax.methods.joint import JointRule
from mla_jax.parity import formula
from mla_jax.parity.cases import CLASSES, MODALITIES, MODES, SMALL, Case
from mla_jax.state import Batch

TRIO = ("audio", "visual", "text")
DUC_DIMENSIONS = (0, 3, 5, 11), (1, 2, 14)
"""Which dimensions teach, first to second and back, where DUC is compared by itself."""
TEMPERATURE, CERTAINTY_TEMPERATURE = 0.2, 3.0
"""DI-MML's two.  The first suits features that are smaller than those of a trained encoder."""
EXAMPLES = 20
"""Size of QMF's history: fewer than three batches of 8, so that some examples come twice."""


class Column(NamedTuple):
    """A method of ours and the options that make the MLA repository's code the same method."""

    title: str
    method: str
    options: Mapping[str, Any] = {}
    """The reference's command line, where it differs from plain concatenation."""
    switches: Mapping[str, Any] = {}
    """Ours, where they differ from ``released``."""
    fidelity: str = "released"
    epoch: int = 0
    modalities: tuple[str, ...] = MODALITIES

    @property
    def toy_only(self) -> bool:
        """Three modalities need the reference's transformers; a late epoch costs time only."""
        return len(self.modalities) > 2 or self.epoch > 0


OGM = {"modulation": "OGM"}
THREE = {"lorb": "m3ae", "modal3": True}

JOINT = {
    "concat": Column("concat", "concat"),
    "sum": Column("sum", "sum", {"fusion_method": "sum"}),
    "ogm": Column("OGM", "ogm", OGM),
    "ogm_sum": Column("OGM on sum", "ogm", {**OGM, "fusion_method": "sum"}, {"joint": "sum"}),
    "ogm_over": Column("OGM, epoch 51", "ogm", OGM, epoch=51),
    "ogm_three": Column("OGM, 3 modalities", "ogm", {**OGM, **THREE}, modalities=TRIO),
    "ogm_ge": Column("OGM-GE", "ogm_ge", {"modulation": "OGM_GE"}),
    "qmf": Column("QMF", "qmf", {"modulation": "QMF"}),
    "qmf_three": Column(
        "QMF, 3 modalities", "qmf", {"modulation": "QMF", **THREE},
        fidelity="released_m3ae", modalities=TRIO,
    ),
}  # fmt: skip
"""Against ``train_epoch`` and ``valid`` of the MLA repository."""

DIMML = {
    "dimml_detached": "DI-MML, epoch 19",
    "dimml_duc": "DI-MML, epoch 20",
    "dimml_fused": "DI-MML, stage 2",
}
"""Against ``main_CFT.py`` and ``main_CFT_stage2.py`` of the DI-MML repository."""

FUSIONS = {"film": "FiLM", "gated": "BiGated"}
"""Against the fusion modules of the DI-MML repository."""

OTHERS = (*JOINT, *DIMML, *FUSIONS)
NAMES = (*MODES, *OTHERS)


def needs_dimml(name: str) -> bool:
    """Whether a column is against the DI-MML repository, and not against MLA's."""
    return name in DIMML or name in FUSIONS


def title(name: str) -> str:
    """The head of a column of the table."""
    if name in MODES:
        return MODES[name].title
    return JOINT[name].title if name in JOINT else (DIMML | FUSIONS)[name]


def toy_case(modalities: tuple[str, ...] = MODALITIES, dtype: Any = jnp.float32) -> Case:
    """One convolution an encoder: OGM acts on kernels of convolutions and on nothing else."""
    inputs = {"audio": (8, 8, 1), "visual": (8, 6, 2), "text": (6, 6, 3)}
    modules = {m: Conv2D(feature_dim=16, widths=(), dtype=dtype) for m in modalities}
    return Case(
        "toy_convolutions",
        Encoders(modules, 16),
        {m: inputs[m] for m in modalities},
        learning_rate=1e-2,
        named=("Conv_0/kernel", "BatchNorm_0/scale", "BatchNorm_0/bias"),
    )


def training_batch(case: Case, number: int, dtype: Any = np.float32) -> Batch:
    """Training batch ``number`` from 0; its examples overlap with those of the other batches."""
    batch = case.batch(number, dtype=dtype)
    index = (np.arange(case.batch_size) * 3 + 5 * number) % EXAMPLES
    return {**batch, "index": index.astype(np.int32)}


def fusion_rule(name: str) -> tuple[Encoders, JointRule]:
    """Our FiLM or gated fusion of the toy case's features."""
    encoders = toy_case().encoders
    switches = resolved(name, "released", {})
    return encoders, methods.get(name).rule(switches, encoders, Task(CLASSES, 1, EXAMPLES))


def fusion_inputs(name: str, dtype: Any) -> tuple[Tensors, np.ndarray, Tensors]:
    """``({modality: features [B, D]}, labels, weights)`` for one fusion module, by formula."""
    encoders, rule = fusion_rule(name)
    shapes = traverse_util.flatten_dict(
        {"params": {"head": jax.eval_shape(rule.init_heads, jax.random.key(0))}}, sep="/"
    )
    tensors = formula.tensors({path: leaf.shape for path, leaf in shapes.items()}, 9)
    features = {
        m: np.maximum(formula.uniform((8, encoders.feature_dim), 60 + i), -0.25) + 0.25
        for i, m in enumerate(encoders.modalities)
    }
    return (
        {m: z.astype(dtype) for m, z in features.items()},
        formula.labels(8, CLASSES, 62),
        {path: value.astype(dtype) for path, value in tensors.items()},
    )


def resolved(name: str, fidelity: str, switches: Mapping[str, Any]) -> ConfigDict:
    """``config.method`` with every switch set."""
    block = {"name": name, "fidelity": fidelity, **switches}
    return ConfigDict(fields.resolve_switches(block))


def weights(
    method: Method, case: Case, dtype: Any, encoders: Tensors | None = None, seed: int = 7
) -> Tensors:
    """Weights by formula for all that a method has; ``encoders`` replaces some of them.

    The kernels of heads are large: small logits would leave QMF's ranking loss at 0, and the
    encoders of the ResNet case have small features (``cases.comparable``).  Biases are not 0.
    """
    shapes = jax.eval_shape(method.init, jax.random.key(0), case.batch(0))
    flat = traverse_util.flatten_dict(shapes.variables, sep="/")
    found = formula.tensors({name: leaf.shape for name, leaf in flat.items()}, seed)
    larger = np.float32(12 if encoders is None else 1 / SMALL)
    for name, value in found.items():
        if name.startswith("params/head/") and name.endswith("kernel"):
            found[name] = value * larger
    return {name: value.astype(dtype) for name, value in (found | (encoders or {})).items()}
