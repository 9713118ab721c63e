"""AVE: 28 events that are heard and seen; two ResNet-18 from scratch.

    python -m mla_jax.main --config=configs/ave.py --data_dir=DATA
    python -m mla_jax.main --config=configs/ave.py:method=dimml,fidelity=released_ave \\
        --data_dir=DATA
    python -m mla_jax.main --config=configs/ave.py:synthetic
    python -m mla_jax.main --config=configs/ave.py:synthetic,runlocal
    python -m mla_jax.compare --config=configs/ave.py --data_dir=DATA --methods=all

Each example is the annotated segment: a spectrogram of 1004 x 257 and four frames.  ``strict``
drops the videos that two lists share; ``protocol=paper`` keeps the lists as shipped.

The MLA paper does not report on it.  The DI-MML paper (Fan et al., ACM MM 2024) does, but its
tables could not be read, so no number is given here.

One GPU: 1 to 2 hours per run (estimated).
``runlocal``: under a minute on two CPU cores (estimated).
"""

from mla_jax.config import recipes


def get_config(argument: str | None = None):
    """``argument``: see ``recipes.arguments``, and ``recipe=``."""
    chosen = recipes.arguments(argument, modalities=("audio", "video"), recipe="stft_10s_16khz")
    config = recipes.start("ave", chosen)
    config.encoders = {"audio": {"name": "resnet18"}, "video": {"name": "resnet18"}}
    config.feature_dim = 512
    recipes.dimml_reference(config)
    return recipes.finish(config, chosen)
