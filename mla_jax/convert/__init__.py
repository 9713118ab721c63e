"""Weights from and to PyTorch, strictly: every tensor is accounted for, in both directions.

    python -m mla_jax.convert --from=CHECKPOINT.pth --to=DIR
    python -m mla_jax.convert --from=DIR --to=CHECKPOINT.pth

Reads the MLA reference's checkpoints (with ``module.``, two ResNet-18 and any of its heads) and
torchvision's ``resnet18``, from PyTorch's files or, without PyTorch, from safetensors.  One name
map a backbone serves both directions, so the round trip is bit-exact; only the batch counters of
PyTorch's batch normalisation are dropped and come back as 0 (``names.Row.kind``).
"""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from mla_jax.convert import files, layouts
from mla_jax.convert.names import Tensors, check_names
from mla_jax.errors import UserError
from mla_jax.state import TrainState


def convert(
    source: str | pathlib.Path,
    target: str | pathlib.Path,
    modalities: Sequence[str] = (),
    ignore: Sequence[str] = (),
    average_channels: bool = False,
) -> int:
    """Converts a checkpoint file to a directory, or a directory to a file; returns the tensors.

    The options are those of ``layouts.from_torch`` and apply to files only.

    Raises:
      UserError: the source cannot be read, or any of its tensors has no place or no partner.
    """
    source, target = pathlib.Path(source), pathlib.Path(target)
    if source.is_dir():
        if modalities or ignore or average_channels:
            raise UserError(f"{source} is converted already: its tensors are written as they are")
        tensors, manifest = files.read_directory(source)
        tensors = layouts.back_to_torch(tensors, manifest, str(source))
        files.write_tensors(target, tensors)
    else:
        tensors, manifest = _read_file(source, modalities, ignore, average_channels)
        if target.is_file() or target.suffix:
            raise UserError(f"--to={target} should be a directory: {source} is a checkpoint file")
        files.write_directory(target, tensors, manifest)
    return len(tensors)


def load_initial(
    path: str | pathlib.Path,
    modalities: Sequence[str] = (),
    ignore: Sequence[str] = (),
    average_channels: bool = False,
) -> dict[str, Any]:
    """The ``{"params", "batch_stats"}`` of a checkpoint, raw or converted.

    The trees are those of ``TrainState.variables``, as numpy arrays in float32.  The options are
    those of ``layouts.from_torch`` and apply to raw checkpoints.

    Raises:
      UserError: there is no such checkpoint, or a tensor is missing, unexpected or misshapen.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        tensors, _ = files.read_directory(path)
    else:
        tensors, _ = _read_file(path, modalities, ignore, average_channels)
    return traverse_util.unflatten_dict(tensors, sep="/")


def save_variables(path: str | pathlib.Path, variables: Mapping[str, Any]) -> None:
    """Writes ``TrainState.variables`` as a converted directory, which ``convert`` takes to PyTorch.

    Raises:
      UserError: the reference has no classifier of this form (``layouts.manifest_of``).
    """
    tensors = _flat(variables)
    files.write_directory(pathlib.Path(path), tensors, layouts.manifest_of(tensors))


def initialize_from(
    path: str | pathlib.Path, state: TrainState, say: Callable[[str], None] = print
) -> TrainState:
    """A fresh training state with the weights of a checkpoint, raw or converted.

    Each encoder of the checkpoint replaces the encoder of that modality, with its running
    statistics, and must match it tensor by tensor.  A head is replaced by the head of its name if
    the shapes agree, else it keeps its initialisation, as do encoders that the checkpoint lacks
    (an ImageNet ResNet for the images alone).  ``say`` is told what was taken and what was not.
    Optimiser states and method state stay fresh.

    Raises:
      UserError: the checkpoint has an encoder for another modality, or one that does not match.
    """
    modalities = tuple(state.params["encoder"])
    raw = not pathlib.Path(path).is_dir()
    named = modalities if raw and len(modalities) == len(layouts.TOWERS) else ()
    loaded = load_initial(path, named)
    encoders = loaded["params"].get("encoder", {})
    if strangers := [m for m in encoders if m not in modalities]:
        raise UserError(
            f"{path} holds an encoder for {', '.join(strangers)}, but this run has "
            f"{', '.join(modalities)}: convert it again with --modalities"
        )
    params, stats = dict(state.params["encoder"]), dict(state.batch_stats)
    for m, encoder in encoders.items():
        given = {"params": encoder, "batch_stats": loaded.get("batch_stats", {}).get(m, {})}
        ours = {"params": params[m], "batch_stats": stats[m]}
        shapes = {name: tuple(value.shape) for name, value in _leaves(ours).items()}
        check_names(f"{path}, encoder '{m}',", shapes, _flat(given))
        params[m] = _placed_like(given["params"], params[m])
        stats[m] = _placed_like(given["batch_stats"], stats[m]) if stats[m] else stats[m]

    heads, taken = dict(state.params["head"]), []
    for name, head in loaded["params"].get("head", {}).items():
        if name in heads and jax.tree.map(np.shape, head) == jax.tree.map(np.shape, heads[name]):
            heads[name] = _placed_like(head, heads[name])
            taken.append(name)
    replaced = [f"encoder {m}" for m in encoders] + [f"head {name}" for name in taken]
    kept = [f"encoder {m}" for m in modalities if m not in encoders]
    kept += [f"head {name}" for name in heads if name not in taken]
    say(f"initialised from {path}: {', '.join(replaced)}")
    if kept:
        say(f"not in that checkpoint in this shape, so newly initialised: {', '.join(kept)}")
    return state.replace(
        params={**state.params, "encoder": params, "head": heads}, batch_stats=stats
    )


def _read_file(
    path: pathlib.Path, modalities: Sequence[str], ignore: Sequence[str], average_channels: bool
) -> tuple[Tensors, dict[str, Any]]:
    tensors = files.read_tensors(path)
    return layouts.from_torch(tensors, str(path), modalities, ignore, average_channels)


def _placed_like(values: Any, like: Any) -> Any:
    """``values`` with the types and on the devices of ``like``."""

    def place(value: np.ndarray, old: Any) -> Any:
        value = np.asarray(value, old.dtype)
        return jax.device_put(value, old.sharding) if isinstance(old, jax.Array) else value

    return jax.tree.map(place, values, like)


def _leaves(tree: Mapping[str, Any]) -> dict[str, Any]:
    return traverse_util.flatten_dict(dict(tree), sep="/")


def _flat(tree: Mapping[str, Any]) -> Tensors:
    return {name: np.asarray(value) for name, value in _leaves(tree).items()}
