"""The working folder of a case: a sound configuration, sound data and a finished run."""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Callable
from unittest import mock

import jax
import numpy as np

from mla_jax import train
from mla_jax.config import files
from tests.misuse.case import Case, npz

SMALL = '''"""Arrays of four numbers through one layer each."""

from mla_jax.config import fields


def get_config(argument=None):
    chosen = fields.parse_arguments(
        argument, method="late_fusion", fidelity="paper", modalities=("a", "b")
    )
    config = fields.base_config()
    config.dataset = fields.dataset_block("arrays")
    config.dataset.path = "data"
    config.modalities = chosen.modalities
    config.method = fields.method_block(chosen.method, chosen.fidelity)
    config.encoders = {m: {"name": "features", "projection": "linear"} for m in "ab"}
    config.feature_dim, config.batch_size, config.epochs = 4, 8, 2
    config.compute_dtype = "float32"
    return config
'''
EXAMPLES = {"train": 16, "validation": 8, "test": 8}


def arrays(part: str, **changes: np.ndarray | None) -> dict[str, np.ndarray]:
    """The sound arrays of a split, some of them replaced, or left out where None."""
    rng, n = np.random.default_rng(len(part)), EXAMPLES[part]
    found = {"label": np.arange(n) % 2} | {
        m: rng.normal(size=(n, 4)).astype(np.float32) for m in "ab"
    }
    return {name: array for name, array in (found | changes).items() if array is not None}


def changed(part: str, **changes: np.ndarray | None) -> bytes:
    """The ``.npz`` file of a split whose arrays are ``arrays(part, **changes)``."""
    return npz(**arrays(part, **changes))


SOUND = {"small.py": SMALL.encode()} | {f"data/{part}.npz": changed(part) for part in EXAMPLES}


def build(folder: pathlib.Path, case: Case, copy_run: Callable[[pathlib.Path], None]) -> None:
    """Fills an empty folder with what a case needs; ``copy_run(path)`` puts a run there."""
    for name, content in SOUND.items():
        write(folder / name, content)
    if case.needs_run:
        copy_run(folder / "run")
    for name, content in case.files.items():
        write(folder / name, content)


def write(path: pathlib.Path, content: object) -> None:
    """Makes, changes or removes a file; see ``case.Content``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if content is None:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    elif callable(content):
        content(path)
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def listing(folder: pathlib.Path) -> dict[str, tuple[int, ...]]:
    """``{path: what changes when it is written}`` of a tree; nothing does for folders.

    An empty file may be opened for writing again, as locks are.  Python's own ``__pycache__``,
    beside a configuration that it has imported, is left out.
    """
    found = {}
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__"]
        here = os.path.relpath(parent, folder)
        found |= {os.path.normpath(f"{here}/{name}"): () for name in folders}
        for name in names:
            stat = os.lstat(f"{parent}/{name}")
            written = (stat.st_ino, stat.st_size, stat.st_mtime_ns if stat.st_size else 0)
            found[os.path.normpath(f"{here}/{name}")] = written
    return found


def trained(folder: pathlib.Path) -> Callable[[pathlib.Path], None]:
    """Trains a run in an empty folder, without plots; returns what copies it to a path."""
    for name, content in SOUND.items():
        write(folder / name, content)
    with contextlib.chdir(folder), mock.patch("mla_jax.runs.plots.save"):
        config = files.load_config("small.py")
        train.train(config, "run", devices=jax.devices()[:1], say=lambda line: None)
    return lambda path: shutil.copytree(folder / "run", path)
