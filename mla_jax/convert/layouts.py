"""Which rows a whole checkpoint has: the reference's classifiers, or one backbone by itself."""

import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mla_jax.convert import resnet
from mla_jax.convert.names import Row, Tensors, to_flax, to_torch
from mla_jax.errors import UserError

TOWERS = ("audio_net", "visual_net")
"""The reference's encoders, in the order in which it visits them (``models/basic_model.py:36``)."""

FUSION_HEADS = ("fusion_module.fc_out", "fusion_module.fc_x", "fusion_module.fc_y")
QMF_HEADS = ("audio_fc", "visual_fc")


def from_torch(
    tensors: Tensors,
    source: str,
    modalities: Sequence[str] = (),
    ignore: Sequence[str] = (),
    average_channels: bool = False,
) -> tuple[Tensors, dict[str, Any]]:
    """Our tensors and their manifest, from a PyTorch state dict of a known layout.

    Args:
      tensors: the state dict; a ``module.`` that begins every name (``DataParallel``) is taken off.
      source: what errors call the checkpoint.
      modalities: our names for the reference's audio and visual encoder (default ``audio``,
        ``visual``), or the one that a lone ResNet-18 is for (no default).
      ignore: patterns (``fc.*``) of tensors to leave out; each must match one.
      average_channels: turns a lone ResNet-18's 3-channel stem into a 1-channel one, by the mean.

    Raises:
      UserError: the layout is not known, or a tensor is missing, unexpected or of another shape.
    """
    prefix = "module." if tensors and all(name.startswith("module.") for name in tensors) else ""
    tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    for pattern in ignore:
        matched = fnmatch.filter(tensors, pattern)
        if not matched:
            raise UserError(f"{source} has no tensor that matches the ignored '{pattern}'")
        tensors = {name: tensor for name, tensor in tensors.items() if name not in matched}

    heads: dict[str, str] = {}
    if any(name.startswith(tuple(f"{tower}." for tower in TOWERS)) for name in tensors):
        towers = dict(zip(_named(modalities or ("audio", "visual"), 2), TOWERS, strict=True))
        heads = _heads(tensors, tuple(towers))
        if average_channels:
            raise UserError("average_channels is for a lone ResNet-18, not for a whole classifier")
    elif "conv1.weight" in tensors or any(name.startswith("layer1.") for name in tensors):
        towers = {_named(modalities, 1)[0]: ""}
        if average_channels:
            tensors["conv1.weight"] = tensors["conv1.weight"].mean(1, keepdims=True)
    else:
        names = ", ".join(sorted(tensors)[:5])
        raise UserError(
            f"{source} is neither a classifier of the reference (audio_net.*, visual_net.*) nor a "
            f"ResNet-18 (conv1.*, layer1.*): it begins with {names}"
        )
    manifest = {"encoder": "resnet18", "towers": towers, "heads": heads, "prefix": prefix}
    return to_flax(tensors, rows_of(tensors, manifest), source), manifest


def back_to_torch(tensors: Tensors, manifest: Mapping[str, Any], source: str) -> Tensors:
    """The state dict that ``from_torch`` would turn into these tensors and this manifest."""
    rows = []
    for modality, tower in manifest["towers"].items():
        at = f"params/encoder/{modality}"
        width = _length(tensors, f"{at}/layer4_1/bn2/scale", 0, 512)
        channels = _length(tensors, f"{at}/conv1/kernel", 2, 3)
        rows += _tower(resnet.rows(width, channels), tower, modality)
    for head, theirs in manifest["heads"].items():
        kernel = tensors.get(f"params/head/{head}/kernel", np.zeros((0, 0), np.float32))
        rows += _linear(theirs, head, kernel.shape[::-1])
    prefix = manifest["prefix"]
    return {prefix + name: value for name, value in to_torch(tensors, rows, source).items()}


def manifest_of(tensors: Tensors) -> dict[str, Any]:
    """The manifest of a run of ours, for the reference's two-tower classifier.

    A shared or joint head becomes ``fusion_module.fc_out``; one head a modality, the QMF heads.

    Raises:
      UserError: it has not two encoders, or a head for which the reference has no name.
    """
    encoders = list(dict.fromkeys(_part(n, 2) for n in tensors if n.startswith("params/encoder/")))
    if len(encoders) != len(TOWERS):
        raise UserError(
            f"the reference's classifier has two encoders; this run has {len(encoders)} "
            f"({', '.join(encoders)})"
        )
    known = {"shared": FUSION_HEADS[0], "joint": FUSION_HEADS[0]}
    known |= dict(zip(encoders, QMF_HEADS, strict=True))
    found = list(dict.fromkeys(_part(n, 2) for n in tensors if n.startswith("params/head/")))
    if unknown := [head for head in found if head not in known]:
        raise UserError(f"the reference has no head like {', '.join(unknown)}")
    heads = {head: known[head] for head in found}
    towers = dict(zip(encoders, TOWERS, strict=True))
    return {"encoder": "resnet18", "towers": towers, "heads": heads, "prefix": "module."}


def rows_of(tensors: Tensors, manifest: Mapping[str, Any]) -> list[Row]:
    """Every row of a checkpoint in PyTorch's names, whose prefix is taken off already."""
    rows, widths = [], []
    for modality, tower in manifest["towers"].items():
        dot = f"{tower}." if tower else ""
        own = resnet.rows_for(tensors, dot)
        widths.append(own[-2].shape[0])
        rows += _tower(own, tower, modality)
    for head, theirs in manifest["heads"].items():
        weight = tensors.get(f"{theirs}.weight", np.zeros((0, 0), np.float32))
        inputs = sum(widths) if head == "joint" else widths[0]
        rows += _linear(theirs, head, (len(weight), inputs))
    return rows


def _tower(rows: Sequence[Row], tower: str, modality: str) -> list[Row]:
    dot = f"{tower}." if tower else ""
    return [_placed(row, dot, modality) for row in rows]


def _placed(row: Row, dot: str, modality: str) -> Row:
    """Parameters go under ``params/encoder/<modality>``, statistics under ``batch_stats/...``."""
    module = f"encoder/{modality}" if (row.flax or "").startswith("params/") else modality
    return row.at(dot, module)


def _linear(theirs: str, head: str, shape: tuple[int, ...]) -> list[Row]:
    return [
        Row(f"{theirs}.weight", f"params/head/{head}/kernel", "linear", tuple(shape)),
        Row(f"{theirs}.bias", f"params/head/{head}/bias", "same", (shape[0],)),
    ]


def _heads(tensors: Tensors, modalities: tuple[str, str]) -> dict[str, str]:
    """``{our head: theirs}`` of the heads a classifier has.

    ``fc_out`` is MLA's shared head if it takes one encoder's features and a joint head if it takes
    both.  The sum baseline's ``fc_x`` and ``fc_y`` and QMF's own heads are named after the
    modality; a checkpoint of QMF also carries the head that QMF leaves unused (quirk Q8).
    """
    heads = {}
    qmf = any(name.startswith(tuple(f"{head}." for head in QMF_HEADS)) for name in tensors)
    if qmf:
        heads = dict(zip(modalities, QMF_HEADS, strict=True))
    if any(name.startswith(("fusion_module.fc_x.", "fusion_module.fc_y.")) for name in tensors):
        own = [f"sum_{m}" if qmf else m for m in modalities]
        heads |= dict(zip(own, FUSION_HEADS[1:], strict=True))
    elif any(name.startswith("fusion_module.fc_out.") for name in tensors) or not heads:
        weight = tensors.get("fusion_module.fc_out.weight", np.zeros((0, 0)))
        own = resnet.rows_for(tensors, f"{TOWERS[0]}.")[-2].shape[0]
        heads["joint" if weight.ndim == 2 and weight.shape[1] > own else "shared"] = FUSION_HEADS[0]
    return heads


def _named(modalities: Sequence[str], count: int) -> tuple[str, ...]:
    if len(modalities) != count:
        what = (
            "one modality (a ResNet-18 without its classifier)" if count == 1 else "two modalities"
        )
        raise UserError(f"this checkpoint is for {what}; name as many with --modalities=a+b")
    return tuple(modalities)


def _length(tensors: Tensors, name: str, axis: int, default: int) -> int:
    tensor = tensors.get(name)
    return default if tensor is None or tensor.ndim <= axis else tensor.shape[axis]


def _part(name: str, position: int) -> str:
    return name.split("/")[position]
