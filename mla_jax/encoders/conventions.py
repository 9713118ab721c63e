"""The preprocessing and layer variants that pretrained weights expect, and the check for them.

Weights are useless with another patch order, LayerNorm epsilon, GELU or input normalisation
than they were trained with, and their shapes do not show it (quirks Q19, Q20, Q22).  So an
encoder has one field, ``convention``, that sets all of them.  ``mla_jax.convert`` records in every
converted checkpoint which convention its weights have, and ``init_from`` compares the two.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mla_jax.errors import UserError, check_choice

IMAGE_STATISTICS: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cc12m": ((0.5762, 0.5503, 0.5213), (0.3207, 0.3169, 0.3307)),
}
"""Mean and standard deviation of red, green and blue, of images in [0, 1]."""

FBANK_STATISTICS = {"audioset": (-5.081, 4.4849), "none": (0.0, 1.0)}
"""Mean and standard deviation of CAV-MAE's log-mel filter banks."""

CHOICES: Mapping[str, Sequence[Any]] = {
    "patch_order": ("row_column_channel", "channel_row_column"),
    "gelu": ("tanh", "exact"),
    "image_normalization": tuple(IMAGE_STATISTICS),
    "fbank_normalization": tuple(FBANK_STATISTICS),
    "pool": ("all_tokens", "valid_tokens", "cls"),
    "empty_text": ("masked", "attended"),
}
"""The possible values of switches that are names."""

BOUND = (
    "patch_order",
    "epsilon",
    "gelu",
    "image_normalization",
    "fbank_normalization",
    "text_length",
)
"""The switches that weights depend on; the others (``pool``, ``empty_text``) work with any."""

_M3AE = {
    "pretraining": {
        "patch_order": "row_column_channel",
        "epsilon": 1e-6,
        "gelu": "tanh",
        "image_normalization": "cc12m",
        "text_length": 64,
        "pool": "valid_tokens",
        "empty_text": "masked",
    },
    "released": {
        "patch_order": "channel_row_column",
        "epsilon": 1e-5,
        "gelu": "exact",
        "image_normalization": "imagenet",
        "text_length": 256,
        "pool": "all_tokens",
        "empty_text": "attended",
    },
}
_CAVMAE = {"epsilon": 1e-5, "gelu": "exact"}


def _only(table: Mapping[str, Mapping[str, Any]], *names: str) -> dict[str, dict[str, Any]]:
    return {title: {n: values[n] for n in names} for title, values in table.items()}


CONVENTIONS: Mapping[str, Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "m3ae_text": _only(_M3AE, "epsilon", "gelu", "text_length", "pool", "empty_text"),
        "m3ae_image": _only(_M3AE, "patch_order", "epsilon", "gelu", "image_normalization", "pool"),
        "cavmae_audio": {
            "pretraining": {**_CAVMAE, "fbank_normalization": "audioset"},
            "released": {**_CAVMAE, "fbank_normalization": "none"},
        },
        "cavmae_visual": {
            "pretraining": {**_CAVMAE, "image_normalization": "imagenet"},
            "released": {**_CAVMAE, "image_normalization": "imagenet"},
        },
    }
)
"""``{encoder: {convention: {switch: value}}}``.

``pretraining`` is how the weights were trained: by M3AE's own JAX code on CC12M, by CAV-MAE's on
AudioSet.  ``released`` is what the published MLA code does with them:
channel-first patches, ImageNet statistics, PyTorch's epsilon and GELU, 256 tokens, and, on
IEMOCAP, unnormalised filter banks (quirks Q12, Q19-Q22).
"""


def settle(encoder: str, convention: str, switches: Mapping[str, Any]) -> dict[str, Any]:
    """The value of every switch: the given one, or that of ``convention`` where it is None.

    Raises:
      UserError: an unknown convention or value.
    """
    check_choice(f"convention of encoder '{encoder}'", convention, CONVENTIONS[encoder])
    settled = dict(CONVENTIONS[encoder][convention])
    settled |= {name: value for name, value in switches.items() if value is not None}
    for name in settled.keys() & CHOICES.keys():
        check_choice(f"{name} of encoder '{encoder}'", settled[name], CHOICES[name])
    return settled


def bound(switches: Mapping[str, Any]) -> dict[str, Any]:
    """The switches that weights depend on, which a converted checkpoint records."""
    return {name: switches[name] for name in BOUND if name in switches}


def check_weights(
    path: str, modality: str, made_for: Mapping[str, Any], encoder: Mapping[str, Any]
) -> None:
    """Raises ``UserError`` if weights would be used with another convention than theirs.

    Args:
      path: the name of the checkpoint in the error.
      modality: the encoder's.
      made_for: the bound switches that the checkpoint records.
      encoder: the bound switches of the encoder, and under ``differs_from_weights`` the switches
        in which it may differ.
    """
    if not made_for and bound(encoder):
        raise UserError(
            f"{path} does not record what the weights for '{modality}' were made for: convert the "
            "original again"
        )
    allowed = encoder.get("differs_from_weights", ())
    other = [
        name
        for name, value in made_for.items()
        if name not in allowed and name in encoder and encoder[name] != value
    ]
    if other:
        weights = ", ".join(f"{name}={made_for[name]}" for name in other)
        configured = ", ".join(f"{name}={encoder[name]}" for name in other)
        raise UserError(
            f"the weights of {path} for '{modality}' were made for {weights}, but "
            f"encoders.{modality} is configured with {configured}: set encoders.{modality}."
            f"convention to that of the weights, or, to mix them on purpose, list the switches in "
            f"encoders.{modality}.differs_from_weights"
        )


def normalize_image(x: jax.Array, normalization: str, dtype: jnp.dtype) -> jax.Array:
    """``uint8[..., 3]`` scaled to [0, 1] and normalised; floats must be normalised already."""
    if not jnp.issubdtype(x.dtype, jnp.integer):
        return x.astype(dtype)
    mean, deviation = (np.array(v, np.float32) for v in IMAGE_STATISTICS[normalization])
    return ((x.astype(jnp.float32) / 255 - mean) / deviation).astype(dtype)
