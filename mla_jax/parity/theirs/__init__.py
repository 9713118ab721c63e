"""Runs the PyTorch references from the user's clones.

PyTorch is only imported with a clone (``clones.loaded``), so this package imports without it.
"""

from typing import Any

from mla_jax.parity import missing_rows, missing_view_rows
from mla_jax.parity.cases import Case
from mla_jax.parity.columns import Column
from mla_jax.parity.formula import Tensors
from mla_jax.parity.theirs import classifiers, dimml, joint, missing, mla
from mla_jax.parity.theirs.clones import Clone

RUN = {
    "mla": mla.run,
    "joint": joint.run,
    "detached": dimml.detached,
    "fused": dimml.fused,
    "module": dimml.fusion_module,
}
"""By ``Column.kind``."""


def run(
    clone: Clone, column: Column, case: Case | None, dtype: Any, few_ties: bool = False
) -> Tensors:
    """Every quantity of a column, and the weights before and after training (``rows.py``).

    Evaluation starts from the reference's weights after training on both sides, so that its rows
    show only the forward pass and not what training accumulated.  Methods for missing modalities
    have their own cases (``parity/missing.py``) and no ``case``.
    """
    if column.published:
        _, published = missing.RUN[column.published]
        found = published(clone, dtype)
        if column.kind in ("closed", "correlation"):
            return missing_view_rows.of_views(found)
        return missing_rows.of_stages(found, column.published)
    assert case is not None  # the other columns have one
    trial = classifiers.trial(clone, column, case, dtype, few_ties)
    return trial.start() | RUN[column.kind](trial)
