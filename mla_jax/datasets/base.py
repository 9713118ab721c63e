"""What a data set is to the rest of the program: named splits that yield batches by index."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from mla_jax.data.streams import Stream

if TYPE_CHECKING:  # preparing starts a process a core, and none of them needs JAX
    from mla_jax.state import Batch

RESERVED_NAMES = ("fused", "shared", "joint", "examples", "macro_f1", "confusion")
"""No modality may be called so: results and heads have these names."""

Transform = Callable[["Batch", bool], Mapping[str, Any]]
"""``(batch, train) -> inputs``: augmentation and normalisation, pure, inside the jitted step."""


class Split(Protocol):
    """Examples by number: what the trainer needs of a split, wherever it lies."""

    label: np.ndarray
    """``int32[N]``."""
    present: np.ndarray
    """``bool[N, M]``."""

    @property
    def examples(self) -> int: ...

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]: ...

    def fetch(self, index: np.ndarray) -> "Batch":
        """The batch of examples ``index: int[B]``, all valid."""


class ArraySplit(NamedTuple):
    """A split held in memory; row i of every array is example i."""

    inputs: Mapping[str, np.ndarray]
    """``{modality: [N, ...]}`` in the order of the configuration's modalities."""
    label: np.ndarray
    """``int32[N]``."""
    present: np.ndarray
    """``bool[N, M]``."""

    @property
    def examples(self) -> int:
        return len(self.label)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of one example of each modality."""
        return {modality: array.shape[1:] for modality, array in self.inputs.items()}

    def fetch(self, index: np.ndarray) -> "Batch":
        """The batch of examples ``index: int[B]``, all valid."""
        index = np.asarray(index, np.int32)
        return {
            "inputs": {m: array[index] for m, array in self.inputs.items()},
            "present": self.present[index],
            "label": self.label[index],
            "index": index,
            "valid": np.ones(index.shape, bool),
        }


class Dataset(NamedTuple):
    """Splits ``train``, ``test`` and, where there is one, ``validation``."""

    name: str
    modalities: tuple[str, ...]
    class_names: Sequence[str]
    splits: Mapping[str, Split]
    fingerprint: str
    """Names the data and the recipe; a checkpoint of another one is not resumed."""
    select_on_validation: bool = True
    """Whether the validation split resembles the test split enough to choose an epoch on it."""
    streams: Mapping[str, Stream] = MappingProxyType({})
    """What each modality's examples are; empty where they need no transform."""
    transform: Transform | None = None

    @property
    def classes(self) -> int:
        return len(self.class_names)
