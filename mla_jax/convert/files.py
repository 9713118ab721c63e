"""Files with tensors: ``.pth``, ``.safetensors``, ``.pkl``, and our converted directories.

A converted directory is ``variables.safetensors`` plus ``manifest.json``.  We use safetensors
because it is bit-exact, runs no code when read (a pickle does), has names, shapes and types in a
header that any language can read, and needs neither JAX nor PyTorch.
"""

import json
import pathlib
import re
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from mla_jax.convert import pickles
from mla_jax.convert.names import Tensors
from mla_jax.errors import UserError

VARIABLES, MANIFEST = "variables.safetensors", "manifest.json"
FORMAT = 2
KEYS = ("backbones", "towers", "heads", "prefix", "conventions")
"""The keys of every manifest, see ``layouts.from_torch``."""


def read_tensors(path: pathlib.Path) -> Tensors:
    """The tensors of a ``.safetensors``, PyTorch or M3AE (``.pkl``) file, under their names there.

    Raises:
      UserError: there is no such file, or it cannot be read as tensors.
    """
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}: check the path")
    if path.suffix == ".safetensors":
        try:
            tensors = dict(safetensors.numpy.load_file(path))
        except (safetensors.SafetensorError, OSError) as error:
            raise UserError(
                f"{path} is not a readable safetensors file: {error}; copy or write it again"
            ) from error
        if not tensors:
            raise UserError(f"{path} holds no tensor: name another file")
        return tensors
    if path.suffix in (".pkl", ".pickle"):
        return pickles.read_m3ae(path)
    torch = import_torch(f"reading {path.name}")
    try:
        with warnings.catch_warnings():  # torch warns about files that are not checkpoints
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds, with pages of text
        if asked := re.search(r"GLOBAL (\S+) was not an allowed global", str(error)):
            raise UserError(
                f"{path} is refused: it refers to {asked[1]}, which no checkpoint needs: do not "
                "trust it"
            ) from error
        raise UserError(
            f"{path} is not a readable PyTorch checkpoint: it is damaged or is something else; "
            "copy it again, or name another file"
        ) from error
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        content = content["model"]
    if not isinstance(content, dict) or not all(
        isinstance(v, torch.Tensor) for v in content.values()
    ):
        raise UserError(
            f"{path} holds neither a state dict nor a dictionary with one under 'model': save the "
            "model's state_dict() to it"
        )
    return {name: _to_numpy(tensor) for name, tensor in content.items()}


def _to_numpy(tensor: Any) -> np.ndarray:
    if not tensor.dtype.is_floating_point or tensor.element_size() >= 4:
        return tensor.detach().numpy()
    return tensor.detach().double().numpy()  # numpy has no bfloat16; check_names refuses it


def write_tensors(
    path: pathlib.Path,
    tensors: Mapping[str, np.ndarray],
    beside: Mapping[str, str] | None = None,
) -> None:
    """Writes a ``.safetensors`` file or PyTorch's ``.pth``.

    Args:
      path: the file; its folder is made if needed.
      tensors: with the names that the file should have.
      beside: for ``.pth``: the other entries of the dictionary that the reference
        reads, where the state dict is under ``model`` (``main.py:721-728``); None: the file is the
        state dict itself, as torchvision's are.  For ``.safetensors``: the header's metadata.

    Raises:
      UserError: neither ``.safetensors`` nor ``.pth`` or ``.pt``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        safetensors.numpy.save_file(_contiguous(tensors), path, dict(beside or {}) or None)
    elif path.suffix in (".pth", ".pt"):
        torch = import_torch(f"writing {path.name}")
        state_dict = {name: torch.tensor(tensor) for name, tensor in tensors.items()}
        torch.save(state_dict if beside is None else {"model": state_dict, **beside}, path)
    else:
        raise UserError(f"{path} should end in .pth, .pt or .safetensors")


def write_directory(path: pathlib.Path, tensors: Tensors, manifest: Mapping[str, Any]) -> None:
    """Writes a converted directory.

    Args:
      path: the directory; made if needed.
      tensors: ``{"params/encoder/<modality>/...": array}``.
      manifest: what else a reader must know: the layout, its modalities.
    """
    path.mkdir(parents=True, exist_ok=True)
    safetensors.numpy.save_file(_contiguous(tensors), path / VARIABLES)
    shapes = {name: list(tensors[name].shape) for name in sorted(tensors)}
    content = {"format": FORMAT, **manifest, "tensors": shapes}
    (path / MANIFEST).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_directory(path: pathlib.Path) -> tuple[Tensors, dict[str, Any]]:
    """The tensors and the manifest of a converted directory.

    Raises:
      UserError: it is not such a directory, or its two files disagree.
    """
    for name in (VARIABLES, MANIFEST):
        if not (path / name).is_file():
            raise UserError(
                f"{path} is not a converted checkpoint: it has no {name}; name a folder that "
                "mla_jax.convert wrote"
            )
    tensors = read_tensors(path / VARIABLES)
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        shapes = {name: tuple(shape) for name, shape in manifest["tensors"].items()}
        version = manifest["format"]
        _ = [manifest[key] for key in KEYS] if version == FORMAT else None
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(
            f"{path / MANIFEST} is not a manifest of mla_jax.convert; convert again"
        ) from error
    if version != FORMAT:
        raise UserError(
            f"{path / MANIFEST} has format {version}; this version reads {FORMAT}; convert again"
        )
    if shapes != {name: tensor.shape for name, tensor in tensors.items()}:
        raise UserError(f"{path}: {MANIFEST} does not describe {VARIABLES}; convert again")
    return tensors, manifest


def are_ours(tensors: Mapping[str, Any]) -> bool:
    """Whether these are the tensors of a run under our own names."""
    return bool(tensors) and all(n.startswith(("params/", "batch_stats/")) for n in tensors)


def read_metadata(path: pathlib.Path) -> dict[str, str]:
    """The metadata in the header of a ``.safetensors`` file; empty if it has none."""
    with safetensors.safe_open(path, "numpy") as file:
        return dict(file.metadata() or {})


def _contiguous(tensors: Mapping[str, np.ndarray]) -> Tensors:
    """Contiguous copies: safetensors writes raw memory, so a transposed view would be wrong."""
    return {name: np.require(tensor, requirements="C") for name, tensor in tensors.items()}


def import_torch(purpose: str) -> Any:
    """The torch module; ``UserError`` says how to install it."""
    try:
        import torch
    except ImportError as error:
        raise UserError(f"{purpose} needs PyTorch: pip install torch") from error
    return torch
