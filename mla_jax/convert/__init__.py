"""Converts weights from and to PyTorch strictly: no tensor may be left over, in either direction.

    python -m mla_jax.convert --from=CHECKPOINT.pth --to=DIR
    python -m mla_jax.convert --from=DIR --to=CHECKPOINT.pth
    python -m mla_jax.convert --from=RUN --to=WEIGHTS.safetensors
    python -m mla_jax.convert --from=RUN --to=CLASSIFIER.pth
    python -m mla_jax.convert --from=RUN --to=BACKBONE.pth --encoder=MODALITY

Any run can be written to ``.safetensors`` as a whole, under our own names.  In ``.pth``, or in a
directory, it has PyTorch's names, so only what has a counterpart there (``runs/weights.py``).

It reads the MLA reference's checkpoints (with ``module.``, of any of its encoders and heads),
and those of torchvision's ``resnet18``, CAV-MAE and M3AE, from PyTorch's files or, without PyTorch,
from safetensors or M3AE's pickle.  One name map per backbone serves both directions, so the round
trip is bit-exact.  Only the batch counters of PyTorch's batch normalisation are dropped and come
back as 0 (``names.Row.kind``), and tensors that an encoder does not use (decoders, the other
modality's half) stay left out.  The preprocessing that the weights expect is recorded
(``encoders/conventions.py``).
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from flax import traverse_util

from mla_jax.convert import files, heads, layouts
from mla_jax.convert.names import Tensors, flat
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
      UserError: the source cannot be read, or a tensor is missing or unexpected.
    """
    source, target = pathlib.Path(source), pathlib.Path(target)
    if source.is_dir():
        if modalities or ignore or average_channels or convention:
            raise UserError(
                f"{source} is already converted: its tensors are written as they are; name only "
                "--from and --to"
            )
        tensors = write_torch(target, *files.read_directory(source), str(source))
    else:
        tensors = files.read_tensors(source)
        if files.are_ours(tensors):
            raise UserError(
                f"{source} holds the weights of a run under our own names: name the run itself "
                "with --from to convert them to PyTorch; init_from takes this file as it is"
            )
        tensors, manifest = layouts.from_torch(
            tensors,
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

    The trees are like ``TrainState.variables``, with float32 numpy arrays.  ``modalities`` is
    as in ``layouts.from_torch`` and applies only to raw checkpoints.

    Raises:
      UserError: there is no such checkpoint, or a tensor is missing, unexpected or misshapen.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        tensors, _ = files.read_directory(path)
    elif not files.are_ours(tensors := files.read_tensors(path)):
        tensors, _ = layouts.from_torch(tensors, str(path), modalities)
    return traverse_util.unflatten_dict(tensors, sep="/")


def write_torch(
    path: str | pathlib.Path, tensors: Tensors, manifest: Mapping[str, Any], source: str
) -> Tensors:
    """Writes our tensors to ``.pth`` or ``.safetensors`` in PyTorch's names; returns what it wrote.

    A classifier in ``.pth`` is stored under ``model``, beside what the reference needs for testing;
    a backbone by itself is a bare state dict.  ``source`` is the name for errors.

    Raises:
      UserError: another suffix, or tensors that do not match the manifest.
    """
    path, found = pathlib.Path(path), layouts.back_to_torch(tensors, manifest, source)
    pickled = path.suffix != ".safetensors" and layouts.is_whole(manifest)
    files.write_tensors(path, found, heads.options_of(manifest["heads"]) if pickled else None)
    return found


def save_variables(
    path: str | pathlib.Path,
    variables: Mapping[str, Any],
    conventions: Mapping[str, Mapping[str, Any]] | None = None,
    modalities: Sequence[str] = (),
    summed: bool = False,
) -> None:
    """Writes ``TrainState.variables`` as a directory that ``convert`` can convert to PyTorch.

    Args:
      path: the directory.
      variables: ``{"params", "batch_stats"}``.
      conventions: ``Encoders.conventions``; runs of M3AE or CAV-MAE must give them.
      modalities: the order of the blocks of a joint head; (): the reference's order.
      summed: as in ``layouts.manifest_of``.

    Raises:
      UserError: the reference has no classifier of this form (``layouts.manifest_of``).
    """
    tensors = flat(variables)
    manifest = layouts.manifest_of(tensors, conventions, summed)
    if modalities:
        tensors = layouts.in_order(tensors, modalities, tuple(manifest["towers"]))
    files.write_directory(pathlib.Path(path), tensors, manifest)
