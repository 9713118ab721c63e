"""UCF-101: actions as optical flow and one RGB frame (Soomro et al., 2012), as in DI-MML.

``jpegs_256/<video>/frame%06d.jpg`` and ``tvl1_flow/{u,v}/<video>/frame%06d.jpg`` (Feichtenhofer's
archives), and the official ``trainlist01.txt``, ``testlist01.txt`` to ``03``.

A clip is ten consecutive frames of the flow with the RGB frame at offset 6.  Its start
depends on the number of frames and differs between training and test (quirk 12), so a video
that is in training in one split and in test in another is stored twice.
"""

import argparse
import pathlib
from typing import Any

from mla_jax.data.streams import Stream
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

LAYOUT = "jpegs_256/, tvl1_flow/u/ and tvl1_flow/v/ with trainlist01.txt and testlist01.txt"
FRAMES, HEIGHT, WIDTH, CROP = 10, 256, 340, 224
TRAIN_MEAN, TRAIN_STD = (106.46409, 101.46796, 93.22408), (68.28274, 66.40727, 67.58706)
TEST_MEAN, TEST_STD = (108.639244, 103.3139, 95.21823), (67.80855, 65.88047, 67.68048)
WINDOW = {"train": "window_train", "test": "window_test"}


def enumerate_videos(options: argparse.Namespace) -> Raw:
    """Every video of the lists that exist, once per role.

    Raises:
      UserError: no pair of lists is complete.
    """
    root = lists.require_folder(options.raw, "--raw", LAYOUT)
    folders = lists.list_folders(root, options.lists)
    classes = class_names("ucf101")
    examples: dict[str, Example] = {}
    problems: dict[str, Problem] = {}
    found: dict[str, dict[str, list[str]]] = {}
    for k in (1, 2, 3):
        names = {"train": f"trainlist{k:02d}.txt", "test": f"testlist{k:02d}.txt"}
        for part, path in (lists.find_lists(folders, names) or {}).items():
            ids = found.setdefault(f"split_{k}", {}).setdefault(part, [])
            for line in lists.read_lines(path):
                label, _, file = line.split()[0].rpartition("/")
                video = pathlib.PurePosixPath(file).stem
                if label not in classes:
                    reason = f"unknown label '{label}'"
                    problems[video] = Problem(video, "", path.name, reason)
                    continue
                ids.append(f"{video}#{part}")
                examples[ids[-1]] = _example(ids[-1], video, label, WINDOW[part])
    if not found:
        raise UserError(
            f"{options.lists or root} has no trainlist01.txt with testlist01.txt: they come with "
            "UCF-101; name their folder with --lists"
        )
    return Raw([examples[id] for id in sorted(examples)], classes, found, [*problems.values()])


def _example(id: str, video: str, label: str, window: str) -> Example:
    across, along = f"tvl1_flow/u/{video}", f"tvl1_flow/v/{video}"
    sources = {
        "flow": Source(across, along, frames=window),
        # The flow has fewer frames than the video, so the flow's number is used for both.
        "rgb": Source(f"jpegs_256/{video}", across, frames=window),
    }
    return Example(id, label, sources)


def adapt(modality: str, stream: Stream, variant: str) -> Stream:
    """``released``: flow is flipped inconsistently (quirk 14), RGB normalised by the test set's
    own statistics there (quirk 15)."""
    if variant != "released":
        return stream
    if modality == "flow":
        return stream._replace(flip="released")
    return stream._replace(test_mean=_scaled(TEST_MEAN), test_std=_scaled(TEST_STD))


def _scaled(values: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(value / 255 for value in values)


WINDOWED: dict[str, Any] = {
    "crop": CROP,
    "train_crop": "random",
    "test_crop": "window",
    "shared_draw": "clip",
}

DESCRIPTION = Description(
    name="ucf101",
    modalities={
        "flow": Modality(
            Stream(
                "flow",
                (FRAMES, HEIGHT, WIDTH, 2),
                flip="corrected",
                per_frame=False,
                mean=(0.5, 0.5),  # minus 127.5, divided by 1
                std=(1 / 255, 1 / 255),
                **WINDOWED,
            )
        ),
        "rgb": Modality(
            Stream(
                "image",
                (HEIGHT, WIDTH, 3),
                mean=_scaled(TRAIN_MEAN),
                std=_scaled(TRAIN_STD),
                **WINDOWED,
            )
        ),
    },
    enumerate=enumerate_videos,
    layout=LAYOUT,
    splits={
        f"split_{k}": listed(f"split_{k}", f"trainlist{k:02d}.txt and testlist{k:02d}.txt")
        for k in (1, 2, 3)
    },
    default_split={"strict": "split_1", "paper": "split_1"},
    class_list="ucf101",
    variants=("corrected", "released"),
    adapt=adapt,
)
