"""Data sets for the rest of the program: named splits that give batches by index."""

import json
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from mla_jax.data.streams import Stream

if TYPE_CHECKING:  # preparing starts one process per core, without JAX
    from mla_jax.state import Batch

RESERVED_NAMES = (
    "fused", "shared", "joint", "examples", "macro_f1", "weighted_f1", "confusion", "subsets",
)  # fmt: skip
"""Names that no modality may have: results and heads use them."""

Transform = Callable[["Batch", bool], Mapping[str, Any]]
"""``(batch, train) -> inputs``: augmentation and normalisation, pure, inside the jitted step."""


class Split(Protocol):
    """The examples of a split by number: the interface that the trainer needs."""

    @property
    def label(self) -> np.ndarray:
        """``int32[N]``."""

    @property
    def present(self) -> np.ndarray:
        """``bool[N, M]``."""

    @property
    def examples(self) -> int: ...

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]: ...

    def fetch(self, index: np.ndarray) -> "Batch":
        """The batch of examples ``index: int[B]``, all valid.

        A split whose loading is expensive may also have ``fetch_wanted(index, wanted: bool[B,
        M])``, which skips inputs that are not needed: see the function ``fetch_wanted``.
        """


def fetch_wanted(split: Split, index: np.ndarray, wanted: np.ndarray) -> "Batch":
    """The batch of examples ``index: int[B]``, where only the ``wanted: bool[B, M]`` inputs are
    needed; a split that decodes files skips the others, which are then zeros."""
    some = getattr(split, "fetch_wanted", None)
    return some(index, wanted) if some else split.fetch(index)


class ArraySplit(NamedTuple):
    """A split in memory; row i of every array is example i."""

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
        """The shape of one example of each modality."""
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
    """Splits ``train``, ``test`` and, if there is one, ``validation``."""

    name: str
    modalities: tuple[str, ...]
    class_names: Sequence[str]
    splits: Mapping[str, Split]
    fingerprint: str
    """Identifies the data and the recipe; a checkpoint with another one is not resumed."""
    select_on_validation: bool = True
    """Whether the validation split resembles the test split enough to choose an epoch on it."""
    streams: Mapping[str, Stream] = MappingProxyType({})
    """``{modality: stream}``; empty if the examples need no transform."""
    input_notes: Mapping[str, str] = MappingProxyType({})
    """``{modality: how its arrays were made}``, for users who predict on new ones."""
    statistics: Mapping[str, Mapping[str, Any]] = MappingProxyType({})
    """``{modality: {"mean": [...], "std": [...]}}`` of the training split, by which the arrays
    were standardised already; those of a stream are in ``streams``."""
    preparation: Mapping[str, Any] = MappingProxyType({})
    """``{modality: how its records were prepared}``: ``prepared.preparation``."""
    masks: Mapping[str, np.ndarray] = MappingProxyType({})
    """``{split: bool[N, M]}``: what ``config.missing`` leaves, if masks are drawn once."""
    fill: Mapping[str, np.ndarray] = MappingProxyType({})
    """``{modality: the value that replaces a missing one}``; by default zeros."""

    @property
    def classes(self) -> int:
        return len(self.class_names)

    @property
    def training_examples(self) -> int:
        return self.splits["train"].examples

    def spec(self) -> "DataSpec":
        """What a run records about the data set; reads one training example."""
        sample = self.splits["train"].fetch(np.arange(1))["inputs"]
        return DataSpec(
            self.name,
            tuple(self.modalities),
            tuple(self.class_names),
            {name: split.examples for name, split in self.splits.items()},
            bool(self.select_on_validation),
            {m: tuple(x.shape[1:]) for m, x in sample.items()},
            {m: str(x.dtype) for m, x in sample.items()},
            dict(self.streams),
            dict(self.input_notes),
            {m: dict(values) for m, values in self.statistics.items()},
            {m: dict(values) for m, values in self.preparation.items()},
            {m: np.asarray(values).tolist() for m, values in self.fill.items()},
        )


class DataSpec(NamedTuple):
    """Everything that prediction needs besides the weights: ``data.json`` of a run."""

    name: str
    modalities: tuple[str, ...]
    class_names: tuple[str, ...]
    examples: Mapping[str, int]
    """``{split: examples}``."""
    select_on_validation: bool
    shapes: Mapping[str, tuple[int, ...]]
    """The shape of one example of each modality, before the transform."""
    dtypes: Mapping[str, str]
    streams: Mapping[str, Stream]
    input_notes: Mapping[str, str]
    statistics: Mapping[str, Mapping[str, Any]]
    preparation: Mapping[str, Any] = MappingProxyType({})
    """Empty if nothing was prepared, and for older runs, which did not record it."""
    fill: Mapping[str, Any] = MappingProxyType({})
    """As ``Dataset.fill``, as lists; empty for older runs."""

    @property
    def classes(self) -> int:
        return len(self.class_names)

    @property
    def training_examples(self) -> int:
        return self.examples["train"]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        streams = {m: stream._asdict() for m, stream in self.streams.items()}
        plain = {field: dict(getattr(self, field)) for field in ("preparation", "fill")}
        content = {**self._asdict(), "streams": streams, **plain}
        return json.loads(json.dumps(content))

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "DataSpec":
        """The inverse of ``to_json``.

        Raises:
          KeyError, TypeError, ValueError: the content is not that of ``to_json``.
        """
        content = {"preparation": {}, "fill": {}, **content}
        found = {field: content[field] for field in cls._fields}
        for field in ("modalities", "class_names"):
            found[field] = tuple(found[field])
        found["shapes"] = {m: tuple(map(int, shape)) for m, shape in found["shapes"].items()}
        _ = [np.dtype(name) for name in found["dtypes"].values()]  # TypeError if a dtype is unknown
        found["streams"] = {m: _stream(stream) for m, stream in found["streams"].items()}
        return cls(**found)

    def batch(self, size: int = 1) -> "Batch":
        """A batch of zeros, for its shapes."""
        return {
            "inputs": {m: np.zeros((size, *self.shapes[m]), self.dtypes[m]) for m in self.shapes},
            "present": np.ones((size, len(self.modalities)), bool),
            "label": np.zeros(size, np.int32),
            "index": np.arange(size, dtype=np.int32),
            "valid": np.ones(size, bool),
        }


def _stream(fields: Mapping[str, Any]) -> Stream:
    found: Any = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    return Stream(**found)


class SubsetOfModalities:
    """A split in which all modalities but the shown ones count as missing.

    The arrays of a hidden modality are zeros, as for a missing one.  Examples that have
    none of the shown modalities are left out.
    """

    def __init__(self, split: Split, shown: Sequence[bool]):
        """``shown: bool[M]``, in the order of the data set's modalities."""
        self._split, self._shown = split, np.asarray(shown, bool)
        present = split.present & self._shown
        self._rows = np.flatnonzero(present.any(1))
        self.label, self.present = split.label[self._rows], present[self._rows]

    @property
    def examples(self) -> int:
        return len(self._rows)

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return self._split.shapes

    def fetch(self, index: np.ndarray) -> "Batch":
        """The batch of examples ``index: int[B]``, all valid."""
        batch = fetch_wanted(self._split, self._rows[index], self.present[index])
        inputs = {
            m: array if shown else np.zeros_like(array)
            for (m, array), shown in zip(batch["inputs"].items(), self._shown, strict=True)
        }
        return {**batch, "inputs": inputs, "present": self.present[index]}
