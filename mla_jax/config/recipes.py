"""What the files in ``configs/`` share: their arguments, and what ``runlocal`` makes of them."""

from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from mla_jax.config import fields
from mla_jax.errors import UserError

SYNTHETIC_EPOCHS = 5
"""Of ``synthetic``: to see that everything works takes no hundred."""
LOCAL_ENCODERS = {"m3ae_text": {"name": "ngram_bag", "vocabulary": 30522}}
"""By the encoder that they stand in for under ``runlocal``; others are perceptrons."""
PERCEPTRON = {"name": "mlp", "hidden": 16}


def arguments(text: str | None, modalities: tuple[str, ...], **own: Any) -> ConfigDict:
    """The part after the colon of ``--config=FILE:...``, one argument a field.

    ``method``, ``fidelity``, ``modalities`` (``a+b``), ``split``, ``protocol``, ``seed``,
    ``epochs`` (0: the recipe's), the flags ``synthetic`` (same shapes, planted imbalance)
    and ``runlocal`` (small encoders, small crops, few epochs), and what a file has of its ``own``
    with its default.

    Raises:
      UserError: an unknown name, or a value of another type.
    """
    return fields.parse_arguments(
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
    """``fields.base_config`` with ``chosen`` filled in; the file goes on from there."""
    config = fields.base_config()
    config.dataset = fields.dataset_block(dataset)
    config.dataset.split = chosen.split
    config.dataset.synthetic = chosen.synthetic
    for field in ("recipe", "variant"):
        config.dataset[field] = chosen.get(field, "")
    config.seed = chosen.seed
    config.modalities = chosen.modalities
    config.method = fields.method_block(chosen.method, chosen.fidelity)
    config.protocol = chosen.protocol
    return config


def finish(config: ConfigDict, chosen: ConfigDict) -> ConfigDict:
    """What the arguments change of a recipe that is complete: its epochs, and ``runlocal``."""
    if chosen.synthetic:
        config.epochs = SYNTHETIC_EPOCHS
    if chosen.runlocal:
        names = {modality: encoder["name"] for modality, encoder in config.encoders.items()}
        config.encoders = {m: LOCAL_ENCODERS.get(name, PERCEPTRON) for m, name in names.items()}
        config.feature_dim = 64
        if config.dataset.name != "arrays":
            config.dataset.crop = 32
        config.batch_size = config.evaluation.batch_size = 32
        config.epochs = 6
        config.evaluation.every_epochs = 3
        config.optimizer.learning_rate = 5e-2  # perceptrons, few epochs
        config.optimizer.decay_every = 0  # once, at 70 % of them
        config.checkpoint.every_epochs = 3
        config.dataset.synthetic_sizes = (512, 64, 128)
    config.epochs = chosen.epochs or config.epochs
    return config


def encoder_of_each(modalities: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """``{modality: encoder}`` of the arguments ``modalities=a+b`` and ``encoders=x+y``.

    One encoder serves all modalities.

    Raises:
      UserError: no modality is named, or there are neither one nor as many encoders.
    """
    if not all(modalities) or not modalities:
        raise UserError(
            "name the modalities, as in :modalities=image+sound - they are the columns or arrays "
            "of your data"
        )
    names = tuple(names) * (len(modalities) if len(names) == 1 else 1)
    if len(names) != len(modalities):
        raise UserError(
            f"encoders={'+'.join(names)} names {len(names)} encoders for {len(modalities)} "
            f"modalities ({'+'.join(modalities)}): give one for all, or one each"
        )
    return dict(zip(modalities, names, strict=True))
