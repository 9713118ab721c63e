"""mfeat: six sets of features of the same 2,000 handwritten numerals, embedded in the package.

UCI Multiple Features (Duin, 1998; van Breukelen et al., 1998); see ``NOTICE`` beside this file.
The numerals 0 to 9 come from Dutch utility maps, 200 of each.  Unlike the pairs of ``digits``, the
six views of an example belong together.  Multi-view work calls this data set *Handwritten*.

============  =======  ==================================================
modality      numbers  what
============  =======  ==================================================
profile           216  correlations of profiles
fourier            76  Fourier coefficients of the shape
karhunen           64  Karhunen-Loeve coefficients
morphology          6  morphological features, among them the holes
pixel             240  grey levels of 15 x 16 pixels, means of 2 x 3
zernike            47  Zernike moments
============  =======  ==================================================

The split is drawn at random with a fixed seed, stratified: 120, 40 and 40 examples of each class
for training, validation and test.  The writers are unknown, so they are not separated by split.
"""

import hashlib
import pathlib
import zipfile
import zlib
from typing import Any

import numpy as np

from mla_jax.data.dataset import ArraySplit, Dataset
from mla_jax.errors import UserError, check_choice

FILE = pathlib.Path(__file__).with_name("mfeat.npz")
WIDTHS = {
    "profile": 216, "fourier": 76, "karhunen": 64, "morphology": 6, "pixel": 240, "zernike": 47,
}  # fmt: skip
MODALITIES = tuple(WIDTHS)
EXAMPLES, CLASSES = 2000, 10
PER_CLASS = {"train": 120, "validation": 40, "test": 40}
DAMAGED = (ValueError, TypeError, KeyError, OSError, EOFError, zipfile.BadZipFile, zlib.error)
RECIPE = "stratified120-40-40-v1"


def load(config: Any, modalities: tuple[str, ...] = MODALITIES) -> Dataset:
    """Any subset and order of the six modalities, ``float32[N, F]``, each column standardised by
    the training examples.

    ``config.path`` names another copy of the file (default: the embedded one), and
    ``config.split_seed`` draws another split.

    Raises:
      UserError: an unknown modality, or a file that is missing, damaged or something else.
    """
    for modality in modalities:
        check_choice("modality of dataset 'mfeat'", modality, MODALITIES)
    arrays, digest = _read(pathlib.Path(config.path) if config.path else FILE)
    rows = _draw(arrays["label"], config.split_seed)
    statistics = {}
    inputs: dict[str, dict[str, np.ndarray]] = {part: {} for part in rows}
    for m in modalities:
        table = arrays[m].astype(np.float64)
        mean, std = table[rows["train"]].mean(0), table[rows["train"]].std(0)
        std = np.where(std > 0, std, 1.0)  # a pixel that is blank in all training examples
        statistics[m] = {"mean": mean.tolist(), "std": std.tolist()}
        for part, chosen in rows.items():
            inputs[part][m] = ((table[chosen] - mean) / std).astype(np.float32)
    splits = {
        part: ArraySplit(
            inputs[part],
            arrays["label"][chosen].astype(np.int32),
            np.ones((len(chosen), len(modalities)), bool),
        )
        for part, chosen in rows.items()
    }
    names = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    fingerprint = f"mfeat-{digest}-{RECIPE}-seed{config.split_seed}"
    notes = {m: f"{WIDTHS[m]} numbers, standardised by statistics in data.json" for m in modalities}
    return Dataset(
        "mfeat", modalities, names, splits, fingerprint, input_notes=notes, statistics=statistics
    )


def _read(path: pathlib.Path) -> tuple[dict[str, np.ndarray], str]:
    """The arrays of the file, and its digest.

    Raises:
      UserError: it cannot be read, or has the wrong content.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"cannot read the mfeat file {path} ({error.strerror}): leave dataset.path empty to "
            "use the embedded one"
        ) from error
    again = (
        "reinstall the package, or build the file again with python -m mla_jax.datasets.mfeat.build"
    )
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in ("label", *MODALITIES)}
    except DAMAGED as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"the mfeat file {path} is damaged or is something else ({reason}): {again}"
        ) from error
    for name, width in {"label": None, **WIDTHS}.items():
        shape = (EXAMPLES,) if width is None else (EXAMPLES, width)
        if arrays[name].shape != shape or arrays[name].dtype.kind not in "uif":
            raise UserError(
                f"array '{name}' of {path} is {arrays[name].dtype}{list(arrays[name].shape)}, "
                f"expected numbers {list(shape)}: {again}"
            )
    if not np.array_equal(np.unique(arrays["label"]), np.arange(CLASSES)):
        raise UserError(f"array 'label' of {path} holds other classes than 0 to 9: {again}")
    return arrays, hashlib.sha256(content).hexdigest()[:12]


def _draw(label: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """``{part: rows}``, with the same number of each class."""
    rng = np.random.default_rng(seed)
    ends = np.cumsum(list(PER_CLASS.values()))[:-1]
    rows = [rng.permutation(np.flatnonzero(label == digit)) for digit in range(CLASSES)]
    parts = zip(*(np.split(of_digit, ends) for of_digit in rows), strict=True)
    return {name: np.concatenate(part) for name, part in zip(PER_CLASS, parts, strict=True)}
