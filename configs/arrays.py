"""Features that you have computed, such as CLIP's: arrays in memory, one linear layer each.

    python -m mla_jax.main --config=configs/arrays.py:modalities=image+text \\
        --config.dataset.path=FEATURES

FEATURES holds train.npz and test.npz (docs/datasets.md) with one array per modality.  The arrays
may have any widths.  ``encoders=`` is one name for all modalities, or one each.

If all widths are equal, ``feature_dim=`` can be that width, and then
``--config.encoders.image.projection=none`` (and so on) hands the vectors to the heads as they are.
The MLA reference does so with ``--clip`` on Food-101 (D = 512); its numbers could not be read.

A run takes seconds to minutes on a CPU (estimated).
"""

from mla_jax.config import recipes


def get_config(argument: str | None = None):
    """``argument``: see ``recipes.arguments``, and ``encoders=``, ``feature_dim=``."""
    chosen = recipes.arguments(
        argument, modalities=("image", "text"), encoders=("features",), feature_dim=512
    )
    config = recipes.start("arrays", chosen)
    names = recipes.encoder_of_each(chosen.modalities, chosen.encoders)
    options = {"features": {"projection": "linear"}, "ngram_bag": {"vocabulary": 1024}}
    config.encoders = {m: {"name": n, **options.get(n, {})} for m, n in names.items()}
    config.feature_dim = chosen.feature_dim
    recipes.mla_reference(config)
    return recipes.finish(config, chosen)
