"""Balanced multimodal learning in JAX: MLA, the methods it is compared with, and its numerics.

>>> import mla_jax
>>> config = mla_jax.load_config("configs/digits.py:method=mla", {"epochs": 5})
>>> run = mla_jax.train(config, "runs/notebook")                           # doctest: +SKIP
>>> run.predict({"image": images, "audio": mfcc}).classes                  # doctest: +SKIP

Names are loaded when they are used: importing the package alone imports neither JAX nor Flax.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mla_jax.config.files import load_config as load_config
    from mla_jax.errors import Interrupted as Interrupted
    from mla_jax.errors import NonFiniteLossError as NonFiniteLossError
    from mla_jax.errors import UserError as UserError
    from mla_jax.functional import fusion as fusion
    from mla_jax.functional import heads as heads
    from mla_jax.functional import losses as losses
    from mla_jax.functional import modulation as modulation
    from mla_jax.functional import optimizers as optimizers
    from mla_jax.functional import projection as projection
    from mla_jax.functional.modulation import gradient_modulation as gradient_modulation
    from mla_jax.functional.projection import alpha_schedule as alpha_schedule
    from mla_jax.functional.projection import orthogonal_projection as orthogonal_projection
    from mla_jax.runs.predictions import Predictions as Predictions
    from mla_jax.runs.representation import Representation as Representation
    from mla_jax.runs.representation import features as features
    from mla_jax.runs.run import Run as Run
    from mla_jax.runs.run import open_run as open_run
    from mla_jax.train import train as train

__version__ = "0.2.0"

_HOME = {
    "Interrupted": "errors",
    "NonFiniteLossError": "errors",
    "Predictions": "runs.predictions",
    "Representation": "runs.representation",
    "Run": "runs.run",
    "UserError": "errors",
    "alpha_schedule": "functional.projection",
    "features": "runs.representation",
    "gradient_modulation": "functional.modulation",
    "load_config": "config.files",
    "open_run": "runs.run",
    "orthogonal_projection": "functional.projection",
}
"""The module of each public function and class."""

_MODULES = {
    "functional": "functional",
    "fusion": "functional.fusion",
    "heads": "functional.heads",
    "losses": "functional.losses",
    "modulation": "functional.modulation",
    "optimizers": "functional.optimizers",
    "projection": "functional.projection",
    "train": "train",
}
"""Public modules; ``train`` is one that can be called."""

__all__ = sorted([*_HOME, *_MODULES, "__version__"])

if sys.argv[:1] == ["-m"]:  # python -m mla_jax.COMMAND, before its imports, which take seconds
    from mla_jax.loading import begin

    begin(sys.orig_argv)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        value = importlib.import_module(f"mla_jax.{_MODULES[name]}")
    elif name in _HOME:
        value = getattr(importlib.import_module(f"mla_jax.{_HOME[name]}"), name)
    else:
        raise AttributeError(f"module 'mla_jax' has no attribute '{name}'")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
