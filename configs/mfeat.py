"""Six sets of features of the same numerals: the embedded data set with real pairs.

    python -m mla_jax.main --config=configs/mfeat.py
    python -m mla_jax.main --config=configs/mfeat.py:method=mmin,missing=0.5
    python -m mla_jax.compare --config=configs/mfeat.py --methods=table2 --missing=0,0.3,0.5,0.7

There are 1200 training, 400 validation and 400 test examples of 10 classes, stratified by a fixed
seed; the last epoch is reported.  ``missing=0.5`` hides half of all modalities, in training and in
the other splits, by the rule ``rate`` (docs/missing.md).

Expected test accuracies: see docs/missing.md.  A run takes a few seconds on two CPU
cores.
"""

from mla_jax.config import recipes
from mla_jax.datasets import mfeat


def get_config(argument: str | None = None):
    """``argument``: ``method=``, ``fidelity=``, ``modalities=a+b``, ``protocol=``, ``seed=``,
    ``epochs=``, ``missing=``; see ``recipes.arguments``."""
    chosen = recipes.arguments(argument, modalities=mfeat.MODALITIES, embedded=True)
    config = recipes.start("mfeat", chosen)
    config.encoders = {m: {"name": "mlp", "hidden": 64, "norm": False} for m in mfeat.MODALITIES}
    config.feature_dim = 64
    recipes.mla_reference(config)
    # Vectors, few examples: Adam, with which all methods of Table 2 were published.
    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 1e-3
    config.epochs = 15
    config.optimizer.decay_every = 0  # one decay, at 70 % of the epochs
    config.selection = "last"
    config.evaluation.every_epochs = 5
    config.checkpoint.every_epochs = 5
    return recipes.finish(config, chosen)
