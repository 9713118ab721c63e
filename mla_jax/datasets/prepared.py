"""From the records that ``mla_jax.prepare`` wrote to a ``Dataset``."""

import hashlib
import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from mla_jax import storage
from mla_jax.data.dataset import Dataset
from mla_jax.data.streams import Stream
from mla_jax.datasets import records, synthetic
from mla_jax.datasets.description import Description
from mla_jax.datasets.splits import Members
from mla_jax.errors import UserError, check_choice, nearest
from mla_jax.storage.stage import local_copy


def load(description: Description, config: Any, modalities: tuple[str, ...]) -> Dataset:
    """The data set of ``config.dataset``: its records, or synthetic examples of its shapes.

    Raises:
      UserError: nothing was prepared, an unknown split, variant, recipe or modality, or a split
        that is empty.
    """
    variant = config.variant or description.variants[0]
    recipe = config.recipe or description.recipes[0]
    split = description.default_split["strict"] if config.split == "auto" else config.split
    what = f"of dataset '{description.name}'"
    description.check_variant(variant)
    check_choice(f"recipe {what}", recipe, description.recipes)
    check_choice(f"split {what}", split, description.splits)
    if config.synthetic:
        return synthetic.load(description, config, modalities, variant, recipe)

    folder = find(description, config.data_dir, variant, recipe)
    if storage.in_bucket(folder):
        folder = local_copy(folder, config.get("stage_dir", ""))
    index = records.read_index(folder)
    for modality in modalities:
        _check_modality(description, modality, index["streams"])
    streams = {m: _stream(description, index, m, variant) for m in modalities}
    columns = [list(index["streams"]).index(m) for m in modalities]
    present = np.array(index["present"], bool)[:, columns]
    aspect = np.array(index["aspect"], np.float32)[:, columns]
    label = np.array(index["label"], np.int32)
    rule = description.splits[split]
    members = Members(index["ids"], index["groups"], index["lists"])
    parts = rule.draw(members, config.split_seed)
    shards = len(index["shard_bytes"])
    paths = [
        str(folder / records.shard_name(index["name"], shard, shards)) for shard in range(shards)
    ]
    images = records.stored_images(index)
    splits = {}
    for part, rows in parts.items():
        rows = rows[present[rows].any(1)]  # an example without any of these modalities is none
        if len(rows):
            of_part = (label[rows], present[rows], aspect[rows])
            splits[part] = records.RecordSplit(paths, rows, streams, *of_part, images)
    for part in ("train", "test"):
        if part not in splits:
            raise UserError(
                f"the {part} part of split '{split}' of {folder} has no examples: prepare more "
                f"of the raw files, or choose another of {', '.join(description.splits)}"
            )
    fingerprint = "-".join(
        filter(
            None,
            (description.name, variant, recipe, index["fingerprint"], split)
            + (
                f"seed{config.split_seed}",
                _digest({p: s.rows.tolist() for p, s in splits.items()}),
            ),
        )
    )
    return Dataset(
        description.name,
        modalities,
        tuple(index["classes"]),
        splits,
        fingerprint,
        rule.select_on_validation,
        streams,
        preparation=preparation(index, modalities),
    )


def _check_modality(description: Description, modality: str, stored: Iterable[str]) -> None:
    """Raises ``UserError``, with what to type, unless the modality was prepared."""
    if modality in stored:
        return
    remedy = nearest(modality, stored)
    if not description.modalities:  # its columns are the user's own, which no file can know
        example = f"--config=configs/{description.name}.py:modalities={'+'.join(stored)}"
        remedy += f"; name the modalities you want, as in {example}"
    raise UserError(f"unknown modality of dataset '{description.name}' '{modality}': {remedy}")


def preparation(index: Mapping[str, Any], modalities: Iterable[str]) -> dict[str, dict[str, Any]]:
    """By modality, what its records depend on besides the media and the stream's shape.

    ``code``: the version of the preparation; ``vocabulary``: a digest, for tokens; ``recipe``: for
    spectrograms; ``images``: ``raw``, for pictures that are no JPEG; ``frames``: the rules by which
    pictures were taken out of videos, if any were.
    What an older index does not hold is left out.
    """
    settings, found = index.get("settings", {}), {}
    own = {"tokens": ("code", "vocabulary"), "spectrogram": ("code", "recipe")}
    for m in modalities:
        fields = own.get(index["streams"][m]["kind"], ("code",))
        found[m] = {field: settings[field] for field in fields if settings.get(field)}
        if index["streams"][m]["kind"] in records.PICTURES and settings.get("images"):
            found[m]["images"] = settings["images"]
        if rules := index.get("frames", {}).get(m):
            found[m]["frames"] = list(rules)
    return found


def find(description: Description, data_dir: str, variant: str, recipe: str) -> pathlib.Path:
    """The folder of the records.

    Raises:
      UserError: there is none; the sentence says what to type.
    """
    configuration = description.configuration(variant, recipe)
    folder = records.directory(data_dir, description.name, configuration)
    if (folder / records.INDEX).is_file():
        return folder
    begun = folder.is_dir()
    others = sorted(
        path.parent.parent.name
        for path in folder.parent.parent.glob(f"*/{records.VERSION}/{records.INDEX}")
    )
    command = f"python -m mla_jax.prepare --dataset={description.name} --raw=FOLDER"
    if description.variant_is_prepared and variant != description.variants[0]:
        command += f" --variant={variant}"
    if recipe != description.recipes[0]:
        command += f" --recipe={recipe}"
    there = f" (there is: {', '.join(others)})" if others else ""
    remedy = f"run `{command} --data_dir={data_dir}` on the raw files"
    if description.modalities:  # it has synthetic data
        trial = f"python -m mla_jax.main --config=configs/{description.name}.py:synthetic"
        remedy += f", or `{trial}` to try everything without them"
    raise UserError(
        f"{folder} holds {'records that are not finished' if begun else 'no records'}{there}: "
        f"{remedy}"
    )


def _stream(description: Description, index: dict[str, Any], modality: str, variant: str) -> Stream:
    """As the description declares it, with the shape that was stored."""
    stored = index["streams"][modality]
    known = {k: v for k, v in stored.items() if k in Stream._fields}
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in known.items()}
    stream = Stream(**values)
    if modality in description.modalities:
        declared = description.modalities[modality].stream
        stream = declared._replace(shape=stream.shape, dtype=stream.dtype)
    return description.adapt(modality, stream, variant) if description.adapt else stream


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]
