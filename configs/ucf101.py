"""UCF-101: 101 actions, as optical flow and as a picture; two ResNet-18 from scratch.

    python -m mla_jax.main --config=configs/ucf101.py --data_dir=DATA
    python -m mla_jax.main --config=configs/ucf101.py:method=dimml,fidelity=released_ucf101 \\
        --data_dir=DATA
    python -m mla_jax.main --config=configs/ucf101.py:synthetic
    python -m mla_jax.main --config=configs/ucf101.py:synthetic,runlocal
    python -m mla_jax.compare --config=configs/ucf101.py --data_dir=DATA --methods=all

Ten frames of flow and one RGB frame, windows of 224 pixels.  ``variant=released`` flips the flow as
the published code does (quirk 14 of DI-MML); ``split_1`` to ``split_3``.

The MLA paper does not report on it.  The DI-MML paper (Fan et al., ACM MM 2024) does, for itself
and its baselines, but its tables could not be read: no number is given here.

One GPU: 2 to 4 hours a run (estimated).
``runlocal``: about a minute on two CPU cores (estimated).
"""

from mla_jax.config import recipes


def get_config(argument: str | None = None):
    """``argument``: see ``recipes.arguments``, and ``variant=``."""
    chosen = recipes.arguments(argument, modalities=("flow", "rgb"), variant="corrected")
    config = recipes.start("ucf101", chosen)
    config.encoders = {"flow": {"name": "resnet18"}, "rgb": {"name": "resnet18"}}
    config.feature_dim = 512
    # The defaults of DI-MML's main_CFT.py and main_joint_training.py, the same for every data set.
    config.batch_size = 16
    config.epochs = 150
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 1e-4
    config.optimizer.schedule = "step"
    config.optimizer.decay_every = 70
    config.optimizer.decay_rate = 0.1
    return recipes.finish(config, chosen)
