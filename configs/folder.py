"""Your own data, described by a csv file (docs/datasets.md); you choose the encoders.

    python -m mla_jax.prepare --dataset=folder --raw=DIR --data_dir=DATA
    python -m mla_jax.main --config=configs/folder.py:modalities=image+sound,runlocal \\
        --data_dir=DATA
    python -m mla_jax.main --config=configs/folder.py:modalities=image+sound --data_dir=DATA
    python -m mla_jax.main --config=configs/folder.py:modalities=image+caption,\\
        encoders=m3ae_image+m3ae_text,feature_dim=768 --data_dir=DATA --config.init_from=m3ae

``modalities=`` are columns of the csv file; MLA visits them in this order.  ``encoders=`` is one
name for all, or one each: resnet18 for pictures, clips, flow and sound (D = 512), m3ae_image and
m3ae_text (768), features for vectors.  The data says how many classes there are.  ``runlocal`` is
a small form, to try on a laptop.

The recipe is the MLA reference's.  It is a start: choose the learning rate on your data.  Time and
hardware depend on the encoders; see the other files.
"""

from mla_jax.config import recipes

OPTIONS = {
    "features": {"projection": "linear"},
    "ngram_bag": {"vocabulary": 30522},
    "m3ae_text": {"text_length": 256, "differs_from_weights": ("text_length",)},
}
"""Fields of the encoders whose defaults do not suit what prepare stores."""


def get_config(argument: str | None = None):
    """``argument``: see ``recipes.arguments``, and ``encoders=``, ``feature_dim=``,
    ``recipe=`` and ``variant=`` as given to prepare."""
    chosen = recipes.arguments(
        argument,
        modalities=("image", "sound"),
        encoders=("resnet18",),
        feature_dim=512,
        recipe="",
        variant="",
    )
    config = recipes.start("folder", chosen)
    names = recipes.encoder_of_each(chosen.modalities, chosen.encoders)
    config.encoders = {m: {"name": n, **OPTIONS.get(n, {})} for m, n in names.items()}
    config.feature_dim = chosen.feature_dim
    recipes.mla_reference(config)
    return recipes.finish(config, chosen)
