"""ModelNet40: 40 kinds of objects, seen from the front and the rear; two ResNet-18 from scratch.

    python -m mla_jax.main --config=configs/modelnet40.py --data_dir=DATA
    python -m mla_jax.main --data_dir=DATA \\
        --config=configs/modelnet40.py:method=dimml,fidelity=released_modelnet40
    python -m mla_jax.main --config=configs/modelnet40.py:synthetic
    python -m mla_jax.main --config=configs/modelnet40.py:synthetic,runlocal
    python -m mla_jax.compare --config=configs/modelnet40.py --data_dir=DATA --methods=all

The pictures are views 1 and 7 of twelve shaded renderings.

The MLA paper does not report on it.  The DI-MML paper (Fan et al., ACM MM 2024) does, but its
tables could not be read, so no number is given here.

One GPU: about an hour per run (estimated).
``runlocal``: under a minute on two CPU cores (estimated).
"""

from mla_jax.config import recipes


def get_config(argument: str | None = None):
    """``argument``: see ``recipes.arguments``."""
    chosen = recipes.arguments(argument, modalities=("front", "rear"))
    config = recipes.start("modelnet40", chosen)
    config.encoders = {"front": {"name": "resnet18"}, "rear": {"name": "resnet18"}}
    config.feature_dim = 512
    recipes.dimml_reference(config)
    return recipes.finish(config, chosen)
