"""IEMOCAP: four emotions, as a voice, a face and words; CAV-MAE and two M3AE-base.

    python -m mla_jax.main --config=configs/iemocap.py --data_dir=DATA
    python -m mla_jax.main --config=configs/iemocap.py:synthetic
    python -m mla_jax.main --config=configs/iemocap.py:synthetic,runlocal
    python -m mla_jax.compare --config=configs/iemocap.py --data_dir=DATA --methods=all

With the weights that the paper starts from (docs/encoders.md), which decide most of the result:

    python -m mla_jax.convert --from=model.pkl --to=m3ae
    python -m mla_jax.convert --from=cavmae.pth --to=cavmae --modalities=audio+
    python -m mla_jax.main --config=configs/iemocap.py --data_dir=DATA \\
        --config.init_from=cavmae,m3ae

The numbers below are for a random split, with speakers and dialogues on both sides
(``protocol=paper``, or ``split=mla`` with MLA's lists); ``strict`` tests on a session of its own.

Table 1 of the MLA paper, test accuracy in %, mean of three seeds:

              sum   concat  late   film  gated  ogm_ge   qmf    mla
    audio     39.79  41.93  43.12  41.64  42.23  41.38  42.98  46.29
    image     29.44  30.00  32.38  29.85  27.45  30.24  31.22  37.63
    text      65.16  67.84  68.79  66.37  65.16  70.79  75.03  73.22
    fused     74.18  75.91  74.96  74.32  73.34  76.17  76.17  78.92

``convention=released`` feeds the encoders as the published MLA code does (Q19, Q20, Q22).

Four GPUs of 40 GB: 1 to 2 hours per run (estimated).
``runlocal``: under a minute on two CPU cores (estimated).
"""

from mla_jax.config import recipes


def get_config(argument: str | None = None):
    """``argument``: see ``recipes.arguments``, and ``recipe=``, ``convention=``."""
    chosen = recipes.arguments(
        argument,
        modalities=("audio", "image", "text"),
        recipe="kaldi_fbank",
        convention="pretraining",
    )
    config = recipes.start("iemocap", chosen)
    preprocessing = {"convention": chosen.convention}
    long_text = {"text_length": 256, "differs_from_weights": ("text_length",)}  # 64 in pretraining
    config.encoders = {
        "audio": {"name": "cavmae_audio", **preprocessing},
        "image": {"name": "m3ae_image", **preprocessing},
        "text": {"name": "m3ae_text", **preprocessing, **long_text},
    }
    config.feature_dim = 768
    recipes.mla_reference(config)
    return recipes.finish(config, chosen)
