"""Runs the PyTorch references from the user's clones.

PyTorch itself comes with a clone (``clones.loaded``), so that this package imports without it.
"""

from collections.abc import Callable

from mla_jax.convert.names import Tensors
from mla_jax.parity.theirs import dimml, joint, mla

RUN: dict[str, Callable[..., Tensors]] = {
    "mla": mla.run,
    "joint": joint.run,
    "detached": dimml.detached,
    "fused": dimml.fused,
    "module": dimml.fusion_module,
}
"""``{kind of column: (clone, column, case, dtype, few_ties) -> every quantity}``.

Also the weights before and after training, under their prefixes (``rows.py``).
"""
