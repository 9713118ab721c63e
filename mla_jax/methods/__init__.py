"""The registry of training methods: a name, a module with ``FIDELITY``, ``CHOICES``, ``build``.

``CHOICES`` has the possible values of switches that are names.  The optional ``LIMITS`` has
the smallest and the largest value of switches that are numbers.  The optional ``TEST_TIME``
names the switches that act only on ``fuse`` and ``weigh`` and change no equation of training
or of the unimodal logits, so that a finished run can be evaluated with other values, bit for bit.
(The switches of ``late_fusion`` and ``dimml`` are not listed, because training reports a fused
accuracy, in the same program.)  Optional flags, by default False and the last one True:

* ``TRAINS_ONE_MODALITY``: several modalities need one run each.
* ``HANDLES_MISSING``: the method is about missing modalities, so ``absent=auto`` is ``skip`` under
  every fidelity.
* ``SEES_HIDDEN``: in training the method also learns from the inputs that masks hide, which are
  in ``batch["whole"]``.
* ``TRAINS_ENCODERS``: encoders learn; False if they stay as initialised or loaded.
"""

from types import ModuleType
from typing import Any

from mla_jax.encoders import Encoders
from mla_jax.errors import UserError, check_choice
from mla_jax.functional.optimizers import Optimizer
from mla_jax.methods import (
    concat,
    dimml,
    ensemble,
    film,
    gated,
    late_fusion,
    mla,
    modality_dropout,
    ogm,
    ogm_ge,
    qmf,
    sum,
    unimodal,
)
from mla_jax.methods.base import Method, Task
from mla_jax.methods.missing import (
    ae,
    cca,
    cpm_net,
    cra,
    dcca,
    dccae,
    if_mmin,
    mmin,
    tate,
)

REGISTRY: dict[str, ModuleType] = {
    "unimodal": unimodal,
    "ensemble": ensemble,
    "late_fusion": late_fusion,
    "sum": sum,
    "concat": concat,
    "film": film,
    "gated": gated,
    "modality_dropout": modality_dropout,
    "ogm": ogm,
    "ogm_ge": ogm_ge,
    "qmf": qmf,
    "dimml": dimml,
    "mla": mla,
    "ae": ae,
    "cra": cra,
    "mmin": mmin,
    "if_mmin": if_mmin,
    "cca": cca,
    "dcca": dcca,
    "dccae": dccae,
    "cpm_net": cpm_net,
    "tate": tate,
}


def register(name: str, module: ModuleType) -> None:
    """Registers your own method; call it in a configuration file, before ``method_block``.

    Raises:
      UserError: the module lacks something, or another method has this name.
    """
    lacking = [part for part in ("FIDELITY", "CHOICES", "build") if not hasattr(module, part)]
    if lacking:
        raise UserError(f"method '{name}' cannot be registered: {module} has no {lacking[0]}")
    if REGISTRY.setdefault(name, module) is not module:
        raise UserError(f"there already is a method '{name}': choose another name")


def get(name: str) -> ModuleType:
    """The module of a method; ``UserError`` with the nearest name if there is none."""
    check_choice("method", name, REGISTRY)
    return REGISTRY[name]


def trains_one_modality(name: str) -> bool:
    """Whether a method trains only one modality, so that several need one run each."""
    return getattr(get(name), "TRAINS_ONE_MODALITY", False)


def handles_missing(name: str) -> bool:
    """Whether a method is about missing modalities: it always knows which are missing."""
    return getattr(get(name), "HANDLES_MISSING", False)


def test_time(name: str) -> tuple[str, ...]:
    """The switches of a method that act only at test time, such as ``fusion``."""
    return getattr(get(name), "TEST_TIME", ())


def trains_encoders(name: str) -> bool:
    """Whether a method trains its encoders."""
    return getattr(get(name), "TRAINS_ENCODERS", True)


def sees_hidden(name: str) -> bool:
    """Whether a method learns from the inputs that masks hide."""
    return getattr(get(name), "SEES_HIDDEN", False)


def create_method(switches: Any, encoders: Encoders, optimizer: Optimizer, task: Task) -> Method:
    """Builds the method of ``config.method``, after its switches were resolved."""
    return get(switches.name).build(switches, encoders, optimizer, task)
