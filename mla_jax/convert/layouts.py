"""Whole checkpoints to our tensors and back: every encoder and the heads."""

import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mla_jax.convert.backbones import BACKBONES, backbone_of, convention_of
from mla_jax.convert.heads import ONE_BY_ONE, UNUSED, head_rows, heads_of, names_for, unused_head
from mla_jax.convert.known_layouts import LAYOUTS, Layout, Tower, identify
from mla_jax.convert.names import Row, Tensors, to_flax, to_torch
from mla_jax.errors import UserError, check_choice


def without_prefix(tensors: Tensors) -> tuple[Tensors, str]:
    """Removes a ``module.`` at the start of every name, which ``DataParallel`` adds (quirk Q30)."""
    prefix = "module." if tensors and all(name.startswith("module.") for name in tensors) else ""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}, prefix


def from_torch(
    tensors: Tensors,
    source: str,
    modalities: Sequence[str] = (),
    ignore: Sequence[str] = (),
    average_channels: bool = False,
    convention: str = "",
) -> tuple[Tensors, dict[str, Any]]:
    """Our tensors and their manifest, from a state dict of a known layout.

    Args:
      tensors: the state dict, or the flat parameters of one of M3AE's own checkpoints.
      source: the name of the checkpoint in errors.
      modalities: our names for its encoders, in the order of ``Layout.towers``; an empty name
        leaves that encoder of a single M3AE or CAV-MAE out.  Needed for a single ResNet-18.
      ignore: patterns (``fc.*``) of tensors to leave out; each must match at least one.
      average_channels: averages a single ResNet-18's 3 input channels into 1.
      convention: that of the transformers' weights, if it is not the layout's default.

    Raises:
      UserError: the layout is not known, or a tensor is missing, unexpected or of another shape.
    """
    tensors, prefix = without_prefix(tensors)
    for pattern in ignore:
        matched = fnmatch.filter(tensors, pattern)
        if not matched:
            raise UserError(
                f"{source} has no tensor that matches the ignored '{pattern}': leave it out"
            )
        tensors = {name: tensor for name, tensor in tensors.items() if name not in matched}
    layout = identify(tensors, source)
    named = dict(zip(_named(modalities, layout), layout.towers, strict=True))
    named.pop("", None)
    if average_channels:
        if layout.towers[0] != Tower("resnet18", "", ""):
            raise UserError(
                f"average_channels is for a single ResNet-18, not for {layout.title}: leave it out"
            )
        tensors["conv1.weight"] = tensors["conv1.weight"].mean(1, keepdims=True)
    label = convention or layout.convention
    bound = {m: convention_of(tower.backbone, label) for m, tower in named.items()}
    manifest = {
        "backbones": {m: tower.backbone for m, tower in named.items()},
        "towers": {m: tower.prefix for m, tower in named.items()},
        "heads": {},
        "prefix": prefix,
        "conventions": {m: {"name": label, **values} for m, values in bound.items() if values},
    }
    if layout.whole:
        first = _tower_rows(tensors, manifest, next(iter(named)))
        manifest["heads"] = heads_of(tensors, tuple(named), _width(first))
    rows = rows_of(tensors, manifest, layout.original)
    manifest["left_out"] = _unused(tensors, manifest, rows)
    tensors = {name: tensors[name] for name in tensors.keys() - set(manifest["left_out"])}
    return to_flax(tensors, rows, source), manifest


def back_to_torch(tensors: Tensors, manifest: Mapping[str, Any], source: str) -> Tensors:
    """The state dict that ``from_torch`` would turn into these tensors and this manifest.

    Tensors that were left out stay so; the reference's loading does not check for them.

    Raises:
      UserError: a tensor is missing, unexpected or misshapen, or two encoders that shared tensors
        in one file have been trained apart.
    """
    found: Tensors = {}
    remaining = dict(tensors)
    for modality, name in manifest["backbones"].items():
        check_choice(f"backbone in the manifest of {source}", name, BACKBONES)
        rows = BACKBONES[name].rows_of(tensors, f"params/encoder/{modality}")
        rows = [_placed(row, _dot(manifest["towers"][modality]), modality) for row in rows]
        own = {
            n: remaining.pop(n)
            for n in list(remaining)
            if n.startswith((f"params/encoder/{modality}/", f"batch_stats/{modality}/"))
        }
        for theirs, value in to_torch(own, rows, source).items():
            if theirs in found and not np.array_equal(found[theirs], value):
                raise UserError(
                    f"{source}: the encoders {' and '.join(manifest['towers'])} have different "
                    f"values for {theirs}, which one file stores once: they were trained apart, "
                    "convert them one by one"
                )
            found[theirs] = value
    rows, shape = [], (0, 0)
    for head, theirs in manifest["heads"].items():
        kernel = tensors.get(f"params/head/{head}/kernel", np.zeros((0, 0), np.float32))
        shape = kernel.shape[::-1]
        rows += head_rows(theirs, head, shape)
    found |= to_torch(remaining, rows, source)
    found |= unused_head(manifest["heads"], (shape[0], shape[1] * len(manifest["towers"])))
    return {manifest["prefix"] + name: value for name, value in found.items()}


def manifest_of(
    tensors: Tensors,
    conventions: Mapping[str, Mapping[str, Any]] | None = None,
    summed: bool = False,
) -> dict[str, Any]:
    """The manifest of a run of ours, for the reference's classifier of the same encoders.

    A shared or joint head becomes ``fusion_module.fc_out``; one head per modality, QMF's heads, or
    those of the sum baseline if ``summed`` (``heads.names_for``).  ``conventions`` are those of the
    run's encoders (``Encoders.conventions``).  A joint head must have its blocks in the order of
    ``manifest["towers"]`` (``in_order``).

    Raises:
      UserError: the reference has no classifier of these encoders or no head like one of them, or
        a transformer's convention is not given.
    """
    backbones = backbones_of(tensors)
    wanted = sorted(backbones.values())
    layout = next(
        (y for y in LAYOUTS if y.whole and sorted(t.backbone for t in y.towers) == wanted), None
    )
    if layout is None:
        raise UserError(
            f"the reference has no classifier of these {len(backbones)} encoders: "
            + ", ".join(f"{m} ({name or 'unknown'})" for m, name in backbones.items())
            + f"; {ONE_BY_ONE}, those whose backbone is known"
        )
    places = places_of(layout, tensors)
    if not all(places):
        takes = " and ".join(f"{tower.channels} for {tower.modality}" for tower in layout.towers)
        raise UserError(
            f"{layout.title} takes other numbers of input channels, {takes}: {ONE_BY_ONE}"
        )
    towers = {m: tower.prefix for m, tower in zip(places, layout.towers, strict=True)}
    manifest = {
        "backbones": {m: backbones[m] for m in towers},
        "towers": towers,
        "heads": {},
        "prefix": "module.",
        "conventions": _given(conventions, {m: backbones[m] for m in towers}),
        "left_out": [],
    }
    groups = ("params/encoder/", "params/head/", "batch_stats/")
    if others := {n.split("/")[1] for n in tensors if not n.startswith(groups)}:
        raise UserError(
            f"the reference has nothing like the parameters {', '.join(others)}: {ONE_BY_ONE}"
        )
    found = list(dict.fromkeys(n.split("/")[2] for n in tensors if n.startswith("params/head/")))
    manifest["heads"] = names_for(found, tuple(towers), summed, layout.qmf)
    first = next(iter(towers))
    width = _width(BACKBONES[backbones[first]].rows_of(tensors, f"params/encoder/{first}"))
    for head in manifest["heads"]:
        rows = len(tensors[f"params/head/{head}/kernel"])
        if rows != width * (len(towers) if head == "joint" else 1):
            raise UserError(f"the reference has no head '{head}' on {rows} features: {ONE_BY_ONE}")
    return manifest


def manifest_of_encoder(
    tensors: Tensors, modality: str, conventions: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, Any]:
    """The manifest of one encoder by itself, with the names of its backbone's PyTorch code.

    ``tensors`` are those of ``params/encoder/<modality>`` and ``batch_stats/<modality>``.

    Raises:
      UserError: it has no counterpart in PyTorch, or a transformer's convention is not given.
    """
    backbone = backbones_of(tensors).get(modality, "")
    if not backbone:
        raise UserError(
            f"the encoder '{modality}' has no counterpart in PyTorch: keep our names (.safetensors)"
        )
    return {
        "backbones": {modality: backbone},
        "towers": {modality: ""},
        "heads": {},
        "prefix": "",
        "conventions": _given(conventions, {modality: backbone}),
        "left_out": [],
    }


def _given(
    conventions: Mapping[str, Mapping[str, Any]] | None, backbones: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    given = {m: dict((conventions or {}).get(m, {})) for m in backbones}
    for modality, name in backbones.items():
        if name != "resnet18" and not given[modality]:
            raise UserError(f"say which convention the encoder '{modality}' has: pass conventions")
    return {m: values for m, values in given.items() if values}


def is_whole(manifest: Mapping[str, Any]) -> bool:
    """Whether a manifest is that of a classifier, and not of a backbone by itself."""
    return all(manifest["towers"].values())


def places_of(
    layout: Layout, tensors: Mapping[str, Any], checkpoint: Mapping[str, Any] | None = None
) -> tuple[str, ...]:
    """For each tower of a layout, the modality of our ``tensors`` that belongs there.

    It has the tower's backbone and its number of input channels, if the layout or, for a ResNet
    by itself, the ``checkpoint`` gives that.  Empty if there is none, or more than one.
    """
    stem = np.shape((checkpoint or {}).get("conv1.weight", 0))
    backbones = backbones_of(tensors)
    names = []
    for tower in layout.towers:
        alike = [m for m, backbone in backbones.items() if backbone == tower.backbone]
        channels = tower.channels or (stem[1] if len(stem) == 4 else 0)
        if channels:
            stems = {m: np.shape(tensors[f"params/encoder/{m}/conv1/kernel"]) for m in alike}
            alike = [m for m in alike if stems[m][-2] == channels]
        names.append(alike[0] if len(alike) == 1 else "")
    return tuple(names)


def in_order(tensors: Tensors, modalities: Sequence[str], wanted: Sequence[str]) -> Tensors:
    """The tensors with the blocks of a joint head in another order of the modalities.

    The blocks of ``params/head/joint/kernel: [M D, C]`` go from the order of ``modalities`` to
    that of ``wanted``.
    """
    name = "params/head/joint/kernel"
    if name not in tensors or tuple(modalities) == tuple(wanted):
        return tensors
    blocks = dict(zip(modalities, np.split(tensors[name], len(modalities)), strict=True))
    return {**tensors, name: np.concatenate([blocks[m] for m in wanted])}


def backbones_of(tensors: Mapping[str, Any]) -> dict[str, str]:
    """``{modality: backbone}`` of our tensors; "" if files have no such backbone."""
    shapes: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, value in tensors.items():
        if name.startswith("params/encoder/"):
            _, _, modality, rest = name.split("/", 3)
            shapes.setdefault(modality, {})[rest] = np.shape(value)
    return {m: backbone_of(tuple(inner), inner) for m, inner in shapes.items()}


def rows_of(tensors: Tensors, manifest: Mapping[str, Any], original: bool = False) -> list[Row]:
    """Every row of a checkpoint in its own names, without their prefix."""
    rows, widths = [], []
    for modality, prefix in manifest["towers"].items():
        own = _tower_rows(tensors, manifest, modality)
        widths.append(_width(own))
        if original:
            renamed = BACKBONES[manifest["backbones"][modality]].original
            assert renamed is not None  # a layout of the backbone's own code
            own = [renamed(row) for row in own]
        rows += [_placed(row, _dot(prefix), modality) for row in own]
    for head, theirs in manifest["heads"].items():
        weight = tensors.get(f"{theirs}.weight", np.zeros((0, 0), np.float32))
        rows += head_rows(
            theirs, head, (len(weight), sum(widths) if head == "joint" else widths[0])
        )
    return rows


def _tower_rows(tensors: Tensors, manifest: Mapping[str, Any], modality: str) -> list[Row]:
    backbone = BACKBONES[manifest["backbones"][modality]]
    return backbone.rows_for(tensors, _dot(manifest["towers"][modality]))


def _unused(tensors: Tensors, manifest: Mapping[str, Any], rows: Sequence[Row]) -> list[str]:
    """The tensors that no row uses and that the encoders are known not to need."""
    wanted = {row.torch for row in rows}
    patterns = [
        _dot(manifest["towers"][m]) + pattern
        for m, name in manifest["backbones"].items()
        for pattern in BACKBONES[name].unused
    ]
    patterns += UNUSED if unused_head(manifest["heads"], (0, 0)) else ()
    spare = tensors.keys() - wanted
    return sorted(n for n in spare if any(fnmatch.fnmatchcase(n, p) for p in patterns))


def _placed(row: Row, dot: str, modality: str) -> Row:
    """Parameters go under ``params/encoder/<modality>``, statistics under ``batch_stats/...``."""
    module = f"encoder/{modality}" if (row.flax or "").startswith("params/") else modality
    return row.at(dot, module)


def _named(modalities: Sequence[str], layout: Layout) -> tuple[str, ...]:
    names = tuple(modalities) or tuple(tower.modality for tower in layout.towers)
    count = len(layout.towers)
    complete = all(names) if layout.whole or count == 1 else any(names)
    if len(names) != count or not complete or len(set(names)) != count:
        amount = ("one modality", "two modalities", "three modalities")[count - 1]
        raise UserError(
            f"this checkpoint is for {amount} ({layout.title}); name as many with --modalities=a+b"
        )
    return names


def _width(rows: Sequence[Row]) -> int:
    return next(row.shape[0] for row in reversed(rows) if row.shape)


def _dot(prefix: str) -> str:
    return f"{prefix}." if prefix else ""
