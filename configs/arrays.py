"""Features that somebody computed, such as CLIP's: arrays in memory, one linear layer each.

    python -m mla_jax.main --config=configs/arrays.py:modalities=image+text \\
        --config.dataset.path=FEATURES

FEATURES holds train.npz and test.npz (docs/datasets.md) with an array a modality.  Any widths
will do.  ``--config.encoders.image.projection=none`` and so on hands vectors of one width, given by
``feature_dim=``, on to the heads as they are: the MLA reference's ``--clip`` on Food-101 (D = 512),
for which no number could be read.  ``encoders=`` is one name for all modalities or one each.
Seconds to minutes on a CPU (estimated).
"""

from mla_jax.config import recipes


def get_config(argument: str | None = None):
    """``argument``: see ``recipes.arguments``, and ``encoders=``, ``feature_dim=``."""
    chosen = recipes.arguments(
        argument, modalities=("image", "text"), encoders=("features",), feature_dim=512
    )
    config = recipes.start("arrays", chosen)
    names = recipes.encoder_of_each(chosen.modalities, chosen.encoders)
    options = {"features": {"projection": "linear"}}
    config.encoders = {m: {"name": n, **options.get(n, {})} for m, n in names.items()}
    config.feature_dim = chosen.feature_dim
    # Those of the MLA reference (main.py:18-63).
    config.batch_size = 64
    config.epochs = 100
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 1e-4
    config.optimizer.schedule = "step"
    config.optimizer.decay_every = 70
    config.optimizer.decay_rate = 0.1
    return recipes.finish(config, chosen)
