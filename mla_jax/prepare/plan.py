"""What is to be done, decided before any media file is opened, and the same on every run."""

import argparse
import hashlib
import importlib.util
import json
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from mla_jax.data import audio
from mla_jax.datasets import lists, records
from mla_jax.datasets.description import Description, Modality, Raw
from mla_jax.errors import UserError, check_choice
from mla_jax.prepare import store, work

NOTES = ".shards"
FLAGS = ("csv", "classes", "frames")
"""Those that only some data sets take."""
CODE = "1"
"""Raise it whenever the same raw files give other records."""
LIBRARIES = {"av": "av", "soundfile": "soundfile", "scipy": "scipy", "PIL": "pillow"}


class Plan(NamedTuple):
    description: Description
    raw: Raw
    modalities: Mapping[str, Modality]
    folder: pathlib.Path
    jobs: list[work.Job]
    settings: dict[str, Any]
    """What the records depend on besides the raw files."""
    digest: str
    """Of the settings and of every example's sources."""


def make_plan(description: Description, options: argparse.Namespace) -> Plan:
    """Enumerates the raw tree and cuts it into shards.

    Raises:
      UserError: the flags, the lists or the tree cannot be used.
    """
    recipe = options.recipe or description.recipes[0]
    variant = options.variant or description.variants[0]
    check_choice(f"recipe of dataset '{description.name}'", recipe, description.recipes)
    description.check_variant(variant)
    for flag in FLAGS:
        if getattr(options, flag) and flag not in description.flags:
            raise UserError(f"--{flag} means nothing to dataset '{description.name}': leave it out")
    raw = description.enumerate(options)
    if not raw.examples:
        seen = f" ({len(raw.problems)} were refused)" if raw.problems else ""
        raise UserError(
            f"--raw={options.raw} holds no usable example of {description.name}{seen}: it must "
            f"hold {description.layout}"
        )
    check_paths(raw, options.raw)
    modalities = _modalities(raw.modalities or description.modalities, recipe, options)
    check_libraries(modalities)
    settings: dict[str, Any] = {
        "dataset": description.name,
        "configuration": description.configuration(variant, recipe),
        "code": CODE,
        "modalities": {
            m: [x.frames, x.stream.shape, x.stream.dtype] for m, x in modalities.items()
        },
        "classes": list(raw.classes),
        "recipe": recipe,
        "vocabulary": _vocabulary(modalities, options.vocab),
        "drop_incomplete": options.drop_incomplete,
        "examples_per_shard": options.examples_per_shard,
    }
    if options.images == "raw":
        if not any(how.stream.kind in records.PICTURES for how in modalities.values()):
            raise UserError("--images=raw: there are no pictures here: leave it out")
        settings["images"] = "raw"  # of JPEG nothing is said: records from before have that
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for example in raw.examples:
        digest.update(repr((example.id, example.label, sorted(example.sources.items()))).encode())
    folder = records.directory(options.data_dir, description.name, settings["configuration"])
    return Plan(
        description,
        raw,
        modalities,
        folder,
        _jobs(description, raw, modalities, folder, recipe, options),
        settings,
        digest.hexdigest()[:16],
    )


def check_paths(raw: Raw, folder: str) -> None:
    """Raises ``UserError`` if a source lies outside the raw ``folder``: lists come from anybody."""
    for example in raw.examples:
        for modality, source in example.sources.items():
            for path in (source.path, source.second) if source else ():
                if path:
                    lists.require_below(path, modality, example.id, folder)


def frame_rules(raw: Raw, modalities: Mapping[str, Modality]) -> dict[str, list[str]]:
    """By modality, the rules by which its pictures are taken out of videos, in alphabetical order.

    A picture that is a file of its own needs none.
    """
    found: dict[str, set[str]]
    found = {m: set() for m, how in modalities.items() if how.stream.kind in records.PICTURES}
    for example in raw.examples:
        for m, rules in found.items():
            source = example.sources.get(m)
            if source and pathlib.PurePath(source.path).suffix.lower() not in lists.IMAGE:
                rules.add(source.frames or modalities[m].frames)
    return {m: sorted(rules) for m, rules in found.items()}


def _jobs(
    description: Description,
    raw: Raw,
    modalities: Mapping[str, Modality],
    folder: pathlib.Path,
    recipe: str,
    options: argparse.Namespace,
) -> list[work.Job]:
    size = options.examples_per_shard
    cuts = range(0, len(raw.examples), size)
    return [
        work.Job(
            shard,
            folder / records.shard_name(description.name, shard, len(cuts)),
            folder / NOTES / f"{shard:05d}.json",
            raw.examples[first : first + size],
            modalities,
            tuple(raw.classes),
            pathlib.Path(options.raw),
            store.Settings(recipe, options.vocab, options.images),
            options.drop_incomplete,
        )
        for shard, first in enumerate(cuts)
    ]


def _modalities(
    declared: Mapping[str, Modality], recipe: str, options: argparse.Namespace
) -> dict[str, Modality]:
    """With the shape of the recipe's spectrogram, and pictures as ``--image_side`` wants them."""
    found = {}
    for modality, how in declared.items():
        stream = how.stream
        if stream.kind == "spectrogram":
            stream = stream._replace(shape=(*audio.RECIPES[recipe].shape, 1))
        if options.image_side and stream.kind in records.PICTURES:
            *frames, height, width, channels = stream.shape
            if height != width or options.image_side < max(stream.crop, 8):
                raise UserError(
                    f"--image_side={options.image_side} does not suit {modality}, stored at "
                    f"{height}x{width} for crops of {stream.crop}: leave it out, or give a side "
                    "at least as large as the crop"
                )
            side = options.image_side
            stream = stream._replace(shape=(*frames, side, side, channels))
        found[modality] = how._replace(stream=stream)
    return found


def _vocabulary(modalities: Mapping[str, Modality], path: str) -> str:
    """The digest of the vocabulary's content, where one is needed."""
    if not any(how.stream.kind == "tokens" for how in modalities.values()):
        if path:
            raise UserError(f"--vocab={path}: there is no text here: leave it out")
        return ""
    check_library("tokenizers", "tokenizers")
    store.tokenizer(path)
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()[:16]


def check_libraries(modalities: Mapping[str, Modality]) -> None:
    """Raises ``UserError`` unless the libraries that open these modalities are installed."""
    kinds = {how.stream.kind for how in modalities.values()}
    needed = ["array_record"]
    needed += ["PIL"] if kinds & set(records.PICTURES) else []
    needed += ["av"] if kinds & {"clip", "spectrogram"} else []
    needed += ["soundfile", "scipy"] if "spectrogram" in kinds else []
    for module in needed:
        check_library(module, LIBRARIES.get(module, module))


def check_library(module: str, package: str) -> None:
    """Raises ``UserError`` unless ``module`` can be imported."""
    if importlib.util.find_spec(module) is None:
        raise UserError(
            f"{package} is not installed, and these files need it: pip install {package} (or, in "
            "the clone, all that media need: pip install -e '.[media]')"
        )
