"""arrays: precomputed features, such as CLIP's, which are held in memory and not prepared.

``dataset.path`` is a folder with ``train.npz``, ``test.npz`` and optionally ``validation.npz``.
Each has ``label`` (integers) and one array per modality with as many rows; ``present`` (booleans,
one column per modality in the order of ``modalities``) may say what is missing.
``train_label.npy``, ``train_image.npy`` and so on also work.  ``classes.txt`` may name the classes;
without it every label is below 1000 or below the number of training examples.
"""

import hashlib
import pathlib
import zipfile
from typing import Any

import numpy as np

from mla_jax.data.dataset import ArraySplit, Dataset
from mla_jax.data.streams import Stream
from mla_jax.datasets.lists import read_class_names
from mla_jax.datasets.splits import PARTS
from mla_jax.errors import UserError

UNNAMED_CLASSES = 1000
"""Labels below this need no names, however few the examples: a sample of ImageNet is allowed."""
DAMAGED = (ValueError, OSError, EOFError, KeyError, MemoryError, zipfile.BadZipFile)


def load(config: Any, modalities: tuple[str, ...]) -> Dataset:
    """The arrays below ``config.path``.

    Raises:
      UserError: the folder, a file or an array is missing, damaged or of another length.
    """
    folder = pathlib.Path(config.path)
    if not config.path or not folder.is_dir():
        raise UserError(
            f"dataset.path='{config.path}' is not a folder: name the one that holds train.npz and "
            "test.npz (docs/datasets.md)"
        )
    digest = hashlib.sha256()
    splits, largest = {}, {}
    for part in PARTS:
        arrays = _read(folder, part, digest)
        if arrays:
            splits[part] = _split(folder, part, arrays, modalities)
            largest[part] = int(arrays["label"].max())
        elif part != "validation":
            raise UserError(
                f"{folder} has neither {part}.npz nor {part}_label.npy: put the arrays of the "
                f"{part} split there"
            )
    names = _class_names(folder, largest, splits["train"].examples)
    streams = {m: _stream(m, splits) for m in modalities}
    fingerprint = f"arrays-{digest.hexdigest()[:16]}"
    return Dataset("arrays", modalities, names, splits, fingerprint, streams=streams)


def _class_names(folder: pathlib.Path, largest: dict[str, int], examples: int) -> list[str]:
    """The lines of ``classes.txt``, or the numbers up to the largest label.

    Raises:
      UserError: ``classes.txt`` is too short, or is missing and a label is neither below
        ``UNNAMED_CLASSES`` nor below the number of training examples.
    """
    part = max(largest, key=largest.__getitem__)
    label, path = largest[part], folder / "classes.txt"
    if path.is_file():
        names = read_class_names(path)
        if len(names) <= label:
            raise UserError(
                f"{path} names {len(names)} classes and the labels go up to {label}: name them all"
            )
        return names
    if label >= max(UNNAMED_CLASSES, examples):
        raise UserError(
            f"the largest label of the {part} split in {folder} is {label}, and there are "
            f"{examples} training examples: without classes.txt a label must be below "
            f"{UNNAMED_CLASSES} or below that number, so number the classes from 0 without gaps, "
            "or name them all in classes.txt"
        )
    return [str(i) for i in range(label + 1)]


def _read(folder: pathlib.Path, part: str, digest: Any) -> dict[str, np.ndarray]:
    """``{name: array}`` of one split; empty if it has no file."""
    together = folder / f"{part}.npz"
    files = [together] if together.is_file() else sorted(folder.glob(f"{part}_*.npy"))
    arrays: dict[str, np.ndarray] = {}
    for path in files:
        found = read_arrays(path, digest)
        arrays |= {name.removeprefix(f"{part}_"): array for name, array in found.items()}
    return arrays


def read_arrays(path: pathlib.Path, digest: Any = None) -> dict[str, np.ndarray]:
    """``{name: array}`` of an ``.npz`` file, or of an ``.npy`` file, with its file name.

    Raises:
      UserError: the file is damaged, or is not of these types.
    """
    try:
        if digest:
            digest.update(path.name.encode() + path.read_bytes())
        found = np.load(path, allow_pickle=False)
        if path.suffix == ".npz":
            if isinstance(found, np.ndarray):
                raise ValueError("an .npy file")
            return {name: found[name] for name in found.files}
        return {path.stem: found}
    except DAMAGED as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{path} is damaged, not an array file, or larger than the memory ({reason}): "
            "save it again"
        ) from error


def _split(
    folder: pathlib.Path, part: str, arrays: dict[str, np.ndarray], modalities: tuple[str, ...]
) -> ArraySplit:
    for name in ("label", *modalities):
        if name not in arrays:
            remedy = "save the class of each example under that name"
            if name != "label":
                usable = [found for found in arrays if found not in ("label", "present")]
                remedy = (
                    "name the modalities you want, as in --config=configs/arrays.py:modalities="
                )
                remedy += "+".join(usable or ["a", "b"])
            raise UserError(
                f"the {part} split in {folder} has no array '{name}' (it has {', '.join(arrays)}): "
                + remedy
            )
    label = arrays["label"]
    if label.ndim != 1 or label.dtype.kind not in "iu" or not len(label) or label.min() < 0:
        raise UserError(
            f"'label' of the {part} split in {folder} is {label.dtype}{list(label.shape)}: it must "
            "be a row of integers from 0"
        )
    present = arrays.get("present", np.ones((len(label), len(modalities)), bool))
    wanted = {"present": (len(label), len(modalities))}
    for name, array in {**{m: arrays[m] for m in modalities}, "present": present}.items():
        if array.shape[:1] != label.shape or array.shape != wanted.get(name, array.shape):
            raise UserError(
                f"'{name}' of the {part} split in {folder} has shape {array.shape}, and there are "
                f"{len(label)} labels and {len(modalities)} modalities"
            )
    for name in ("present", *modalities):
        array = arrays.get(name, label)
        if array.dtype.kind not in "biuf":
            raise UserError(
                f"'{name}' of the {part} split in {folder} is of type {array.dtype}: it must hold "
                "real numbers, so convert it (text to token ids, for example) and save it again"
            )
        if array.size == 0:
            raise UserError(
                f"'{name}' of the {part} split in {folder} has shape {array.shape}, so it holds "
                "nothing: save it again, or leave it out of config.modalities"
            )
    if not np.isin(present, (0, 1)).all():
        raise UserError(
            f"'present' of the {part} split in {folder} holds other values than True and False: "
            "save it as booleans"
        )
    inputs = {m: _narrow(arrays[m], f"'{m}' of the {part} split in {folder}") for m in modalities}
    return ArraySplit(inputs, label.astype(np.int32), present.astype(bool))


def _narrow(array: np.ndarray, name: str) -> np.ndarray:
    """Converts numbers of more than 32 bits to the 32-bit types of JAX.

    Floats that are too large become infinite, and ``check_examples`` refuses them.

    Raises:
      UserError: an integer is too large.
    """
    if array.dtype.itemsize <= 4:
        return array
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):
            return array.astype(np.float32)
    limits = np.iinfo(np.int32)
    if array.min() < limits.min or array.max() > limits.max:
        raise UserError(
            f"{name} holds integers outside {limits.min} to {limits.max}: save it as floats, or "
            "number its tokens from 0"
        )
    return array.astype(np.int32)


def _stream(modality: str, splits: dict[str, ArraySplit]) -> Stream:
    array = splits["train"].inputs[modality]
    shapes = {part: split.inputs[modality].shape[1:] for part, split in splits.items()}
    if len(set(shapes.values())) > 1:
        raise UserError(f"'{modality}' has another shape in each split: {shapes}")
    types = {part: str(split.inputs[modality].dtype) for part, split in splits.items()}
    if len(set(types.values())) > 1:
        raise UserError(
            f"'{modality}' is not of the same type in all splits: {types}: save them alike"
        )
    kind = "tokens" if array.dtype.kind in "iu" and array.ndim == 2 else "vector"
    return Stream(kind, array.shape[1:], str(array.dtype))
