"""MVSA-Single: the mood of tweets, words and a picture; two M3AE-base.

    python -m mla_jax.main --config=configs/mvsa.py --data_dir=DATA
    python -m mla_jax.main --config=configs/mvsa.py:synthetic
    python -m mla_jax.main --config=configs/mvsa.py:synthetic,runlocal
    python -m mla_jax.compare --config=configs/mvsa.py --data_dir=DATA --methods=all

With the weights that the paper starts from (docs/encoders.md), which decide most of the result:

    python -m mla_jax.convert --from=model.pkl --to=m3ae
    python -m mla_jax.main --config=configs/mvsa.py --data_dir=DATA --config.init_from=m3ae

Texts have 256 tokens, pictures 256 pixels a side.  MLA and QMF test on different lists;
``split=mla`` is MLA's.

Table 1 of the MLA paper, test accuracy in %, mean of three seeds:

              sum   concat  late   film  gated  ogm_ge   qmf    mla
    text      73.33  75.22  72.15  74.85  73.13  74.76  74.87  75.72
    image     28.46  27.32  45.24  27.12  28.15  31.98  32.99  54.99
    fused     76.19  76.25  76.88  75.34  75.94  76.37  77.96  79.94

The largest class is 53.0 % of MLA's test list.

``convention=released`` feeds the encoders as the published MLA code does (quirks Q19, Q20).

One GPU of 40 GB: about an hour per run (estimated).
``runlocal``: under a minute on two CPU cores (estimated).
"""

from mla_jax.config import recipes


def get_config(argument: str | None = None):
    """``argument``: see ``recipes.arguments``, and ``convention=``."""
    chosen = recipes.arguments(argument, modalities=("text", "image"), convention="pretraining")
    config = recipes.start("mvsa", chosen)
    preprocessing = {"convention": chosen.convention}
    long_text = {"text_length": 256, "differs_from_weights": ("text_length",)}  # 64 in pretraining
    config.encoders = {
        "text": {"name": "m3ae_text", **preprocessing, **long_text},
        "image": {"name": "m3ae_image", **preprocessing},
    }
    config.feature_dim = 768
    recipes.mla_reference(config)
    return recipes.finish(config, chosen)
