"""IEMOCAP: acted and improvised dialogues (Busso et al., 2008), with voice, face and words.

5,531 utterances of four emotions, "excited" counted as happy.  The corpus is licensed and is not
cut into utterances, so make ``subaudio/<utterance>.wav``, ``faces/<utterance>/*.jpg`` or
``subvideo/<utterance>.mp4``, and ``Session1.txt`` to ``Session5.txt`` with lines
``<path> [split|sign] <words> [split|sign] <label>``, as for MLA's scripts.
"""

import argparse
import pathlib
from collections.abc import Iterator

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
from mla_jax.datasets.splits import leave_one_out, listed, random_parts
from mla_jax.errors import UserError

LAYOUT = "subaudio/*.wav, faces/*/*.jpg or subvideo/*.mp4, and Session1.txt to Session5.txt"
MARK = "[split|sign]"
SESSIONS = 5
LABELS = {
    "angry": "Angry", "ang": "Angry", "anger": "Angry",
    "happy": "Happy", "hap": "Happy", "happiness": "Happy",
    "excited": "Happy", "exc": "Happy", "excitement": "Happy",
    "neutral": "Neutral", "neu": "Neutral",
    "sad": "Sad", "sadness": "Sad",
}  # fmt: skip
OTHER = {
    "fru", "frustrated", "frustration", "fea", "fear", "fearful", "sur", "surprise", "surprised",
    "dis", "disgust", "disgusted", "oth", "other", "xxx",
}  # fmt: skip
"""Emotions of the corpus other than the four."""
MLA = {"train": "my_train_iemo.txt", "test": "my_test_iemo.txt"}


def enumerate_utterances(options: argparse.Namespace) -> Raw:
    """Every line of the session files, or of MLA's lists if those are missing.

    Raises:
      UserError: both are missing, or a line has the wrong form.
    """
    root = lists.require_folder(options.raw, "--raw", LAYOUT)
    folders = lists.list_folders(root, options.lists)
    mla = lists.find_lists(folders, MLA) or {}
    names = {f"{i}": f"Session{i}.txt" for i in range(1, SESSIONS + 1)}
    sessions = [*(lists.find_lists(folders, names) or {}).values()]
    if not sessions and not mla:
        raise UserError(
            f"{options.lists or root} has neither Session1.txt to Session5.txt nor MLA's "
            f"{' and '.join(MLA.values())}: write them, or name their folder with --lists"
        )
    faces = (root / "faces").is_dir()
    examples: dict[str, Example] = {}
    problems: dict[str, Problem] = {}
    others = 0
    for path in sessions or mla.values():
        for utterance, words, label in _lines(path):
            emotion = LABELS.get(label.lower())
            others += emotion is None and label.lower() in OTHER
            if emotion is None:
                if label.lower() not in OTHER:
                    reason = f"unknown label '{label}'"
                    problems[utterance] = Problem(utterance, "", path.name, reason)
                continue
            face = f"faces/{utterance}" if faces else f"subvideo/{utterance}.mp4"
            sources = {
                "audio": Source(f"subaudio/{utterance}.wav"),
                "image": Source(face),
                "text": Source(text=words) if words else None,
            }
            groups = {"session": utterance[:5]}
            examples[utterance] = Example(utterance, emotion, sources, groups)
    found = {"mla": {part: [u for u, _, _ in _lines(path)] for part, path in mla.items()}}
    left_out = {"of other emotions": others} if others else {}
    return Raw(
        [examples[id] for id in sorted(examples)],
        class_names("iemocap"),
        found if mla else {},
        [*problems.values()],
        left_out,
    )


def _lines(path: pathlib.Path) -> Iterator[tuple[str, str, str]]:
    """``(utterance, words, label)``."""
    for number, line in enumerate(lists.read_lines(path), 1):
        parts = [part.strip() for part in line.split(MARK)]
        if len(parts) != 3:
            raise UserError(
                f"line {number} of {path} is not <path> {MARK} <words> {MARK} <label>: fix it"
            )
        yield pathlib.PurePosixPath(parts[0]).stem, parts[1], parts[2]


def _fold(k: int) -> tuple[str, str]:
    """Tests on session k, validates on the one before it; their speakers are not in training."""
    return f"Ses{k:02d}", f"Ses{(k - 2) % SESSIONS + 1:02d}"


DESCRIPTION = Description(
    name="iemocap",
    modalities={
        "audio": Modality(Stream("spectrogram", (1024, 128, 1), "float16")),
        "image": Modality(
            Stream(
                "image",
                (256, 256, 3),
                crop=256,
                test_crop="center",
                interpolation="bicubic",
                jitter=1.0,
                mean=IMAGENET_MEAN,
                std=IMAGENET_STD,
            ),
            "middle",
        ),
        "text": Modality(Stream("tokens", (256,), "int32")),
    },
    enumerate=enumerate_utterances,
    layout=LAYOUT,
    splits={
        **{
            f"leave_session_{k}_out": leave_one_out("session", *_fold(k))
            for k in range(1, SESSIONS + 1)
        },
        "random_60_20_20": random_parts("test", train=0.6, validation=0.2, test=0.2),
        "mla": listed("mla", "my_train_iemo.txt and my_test_iemo.txt of MLA"),
    },
    default_split={"strict": "leave_session_5_out", "paper": "random_60_20_20"},
    class_list="iemocap",
    recipes=audio.names("kaldi_fbank"),
)
