"""Images with text, listed in jsonl files of {id, label, text, img}: Food-101 and MVSA."""

import argparse
import pathlib

from mla_jax.data.streams import IMAGENET_MEAN, IMAGENET_STD, Stream
from mla_jax.datasets import lists
from mla_jax.datasets.description import Example, Modality, Problem, Raw, Source
from mla_jax.errors import UserError

FILES = {"train": "train.jsonl", "validation": "dev.jsonl", "test": "test.jsonl"}
TOKENS = 256

MODALITIES = {
    "text": Modality(Stream("tokens", (TOKENS,), "int32")),
    "image": Modality(
        Stream(
            "image",
            (320, 320, 3),
            crop=256,
            test_crop="center",
            interpolation="bicubic",
            jitter=1.0,  # how timm reads color_jitter=True (quirk Q25)
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
        )
    ),
}
"""The inputs of MLA's M3AE towers: 256 ids, crops of 256 pixels."""


def enumerate_jsonl(
    options: argparse.Namespace,
    layout: str,
    classes: tuple[str, ...],
    mla: dict[str, str],
) -> Raw:
    """Every line of the jsonl files; an example's id is the name of its image.

    ``mla`` names MLA's lists, with ``<image> <class>`` per line.

    Raises:
      UserError: a jsonl file is missing, or has lines of the wrong form.
    """
    root = lists.require_folder(options.raw, "--raw", layout)
    folders = lists.list_folders(root, options.lists)
    paths = lists.find_lists(folders, FILES)
    if paths is None:
        raise UserError(
            f"{options.lists or root} lacks one of {', '.join(FILES.values())}: they come with "
            "QMF and with MMBT; name their folder with --lists"
        )
    examples: dict[str, Example] = {}
    problems: dict[str, Problem] = {}
    parts: dict[str, list[str]] = {}
    for part, path in paths.items():
        parts[part] = []
        for line in lists.read_jsonl(path, ("label", "text", "img")):
            name = pathlib.PurePosixPath(line["img"]).name
            if line["label"] not in classes:
                reason = f"unknown label '{line['label']}'"
                problems[name] = Problem(name, "", path.name, reason)
                continue
            words = Source(text=line["text"]) if line["text"].strip() else None
            sources = {"text": words, "image": Source(line["img"])}
            examples.setdefault(name, Example(name, line["label"], sources))
            parts[part].append(name)
    found = {"qmf": parts}
    if listed := lists.find_lists(folders, mla):
        found["mla"] = {
            part: [line.split()[0] for line in lists.read_lines(path)]
            for part, path in listed.items()
        }
    return Raw([*examples.values()], classes, found, [*problems.values()])
