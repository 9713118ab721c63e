"""UCF-101: 101 actions, as optical flow and as a picture; two ResNet-18 from scratch.

    python -m mla_jax.main --config=configs/ucf101.py --data_dir=DATA
    python -m mla_jax.main --config=configs/ucf101.py:method=dimml,fidelity=released_ucf101 \\
        --data_dir=DATA
    python -m mla_jax.main --config=configs/ucf101.py:synthetic
    python -m mla_jax.main --config=configs/ucf101.py:synthetic,runlocal
    python -m mla_jax.compare --config=configs/ucf101.py --data_dir=DATA --methods=all

Each example is ten frames of flow and one RGB frame, in windows of 224 pixels.
``variant=released`` flips the flow as the published code does (quirk 14 of DI-MML).  The official
splits are ``split=split_1`` to ``split_3``.

The MLA paper does not report on it.  The DI-MML paper (Fan et al., ACM MM 2024) does, but its
tables could not be read, so no number is given here.

One GPU: 2 to 4 hours per run (estimated).
``runlocal``: about a minute on two CPU cores (estimated).
"""

from mla_jax.config import recipes


def get_config(argument: str | None = None):
    """``argument``: see ``recipes.arguments``, and ``variant=``."""
    chosen = recipes.arguments(argument, modalities=("flow", "rgb"), variant="corrected")
    config = recipes.start("ucf101", chosen)
    config.encoders = {"flow": {"name": "resnet18"}, "rgb": {"name": "resnet18"}}
    config.feature_dim = 512
    recipes.dimml_reference(config)
    return recipes.finish(config, chosen)
