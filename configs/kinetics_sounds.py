"""Kinetics-Sounds: 31 sounds that can be seen; audio and video, two ResNet-18 from scratch.

    python -m mla_jax.main --config=configs/kinetics_sounds.py --data_dir=DATA
    python -m mla_jax.main --config=configs/kinetics_sounds.py:synthetic
    python -m mla_jax.main --config=configs/kinetics_sounds.py:synthetic,runlocal
    python -m mla_jax.compare --config=configs/kinetics_sounds.py --data_dir=DATA --methods=all

Each example is a filter bank of 1024 x 128 and three frames.  The MLA paper did not publish its
classes and its split.  Ours (``variant=``) may differ, so expect other absolute numbers.

Table 1 of the MLA paper, test accuracy in %, mean of three seeds:

              sum   concat  late   film  gated  ogm_ge   qmf    mla
    audio     48.77  49.18  47.87  48.67  49.96  48.87  51.57  54.67
    video     24.53  24.67  46.76  23.15  23.77  29.73  32.19  51.03
    fused     64.72  64.84  65.53  63.33  63.72  65.74  65.78  71.35

One GPU or a TPU v4-8: 2 to 4 hours per run (estimated).
``runlocal``: under a minute on two CPU cores (estimated).
"""

from mla_jax.config import recipes


def get_config(argument: str | None = None):
    """``argument``: see ``recipes.arguments``, and ``recipe=``, ``variant=``."""
    chosen = recipes.arguments(
        argument, modalities=("audio", "video"), recipe="kaldi_fbank", variant="ks31"
    )
    config = recipes.start("kinetics_sounds", chosen)
    config.encoders = {"audio": {"name": "resnet18"}, "video": {"name": "resnet18"}}
    config.feature_dim = 512
    recipes.mla_reference(config)
    return recipes.finish(config, chosen)
