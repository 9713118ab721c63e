"""Spoken, written and spelt digits: the embedded data set, on which everything can be tried.

    python -m mla_jax.main --config=configs/digits.py
    python -m mla_jax.main --config=configs/digits.py:method=concat,modalities=image+audio+text

1700 training, 250 validation and 950 test examples of 10 classes; the test speakers are unseen
in training.  Two CPU cores: a few seconds a run.  Expected test accuracies: see the README.
"""

from mla_jax.config import fields


def get_config(argument: str | None = None):
    """``argument``: ``method=``, ``fidelity=``, ``modalities=a+b``, ``seed=``, ``epochs=``,
    ``protocol=``."""
    chosen = fields.parse_arguments(
        argument,
        method="mla",
        fidelity="paper",
        modalities=("image", "audio"),
        protocol="strict",
        seed=0,
        epochs=15,
    )
    config = fields.base_config()
    config.seed = chosen.seed
    config.modalities = chosen.modalities
    config.method = fields.method_block(chosen.method, chosen.fidelity)
    config.encoders = {
        "image": {"name": "conv2d", "widths": (8, 16)},
        "audio": {"name": "conv1d", "widths": (16, 32)},
        "text": {"name": "ngram_bag", "vocabulary": 1024},
    }
    config.feature_dim = 64
    config.epochs = chosen.epochs
    config.batch_size = 64
    config.optimizer.learning_rate = 5e-2
    config.optimizer.decay_every = 0  # once, at 70 % of the epochs
    config.protocol = chosen.protocol
    config.checkpoint.every_epochs = 5
    return config
