"""A tiny raw tree of every data set, of real media files, and ways to damage it."""

import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from mla_jax.datasets.ucf101 import WINDOW
from tests.media import write_picture, write_sound, write_video, write_vocabulary


class Damage(NamedTuple):
    """What was done to a tree and what the report must say of it."""

    id: str
    modality: str
    reason: str
    """A pattern."""


class Tree(NamedTuple):
    build: Callable[[pathlib.Path], Sequence[str]]
    """Writes the tree and returns further flags of ``prepare``."""
    parts: Mapping[str, Mapping[str, int]]
    """``{split: {part: examples}}``."""
    damage: Callable[[pathlib.Path], Sequence[Damage]]
    labels: Mapping[str, str]
    """The class of some examples, by id."""


def truncate(path: pathlib.Path, share: float = 0.5) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def append(path: pathlib.Path, *lines: str) -> None:
    with path.open("a") as file:
        file.writelines(line + "\n" for line in lines)


def write(path: pathlib.Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


# ---- CREMA-D ---------------------------------------------------------------------------------

CLIPS = [f"{1001 + i}_IEO_{emotion}_XX" for i, emotion in enumerate(
    ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD", "ANG", "DIS", "FEA", "HAP"))]  # fmt: skip


def cremad(root: pathlib.Path) -> Sequence[str]:
    for i, clip in enumerate(CLIPS):
        write_video(root / f"VideoFlash/{clip}.flv", sound=False, codec="flv1", seed=i)
        write_sound(root / f"AudioWAV/{clip}.wav", seed=i)
    write(root / "my_train_cre.txt", *(f"{clip}.flv Anger" for clip in CLIPS[::-1][:6]))
    write(root / "my_test_cre.txt", *(f"{clip}.flv Anger" for clip in CLIPS[:4]))
    write(root / "train.csv", *("\ufeff" * (i == 0) + f"{c},X" for i, c in enumerate(CLIPS[:7])))
    write(root / "test.csv", *(f"{clip},X" for clip in CLIPS[7:]))
    return ()


def damage_cremad(root: pathlib.Path) -> Sequence[Damage]:
    truncate(root / f"VideoFlash/{CLIPS[0]}.flv")
    (root / f"AudioWAV/{CLIPS[1]}.wav").write_bytes(b"")
    (root / f"VideoFlash/{CLIPS[2]}.flv").unlink()
    write_sound(root / "AudioWAV/1001_IEO_XYZ_HI.wav")
    return [
        Damage(CLIPS[0], "video", "cut off"),
        Damage(CLIPS[1], "audio", "."),
        Damage(CLIPS[2], "video", "no such file"),
        Damage("1001_IEO_XYZ_HI", "", "unknown label"),
    ]


# ---- Kinetics-Sounds -------------------------------------------------------------------------

VIDEOS = [(f"video-id-{i:02d}", ("tap dancing", "bowling", "laughing")[i % 3]) for i in range(9)]
STEMS = [f"{id}_000010_000013" for id, _ in VIDEOS]


def kinetics_sounds(root: pathlib.Path) -> Sequence[str]:
    header = "label,youtube_id,time_start,time_end,split"
    rows = [f"{label},{id},10,13" for id, label in VIDEOS]
    write(
        root / "train.csv",
        header,
        *(f"{row},train" for row in rows[:6]),
        "juggling,other-class,10,13,train",
    )
    write(root / "val.csv", header, *(f"{row},validate" for row in rows[6:]))
    for i, stem in enumerate(STEMS):
        write_video(root / f"videos/{i % 2}/{stem}.mp4", seed=i)
    write_video(root / "videos/0/other-class_000010_000013.mp4", sound=False)
    write_sound(root / f"audio/{STEMS[0]}.wav", seconds=3)
    write(
        root / "my_train.txt",
        *(f"{id}_7,10,{(27, 2, 5)[i % 3]}" for i, (id, _) in enumerate(VIDEOS[:5])),
    )
    write(
        root / "my_test.txt", *(f"{s},10,{(27, 2, 5)[i % 3]}" for i, s in enumerate(STEMS[5:], 5))
    )
    return ()


def damage_kinetics_sounds(root: pathlib.Path) -> Sequence[Damage]:
    truncate(root / f"videos/0/{STEMS[0]}.mp4")
    (root / f"audio/{STEMS[1]}.wav").write_bytes(b"")
    write_video(root / f"videos/1/{STEMS[3]}.mp4", sound=False)
    write_video(root / "videos/1/one-more-id.mp4", sound=False)
    append(root / "my_test.txt", "one-more-id,10,99")
    return [
        Damage(STEMS[0], "video", "."),
        Damage(STEMS[1], "audio", "."),
        Damage(STEMS[3], "audio", "no audio track"),
        Damage("one-more-id", "", "unknown label '99'"),
    ]


# ---- AVE -------------------------------------------------------------------------------------


def ave(root: pathlib.Path) -> Sequence[str]:
    for i in range(7):
        write_video(root / f"AVE/v{i}.mp4", seconds=3, rate=12, seed=i)
    write(
        root / "trainSet.txt",
        "Bark&v0&good&0&3", "Bark&v1&good&1&3", "Cat&v1&good&1&3",
        "Violin, fiddle&v2&good&0&2", "Horse&v5&good&0&3",
    )  # fmt: skip
    write(root / "valSet.txt", "Cat&v3&good&0&3", "Cat&v4&good&0&3")
    write(root / "testSet.txt", "Horse&v5&good&1&3", "Bark&v6&good&0&3")
    return ()


def damage_ave(root: pathlib.Path) -> Sequence[Damage]:
    truncate(root / "AVE/v0.mp4")
    (root / "AVE/v4.mp4").unlink()
    append(root / "trainSet.txt", "Barking&v6&good&0&3")
    return [
        Damage("v0@0-3@Bark", "video", "."),
        Damage("v0@0-3@Bark", "audio", "."),
        Damage("v4@0-3@Cat", "video", "no such file"),
        Damage("v6@0-3@Barking", "", "unknown label 'Barking'"),
    ]


# ---- Food-101 and MVSA -------------------------------------------------------------------------


def jsonl_tree(labels: Sequence[str], path: str) -> Callable[[pathlib.Path], Sequence[str]]:
    def build(root: pathlib.Path) -> Sequence[str]:
        parts = {"train": range(6), "dev": range(6, 8), "test": range(8, 11)}
        for part, numbers in parts.items():
            rows = []
            for i in numbers:
                label = labels[i % len(labels)]
                image = path.format(part=part, label=label, i=i)
                mode = ("RGB", "L", "CMYK")[i % 3]
                write_picture(root / image, seed=i, mode=mode)
                rows.append({"id": str(i), "label": label, "text": "A cat, on dogs", "img": image})
            write(root / f"{part}.jsonl", *map(json.dumps, rows))
        return (f"--vocab={write_vocabulary(root / 'vocab.txt')}",)

    return build


def damage_jsonl(label: str, path: str) -> Callable[[pathlib.Path], Sequence[Damage]]:
    def damage(root: pathlib.Path) -> Sequence[Damage]:
        images = sorted(p.relative_to(root) for p in root.rglob("*.jpg"))
        (root / images[0]).unlink()
        (root / images[1]).write_bytes(b"")
        truncate(root / images[2])
        row = {"id": "x", "label": "blini", "text": "dog", "img": "images/blini_1.jpg"}
        append(root / "train.jsonl", json.dumps(row))
        return [
            Damage(images[0].name, "image", "no such file"),
            Damage(images[1].name, "image", "identify"),
            Damage(images[2].name, "image", "(?i)truncated"),
            Damage("blini_1.jpg", "", "unknown label 'blini'"),
        ]

    return damage


FOOD = jsonl_tree(("pizza", "waffles"), "images/{part}/{label}/{label}_{i}.jpg")
TWEETS = jsonl_tree(("positive", "negative", "neutral"), "data/{i}.jpg")


def food101(root: pathlib.Path) -> Sequence[str]:
    flags = FOOD(root)
    write(root / "my_train_food.txt", "pizza_2.jpg pizza", "pizza_0.jpg pizza")
    write(
        root / "my_test_food.txt",
        "pizza_8.jpg pizza",
        "waffles_9.jpg waffles",
        "pizza_77.jpg pizza",
    )
    return flags


def mvsa(root: pathlib.Path) -> Sequence[str]:
    flags = TWEETS(root)
    write(root / "my_train_mvsa.txt", "0.jpg positive", "1.jpg negative")
    write(root / "my_test_mvsa.txt", "8.jpg neutral", "7.jpg positive")  # 7 is in QMF's dev
    return flags


# ---- IEMOCAP -----------------------------------------------------------------------------------

UTTERANCES = [f"Ses{1 + i % 5:02d}F_impro01_F{i:03d}" for i in range(10)]
FEELINGS = ("ang", "Happy", "exc", "Neutral", "sad")


def iemocap(root: pathlib.Path) -> Sequence[str]:
    for session in range(5):
        own = range(session, 10, 5)
        lines = [
            f"a/{UTTERANCES[i]}.wav [split|sign] a cat [split|sign] {FEELINGS[(i + i // 5) % 5]}"
            for i in own
        ]
        write(
            root / f"Session{session + 1}.txt",
            *lines,
            "x/Ses01F_y.wav [split|sign] dog [split|sign] fru",
        )
    for i, utterance in enumerate(UTTERANCES):
        write_sound(root / f"subaudio/{utterance}.wav", seed=i)
        for k in range(3):
            write_picture(root / f"faces/{utterance}/{k}.jpg", seed=3 * i + k)
    return (f"--vocab={write_vocabulary(root / 'vocab.txt')}",)


def damage_iemocap(root: pathlib.Path) -> Sequence[Damage]:
    (root / f"subaudio/{UTTERANCES[0]}.wav").write_bytes(b"")
    for picture in (root / f"faces/{UTTERANCES[1]}").iterdir():
        picture.unlink()
    truncate(root / f"faces/{UTTERANCES[2]}/1.jpg")
    append(root / "Session1.txt", "a/Ses01F_z.wav [split|sign] dog [split|sign] bored")
    return [
        Damage(UTTERANCES[0], "audio", "."),
        Damage(UTTERANCES[1], "image", "no frames"),
        Damage(UTTERANCES[2], "image", "(?i)truncated"),
        Damage("Ses01F_z", "", "unknown label 'bored'"),
    ]


# ---- UCF-101 -----------------------------------------------------------------------------------

ACTIONS = [f"v_{action}_g{i:02d}_c01" for i, action in enumerate(("Archery", "Bowling") * 3)]


def ucf101(root: pathlib.Path) -> Sequence[str]:
    for i, video in enumerate(ACTIONS):
        for frame in range(1, 14):
            name = f"{video}/frame{frame:06d}.jpg"
            write_picture(root / "jpegs_256" / name, seed=100 * i + frame)
            if frame < 13:
                write_picture(root / "tvl1_flow/u" / name, seed=frame, mode="L")
                write_picture(root / "tvl1_flow/v" / name, seed=50 + frame, mode="L")
    lines = [f"{video.split('_')[1]}/{video}.avi" for video in ACTIONS]
    write(root / "trainlist01.txt", *(f"{line} {1 + i % 2}" for i, line in enumerate(lines[:4])))
    write(root / "testlist01.txt", *lines[4:])
    write(root / "trainlist02.txt", *(f"{line} 1" for line in lines[2:]))
    write(root / "testlist02.txt", *lines[:2])
    return ()


def damage_ucf101(root: pathlib.Path) -> Sequence[Damage]:
    truncate(root / f"tvl1_flow/v/{ACTIONS[0]}/frame000006.jpg")
    (root / f"tvl1_flow/u/{ACTIONS[4]}/frame000012.jpg").unlink()
    for picture in (root / f"jpegs_256/{ACTIONS[5]}").iterdir():
        picture.unlink()
    append(root / "trainlist01.txt", "Archering/v_Archering_g01_c01.avi 1")
    return [
        *(Damage(f"{ACTIONS[0]}#{role}", "flow", "(?i)truncated") for role in WINDOW),
        *(Damage(f"{ACTIONS[4]}#{role}", "flow", "11 horizontal and 12") for role in WINDOW),
        *(Damage(f"{ACTIONS[5]}#{role}", "rgb", "no frames") for role in WINDOW),
        Damage("v_Archering_g01_c01", "", "unknown label 'Archering'"),
    ]


# ---- ModelNet40 --------------------------------------------------------------------------------


def modelnet40(root: pathlib.Path) -> Sequence[str]:
    for i in range(8):
        label, part = ("airplane", "xbox")[i % 2], "train" if i < 5 else "test"
        for view in ("v001", "v002", "v007"):
            path = root / f"{label}/{part}/{label}_{i:04d}.obj.shaded_{view}.png"
            write_picture(path, seed=10 * i + int(view[1:]))
    return ()


def damage_modelnet40(root: pathlib.Path) -> Sequence[Damage]:
    (root / "airplane/train/airplane_0000.obj.shaded_v007.png").unlink()
    (root / "xbox/train/xbox_0001.obj.shaded_v001.png").write_bytes(b"")
    truncate(root / "airplane/train/airplane_0002.obj.shaded_v001.png")
    write_picture(root / "spaceship/train/spaceship_0001.obj.shaded_v001.png")
    return [
        Damage("airplane_0000.obj.shaded", "rear", "no such file"),
        Damage("xbox_0001.obj.shaded", "front", "identify"),
        Damage("airplane_0002.obj.shaded", "front", "."),
        Damage("spaceship_0001.obj.shaded", "", "unknown label 'spaceship'"),
    ]


TREES = {
    "cremad": Tree(
        cremad,
        {
            "speaker_disjoint": {"train": 7, "validation": 1, "test": 2},
            "random_90_10": {"train": 9, "test": 1},
            "mla": {"train": 6, "test": 4},
            "ogm": {"train": 7, "test": 3},
        },
        damage_cremad,
        {CLIPS[0]: "Anger", CLIPS[5]: "Sad"},
    ),
    "kinetics_sounds": Tree(
        kinetics_sounds,
        {"kinetics": {"train": 6, "test": 3}, "ogm": {"train": 5, "test": 4}},
        damage_kinetics_sounds,
        {STEMS[0]: "tap dancing", STEMS[7]: "bowling"},
    ),
    "ave": Tree(
        ave,
        {
            "deduplicated": {"train": 2, "validation": 2, "test": 2},
            "as_shipped": {"train": 4, "validation": 2, "test": 2},
        },
        damage_ave,
        {"v2@0-2@Violin, fiddle": "Violin, fiddle", "v5@1-3@Horse": "Horse"},
    ),
    "food101": Tree(
        food101,
        {"qmf": {"train": 6, "validation": 2, "test": 3}, "mla": {"train": 2, "test": 2}},
        damage_jsonl("pizza", ""),
        {"pizza_0.jpg": "pizza", "waffles_9.jpg": "waffles"},
    ),
    "mvsa": Tree(
        mvsa,
        {"qmf": {"train": 6, "validation": 2, "test": 3}, "mla": {"train": 2, "test": 2}},
        damage_jsonl("positive", ""),
        {"0.jpg": "positive", "8.jpg": "neutral"},
    ),
    "iemocap": Tree(
        iemocap,
        {
            "leave_session_5_out": {"train": 6, "validation": 2, "test": 2},
            "leave_session_1_out": {"train": 6, "validation": 2, "test": 2},
            "random_60_20_20": {"train": 6, "validation": 2, "test": 2},
        },
        damage_iemocap,
        {UTTERANCES[0]: "Angry", UTTERANCES[1]: "Happy", UTTERANCES[2]: "Happy"},
    ),
    "ucf101": Tree(
        ucf101,
        {"split_1": {"train": 4, "test": 2}, "split_2": {"train": 4, "test": 2}},
        damage_ucf101,
        {f"{ACTIONS[0]}#train": "Archery", f"{ACTIONS[1]}#test": "Bowling"},
    ),
    "modelnet40": Tree(
        modelnet40,
        {"as_shipped": {"train": 5, "test": 3}},
        damage_modelnet40,
        {"airplane_0000.obj.shaded": "airplane", "xbox_0007.obj.shaded": "xbox"},
    ),
}
