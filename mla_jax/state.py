"""The data types that cross module borders: a batch, a training state, a prediction."""

from typing import TYPE_CHECKING, Any

import jax
from flax import struct

Batch = dict[str, Any]
"""One batch, as a plain dictionary so that data loaders need nothing of ours.

``inputs``: ``{modality: array[B, ...]}``; ``present``: ``bool[B, M]``, False where a modality is
missing; ``label``: ``int32[B]``; ``index``: ``int32[B]``, the example's number within its split;
``valid``: ``bool[B]``, False on padding, which has no modality either.  Training batches also carry
``draw``: ``uint32[B]``, from which each example's augmentation is drawn (``data/pipeline.py``).
Where masks hide modalities (``config.missing``) and the method learns from what they hide
(``SEES_HIDDEN``), training batches carry ``available: bool[B, M]``, the ``present`` of the data
itself.  A method then finds the batch without masks under ``whole``: ``{"inputs", "present"}``
(``program.with_preparation``).
"""

Metrics = dict[str, jax.Array]
"""What a phase reports: ``loss`` and other scalars, ``examples``, the number of examples that these
are means over (without it every batch counts alike), and ``example_loss: float32[B]``."""


@struct.dataclass
class TrainState:
    """Everything a phase may read or write; float32 throughout, replicated on every device."""

    params: dict[str, Any]
    """``{"encoder": {modality: tree}, "head": {name: {"kernel": [D, C], "bias": [C]}}}``."""
    batch_stats: dict[str, Any]
    """``{modality: tree}``: running means and variances."""
    opt_state: dict[str, Any]
    """Keyed like ``params``: one optimiser state per encoder and one per head."""
    method_state: Any = ()
    """Whatever else a method keeps between batches."""

    @property
    def variables(self) -> dict[str, Any]:
        """What prediction needs: the parameters and the running statistics."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    if TYPE_CHECKING:  # flax.struct adds it

        def replace(self, **changes: Any) -> "TrainState": ...


@struct.dataclass
class Prediction:
    """The logits of one batch, before any fusion."""

    unimodal: jax.Array
    """``float32[M, B, C]``, in the order of the method's modalities."""
    joint: jax.Array | None = None
    """``float32[B, C]`` where the method has a joint head."""
