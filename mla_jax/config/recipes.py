"""What the files in ``configs/`` share: their arguments, published recipes, and ``runlocal``."""

from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict, config_dict

from mla_jax.config import fields
from mla_jax.errors import UserError

SYNTHETIC_EPOCHS = 5
"""Epochs with ``synthetic``: enough to see that everything works."""
LOCAL_ENCODERS = {"m3ae_text": {"name": "ngram_bag", "vocabulary": 30522}}
"""``runlocal`` replaces each encoder that is a key by its value."""
PERCEPTRON = {"name": "mlp", "hidden": 16}
"""``runlocal`` replaces every other encoder by this one."""
ARGUMENTS = {
    "method": ("mla", "one of mla_jax/methods; python -m mla_jax.compare takes several"),
    "fidelity": ("paper", "which form of the method, for example released"),
    "modalities": ("all of the file", "those to train on, for example image+audio"),
    "protocol": ("strict", "strict, or paper, which reports the best test epoch"),
    "seed": (0, "of the initial weights and of the order of the examples"),
    "epochs": ("what the file says", "of training, at least 1"),
    "missing": (0.0, "the share of modalities that rule=rate hides, in all splits"),
    "split": ("auto", "the name of a split; not for embedded data"),
    "synthetic": (False, "generated data of the same shapes; not for embedded data"),
    "runlocal": (False, "small encoders, small crops, few epochs; not for embedded data"),
}
"""``{name: (default, meaning)}`` of the arguments that the files in ``configs/`` share."""
NOT_FOR_EMBEDDED = {
    "split": "has one split",
    "synthetic": "has no synthetic form",
    "runlocal": "is small already",
}
"""The arguments that embedded data does not take, and why."""


def arguments(
    text: str | None, modalities: tuple[str, ...], embedded: bool = False, **own: Any
) -> ConfigDict:
    """The part after the colon of ``--config=FILE:...``, with one field per argument.

    All files take the arguments in ``ARGUMENTS``, but files for embedded data take none of
    ``NOT_FOR_EMBEDDED``.  ``synthetic`` data has a planted imbalance.

    Args:
      text: the arguments as the user wrote them; None if there were none.
      modalities: the default of ``modalities``.
      embedded: whether the data set is part of the package, as digits is.
      own: the file's own arguments with their defaults.

    Raises:
      UserError: an unknown name, or a value of another type.
    """
    defaults = {name: default for name, (default, _) in ARGUMENTS.items()}
    defaults |= {"modalities": modalities, "epochs": config_dict.placeholder(int), **own}
    if embedded:
        defaults = {n: value for n, value in defaults.items() if n not in NOT_FOR_EMBEDDED}
    for item in (text or "").split(","):
        name = item.partition("=")[0]
        if embedded and name in NOT_FOR_EMBEDDED:
            raise UserError(
                f"argument '{name}' of the configuration does not apply: embedded data "
                f"{NOT_FOR_EMBEDDED[name]}"
            )
    return fields.parse_arguments(text, **defaults)


def start(dataset: str, chosen: ConfigDict) -> ConfigDict:
    """``fields.base_config`` with the arguments filled in; the file changes the rest."""
    config = fields.base_config()
    config.dataset = fields.dataset_block(dataset)
    for field in ("split", "synthetic", "recipe", "variant", "noise"):
        config.dataset[field] = chosen.get(field, config.dataset[field])
    config.seed = chosen.seed
    config.modalities = chosen.modalities
    config.method = fields.method_block(chosen.method, chosen.fidelity)
    config.protocol = chosen.protocol
    if chosen.missing:
        config.missing.rule = "rate"
        config.missing.train = config.missing.test = chosen.missing
    return config


def mla_reference(config: ConfigDict) -> None:
    """Sets how the MLA reference trains, the same on each of its data sets.

    Source: ``main.py:18-63`` (defaults) and ``main.py:749-760`` (optimiser, schedule).
    """
    config.batch_size = 64
    config.epochs = 100
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.momentum = 0.9
    config.optimizer.nesterov = False
    config.optimizer.weight_decay = 1e-4
    config.optimizer.schedule = "step"
    config.optimizer.decay_every = 70
    config.optimizer.decay_rate = 0.1


def dimml_reference(config: ConfigDict) -> None:
    """Sets how the DI-MML reference trains, the same on each of its data sets.

    The optimiser and its schedule are those of the MLA reference.  Source: ``main_CFT.py:26-34``
    (defaults) and ``main_CFT.py:250-251``; ``main_joint_training.py`` has the same.
    """
    mla_reference(config)
    config.batch_size = 16
    config.epochs = 150


def finish(config: ConfigDict, chosen: ConfigDict) -> ConfigDict:
    """Applies ``epochs`` and ``runlocal`` to a complete configuration."""
    if chosen.get("synthetic", False):
        config.epochs = SYNTHETIC_EPOCHS
    if chosen.get("runlocal", False):
        names = {modality: encoder["name"] for modality, encoder in config.encoders.items()}
        config.encoders = {m: LOCAL_ENCODERS.get(name, PERCEPTRON) for m, name in names.items()}
        config.feature_dim = 64
        if config.dataset.name != "arrays":
            config.dataset.crop = 32
        config.batch_size = config.evaluation.batch_size = 32
        config.epochs = 6
        config.evaluation.every_epochs = 3
        config.optimizer.learning_rate = 5e-2  # suits perceptrons and few epochs
        config.optimizer.decay_every = 0  # one decay, at 70 % of the epochs
        config.checkpoint.every_epochs = 3
        config.dataset.synthetic_sizes = (512, 64, 128)
    if chosen.epochs is not None:
        config.epochs = chosen.epochs
    return config


def encoder_of_each(modalities: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """``{modality: encoder}`` from the arguments ``modalities=a+b`` and ``encoders=x+y``.

    One encoder name serves all modalities.

    Raises:
      UserError: there are no modalities, or neither one encoder nor one per modality.
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
            f"modalities ({'+'.join(modalities)}): give one for all, or one per modality"
        )
    return dict(zip(modalities, names, strict=True))
