"""Spoken, written and spelt digits: the embedded data set, on which everything can be tried.

    python -m mla_jax.main --config=configs/digits.py
    python -m mla_jax.main --config=configs/digits.py:method=concat,modalities=image+audio+text
    python -m mla_jax.compare --config=configs/digits.py --methods=all

There are 1700 training, 250 validation and 950 test examples of 10 classes.  The test speakers
are not heard in training.

Expected test accuracies: see the README.  A run takes a few seconds on two CPU cores.
"""

from mla_jax.config import recipes


def get_config(argument: str | None = None):
    """``argument``: ``method=``, ``fidelity=``, ``modalities=a+b``, ``protocol=``, ``seed=``,
    ``epochs=``; see ``recipes.arguments``."""
    chosen = recipes.arguments(argument, modalities=("image", "audio"), embedded=True)
    config = recipes.start("digits", chosen)
    config.encoders = {
        "image": {"name": "conv2d", "widths": (8, 16)},
        "audio": {"name": "conv1d", "widths": (16, 32)},
        "text": {"name": "ngram_bag", "vocabulary": 1024},
    }
    config.feature_dim = 64
    recipes.mla_reference(config)
    # Small encoders and few examples: a higher learning rate for fewer epochs.
    config.epochs = 15
    config.optimizer.learning_rate = 5e-2
    config.optimizer.decay_every = 0  # one decay, at 70 % of the epochs
    config.checkpoint.every_epochs = 5
    return recipes.finish(config, chosen)
