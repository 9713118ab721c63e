"""CREMA-D: six acted emotions, a voice and a face; two ResNet-18 from scratch.

    python -m mla_jax.main --config=configs/cremad.py --data_dir=DATA
    python -m mla_jax.main --config=configs/cremad.py:synthetic
    python -m mla_jax.main --config=configs/cremad.py:synthetic,runlocal
    python -m mla_jax.compare --config=configs/cremad.py --data_dir=DATA --methods=all

The numbers below are for a split with every speaker on both sides (``protocol=paper``, or
``split=mla`` with MLA's lists); ``strict`` tests on speakers that are not in training.

Table 1 of the MLA paper, test accuracy in %, mean of three seeds:

              sum   concat  late   film  gated  ogm_ge   qmf    mla
    audio     54.14  55.65  52.17  53.89  51.49  53.76  59.41  59.27
    video     18.45  18.68  55.48  18.67  17.34  28.09  39.11  64.91
    fused     60.32  61.56  66.32  60.07  59.21  68.14  63.71  79.70

DI-MML's numbers could not be read.  Its recipe (``main_CFT.py``), with its draw of frames and its
noise on every picture, is ``:method=dimml,fidelity=released_cremad,variant=dimml,recipe=stft_10s,
split=ogm,noise=0.1,epochs=150 --config.batch_size=16``; ``noise`` up to 0.4 is its noise study.

One GPU or a TPU v4-8: 1 to 2 hours per run (estimated).
``runlocal``: under a minute on two CPU cores (estimated).
"""

from mla_jax.config import recipes


def get_config(argument: str | None = None):
    """``argument``: see ``recipes.arguments``, and ``recipe=``, ``variant=`` and ``noise=``."""
    chosen = recipes.arguments(
        argument, modalities=("audio", "video"), recipe="kaldi_fbank", variant="mla", noise=0.0
    )
    config = recipes.start("cremad", chosen)
    config.encoders = {"audio": {"name": "resnet18"}, "video": {"name": "resnet18"}}
    config.feature_dim = 512
    recipes.mla_reference(config)
    return recipes.finish(config, chosen)
