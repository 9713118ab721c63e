"""AVE: audio-visual events in YouTube videos (Tian et al., 2018), each with its time segment.

``AVE/*.mp4`` and ``trainSet.txt``, ``valSet.txt``, ``testSet.txt`` with lines
``class&video&quality&start&end``.  As shipped, 27 videos occur in the training list with two
classes, and 18 also occur in another list (DI-MML's quirk 19); ``deduplicated`` removes both.
"""

import argparse
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

LAYOUT = "AVE/*.mp4 with trainSet.txt, valSet.txt and testSet.txt"
FILES = {"train": "trainSet.txt", "validation": "valSet.txt", "test": "testSet.txt"}


class Segment(NamedTuple):
    video: str
    label: str
    start: float
    end: float

    @property
    def id(self) -> str:
        return f"{self.video}@{self.start:g}-{self.end:g}@{self.label}"


def enumerate_segments(options: argparse.Namespace) -> Raw:
    """Every annotated segment once, even if it is in several lists.

    Raises:
      UserError: a list is missing, or a line has the wrong form.
    """
    root = lists.require_folder(options.raw, "--raw", LAYOUT)
    paths = lists.find_lists(lists.list_folders(root, options.lists), FILES)
    if paths is None:
        raise UserError(
            f"{options.lists or root} lacks one of {', '.join(FILES.values())}: they come with "
            "AVE; name their folder with --lists"
        )
    classes = class_names("ave")
    videos = lists.media_by_stem(root, lists.VIDEO, root)
    sounds = lists.media_by_stem(root, lists.AUDIO, root)
    examples: dict[str, Example] = {}
    problems: dict[str, Problem] = {}
    parts: dict[str, list[Segment]] = {}
    for part, path in paths.items():
        segments = []
        for number, line in enumerate(lists.read_lines(path), 1):
            segment = _parse(line, f"line {number} of {path}")
            if segment.label not in classes:
                reason = f"unknown label '{segment.label}'"
                problems[segment.id] = Problem(segment.id, "", path.name, reason)
                continue
            segments.append(segment)
            video = videos.get(segment.video, f"AVE/{segment.video}.mp4")
            sources = {
                "audio": Source(
                    sounds.get(segment.video, video), start=segment.start, end=segment.end
                ),
                "video": Source(video, start=segment.start, end=segment.end),
            }
            examples[segment.id] = Example(
                segment.id, segment.label, sources, {"video": segment.video}
            )
        parts[part] = segments
    shipped = {part: [s.id for s in _first_of_each(segments)] for part, segments in parts.items()}
    found = {"as_shipped": shipped, "deduplicated": _deduplicated(parts)}
    return Raw([*examples.values()], classes, found, [*problems.values()])


def _parse(line: str, where: str) -> Segment:
    try:
        label, video, _, start, end = line.split("&")
        return Segment(video, label.strip(), float(start), float(end))
    except ValueError as error:
        raise UserError(f"{where} is not class&video&quality&start&end: '{line[:60]}'") from error


def _first_of_each(segments: list[Segment]) -> list[Segment]:
    """The first line of each video, since the reference's reader drops the others."""
    first: dict[str, Segment] = {}
    for segment in segments:
        first.setdefault(segment.video, segment)
    return [*first.values()]


def _deduplicated(parts: dict[str, list[Segment]]) -> dict[str, list[str]]:
    """The parts without videos that have two classes in one list, and with no video in two parts.

    Test has priority over validation, and validation over training, so the test set is the
    published one.
    """
    taken: set[str] = set()
    kept = {}
    for part in ("test", "validation", "train"):
        labels: dict[str, set[str]] = {}
        for segment in parts[part]:
            labels.setdefault(segment.video, set()).add(segment.label)
        kept[part] = [
            s.id
            for s in _first_of_each(parts[part])
            if len(labels[s.video]) == 1 and s.video not in taken
        ]
        taken |= labels.keys()
    return {part: kept[part] for part in FILES}


DESCRIPTION = Description(
    name="ave",
    modalities={
        "audio": Modality(Stream("spectrogram", (1004, 257, 1), "float16")),
        "video": Modality(
            Stream("clip", (4, 256, 256, 3), crop=224, mean=IMAGENET_MEAN, std=IMAGENET_STD),
            "seed999",
        ),
    },
    enumerate=enumerate_segments,
    layout=LAYOUT,
    splits={
        name: listed(name, "trainSet.txt, valSet.txt, testSet.txt")
        for name in ("deduplicated", "as_shipped")
    },
    default_split={"strict": "deduplicated", "paper": "as_shipped"},
    class_list="ave",
    recipes=audio.names("stft_10s_16khz"),
)
