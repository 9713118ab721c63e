"""The name maps of M3AE and CAV-MAE: PyTorch's names, those of M3AE's JAX code, and ours.

Shapes come from the tensors, except the depth, which follows from the width: a checkpoint
that lacks its last block is incomplete, not shallow.
"""

import re
from collections.abc import Mapping

import numpy as np

from mla_jax.convert.names import Row, flax_shape
from mla_jax.encoders.transformer import PATCH, SIZES
from mla_jax.errors import UserError

Tensors = Mapping[str, np.ndarray]

M3AE_BLOCK = {
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attention/qkv": "attention.qkv_linear",
    "attention/projection": "attention.fc",
    "perceptron/fc1": "transformer_mlp.fc1",
    "perceptron/fc2": "transformer_mlp.fc2",
}
CAVMAE_BLOCK = {
    "norm1": "norm1",
    "norm2": "norm2",
    "attention/qkv": "attn.qkv",
    "attention/projection": "attn.proj",
    "perceptron/fc1": "mlp.fc1",
    "perceptron/fc2": "mlp.fc2",
}
ORIGINAL = {
    "norm1": "LayerNorm_0",
    "norm2": "LayerNorm_1",
    "attention/qkv": "Attention_0/Dense_0",
    "attention/projection": "Attention_0/Dense_1",
    "perceptron/fc1": "TransformerMLP_0/fc1",
    "perceptron/fc2": "TransformerMLP_0/fc2",
}

M3AE_UNUSED = ("decoder*", "image_mask_embedding", "text_mask_embedding")
"""The tensors of M3AE's decoder; each encoder also leaves out the other's embedding."""

CAVMAE_UNUSED = ("norm.*", "mlp_head.*", "mask_token", "decoder*", "blocks_u.*.norm[12].*")
"""The classifier, the decoder, and the norms for both modalities together."""


def m3ae_unused(part: str) -> tuple[str, ...]:
    """Patterns of the tensors that the encoder of ``part`` (``text``, ``image``) leaves out."""
    other = {"text": "image", "image": "text"}[part]
    return (f"{other}_embedding[./]*", f"encoder_{other}_type_embedding", *M3AE_UNUSED)


def cavmae_unused(letter: str) -> tuple[str, ...]:
    """Patterns of the tensors that the tower of ``letter`` (``a``, ``v``) leaves out."""
    other = {"a": "v", "v": "a"}[letter]
    return (
        f"patch_embed_{other}.*",
        f"pos_embed_{other}",
        f"modality_{other}",
        f"blocks_{other}.*",
        f"norm_{other}.*",
        f"blocks_[{letter}u].*.norm[12]_{other}.*",
        f"blocks_{letter}.*.norm[12]_{letter}.*",
        *CAVMAE_UNUSED,
    )


def m3ae_rows(part: str, width: int, vocabulary: int) -> list[Row]:
    """Every tensor of the ``text`` or ``image`` encoder, in PyTorch's names."""
    found = [
        Row("cls_token", "params/cls_token", "same", (1, 1, width)),
        Row(f"encoder_{part}_type_embedding", "params/type_embedding", "same", (1, 1, width)),
    ]
    if part == "text":
        ours = "params/text_embedding/embedding"
        found.append(Row("text_embedding.weight", ours, "same", (vocabulary, width)))
    else:
        found += _linear("image_embedding", "image_embedding", width, 3 * PATCH**2)
    for i in range(_depth(width)):
        found += _block(f"encoder.blocks.{i}", f"block_{i}", width, M3AE_BLOCK)
    return found + _norm("encoder.layer_norm", "norm", width)


def m3ae_rows_for(part: str, tensors: Tensors, prefix: str = "") -> list[Row]:
    """The rows that ``tensors``, of either M3AE code, should fill; the prefix is not added."""
    vocabulary = _length(
        tensors, (f"{prefix}text_embedding.weight", "text_embedding/embedding"), 0, 30522
    )
    return m3ae_rows(part, _length(tensors, (f"{prefix}cls_token",), 2, 768), vocabulary)


def m3ae_rows_of(part: str, ours: Tensors, at: str) -> list[Row]:
    """The rows of our tensors under ``at``, such as ``params/encoder/text``."""
    vocabulary = _length(ours, (f"{at}/text_embedding/embedding",), 0, 30522)
    return m3ae_rows(part, _length(ours, (f"{at}/cls_token",), 2, 768), vocabulary)


def m3ae_original(row: Row) -> Row:
    """A row of ``m3ae_rows`` in the names and shapes of M3AE's own JAX code."""
    *modules, leaf = row.ours.removeprefix("params/").split("/")
    name = row.torch
    if modules and (block := re.fullmatch(r"block_(\d+)", modules[0])):
        name = f"encoder/Block_{block[1]}/{ORIGINAL['/'.join(modules[1:])]}/{leaf}"
    elif modules == ["norm"]:
        name = f"encoder/LayerNorm_0/{leaf}"
    elif modules:
        name = f"{modules[0]}/{leaf}"
    return Row(name, row.flax, "same", flax_shape(row))


def cavmae_rows(letter: str, width: int, tokens: int) -> list[Row]:
    """Every tensor of the audio (``a``) or visual (``v``) tower, in PyTorch's names.

    The last block is the one that both modalities share, with this modality's norms.
    """
    channels = {"a": 1, "v": 3}[letter]
    kernel = (width, channels, PATCH, PATCH)
    found = [
        Row(f"patch_embed_{letter}.proj.weight", "params/patch_embedding/kernel", "patch", kernel),
        Row(f"patch_embed_{letter}.proj.bias", "params/patch_embedding/bias", "same", (width,)),
        Row(f"pos_embed_{letter}", "params/position_embedding", "same", (1, tokens, width)),
        Row(f"modality_{letter}", "params/modality_embedding", "same", (1, 1, width)),
    ]
    last = _depth(width) - 1
    for i in range(last):
        found += _block(f"blocks_{letter}.{i}", f"block_{i}", width, CAVMAE_BLOCK)
    shared = CAVMAE_BLOCK | {norm: f"{norm}_{letter}" for norm in ("norm1", "norm2")}
    found += _block("blocks_u.0", f"block_{last}", width, shared)
    return found + _norm(f"norm_{letter}", "norm", width)


def cavmae_rows_for(letter: str, tensors: Tensors, prefix: str = "") -> list[Row]:
    """The rows that ``tensors`` should fill; the prefix is not added."""
    position = f"{prefix}pos_embed_{letter}"
    tokens = _length(tensors, (position,), 1, {"a": 512, "v": 196}[letter])
    return cavmae_rows(letter, _length(tensors, (position,), 2, 768), tokens)


def cavmae_rows_of(letter: str, ours: Tensors, at: str) -> list[Row]:
    """The rows of our tensors under ``at``, such as ``params/encoder/audio``."""
    position = (f"{at}/position_embedding",)
    return cavmae_rows(letter, _length(ours, position, 2, 768), _length(ours, position, 1, 512))


def _block(theirs: str, ours: str, width: int, names: Mapping[str, str]) -> list[Row]:
    outputs = {"attention/qkv": 3, "attention/projection": 1, "perceptron/fc1": 4}
    found = []
    for module, name in names.items():
        if module.startswith("norm"):
            found += _norm(f"{theirs}.{name}", f"{ours}/{module}", width)
        else:
            into = 4 * width if module == "perceptron/fc2" else width
            out = outputs.get(module, 1) * width
            found += _linear(f"{theirs}.{name}", f"{ours}/{module}", out, into)
    return found


def _linear(theirs: str, ours: str, out: int, into: int) -> list[Row]:
    return [
        Row(f"{theirs}.weight", f"params/{ours}/kernel", "linear", (out, into)),
        Row(f"{theirs}.bias", f"params/{ours}/bias", "same", (out,)),
    ]


def _norm(theirs: str, ours: str, width: int) -> list[Row]:
    return [
        Row(f"{theirs}.weight", f"params/{ours}/scale", "same", (width,)),
        Row(f"{theirs}.bias", f"params/{ours}/bias", "same", (width,)),
    ]


def _depth(width: int) -> int:
    depths = {size.width: size.depth for size in SIZES.values()}
    if width not in depths:
        raise UserError(
            f"no transformer here is {width} wide (known widths: {', '.join(map(str, depths))})"
        )
    return depths[width]


def _length(tensors: Tensors, names: tuple[str, ...], axis: int, default: int) -> int:
    for name in names:
        if name in tensors and tensors[name].ndim > axis:
            return tensors[name].shape[axis]
    return default
