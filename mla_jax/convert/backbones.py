"""The backbones that checkpoints may hold: their rows, what they leave out, their conventions."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from mla_jax.convert import resnet, transformers
from mla_jax.convert.names import Row, Tensors
from mla_jax.encoders import conventions
from mla_jax.errors import UserError, check_choice


class Backbone(NamedTuple):
    """How the tensors of one encoder are named and shaped; its name is that of the encoder."""

    rows_for: Callable[[Tensors, str], list[Row]]
    """``(their tensors, prefix)`` -> rows without the prefix, sizes read off the tensors."""
    rows_of: Callable[[Tensors, str], list[Row]]
    """``(our tensors, "params/encoder/<modality>")`` -> the same, sizes read off ours."""
    unused: tuple[str, ...] = ()
    """Patterns of tensors that whole checkpoints have and this encoder does without."""
    original: Callable[[Row], Row] | None = None
    """A row in the names of the backbone's own code, where that is not PyTorch's."""


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
    """Whose parameters these are (``block_0/norm1/scale`` ...); empty if of no backbone here."""
    if "layer4_1/bn2/scale" in names:
        return "resnet18"
    for part in ("text", "image"):
        if any(name.startswith(f"{part}_embedding/") for name in names):
            return f"m3ae_{part}"
    if "modality_embedding" in names and "patch_embedding/kernel" in names:
        return "cavmae_audio" if shapes["patch_embedding/kernel"][0] == 256 else "cavmae_visual"
    return ""


def convention_of(backbone: str, name: str) -> dict[str, Any]:
    """What a checkpoint records of convention ``name``: its bound switches; empty for ResNet-18.

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
