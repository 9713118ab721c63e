"""A run's initial weights, from checkpoints or other runs: ``config.init_from``."""

import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from mla_jax import storage
from mla_jax.convert import files, layouts
from mla_jax.convert.known_layouts import identify
from mla_jax.convert.names import Tensors, check_names, flat
from mla_jax.encoders.conventions import check_weights
from mla_jax.errors import UserError
from mla_jax.runs import weights
from mla_jax.runs.run import is_run, open_run
from mla_jax.state import TrainState


def initialize_from(
    paths: str | pathlib.Path,
    state: TrainState,
    say: Callable[[str], None] = print,
    conventions: Mapping[str, Mapping[str, Any]] | None = None,
) -> TrainState:
    """A fresh training state with the weights of checkpoints, raw or converted, or of other runs.

    A run's folder gives the weights of its chosen epoch, and so do the files that
    ``weights.save_weights`` makes from it.  A ``.pth`` file does not record the convention.

    Each encoder of a checkpoint replaces the encoder of that modality, with its running
    statistics, and must match it tensor by tensor.  A head is replaced by the head of its name if
    the shapes agree.  Otherwise it keeps its initialisation, as do encoders that no checkpoint has
    (an ImageNet ResNet is only for images).  The blocks of a joint head on the concatenation are
    reordered if the two have their modalities in different orders.  ``say`` gets lines about what
    was replaced and what was not.  Optimiser states and method state stay fresh.

    Args:
      paths: one path, or several separated by commas (CAV-MAE for audio, M3AE for the rest).
      state: the run's.
      say: prints a line for the user.
      conventions: ``Encoders.conventions`` of the run, which the weights must match, in the
        order of its modalities.

    Raises:
      UserError: a checkpoint has an encoder for another modality, one that does not match, or one
        that was made for another convention.
    """
    modalities = tuple(state.params["encoder"])
    params, stats = dict(state.params["encoder"]), dict(state.batch_stats)
    heads, replaced = dict(state.params["head"]), []
    for path in filter(None, str(paths).split(",")):
        tensors, made_for, order = _read(storage.place(path), state)
        if conventions and set(order) == set(conventions):
            tensors = layouts.in_order(tensors, order, tuple(conventions))
        try:
            loaded = traverse_util.unflatten_dict(tensors, sep="/")
            encoders = dict(loaded["params"].get("encoder", {}))
            given_heads = dict(loaded["params"].get("head", {}))
            given_stats = dict(loaded.get("batch_stats", {}))
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise UserError(
                f"{path} holds tensors that no run has, such as {next(iter(tensors))}: name the "
                "weights of a run"
            ) from error
        remedy = "convert it again with --modalities"
        if is_run(path):
            remedy = "take one encoder with python -m mla_jax.convert --from=RUN --encoder=MODALITY"
        if strangers := [m for m in encoders if m not in modalities]:
            raise UserError(
                f"{path} holds an encoder for {', '.join(strangers)}, but this run has "
                f"{', '.join(modalities)}: {remedy}"
            )
        for m in (m for m in modalities if m in encoders):
            if f"encoder {m}" in replaced:
                raise UserError(f"{paths}: two of these checkpoints hold an encoder for '{m}'")
            wanted = (conventions or {}).get(m, {})
            check_weights(path, m, made_for.get(m, {}), wanted)
            given = {"params": encoders[m], "batch_stats": given_stats.get(m, {})}
            shapes = _shapes({"params": params[m], "batch_stats": stats[m]})
            tensors = flat(given)
            check_names(f"{path}, encoder '{m}',", shapes, tensors)
            if bad := [name for name, value in tensors.items() if not np.isfinite(value).all()]:
                raise UserError(
                    f"{path} holds NaN or infinity in encoder '{m}' ({bad[0]}): name other weights"
                )
            params[m] = _placed_like(given["params"], params[m])
            stats[m] = _placed_like(given["batch_stats"], stats[m]) if stats[m] else stats[m]
            replaced.append(f"encoder {m}")
        for name, head in given_heads.items():
            if name in heads and _shapes(head) == _shapes(heads[name]):
                heads[name] = _placed_like(head, heads[name])
                replaced.append(f"head {name}")
    kept = [f"encoder {m}" for m in modalities if f"encoder {m}" not in replaced]
    kept += [f"head {name}" for name in heads if f"head {name}" not in replaced]
    say(f"initialised from {paths}: {', '.join(replaced)}")
    if kept:
        say(f"not in that checkpoint with this shape, so newly initialised: {', '.join(kept)}")
    return state.replace(
        params={**state.params, "encoder": params, "head": heads}, batch_stats=stats
    )


def _read(
    path: pathlib.Path, state: TrainState
) -> tuple[Tensors, Mapping[str, Any], Sequence[str]]:
    """A checkpoint's tensors, their conventions, and the order of a joint head's blocks.

    The order is empty if there are none.  A raw checkpoint's encoders go to modalities with the
    same kind of encoder.
    """
    if is_run(path):
        run = open_run(path)
        tensors = flat(run.load().variables)
        return tensors, weights.conventions_of(run), weights.joint_order(run, tensors)
    if path.is_dir():
        tensors, manifest = files.read_directory(path)
        return tensors, manifest["conventions"], tuple(manifest["towers"])
    tensors = files.read_tensors(path)
    if files.are_ours(tensors):
        header = files.read_metadata(path) if path.suffix == ".safetensors" else {}
        try:
            conventions = json.loads(header.get("conventions", "{}"))
            order = json.loads(header.get("joint_order", "[]"))
        except ValueError as error:
            raise UserError(f"the header of {path} is damaged: convert the run again") from error
        if not isinstance(conventions, dict) or not isinstance(order, list):
            raise UserError(f"the header of {path} is damaged: convert the run again")
        return tensors, conventions, tuple(order)
    bare, _ = layouts.without_prefix(tensors)
    layout = identify(bare, str(path))
    ours = _leaves({"params": {"encoder": state.params["encoder"]}})
    names = layouts.places_of(layout, ours, bare)
    complete = all(names) if layout.whole else any(names)
    tensors, manifest = layouts.from_torch(tensors, str(path), names if complete else ())
    return tensors, manifest["conventions"], tuple(manifest["towers"])


def _leaves(tree: Mapping[str, Any]) -> dict[str, Any]:
    return traverse_util.flatten_dict(dict(tree), sep="/")


def _shapes(tree: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(np.shape(value)) for name, value in _leaves(tree).items()}


def _placed_like(values: Any, like: Any) -> Any:
    """``values`` with the types and on the devices of ``like``."""

    def place(value: np.ndarray, old: Any) -> Any:
        value = np.asarray(value, old.dtype)
        return jax.device_put(value, old.sharding) if isinstance(old, jax.Array) else value

    return jax.tree.map(place, values, like)
