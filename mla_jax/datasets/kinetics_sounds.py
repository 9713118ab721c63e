"""Kinetics-Sounds: the clips of Kinetics whose class can be both heard and seen.

At least five different data sets have this name, so the list of classes is a named variant
(``ks31`` here, any other with ``--classes=FILE --variant=NAME``), and the split has its own name.
Videos may be anywhere below the raw folder; a wav of the same name is used instead of the video's
own sound.  The class of a video is looked up in the Kinetics csv files, then in lists in MLA's or
OGM-GE's form, then in the name of its folder.
"""

import argparse
import csv
import pathlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from mla_jax.data import audio
from mla_jax.data.streams import IMAGENET_MEAN, IMAGENET_STD, Stream
from mla_jax.datasets import lists
from mla_jax.datasets.description import (
    Description,
    Example,
    Modality,
    Problem,
    Raw,
    Source,
    class_names,
)
from mla_jax.datasets.splits import listed
from mla_jax.errors import UserError

LAYOUT = (
    "the videos (any sub-folders) with the Kinetics csv files, or train/<class>/*.mp4 and so on"
)
PART_NAMES = {
    "train": "train",
    "val": "validation",
    "validate": "validation",
    "validation": "validation",
    "test": "test",
}
LISTS = {
    "mla": {"train": "my_train_ks.txt", "test": "my_test_ks.txt"},
    "ogm": {"train": "my_train.txt", "test": "my_test.txt"},
}
YOUTUBE_ID = 11


class Line(NamedTuple):
    list: str
    part: str
    id: str
    label: str
    path: str
    """The path of the list file."""


def enumerate_videos(options: argparse.Namespace) -> Raw:
    """Every video to which a list, or its folder, assigns one of the classes.

    Raises:
      UserError: a class file without a variant's name or vice versa, or a line of the wrong form.
    """
    root = lists.require_folder(options.raw, "--raw", LAYOUT)
    classes = _classes(options)
    files = lists.media_by_stem(root, lists.VIDEO, root)
    sounds = lists.media_by_stem(root, lists.AUDIO, root)
    by_id: dict[str, list[str]] = {}
    for name in files:
        by_id.setdefault(name[:YOUTUBE_ID], []).append(name)
    labels: dict[str, str] = {}
    found: dict[str, dict[str, list[str]]] = {}
    problems: dict[str, Problem] = {}
    left_out = {"of other classes": 0, "listed, but there is no video": 0}
    for line in (*_kinetics(root, options), *_listed(root, options)):
        stem = _file_of(line.id, files, by_id)
        if stem is None:
            left_out["listed, but there is no video"] += line.label in classes
        elif line.label in classes:
            labels.setdefault(stem, line.label)
            found.setdefault(line.list, {}).setdefault(line.part, []).append(stem)
        elif line.list == "kinetics":
            left_out["of other classes"] += 1
        else:
            reason = f"unknown label '{line.label}'"
            problems.setdefault(stem, Problem(stem, "", line.path, reason))
    if "kinetics" not in found:
        for stem, path in files.items():
            *above, label, _ = ("", "", *pathlib.PurePosixPath(path).parts)
            label = label.replace("_", " ")
            part = next((PART_NAMES[p] for p in reversed(above) if p in PART_NAMES), "")
            if label in classes:
                labels.setdefault(stem, label)
                if part:
                    found.setdefault("kinetics", {}).setdefault(part, []).append(stem)
    unknown = files.keys() - labels.keys() - problems.keys()
    left_out["videos without a label"] = max(0, len(unknown) - left_out["of other classes"])
    parts = found.get("kinetics", {})
    if "validation" in parts and "test" not in parts:  # the test videos are hard to get
        parts["test"] = parts.pop("validation")
    examples = [
        Example(
            stem,
            labels[stem],
            {"audio": Source(sounds.get(stem, files[stem])), "video": Source(files[stem])},
        )
        for stem in sorted(labels)
    ]
    refused = [problem for stem, problem in problems.items() if stem not in labels]
    left_out = {reason: n for reason, n in left_out.items() if n}
    return Raw(examples, classes, found, refused, left_out)


def _classes(options: argparse.Namespace) -> tuple[str, ...]:
    own = options.variant not in ("", "ks31")
    if own != bool(options.classes):
        raise UserError(
            "--classes=FILE and --variant=NAME go together: your own list of classes needs its "
            "own name (built in: ks31)"
        )
    if not own:
        return class_names("kinetics_sounds_ks31")
    return tuple(sorted(lists.read_class_names(pathlib.Path(options.classes))))


def _file_of(id: str, files: Mapping[str, str], by_id: Mapping[str, list[str]]) -> str | None:
    """The file stem for a name in a list: itself, or the only file of that YouTube id."""
    if id in files:
        return id
    same = by_id.get(id[:YOUTUBE_ID], [])
    return same[0] if len(same) == 1 else None


def _kinetics(root: pathlib.Path, options: argparse.Namespace) -> Iterator[Line]:
    """The rows of every csv file with Kinetics's header."""
    for folder in lists.list_folders(root, options.lists):
        for path in sorted(folder.glob("*.csv")):
            header = next(csv.reader(lists.read_lines(path)[:1]), [])
            if not {"label", "youtube_id"} <= set(header):
                continue
            columns = ("label", "youtube_id", "time_start", "time_end", "split")
            for row in lists.read_csv(path, columns):
                times = [int(float(row[name] or 0)) for name in ("time_start", "time_end")]
                id = f"{row['youtube_id']}_{times[0]:06d}_{times[1]:06d}"
                part = PART_NAMES.get(row["split"], "")
                if not part:
                    raise UserError(
                        f"{path} has split '{row['split']}': known are {', '.join(PART_NAMES)}"
                    )
                yield Line("kinetics", part, id, row["label"], path.name)


def _listed(root: pathlib.Path, options: argparse.Namespace) -> Iterator[Line]:
    """MLA's lines are ``<id>.mp4 <class>``, OGM-GE's ``<id>,10,<number of the class>``."""
    numbered = class_names("kinetics_sounds_ks31")
    for name, names in LISTS.items():
        paths = lists.find_lists(lists.list_folders(root, options.lists), names) or {}
        for part, path in paths.items():
            for line in lists.read_lines(path):
                if name == "mla":
                    id, _, label = line.partition(".mp4 ")
                else:
                    id, _, rest = line.partition(",")
                    number = rest.rpartition(",")[2]
                    known = number.isdigit() and int(number) < len(numbered)
                    label = numbered[int(number)] if known else number
                yield Line(name, part, id, label, path.name)


DESCRIPTION = Description(
    name="kinetics_sounds",
    modalities={
        "audio": Modality(Stream("spectrogram", (1024, 128, 1), "float16")),
        "video": Modality(
            Stream("clip", (3, 256, 256, 3), crop=224, mean=IMAGENET_MEAN, std=IMAGENET_STD)
        ),
    },
    enumerate=enumerate_videos,
    layout=LAYOUT,
    splits={
        "kinetics": listed("kinetics", "the csv files of Kinetics, or folders train and val"),
        "mla": listed("mla", "my_train_ks.txt and my_test_ks.txt in MLA's form"),
        "ogm": listed("ogm", "my_train.txt and my_test.txt of OGM-GE"),
    },
    default_split={"strict": "kinetics", "paper": "kinetics"},
    class_list="kinetics_sounds_ks31",
    variants=("ks31",),
    variant_is_prepared=True,
    recipes=audio.names("kaldi_fbank"),
    flags=("classes",),
)
