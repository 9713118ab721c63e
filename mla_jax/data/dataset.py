"""What a data set is to the rest of the program: named splits that yield batches by index."""

import json
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from mla_jax.data.streams import Stream

if TYPE_CHECKING:  # preparing starts one process per core, and none of them needs JAX
    from mla_jax.state import Batch

RESERVED_NAMES = (
    "fused", "shared", "joint", "examples", "macro_f1", "weighted_f1", "confusion", "subsets",
)  # fmt: skip
"""No modality may be called so: results and heads have these names."""

Transform = Callable[["Batch", bool], Mapping[str, Any]]
"""``(batch, train) -> inputs``: augmentation and normalisation, pure, inside the jitted step."""


class Split(Protocol):
    """Examples by number: what the trainer needs of a split, wherever it lies."""

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

        A split whose loading is dear may also have ``fetch_wanted(index, wanted: bool[B, M])``,
        which leaves out the inputs that nobody wants: see ``fetch_wanted``.
        """


def fetch_wanted(split: Split, index: np.ndarray, wanted: np.ndarray) -> "Batch":
    """The batch of examples ``index: int[B]``, of which only the ``wanted: bool[B, M]`` inputs
    count; a split that decodes files leaves out the others, which are then zeros."""
    some = getattr(split, "fetch_wanted", None)
    return some(index, wanted) if some else split.fetch(index)


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
    input_notes: Mapping[str, str] = MappingProxyType({})
    """By modality, a few words on how its arrays were made, for whoever predicts on new ones."""
    statistics: Mapping[str, Mapping[str, Any]] = MappingProxyType({})
    """By modality, ``{"mean": [...], "std": [...]}`` of the training split, by which the arrays
    were standardised before they came here; a stream's own are in ``streams``."""
    preparation: Mapping[str, Any] = MappingProxyType({})
    """By modality, what its records were prepared with: ``prepared.preparation``."""
    masks: Mapping[str, np.ndarray] = MappingProxyType({})
    """By split, ``bool[N, M]``: what ``config.missing`` leaves, where it was drawn once."""
    fill: Mapping[str, np.ndarray] = MappingProxyType({})
    """By modality, what stands in the place of a missing one; zeros where there is none."""

    @property
    def classes(self) -> int:
        return len(self.class_names)

    @property
    def training_examples(self) -> int:
        return self.splits["train"].examples

    def spec(self) -> "DataSpec":
        """What a run records of the data set; reads one training example."""
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
    """All that prediction needs of a data set beside the weights: ``data.json`` of a run."""

    name: str
    modalities: tuple[str, ...]
    class_names: tuple[str, ...]
    examples: Mapping[str, int]
    """``{split: examples}``."""
    select_on_validation: bool
    shapes: Mapping[str, tuple[int, ...]]
    """Of one example of each modality, as the encoders' transform takes it."""
    dtypes: Mapping[str, str]
    streams: Mapping[str, Stream]
    input_notes: Mapping[str, str]
    statistics: Mapping[str, Mapping[str, Any]]
    preparation: Mapping[str, Any] = MappingProxyType({})
    """Empty where nothing was prepared, and for runs from before it was recorded."""
    fill: Mapping[str, Any] = MappingProxyType({})
    """As ``Dataset.fill``, in lists; empty for runs from before there was one."""

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
        _ = [np.dtype(name) for name in found["dtypes"].values()]  # a TypeError if there is no such
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
    """A split in which all modalities but some are missing, whatever it holds of them.

    The arrays of a hidden modality are zeros, as they are where it is missing.  Examples that have
    none of the others are left out.
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
