"""The predictions of a run, as numpy arrays, and the checks on its inputs."""

import io
import pathlib
import zipfile
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mla_jax import storage
from mla_jax.data.dataset import ArraySplit, DataSpec, Split
from mla_jax.errors import UserError, check_choice
from mla_jax.evaluate import Classes, Outputs


class ModalityPredictions(NamedTuple):
    """The predictions of one modality by itself; rows of examples that lack it are NaN and -1."""

    logits: np.ndarray
    """``float32[N, C]``."""
    probabilities: np.ndarray
    """``float32[N, C]``."""
    classes: np.ndarray
    """``int32[N]``: the most probable class."""


class Predictions(NamedTuple):
    """The predictions of a run for N examples.

    >>> run = mla_jax.open_run("runs/mfeat")
    >>> test = run.dataset().splits["test"]
    >>> out = run.predict({"pixel": test.inputs["pixel"][:3]})  # without zernike
    >>> out.probabilities.shape, out.classes.shape
    ((3, 10), (3,))
    >>> out.weights  # the modality that is missing does not count
    array([[1., 0.],
           [1., 0.],
           [1., 0.]], dtype=float32)
    """

    logits: np.ndarray
    """Fused logits ``float32[N, C]``."""
    probabilities: np.ndarray
    """Their softmax, ``float32[N, C]``."""
    classes: np.ndarray
    """``int32[N]``: the most probable class, an index into ``class_names``."""
    weights: np.ndarray | None
    """``float32[N, M]``: the weight of each modality's logits, 0 where it is missing; ``[N, M +
    1]``, with the joint logits last, for DI-MML; None for methods that fuse features."""
    modalities: Mapping[str, ModalityPredictions]
    """The predictions of each modality that was given."""
    class_names: tuple[str, ...]


def collect(parts: Sequence[Outputs], spec: DataSpec, present: np.ndarray) -> Predictions:
    """Joins the outputs of batches; ``present: bool[N, M]``.

    Raises:
      UserError: a logit is not finite.
    """
    fused = np.concatenate([part.fused for part in parts])
    unimodal = np.concatenate([part.unimodal for part in parts], axis=1)
    sound = np.isfinite(fused).all(1)
    sound &= (np.isfinite(unimodal).all(2).T | ~present).all(1)
    if not sound.all():
        first = int(np.flatnonzero(~sound)[0])
        raise UserError(
            f"the logits of example {first} are not finite: its inputs, or those of its batch, are "
            "far from what the run was trained on: check their values"
        )
    weights = None
    if parts[0].weights is not None:
        weights = np.concatenate([part.weights for part in parts])
    modalities = {
        m: _of_modality(unimodal[i], present[:, i])
        for i, m in enumerate(spec.modalities)
        if present[:, i].any()
    }
    classes = fused.argmax(-1).astype(np.int32)
    return Predictions(fused, softmax(fused), classes, weights, modalities, spec.class_names)


def _of_modality(logits: np.ndarray, present: np.ndarray) -> ModalityPredictions:
    logits = np.where(present[:, None], logits, np.float32(np.nan))
    classes = np.where(present, logits.argmax(-1), -1).astype(np.int32)
    return ModalityPredictions(logits, softmax(logits), classes)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis; NaN rows stay NaN."""
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def save_classes(path: pathlib.Path, found: Classes) -> None:
    """Writes a whole ``.npz`` or nothing: ``modalities`` (names), ``fused: int16[N]``,
    ``unimodal: int16[M, N]`` (-1 where missing), ``label: int16[N]``, ``present: bool[N, M]``.

    ``int32`` if a class number does not fit into ``int16``.
    """
    most = max(array.max(initial=0) for array in found[1:])
    kind = np.int16 if most <= np.iinfo(np.int16).max else np.int32
    arrays = {name: getattr(found, name).astype(kind) for name in ("fused", "unimodal", "label")}
    content = io.BytesIO()
    np.savez_compressed(
        content, modalities=np.array(found.modalities), present=found.present, **arrays
    )
    storage.put(path, content.getvalue())


def read_classes(path: pathlib.Path) -> Classes | None:
    """What ``save_classes`` wrote; None if there is no such file, as in runs of earlier versions.

    Raises:
      UserError: it is damaged.
    """
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            names = tuple(map(str, file["modalities"]))
            arrays = [file[name].astype(np.int32) for name in ("fused", "unimodal", "label")]
            found = Classes(names, *arrays)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path} is damaged ({error}): delete it, and statistics will leave this run out"
        ) from error
    return found


def split_of_arrays(
    spec: DataSpec,
    inputs: Mapping[str, np.ndarray],
    present: np.ndarray | None = None,
    vocabularies: Mapping[str, int] | None = None,
) -> Split:
    """A split made of the user's arrays; every example must have at least one modality.

    Args:
      spec: the run's.
      inputs: ``{modality: [N, ...]}``, for any of the run's modalities.
      present: ``bool[N, len(inputs)]`` in the order of ``inputs``; default: all present.
      vocabularies: ``{modality: how many token ids its encoder has}``.

    Raises:
      UserError: an unknown modality, arrays of another length, shape or type, values that are not
        finite or not token ids, or an example without any modality.
    """
    try:
        arrays = {m: np.asarray(array) for m, array in inputs.items()}
    except ValueError as error:
        raise UserError(f"inputs need arrays, not lists of other shapes ({error})") from error
    for modality in arrays:
        check_choice(f"modality of this run ({'+'.join(spec.modalities)})", modality, spec.shapes)
    if not arrays:
        raise UserError(f"give at least one of the modalities {', '.join(spec.modalities)}")
    lengths = {m: len(array) if array.ndim else 0 for m, array in arrays.items()}
    (count, *others) = set(lengths.values())
    if others or not count:
        raise UserError(f"inputs need the same number of examples, at least one, not {lengths}")
    if present is None:
        present = np.ones((count, len(arrays)), bool)
    present = np.asarray(present)
    if present.shape != (count, len(arrays)) or present.dtype != bool:
        raise UserError(
            f"'present' is {present.dtype}{list(present.shape)}: it must be "
            f"bool[{count}, {len(arrays)}], one column per given modality"
        )
    if not present.any(1).all():
        row = int(np.flatnonzero(~present.any(1))[0])
        raise UserError(f"example {row} has no modality: leave it out")
    columns = np.zeros((count, len(spec.modalities)), bool)
    complete = {}
    for place, m in enumerate(spec.modalities):
        if m not in arrays:
            complete[m] = np.zeros((count, *spec.shapes[m]), spec.dtypes[m])
            continue
        columns[:, place] = there = present[:, list(arrays).index(m)]
        complete[m] = _checked(m, arrays[m], spec, there, (vocabularies or {}).get(m, 0))
    return ArraySplit(complete, np.zeros(count, np.int32), columns)


def check_split(spec: DataSpec, split: Split) -> None:
    """Raises ``UserError`` unless a split has the run's modalities, in order and shape."""
    if not hasattr(split, "fetch"):
        raise UserError(f"give arrays by modality or a split of a data set, not {type(split)}")
    shapes = {m: tuple(shape) for m, shape in split.shapes.items()}
    if list(shapes.items()) != list(spec.shapes.items()):
        raise UserError(
            f"the split has {shapes}, and this run takes {dict(spec.shapes)}, in this order: "
            "give a split that has these"
        )
    if not split.examples:
        raise UserError("the split has no examples: give one with at least one")


def _checked(
    modality: str, array: np.ndarray, spec: DataSpec, there: np.ndarray, vocabulary: int
) -> np.ndarray:
    """The array in the run's type, with zeros where ``there: bool[N]`` is False."""
    shape, dtype = spec.shapes[modality], np.dtype(spec.dtypes[modality])
    wanted = f"{dtype.name}[N, {', '.join(map(str, shape))}]".replace(", ]", "]")
    note = spec.input_notes.get(modality, "")
    wanted += f" ({note})" if note else ""
    given = f"input '{modality}' is {array.dtype}{list(array.shape)}"
    if array.shape[1:] != shape:
        raise UserError(f"{given}, and this run takes {wanted}: bring it to this shape")
    if not any(array.dtype.kind in kind and dtype.kind in kind for kind in ("iu", "f")):
        raise UserError(f"{given}, and this run takes {wanted}: convert it first")
    flat = array.reshape(len(array), -1)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        low, high = (0, vocabulary - 1) if vocabulary else (limits.min, limits.max)
        good = np.asarray(((flat >= low) & (flat <= high)).all(1))
        problem = f"values outside {low} to {high}"
    else:
        with np.errstate(over="ignore"):  # too large values become infinite and are refused
            flat = flat.astype(dtype)
        good = np.isfinite(flat).all(1)
        problem = f"NaN, infinity or values too large for {dtype.name}"
    if not good[there].all():
        row = int(np.flatnonzero(there & ~good)[0])
        raise UserError(
            f"input '{modality}' holds {problem} in example {row}: fix it, or mark it missing"
        )
    return np.where(there[:, None], flat, 0).astype(dtype).reshape(array.shape)
