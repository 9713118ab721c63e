"""Weights from and to PyTorch, strictly: every tensor is accounted for, in both directions.

    python -m mla_jax.convert --from=CHECKPOINT.pth --to=DIR
    python -m mla_jax.convert --from=DIR --to=CHECKPOINT.pth

Reads the MLA reference's checkpoints (with ``module.``, of any of its encoders and heads),
torchvision's ``resnet18``, CAV-MAE's and M3AE's own, from PyTorch's files or, without PyTorch, from
safetensors or M3AE's pickle.  One name map a backbone serves both directions, so the round trip is
bit-exact; only the batch counters of PyTorch's batch normalisation are dropped and come back as 0
(``names.Row.kind``), and what an encoder does without (decoders, the other modality's half) stays
left out.  What preprocessing the weights are for is recorded (``encoders/conventions.py``).
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from flax import traverse_util

from mla_jax.convert import files, layouts
from mla_jax.convert.names import flat
from mla_jax.errors import UserError

__all__ = ["convert", "load_initial", "save_variables"]


def convert(
    source: str | pathlib.Path,
    target: str | pathlib.Path,
    modalities: Sequence[str] = (),
    ignore: Sequence[str] = (),
    average_channels: bool = False,
    convention: str = "",
) -> int:
    """Converts a checkpoint file to a directory, or a directory to a file; returns the tensors.

    The options are those of ``layouts.from_torch`` and apply to files only.

    Raises:
      UserError: the source cannot be read, or any of its tensors has no place or no partner.
    """
    source, target = pathlib.Path(source), pathlib.Path(target)
    if source.is_dir():
        if modalities or ignore or average_channels or convention:
            raise UserError(f"{source} is converted already: its tensors are written as they are")
        tensors, manifest = files.read_directory(source)
        tensors = layouts.back_to_torch(tensors, manifest, str(source))
        files.write_tensors(target, tensors)
    else:
        tensors, manifest = layouts.from_torch(
            files.read_tensors(source),
            str(source),
            modalities,
            ignore,
            average_channels,
            convention,
        )
        if target.is_file() or target.suffix:
            raise UserError(f"--to={target} should be a directory: {source} is a checkpoint file")
        files.write_directory(target, tensors, manifest)
    return len(tensors)


def load_initial(path: str | pathlib.Path, modalities: Sequence[str] = ()) -> dict[str, Any]:
    """The ``{"params", "batch_stats"}`` of a checkpoint, raw or converted.

    The trees are those of ``TrainState.variables``, as numpy arrays in float32.  ``modalities`` is
    that of ``layouts.from_torch`` and applies to raw checkpoints.

    Raises:
      UserError: there is no such checkpoint, or a tensor is missing, unexpected or misshapen.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        tensors, _ = files.read_directory(path)
    else:
        tensors, _ = layouts.from_torch(files.read_tensors(path), str(path), modalities)
    return traverse_util.unflatten_dict(tensors, sep="/")


def save_variables(
    path: str | pathlib.Path,
    variables: Mapping[str, Any],
    conventions: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Writes ``TrainState.variables`` as a converted directory, which ``convert`` takes to PyTorch.

    ``conventions`` are ``Encoders.conventions``; runs of M3AE or CAV-MAE must give them.

    Raises:
      UserError: the reference has no classifier of this form (``layouts.manifest_of``).
    """
    tensors = flat(variables)
    files.write_directory(pathlib.Path(path), tensors, layouts.manifest_of(tensors, conventions))
