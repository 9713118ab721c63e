"""The heads of classifiers: those in a checkpoint of the reference, and our names for them."""

from collections.abc import Mapping, Sequence

import numpy as np

from mla_jax.convert.names import Row, Tensors
from mla_jax.errors import UserError

FUSION_HEADS = ("fusion_module.fc_out", "fusion_module.fc_x", "fusion_module.fc_y")
QMF_HEADS = ("audio_fc", "visual_fc", "txtual_fc")
"""QMF's heads, in the order of the encoders.  The reference calls the first one audio whatever it
is; the spelling of the third is theirs (``models/basic_model.py:252``)."""
ONE_BY_ONE = "convert the encoders one by one"
"""The remedy in errors about classifiers that the reference does not have."""
UNUSED = (f"{FUSION_HEADS[0]}.weight", f"{FUSION_HEADS[0]}.bias")
"""The head that the reference's QMF classifier has but never calls (quirk Q8)."""


def heads_of(tensors: Tensors, modalities: Sequence[str], width: int) -> dict[str, str]:
    """``{our head: theirs}`` of the heads a classifier has, whose encoders are ``width`` wide.

    ``fc_out`` is MLA's shared head if its input is one encoder's features, and a joint head if its
    input is all.  The sum baseline's ``fc_x`` and ``fc_y`` and QMF's own heads are named after the
    modality; a checkpoint of QMF also contains the head that QMF does not use (quirk Q8), which is
    ignored here if it is all zeros (``unused_head``).
    """
    heads = {}
    own_heads = QMF_HEADS[: len(modalities)]
    qmf = any(name.startswith(tuple(f"{head}." for head in own_heads)) for name in tensors)
    if qmf:
        heads = dict(zip(modalities, own_heads, strict=True))
    if any(name.startswith(("fusion_module.fc_x.", "fusion_module.fc_y.")) for name in tensors):
        own = [f"sum_{m}" if qmf else m for m in modalities]
        heads |= dict(zip(own, FUSION_HEADS[1:], strict=False))
    elif qmf and not any(np.any(tensors.get(name, 0)) for name in UNUSED):
        pass
    elif any(name.startswith("fusion_module.fc_out.") for name in tensors) or not heads:
        weight = tensors.get("fusion_module.fc_out.weight", np.zeros((0, 0)))
        joint = weight.ndim == 2 and weight.shape[1] > width
        heads["joint" if joint else "shared"] = FUSION_HEADS[0]
    return heads


def names_for(
    heads: Sequence[str], modalities: Sequence[str], summed: bool = False, qmf: bool = True
) -> dict[str, str]:
    """``{our head: theirs}`` for a run of ours with these heads.

    Args:
      heads: our names.
      modalities: in the order of the encoders in the reference's classifier.
      summed: whether the logits of the modalities' heads add up to joint logits, as in the sum
        baseline; otherwise they are QMF's.
      qmf: whether the reference's classifier has QMF's heads.

    Raises:
      UserError: the reference has no such heads.
    """
    known = {"shared": FUSION_HEADS[0], "joint": FUSION_HEADS[0]}
    if summed and len(modalities) == 2:
        known |= dict(zip(modalities, FUSION_HEADS[1:], strict=True))
    elif qmf and not summed:
        known |= dict(zip(modalities, QMF_HEADS, strict=False))
    if unknown := [head for head in heads if head not in known]:
        raise UserError(f"the reference has no head like {', '.join(unknown)}: {ONE_BY_ONE}")
    found = {head: known[head] for head in heads}
    if len(set(found.values())) < len(found):
        raise UserError(
            f"the reference has no classifier with the heads {', '.join(heads)}: {ONE_BY_ONE}"
        )
    return found


def unused_head(heads: Mapping[str, str], shape: tuple[int, int]) -> Tensors:
    """The head that a QMF classifier of the reference has and never calls, all zeros.

    Its ``load_state_dict`` requires it.  Empty for other classifiers, and if ``heads``
    (``{ours: theirs}``) has that head.  ``shape``: the weight's, ``[C, M D]``.
    """
    taken = set(heads.values())
    if not taken & set(QMF_HEADS) or taken & set(FUSION_HEADS):
        return {}
    weight, bias = UNUSED
    return {weight: np.zeros(shape, np.float32), bias: np.zeros(shape[0], np.float32)}


def options_of(heads: Mapping[str, str]) -> dict[str, str]:
    """What the reference stores beside a state dict and needs for testing (``main.py:946-950``).

    ``heads``: ``{ours: theirs}``.
    """
    theirs = set(heads.values())
    return {
        "modulation": "QMF" if theirs & set(QMF_HEADS) else "Normal",
        "fusion": "sum" if theirs & set(FUSION_HEADS[1:]) else "concat",
    }


def head_rows(theirs: str, head: str, shape: tuple[int, ...]) -> list[Row]:
    """The two rows of a head, a linear layer of ``shape`` in PyTorch's order."""
    return [
        Row(f"{theirs}.weight", f"params/head/{head}/kernel", "linear", tuple(shape)),
        Row(f"{theirs}.bias", f"params/head/{head}/bias", "same", (shape[0],)),
    ]
