"""The name map of ResNet-18: torchvision's names, which the MLA reference also uses, and ours."""

from collections.abc import Mapping

import numpy as np

from mla_jax.convert.names import Row


def rows(width: int = 512, channels: int = 3) -> list[Row]:
    """Every tensor of a ResNet-18 without classifier, whose last stage has ``width`` channels."""
    found = _convolution("conv1", "conv1", (width // 8, channels, 7, 7))
    found += _norm("bn1", "bn1", width // 8)
    before = width // 8
    for stage in range(1, 5):
        after = width >> (4 - stage)
        for block in range(2):
            theirs, ours = f"layer{stage}.{block}", f"layer{stage}_{block}"
            for i, into in ((1, before), (2, after)):
                found += _convolution(f"{theirs}.conv{i}", f"{ours}/conv{i}", (after, into, 3, 3))
                found += _norm(f"{theirs}.bn{i}", f"{ours}/bn{i}", after)
            if stage > 1 and block == 0:
                shape = (after, before, 1, 1)
                found += _convolution(f"{theirs}.downsample.0", f"{ours}/proj", shape)
                found += _norm(f"{theirs}.downsample.1", f"{ours}/proj_bn", after)
            before = after
    return found


def rows_for(tensors: Mapping[str, np.ndarray], prefix: str = "") -> list[Row]:
    """The rows that ``tensors`` should fill; they give the width and the channels."""
    width, channels = 512, 3
    if (last := tensors.get(prefix + "layer4.1.bn2.weight")) is not None and last.ndim == 1:
        width = len(last)
    if (stem := tensors.get(prefix + "conv1.weight")) is not None and stem.ndim == 4:
        channels = stem.shape[1]
    return rows(width, channels)


def rows_of(tensors: Mapping[str, np.ndarray], at: str) -> list[Row]:
    """The rows of our tensors under ``at``, such as ``params/encoder/visual``."""
    width, channels = 512, 3
    if (last := tensors.get(f"{at}/layer4_1/bn2/scale")) is not None and last.ndim:
        width = len(last)
    if (stem := tensors.get(f"{at}/conv1/kernel")) is not None and stem.ndim > 2:
        channels = stem.shape[2]
    return rows(width, channels)


def _convolution(theirs: str, ours: str, shape: tuple[int, ...]) -> list[Row]:
    return [Row(f"{theirs}.weight", f"params/{ours}/kernel", "convolution", shape)]


def _norm(theirs: str, ours: str, width: int) -> list[Row]:
    names = {
        "weight": f"params/{ours}/scale",
        "bias": f"params/{ours}/bias",
        "running_mean": f"batch_stats/{ours}/mean",
        "running_var": f"batch_stats/{ours}/var",
    }
    found = [Row(f"{theirs}.{name}", path, "same", (width,)) for name, path in names.items()]
    return [*found, Row(f"{theirs}.num_batches_tracked", None, "counter", ())]
