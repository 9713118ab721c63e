"""Writes a run's weights: under our own names, or under PyTorch's where it has them."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import mla_jax
from mla_jax import convert
from mla_jax.convert import files, layouts
from mla_jax.convert.names import Tensors, flat
from mla_jax.errors import UserError, check_choice

if TYPE_CHECKING:  # run.py imports this module
    from mla_jax.runs.run import Run

COUNTERPARTS = (
    "PyTorch's names exist for resnet18, M3AE and CAV-MAE encoders, each by itself (--encoder=...),"
    " and for the MLA reference's classifiers: two ResNet-18 of 1 and 3 input channels, two M3AE, "
    "two CAV-MAE, or CAV-MAE and two M3AE, with the heads of mla, concat, sum (of two) or qmf; "
    "write a .safetensors file, which takes every run"
)


def save_weights(
    run: "Run", path: str | pathlib.Path, encoder: str = "", epoch: str = "chosen"
) -> int:
    """Writes the weights of a run; returns how many tensors there are.

    ``.safetensors``: every tensor under our flat names (``params/encoder/<modality>/...``,
    ``params/head/...``, ``batch_stats/<modality>/...``), with ``metadata`` in the header.
    ``.pth`` and ``.pt``: the whole classifier in the names and the form of the MLA reference, which
    loads it strictly if its encoders are ResNets of width 512; with ``encoder``, only that
    backbone in the names of torchvision's ``resnet18`` (without ``fc``), M3AE or CAV-MAE.
    No suffix: a converted directory, with the same content as ``.pth``.

    Args:
      run: with a checkpoint.
      path: the file or directory; an existing one is overwritten.
      encoder: a modality, or the empty string for the whole model.
      epoch: ``chosen`` or ``last``, as in ``Run.load``.

    Raises:
      UserError: the weights have no counterpart in PyTorch and ``path`` is not ``.safetensors``,
        another suffix, an unknown modality, or no checkpoint.
    """
    path = pathlib.Path(path)
    if encoder:
        check_choice(f"modality of this run ({'+'.join(run.modalities)})", encoder, run.modalities)
    if path.suffix not in ("", ".safetensors", ".pth", ".pt") or (path.suffix and path.is_dir()):
        raise UserError(
            f"{path} should be a .safetensors, .pth or .pt file, or a directory without a suffix"
        )
    tensors = flat(run.load(epoch).variables)
    if encoder:
        begins = (f"params/encoder/{encoder}/", f"batch_stats/{encoder}/")
        tensors = {n: value for n, value in tensors.items() if n.startswith(begins)}
    if path.suffix == ".safetensors":
        files.write_tensors(path, tensors, metadata(run, tensors, epoch))
        return len(tensors)
    try:
        manifest = _manifest(run, tensors, encoder)
    except UserError as error:
        raise UserError(f"{run.path} cannot go to {path}: {error}. {COUNTERPARTS}") from error
    tensors = layouts.in_order(tensors, run.modalities, tuple(manifest["towers"]))
    if path.suffix:
        return len(convert.write_torch(path, tensors, manifest, str(run.path)))
    files.write_directory(path, tensors, manifest)
    return len(tensors)


def _manifest(run: "Run", tensors: Tensors, encoder: str) -> dict[str, Any]:
    conventions = conventions_of(run)
    if encoder:
        return layouts.manifest_of_encoder(tensors, encoder, conventions)
    # A method that fuses features but has one head per modality adds up their logits.
    return layouts.manifest_of(tensors, conventions, summed=run.program.method.weigh is None)


def metadata(run: "Run", tensors: Mapping[str, Any], epoch: str = "chosen") -> dict[str, str]:
    """The metadata in the header of a ``.safetensors`` file of a run; every value is a string."""
    return {
        "mla_jax": mla_jax.__version__,
        "method": run.config.method.name,
        "dataset": run.data.name,
        "data": run.identity["data"],
        "epoch": epoch,
        "class_names": json.dumps(run.class_names),
        "modalities": json.dumps(run.modalities),
        "joint_order": json.dumps(joint_order(run, tensors)),
        "conventions": json.dumps(conventions_of(run)),
    }


def conventions_of(run: "Run") -> dict[str, dict[str, Any]]:
    """``{modality: the convention of its weights}``; ``{}`` for encoders without conventions."""
    return {
        m: {name: value for name, value in switches.items() if name != "differs_from_weights"}
        for m, switches in run.program.encoders.conventions.items()
    }


def joint_order(run: "Run", tensors: Mapping[str, Any]) -> Sequence[str]:
    """The modalities in the order of the blocks of a joint head; empty if it has no blocks."""
    kernel = tensors.get("params/head/joint/kernel")
    wide = len(run.modalities) * run.config.feature_dim
    return run.modalities if kernel is not None and len(kernel) == wide else ()
