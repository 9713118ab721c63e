"""The columns of the table: which of our methods is compared with which code of a clone."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from mla_jax.config import fields
from mla_jax.parity import cases, missing
from mla_jax.parity.cases import MODALITIES, Case
from mla_jax.parity.formula import Tensors

TRIO = ("audio", "visual", "text")
DUC_DIMENSIONS = (0, 3, 5, 11), (1, 2, 14)
"""Which dimensions teach, first to second and back, where DUC is compared by itself."""
TEMPERATURE, CERTAINTY_TEMPERATURE = 0.2, 3.0
"""DI-MML's two.  The first suits features that are smaller than those of a trained encoder."""

DRIFT_NOTE = (
    "PyTorch 1.8 columns: zero_grad ran with set_to_none=False, which fills gradients with zeros"
)
NAME_NOTE = (
    "first drop: the shared head was wrapped in a module, because the released plugin acts only on "
    "a parameter with the name module.weight"
)
PAPER_NOTE = (
    "paper: no code of the reference computes the paper's projection and per-example fusion, so "
    "the reference's training loop ran with an independent float64 implementation in place of its "
    "plugin"
)
TOY_NOTE = (
    "3 modalities and epoch 51: the branch of the reference's loop for transformers ran with "
    "narrow encoders in their place"
)
TRANSFORMER_NOTE = (
    "transformers: width 64, depth 2, no pretrained weights; on the CPU, which a constant of their "
    "code excludes; timm's attention and MLP were replaced by equivalents, and M3AE's stochastic "
    "depth, which returns nothing, by the identity; the last batch is smaller than the others, and "
    "ours is padded and masked; with --float64 too, JAX's attention is float32, and the tolerances "
    "are those of float32"
)
NOISE_NOTE = (
    "OGM-GE: every normal draw was 1 on both sides, so that the noise is its standard deviation"
)
DIMML_NOTE = (
    "DI-MML: the device and the feature width 512, which get_indices has as constants, were "
    "replaced by those of the case; the calendar of epochs is that of main_CFT.main, which ran as "
    "a whole without data and models"
)
ENCODER_NOTE = (
    "AE, CRA, MMIN, IF-MMIN: without dropout; our methods ran with the published encoders, written "
    "in Flax; ours gets a masked batch and the complete one; each stage starts from the published "
    "weights, and evaluation from the published weights after training"
)
FRAME_NOTE = (
    "MMIN, IF-MMIN: the convolutions over text had 8 channels instead of 128, their code's default"
)
FILL_NOTE = (
    "CCA, DCCA, DCCAE: missing entries are filled with the published means, which are those of "
    "training, validation and test examples together; ours would be those of the training examples"
)
SVM_NOTE = (
    "the published SVM stops at a tolerance of 1e-4: its weights are compared at the minimum, by "
    "the normal equations of the examples inside its margin; its predictions are compared as they "
    "are"
)
DEEP_NOTE = (
    "DCCA, DCCAE: both sides compute codes and SVM from the published weights after training; "
    "gradients of biases before a batch normalisation or a covariance are zero up to rounding, and "
    "are left out"
)
MLA_NOTES = (DRIFT_NOTE, NAME_NOTE, PAPER_NOTE)
MISSING_NOTES = (ENCODER_NOTE, FRAME_NOTE, FILL_NOTE, DEEP_NOTE, SVM_NOTE)
NOTES = (*MLA_NOTES, TRANSFORMER_NOTE, TOY_NOTE, NOISE_NOTE, DIMML_NOTE, *MISSING_NOTES)
"""The notes in the order of the report."""

BREAKS = ("epsilon", "zero_grad_drift", "projection_order")


class Column(NamedTuple):
    """One of our methods, and the changes to a clone that make its code the same method."""

    title: str
    kind: str
    """A key of ``theirs.RUN`` and ``ours.RUN``, the functions that run it."""
    method: str
    fidelity: str = "released"
    switches: Mapping[str, Any] = {}
    """Our switches that differ from the fidelity's."""
    options: Mapping[str, Any] = {}
    """The reference's options that differ from plain concatenation."""
    epoch: int = 0
    epochs: int = 100
    modalities: tuple[str, ...] = MODALITIES
    only_toy: bool = False
    """Compared only on the toy case."""
    clone: str = "reference"
    """The flag that gives the clone."""
    notes: tuple[str, ...] = ()
    published: str = ""
    """The name in ``theirs.missing.RUN``, for methods for missing modalities."""

    @property
    def command(self) -> Mapping[str, Any]:
        """Options of the MLA repository's ``main.py`` under which it trains the column."""
        dataset = "IEMOCAP" if self.options.get("modal3") else "CREMAD"
        return {"dataset": dataset, "lorb": "base", **self.options}

    def case(self, dtype: Any, epsilon: float = 1e-5) -> Case:
        """The case on which the command compares the column."""
        if self.method == "mla" and self.command["lorb"] == "m3ae":
            return cases.transformer_case(self.modalities, dtype)
        return self.toy(dtype) if self.only_toy else cases.resnet_case(epsilon, dtype)

    def toy(self, dtype: Any = jnp.float32) -> Case:
        """The case on which the fixtures compare the column."""
        return cases.toy_case(self.modalities, jnp.dtype(dtype), vectors=self.kind == "mla")

    def resolved(self, broken: str = "", **changes: Any) -> ConfigDict:
        """``config.method``; ``broken`` and ``changes`` set switches wrong on purpose."""
        block = {"name": self.method, "fidelity": self.fidelity, **self.switches, **changes}
        if broken == "zero_grad_drift":
            block[broken] = not block[broken]
        chosen = ConfigDict(fields.resolve_switches(block))
        if broken == "projection_order":
            orders = ["project_then_update", "update_then_project"]
            orders.remove(chosen.projection.order)
            chosen.projection.order = orders[0]
        return chosen

    def weights(self, case: Case, own: Mapping[str, Any], dtype: Any = np.float32) -> Tensors:
        """The weights that both sides start from.

        ``own``: one side's tensors.  Their values matter only in the ResNet case, where they are
        the reference's: all of MLA's, and the encoders of other methods.  The rest is by formula.
        """
        kept = {
            name: value
            for name, value in own.items()
            if case.resnet and (self.kind == "mla" or not name.startswith("params/head/"))
        }
        shapes = {name: value.shape for name, value in own.items() if name not in kept}
        seed = {"mla": 5, "module": 9}.get(self.kind, 7)
        scale = 1 if self.kind in ("mla", "module") else case.head_scale
        found = cases.weights(shapes, seed, scale) | kept
        return {name: value.astype(dtype) for name, value in found.items()}


def _mla(title: str, fidelity: str, drift: bool) -> Column:
    """``drift``: ``zero_grad`` fills zeros, as PyTorch before 2.0 did (Q7)."""
    switches = {"zero_grad_drift": drift}
    options = {"gs_flag": True}
    return Column(title, "mla", "mla", fidelity, switches, options, notes=MLA_NOTES)


THREE = {"lorb": "m3ae", "modal3": True}

MLA = {
    "released": _mla("released, PyTorch >= 2", "released", drift=False),
    "released_torch1": _mla("released, PyTorch 1.8", "released", drift=True),
    "first_drop": _mla("first drop, PyTorch 1.8", "first_drop", drift=True),
    "paper": _mla("paper", "paper", drift=False),
}
"""MLA by ``train_epoch`` and ``valid`` of its repository."""

TRANSFORMERS = {
    "mla_three": Column(
        "released, CAV-MAE and 2 M3AE", "mla", "mla", switches={"zero_grad_drift": False},
        options={"gs_flag": True, **THREE}, modalities=TRIO, notes=(TRANSFORMER_NOTE,),
    ),
    "mla_m3ae": Column(
        "released, 2 M3AE", "mla", "mla", switches={"zero_grad_drift": False},
        options={"gs_flag": True, "lorb": "m3ae"}, modalities=("text", "visual"),
        notes=(TRANSFORMER_NOTE,),
    ),
}  # fmt: skip
"""The same with the repository's classifiers of transformers (``Modal3Classifier``, M3AE's)."""

OGM = {"modulation": "OGM"}
JOINT = {
    "concat": Column("concat", "joint", "concat"),
    "sum": Column("sum", "joint", "sum", options={"fusion_method": "sum"}),
    "ogm": Column("OGM", "joint", "ogm", options=OGM),
    "ogm_sum": Column(
        "OGM on sum", "joint", "ogm", switches={"joint": "sum"},
        options={**OGM, "fusion_method": "sum"},
    ),
    "ogm_over": Column(
        "OGM, epoch 51", "joint", "ogm", options=OGM, epoch=51, only_toy=True, notes=(TOY_NOTE,)
    ),
    "ogm_three": Column(
        "OGM, 3 modalities", "joint", "ogm", options={**OGM, **THREE}, modalities=TRIO,
        only_toy=True, notes=(TOY_NOTE,),
    ),
    "ogm_ge": Column(
        "OGM-GE", "joint", "ogm_ge", options={"modulation": "OGM_GE"}, notes=(NOISE_NOTE,)
    ),
    "qmf": Column("QMF", "joint", "qmf", options={"modulation": "QMF"}),
    "qmf_three": Column(
        "QMF, 3 modalities", "joint", "qmf", "released_m3ae",
        options={"modulation": "QMF", **THREE}, modalities=TRIO, only_toy=True, notes=(TOY_NOTE,),
    ),
}  # fmt: skip
"""The other methods of the MLA repository, by the same two functions."""


def _dimml(title: str, kind: str, epoch: int = 0) -> Column:
    """``epochs`` is that of the published command (``main_CFT.py``)."""
    switches = {"temperature": TEMPERATURE, "certainty_temperature": CERTAINTY_TEMPERATURE}
    return Column(
        title, kind, "dimml", switches=switches, epoch=epoch, epochs=150, clone="dimml",
        notes=(DIMML_NOTE,),
    )  # fmt: skip


DIMML = {
    "dimml_detached": _dimml("DI-MML, epoch 19", "detached", 19),
    "dimml_duc": _dimml("DI-MML, epoch 20", "detached", 20),
    "dimml_fused": _dimml("DI-MML, stage 2", "fused"),
    "film": Column("FiLM", "module", "film", only_toy=True, clone="dimml"),
    "gated": Column("BiGated", "module", "gated", only_toy=True, clone="dimml"),
}
"""``main_CFT.py``, ``main_CFT_stage2.py`` and the fusion modules of the DI-MML repository."""

REDUCED = {"layers": (16, 12), "head_layers": (12, 10), "dropout": 0.0}
IMAGINED = {**REDUCED, "layers": (16, 12, 6), "blocks": 3, "teacher_dropout": 0.0}
PUBLISHED_BATCH = len(missing.UTTERANCES.present)
"""The factor between a published sum over a batch and our mean."""


def _missing(
    title: str, kind: str, method: str, published: str, clone: str, switches: Mapping[str, Any]
) -> Column:
    notes = {"closed": (FILL_NOTE, SVM_NOTE), "correlation": (FILL_NOTE, SVM_NOTE, DEEP_NOTE)}
    own = notes.get(kind, (ENCODER_NOTE,) + (() if clone == "gcnet" else (FRAME_NOTE,)))
    return Column(
        title, kind, method, switches=switches, modalities=(), clone=clone, notes=own,
        published=published,
    )  # fmt: skip


PROJECTED = {"projections": missing.VIEWS.codes}
MISSING = {
    "gcnet_ae": _missing(
        "AE", "reconstruction", "ae", "gcnet_ae", "gcnet",
        {**REDUCED, "reconstruction_weight": 0.2 * PUBLISHED_BATCH},
    ),
    "gcnet_cra": _missing(
        "CRA", "reconstruction", "cra", "gcnet_cra", "gcnet",
        {**REDUCED, "blocks": 2, "reconstruction_weight": 0.8 * PUBLISHED_BATCH},
    ),
    "gcnet_mmin": _missing(
        "MMIN, GCNet's", "imagination", "mmin", "gcnet_mmin", "gcnet",
        {**IMAGINED, "initialization": "normal"},
    ),
    "mmin": _missing("MMIN", "imagination", "mmin", "mmin", "mmin", IMAGINED),
    "if_mmin": _missing("IF-MMIN", "imagination", "if_mmin", "if_mmin", "if_mmin", IMAGINED),
    "cca": _missing("CCA", "closed", "cca", "cca", "gcnet", PROJECTED),
    "dcca": _missing("DCCA", "correlation", "dcca", "dcca", "gcnet", PROJECTED),
    "dccae": _missing("DCCAE", "correlation", "dccae", "dccae", "gcnet", PROJECTED),
}  # fmt: skip
"""Methods for missing modalities, by GCNet's baselines and the repositories of MMIN and IF-MMIN."""

COLUMNS = MLA | TRANSFORMERS | JOINT | DIMML | MISSING
