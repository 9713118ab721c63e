"""CREMA-D: acted emotions, with voice and face (Cao et al., 2014; 7,442 clips of 91 speakers).

``AudioWAV/*.wav`` and ``VideoFlash/*.flv`` as published.  The file names give the labels:
``<speaker>_<sentence>_<EMOTION>_<level>``.  The splits in use differ: MLA's and OGM-GE's share
only 71 test clips and have every speaker on both sides (quirk Q26).
"""

import argparse

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
from mla_jax.datasets.splits import disjoint_parts, listed, random_parts
from mla_jax.errors import UserError

EMOTIONS = {
    "ANG": "Anger",
    "DIS": "Disgust",
    "FEA": "Fear",
    "HAP": "Happy",
    "NEU": "Neutral",
    "SAD": "Sad",
}
FRAMES = {"mla": "stride", "dimml": "seed999"}
"""How three of a clip's frames are chosen: by MLA's stride (the default) or DI-MML's fixed draw."""
LAYOUT = "AudioWAV/*.wav and VideoFlash/*.flv"
LISTS = {
    "mla": {"train": "my_train_cre.txt", "test": "my_test_cre.txt"},
    "ogm": {"train": "train.csv", "test": "test.csv"},
}


def enumerate_clips(options: argparse.Namespace) -> Raw:
    """Every clip of both folders; names without one of the six emotions become problems."""
    root = lists.require_folder(options.raw, "--raw", LAYOUT)
    if not any((root / name).is_dir() for name in ("AudioWAV", "VideoFlash")):
        raise UserError(f"--raw={root} has neither AudioWAV nor VideoFlash: it must hold {LAYOUT}")
    sounds = lists.media_by_stem(root / "AudioWAV", lists.AUDIO, root)
    videos = lists.media_by_stem(root / "VideoFlash", lists.VIDEO, root)
    frames = FRAMES.get(options.variant, "")
    examples, problems = [], []
    for clip in sorted({*sounds, *videos}):
        fields = clip.split("_")
        if len(fields) != 4 or fields[2] not in EMOTIONS:
            reason = f"unknown label: the name is not <speaker>_<sentence>_<{'|'.join(EMOTIONS)}>_x"
            problems.append(Problem(clip, "", sounds.get(clip) or videos[clip], reason))
            continue
        sources = {
            "audio": Source(sounds.get(clip, f"AudioWAV/{clip}.wav")),
            "video": Source(videos.get(clip, f"VideoFlash/{clip}.flv"), frames=frames),
        }
        examples.append(Example(clip, EMOTIONS[fields[2]], sources, {"speaker": fields[0]}))
    found = {}
    for name, files in LISTS.items():
        if paths := lists.find_lists(lists.list_folders(root, options.lists), files):
            found[name] = {
                part: [line.partition(".flv ")[0].partition(",")[0] for line in lines]
                for part, lines in ((p, lists.read_lines(path)) for p, path in paths.items())
            }
    return Raw(examples, class_names("cremad"), found, problems)


DESCRIPTION = Description(
    name="cremad",
    modalities={
        "audio": Modality(Stream("spectrogram", (1024, 128, 1), "float16")),
        "video": Modality(
            Stream("clip", (3, 256, 256, 3), crop=224, mean=IMAGENET_MEAN, std=IMAGENET_STD)
        ),
    },
    enumerate=enumerate_clips,
    layout=LAYOUT,
    splits={
        "speaker_disjoint": disjoint_parts("speaker", train=0.7, validation=0.1, test=0.2),
        "random_90_10": random_parts(train=0.9, test=0.1),
        "mla": listed("mla", "my_train_cre.txt and my_test_cre.txt of MLA"),
        "ogm": listed("ogm", "train.csv and test.csv of OGM-GE"),
    },
    default_split={"strict": "speaker_disjoint", "paper": "random_90_10"},
    class_list="cremad",
    variants=tuple(FRAMES),
    variant_is_prepared=True,
    recipes=audio.names("kaldi_fbank"),
)
