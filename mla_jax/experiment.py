"""What the files in ``configs/`` share: their arguments, and what ``runlocal`` makes of them."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from mla_jax import configuration

TWIN_EPOCHS = 5
"""Of ``synthetic``: it shows that everything works, and that takes no hundred epochs."""


def arguments(text: str | None, modalities: tuple[str, ...], **own: Any) -> ConfigDict:
    """The part after the colon of ``--config=FILE:...``, one argument a field.

    ``method``, ``fidelity``, ``modalities`` (``a+b``), ``split``, ``protocol``, ``seed``,
    ``epochs`` (0: the recipe's), the flags ``synthetic`` (the twin: same shapes, planted imbalance)
    and ``runlocal`` (small encoders, small crops, few epochs), and what a file has of its ``own``
    with its default.

    Raises:
      UserError: an unknown name, or a value of another type.
    """
    return configuration.parse_arguments(
        text,
        method="mla",
        fidelity="paper",
        modalities=modalities,
        split="auto",
        protocol="strict",
        seed=0,
        epochs=0,
        synthetic=False,
        runlocal=False,
        **own,
    )


def start(dataset: str, chosen: ConfigDict) -> ConfigDict:
    """``configuration.base_config`` with ``chosen`` filled in; the file goes on from there."""
    config = configuration.base_config()
    config.dataset = configuration.dataset_block(dataset)
    config.dataset.split = chosen.split
    config.dataset.synthetic = chosen.synthetic
    for field in ("recipe", "variant"):
        config.dataset[field] = chosen.get(field, "")
    config.seed = chosen.seed
    config.modalities = chosen.modalities
    config.method = configuration.method_block(chosen.method, chosen.fidelity)
    config.protocol = chosen.protocol
    return config


def finish(
    config: ConfigDict, chosen: ConfigDict, local: Mapping[str, Mapping[str, Any]]
) -> ConfigDict:
    """What the arguments change of a recipe that is complete: its epochs, and ``runlocal``.

    Args:
      config: the recipe.
      chosen: what ``arguments`` returned.
      local: the encoders of ``runlocal``, in the place of ``config.encoders``.
    """
    if chosen.synthetic:
        config.epochs = TWIN_EPOCHS
    if chosen.runlocal:
        config.encoders = local
        config.feature_dim = 64
        config.dataset.crop = 32 if config.dataset.name != "arrays" else 0
        config.batch_size = config.evaluation.batch_size = 32
        config.epochs = 8
        config.optimizer.learning_rate = 1e-2  # small encoders, few epochs
        config.optimizer.decay_every = 0  # once, at 70 % of them
        config.checkpoint.every_epochs = 4
        config.log_every_steps = 16
    config.epochs = chosen.epochs or config.epochs
    return config
