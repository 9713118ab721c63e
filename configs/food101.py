"""UPMC Food-101: 101 dishes, a picture and the title of its page; two M3AE-base.

    python -m mla_jax.main --config=configs/food101.py --data_dir=DATA
    python -m mla_jax.main --config=configs/food101.py:synthetic
    python -m mla_jax.main --config=configs/food101.py:synthetic,runlocal
    python -m mla_jax.compare --config=configs/food101.py --data_dir=DATA --methods=all

With the weights that the paper starts from (docs/encoders.md), which decide most of the result:

    python -m mla_jax.convert --from=model.pkl --to=m3ae
    python -m mla_jax.main --config=configs/food101.py --data_dir=DATA --config.init_from=m3ae

Texts have 256 tokens, pictures 256 pixels a side.

Table 1 of the MLA paper, test accuracy in %, mean of three seeds:

              sum   concat  late   film  gated  ogm_ge   qmf    mla
    text      85.63  86.02  85.19  85.84  85.79  85.17  84.13  86.47
    image      4.57   3.51  58.46   4.68  14.20  22.35  45.74  69.60
    fused     86.19  86.32  90.21  87.21  88.87  87.54  92.87  93.33

``convention=released`` feeds the encoders as the published MLA code does (quirks Q19, Q20).

Eight GPUs of 40 GB or a TPU v4-16: 3 to 6 hours per run (estimated); too slow on a CPU.
``runlocal``: under a minute on two CPU cores (estimated).
"""

from mla_jax.config import recipes


def get_config(argument: str | None = None):
    """``argument``: see ``recipes.arguments``, and ``convention=``."""
    chosen = recipes.arguments(argument, modalities=("text", "image"), convention="pretraining")
    config = recipes.start("food101", chosen)
    preprocessing = {"convention": chosen.convention}
    long_text = {"text_length": 256, "differs_from_weights": ("text_length",)}  # 64 in pretraining
    config.encoders = {
        "text": {"name": "m3ae_text", **preprocessing, **long_text},
        "image": {"name": "m3ae_image", **preprocessing},
    }
    config.feature_dim = 768
    recipes.mla_reference(config)
    return recipes.finish(config, chosen)
