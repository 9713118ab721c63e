"""The backbones that checkpoints may contain: their rows, unused tensors and conventions."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from mla_jax.convert import resnet, transformers
from mla_jax.convert.names import Row, Tensors
from mla_jax.encoders import conventions
from mla_jax.errors import UserError, check_choice


class Backbone(NamedTuple):
    """The names and shapes of the tensors of one encoder."""

    rows_for: Callable[[Tensors, str], list[Row]]
    """``(their tensors, prefix)`` -> rows without the prefix, with sizes from the tensors."""
    rows_of: Callable[[Tensors, str], list[Row]]
    """``(our tensors, "params/encoder/<modality>")`` -> the same rows, with sizes from ours."""
    unused: tuple[str, ...] = ()
    """Patterns of tensors in whole checkpoints that this encoder does not use."""
    original: Callable[[Row], Row] | None = None
    """Turns a row into the names of the backbone's own code, if that is not in PyTorch."""


def _m3ae(part: str) -> Backbone:
    return Backbone(
        functools.partial(transformers.m3ae_rows_for, part),
        functools.partial(transformers.m3ae_rows_of, part),
        transformers.m3ae_unused(part),
        transformers.m3ae_original,
    )


def _cavmae(letter: str) -> Backbone:
    return Backbone(
        functools.partial(transformers.cavmae_rows_for, letter),
        functools.partial(transformers.cavmae_rows_of, letter),
        transformers.cavmae_unused(letter),
    )


BACKBONES = {
    "resnet18": Backbone(resnet.rows_for, resnet.rows_of),
    "m3ae_text": _m3ae("text"),
    "m3ae_image": _m3ae("image"),
    "cavmae_audio": _cavmae("a"),
    "cavmae_visual": _cavmae("v"),
}


def backbone_of(names: Sequence[str], shapes: Mapping[str, tuple[int, ...]]) -> str:
    """The backbone that has these parameters (``block_0/norm1/scale`` ...); empty if none here."""
    if "layer4_1/bn2/scale" in names:
        return "resnet18"
    for part in ("text", "image"):
        if any(name.startswith(f"{part}_embedding/") for name in names):
            return f"m3ae_{part}"
    if "modality_embedding" in names and "patch_embedding/kernel" in names:
        return "cavmae_audio" if shapes["patch_embedding/kernel"][0] == 256 else "cavmae_visual"
    return ""


def convention_of(backbone: str, name: str) -> dict[str, Any]:
    """The switches of convention ``name`` that a checkpoint records; empty for ResNet-18.

    Raises:
      UserError: an unknown name, or one for a backbone that has no conventions.
    """
    if backbone not in conventions.CONVENTIONS:
        if name:
            raise UserError(f"{backbone} has no conventions: leave out --convention={name}")
        return {}
    known = conventions.CONVENTIONS[backbone]
    check_choice(f"convention of '{backbone}'", name, known)
    return conventions.bound(known[name])
