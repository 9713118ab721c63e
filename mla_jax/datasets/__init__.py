"""The registry of data sets: a name, a function ``(config.dataset, modalities) -> Dataset``."""

import functools
from collections.abc import Callable
from typing import Any

from mla_jax.data.dataset import RESERVED_NAMES, ArraySplit, Dataset, Split
from mla_jax.data.example_checks import check_examples
from mla_jax.data.stream_checks import PICTURES
from mla_jax.data.streams import Stream
from mla_jax.datasets import (
    arrays,
    ave,
    cremad,
    digits,
    folder,
    food101,
    iemocap,
    kinetics_sounds,
    mfeat,
    modelnet40,
    mvsa,
    prepared,
    ucf101,
)
from mla_jax.datasets.description import Description
from mla_jax.errors import UserError, check_choice

__all__ = [
    "DESCRIPTIONS",
    "REGISTRY",
    "RESERVED_NAMES",
    "ArraySplit",
    "Dataset",
    "Split",
    "load_dataset",
]

ON_DISK = (ave, cremad, folder, food101, iemocap, kinetics_sounds, modelnet40, mvsa, ucf101)
DESCRIPTIONS: dict[str, Description] = {m.DESCRIPTION.name: m.DESCRIPTION for m in ON_DISK}
"""The data sets on disk, which ``python -m mla_jax.prepare`` prepares."""

REGISTRY: dict[str, Callable[[Any, tuple[str, ...]], Dataset]] = {
    "digits": digits.load,
    "mfeat": mfeat.load,
    "arrays": arrays.load,
    **{name: functools.partial(prepared.load, d) for name, d in DESCRIPTIONS.items()},
}


def load_dataset(config: Any, modalities: tuple[str, ...]) -> Dataset:
    """Loads ``config.dataset`` with the given modalities, in the given order.

    Raises:
      UserError: an unknown data set, a field that it does not have, an error of its loader, or
        examples that cannot be used (``check_examples``).
    """
    check_choice("dataset.name", config.name, REGISTRY)
    on_disk = config.name in DESCRIPTIONS
    foreign = ("path",) if on_disk else ("variant", "recipe", "split", "synthetic", "crop", "noise")
    for field in foreign:
        if config.get(field, "") not in ("", "auto", 0):
            other = "dataset.data_dir says where its records are" if on_disk else "leave it out"
            raise UserError(f"dataset '{config.name}' has no dataset.{field}: {other}")
    dataset = REGISTRY[config.name](config, modalities)
    check_examples(dataset)
    streams = {
        m: noisy(cropped(stream, config.get("crop", 0)), config.get("noise", 0.0))
        for m, stream in dataset.streams.items()
    }
    return dataset._replace(streams=streams)


def cropped(stream: Stream, side: int) -> Stream:
    """The stream, cropped to squares of ``side`` pixels if it has images; 0: unchanged.

    Raises:
      UserError: ``side`` is more than twice the stored size.
    """
    if not side or stream.kind not in PICTURES:
        return stream
    stored = max(stream.shape[-3:-1])
    if side > 2 * stored:
        raise UserError(f"dataset.crop={side} is more than twice the stored {stored} pixels")
    return stream._replace(crop=side)


def noisy(stream: Stream, deviation: float) -> Stream:
    """The stream, if it has images, with one noise pattern added to every example, in training and
    in evaluation, as DI-MML does on CREMA-D (quirk 10); 0: unchanged."""
    if not deviation or stream.kind not in PICTURES:
        return stream
    return stream._replace(noise=deviation, noise_kind="fixed")


def default_split(name: str, protocol: str) -> str:
    """The split that ``dataset.split=auto`` selects; ``auto`` if a data set has only one."""
    return DESCRIPTIONS[name].default_split[protocol] if name in DESCRIPTIONS else "auto"
