"""Maps published names and layouts of the methods for missing modalities to ours.

A network maps to a group and a key of our parameters, a tensor to a place in it; kernels are
transposed.
"""

import re
from collections.abc import Mapping

import numpy as np

from mla_jax.parity.formula import Tensors

LETTERS = "ALV"
"""The order in which the published features are joined."""

VIEWS = "AVL"
"""For CCA, DCCA and DCCAE: the third view goes through the second's network."""

NETWORKS: Mapping[str, str] = {
    **{m: f"encoder/{m}" for m in LETTERS},
    **{m + m: f"head/decoder_{m}" for m in LETTERS},
    **{
        f"{name}{i}": f"encoder/{m}"
        for name in ("model", "encoder")
        for i, m in enumerate(VIEWS, 1)
    },
    **{f"decoder{i}": f"head/{m}_decoder" for i, m in enumerate(VIEWS, 1)},
    "C": "head/classifier",
    "AE": "head/forward",
    "AE_cycle": "head/backward",
    "Shared": "head/invariant",
    "invariant": "head/invariant",
}
OF_TEACHER = {"C": "head/teacher"}
OF_RECONSTRUCTION = {"AE": "head/autoencoder"}

PERCEPTRON = {"module.0": "0", "module.3": "1", "fc_out": "2"}
"""A dropout layer stands between the linear ones."""

LEAVES = {"running_mean": "mean", "running_var": "var"}


def ours(name: str, own: Mapping[str, str], ndim: int) -> str:
    """Our name, without ``params/``, of ``<network>/<parameter>``, or ``<network>.<parameter>``.

    ``own`` overrides NETWORKS; ``ndim`` tells a kernel from a scale.
    """
    network, _, path = name.partition("/" if "/" in name else ".")
    module, _, leaf = path.rpartition(".")
    group = {**NETWORKS, **own}[network]
    in_encoder = "layer_" if group.startswith("encoder") else ""
    if module == "rnn":
        side = "input/" if "_ih_" in leaf else "recurrent_"
        return f"{group}/{side}{'kernel' if leaf.startswith('weight') else 'bias'}"
    leaf = {"weight": "scale" if ndim == 1 else "kernel", **LEAVES}.get(leaf, leaf)
    if module in PERCEPTRON:
        return f"{group}/{in_encoder}{PERCEPTRON[module]}/{leaf}"
    if found := re.fullmatch(r"netshared\.shared_(\d)", module):
        return f"{group}/{int(found[1]) - 1}/{leaf}"
    if found := re.fullmatch(r"conv(\d)", module):
        return f"{group}/conv_{found[1]}/{leaf}"
    if found := re.fullmatch(r"model\.(\d)", module):
        return _of_view(group, *divmod(int(found[1]), 3), leaf)
    if found := re.fullmatch(r"(\w+)\.(\d)", module):
        return f"{group}/{found[1]}/{int(found[2]) // 2}/{leaf}".replace("embd/0", "embedding")
    raise ValueError(f"no name of ours for {name}")


def _of_view(group: str, layer: int, place: int, leaf: str) -> str:
    """Linear, BatchNorm and ReLU three times, and a linear layer: our head is an encoder's last."""
    decoder = group.endswith("_decoder")
    if layer == 3:
        return f"{group}/output/{leaf}" if decoder else f"{group.replace('encoder', 'head')}/{leaf}"
    if decoder:
        return f"{group}/layer_{layer}/{'norm/' * place}{leaf}"
    return f"{group}/{('layer', 'norm')[place]}_{layer}/{leaf}"


def layout(value: np.ndarray) -> np.ndarray:
    """A kernel of ours: ``[in, out]``, or ``[time, in, out]`` of a convolution ``[out, 1, ..]``."""
    return value.squeeze(1).transpose(1, 2, 0) if value.ndim == 4 else value.T


def named(tensors: Tensors, own: Mapping[str, str]) -> Tensors:
    """Published parameters ``{<network>/<parameter>: array}`` as ``{params/...: ours}``."""
    return {
        f"params/{ours(name, own, value.ndim)}": layout(value) for name, value in tensors.items()
    }
