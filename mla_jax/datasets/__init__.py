"""The registry of data sets: a name, a function ``(config.dataset, modalities) -> Dataset``."""

from collections.abc import Callable
from typing import Any

from mla_jax.datasets import digits
from mla_jax.datasets.base import ArraySplit, Dataset
from mla_jax.errors import check_choice

__all__ = ["REGISTRY", "ArraySplit", "Dataset", "load_dataset"]

REGISTRY: dict[str, Callable[[Any, tuple[str, ...]], Dataset]] = {"digits": digits.load}


def load_dataset(config: Any, modalities: tuple[str, ...]) -> Dataset:
    """Loads ``config.dataset`` with the given modalities, in the given order."""
    check_choice("dataset.name", config.name, REGISTRY)
    return REGISTRY[config.name](config, modalities)
