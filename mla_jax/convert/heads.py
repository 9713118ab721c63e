"""The classifiers' heads: which a checkpoint of the reference has, and their names in ours."""

from collections.abc import Sequence

import numpy as np

from mla_jax.convert.names import Row, Tensors
from mla_jax.errors import UserError

FUSION_HEADS = ("fusion_module.fc_out", "fusion_module.fc_x", "fusion_module.fc_y")
QMF_HEADS = ("audio_fc", "visual_fc", "txtual_fc")
"""QMF's, in the order of the encoders, of which the reference calls the first audio whatever it
is; the third is spelt so (``models/basic_model.py:252``)."""


def heads_of(tensors: Tensors, modalities: Sequence[str], width: int) -> dict[str, str]:
    """``{our head: theirs}`` of the heads a classifier has, whose encoders are ``width`` wide.

    ``fc_out`` is MLA's shared head if it takes one encoder's features and a joint head if it takes
    all.  The sum baseline's ``fc_x`` and ``fc_y`` and QMF's own heads are named after the
    modality; a checkpoint of QMF also carries the head that QMF leaves unused (quirk Q8).
    """
    heads = {}
    own_heads = QMF_HEADS[: len(modalities)]
    qmf = any(name.startswith(tuple(f"{head}." for head in own_heads)) for name in tensors)
    if qmf:
        heads = dict(zip(modalities, own_heads, strict=True))
    if any(name.startswith(("fusion_module.fc_x.", "fusion_module.fc_y.")) for name in tensors):
        own = [f"sum_{m}" if qmf else m for m in modalities]
        heads |= dict(zip(own, FUSION_HEADS[1:], strict=False))
    elif any(name.startswith("fusion_module.fc_out.") for name in tensors) or not heads:
        weight = tensors.get("fusion_module.fc_out.weight", np.zeros((0, 0)))
        joint = weight.ndim == 2 and weight.shape[1] > width
        heads["joint" if joint else "shared"] = FUSION_HEADS[0]
    return heads


def names_for(heads: Sequence[str], modalities: Sequence[str]) -> dict[str, str]:
    """The same for a run of ours with these heads; ``UserError`` if the reference has no such."""
    known = {"shared": FUSION_HEADS[0], "joint": FUSION_HEADS[0]}
    known |= dict(zip(modalities, QMF_HEADS, strict=False))
    if unknown := [head for head in heads if head not in known]:
        raise UserError(f"the reference has no head like {', '.join(unknown)}")
    return {head: known[head] for head in heads}


def head_rows(theirs: str, head: str, shape: tuple[int, ...]) -> list[Row]:
    """The two rows of a head, a linear layer of ``shape`` in PyTorch's order."""
    return [
        Row(f"{theirs}.weight", f"params/head/{head}/kernel", "linear", tuple(shape)),
        Row(f"{theirs}.bias", f"params/head/{head}/bias", "same", (shape[0],)),
    ]
