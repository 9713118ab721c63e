"""Loads the data set of a run again."""

import pathlib

from ml_collections import FrozenConfigDict

from mla_jax.data.dataset import Dataset
from mla_jax.data.missing import MASKS
from mla_jax.datasets import DESCRIPTIONS, load_dataset
from mla_jax.errors import UserError
from mla_jax.program import masked

DATA_FIELDS = {"arrays": "path"}
"""The field that ``--data_dir`` sets for each data set that was not prepared; else ``data_dir``."""


def dataset_of(
    settings: FrozenConfigDict, path: pathlib.Path, fingerprint: str, data_dir: str = ""
) -> Dataset:
    """The data set that a run was trained on, with its masks.

    Args:
      settings: the run's configuration.
      path: the run's folder.
      fingerprint: of the run's data.
      data_dir: where the data is now, if it was moved.

    Raises:
      UserError: the data cannot be found, or it has changed since.
    """
    config = settings.dataset.to_dict()
    where = DATA_FIELDS.get(config["name"], "data_dir" if config["name"] in DESCRIPTIONS else "")
    if data_dir and not where:
        raise UserError(f"{config['name']} is part of mla_jax: leave out --data_dir")
    if data_dir:
        config[where] = data_dir
    dataset = load_dataset(FrozenConfigDict(config), tuple(settings.modalities))
    masks = settings.missing.masks and str(path / MASKS)  # its own copy
    dataset = masked(settings, dataset, masks)
    if dataset.fingerprint != fingerprint:
        remedy = "name the original with --data_dir" if where else "use the original version"
        raise UserError(
            f"the data has changed since {path} was trained ({fingerprint} -> "
            f"{dataset.fingerprint}): {remedy}"
        )
    return dataset
