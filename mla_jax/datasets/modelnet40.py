"""ModelNet40 as two views of each object (Wu et al., 2015; renderings of the MVCNN group).

``<class>/{train,test}/<object>.obj.shaded_v001.png`` to ``v012``, 30 degrees apart.  Front is
view 1 and rear view 7, opposite to it.
"""

import argparse
import pathlib

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

LAYOUT = "<class>/train/*_v001.png and so on, the 12-view renderings"
FRONT, REAR = "v001", "v007"


def enumerate_objects(options: argparse.Namespace) -> Raw:
    """Every object that has a front view; its folders give the class and the part.

    Raises:
      UserError: no folder below the raw one holds front views.
    """
    root = lists.require_folder(options.raw, "--raw", LAYOUT)
    pictures = lists.media_by_stem(root, lists.IMAGE, root)
    classes = class_names("modelnet40")
    examples, problems = [], []
    parts: dict[str, list[str]] = {"train": [], "test": []}
    for stem, path in pictures.items():
        if not stem.endswith(f"_{FRONT}"):
            continue
        *_, label, part, _ = ("", "", *pathlib.PurePosixPath(path).parts)
        id = stem.removesuffix(f"_{FRONT}")
        if label not in classes or part not in parts:
            reason = f"unknown label '{label}'" if part in parts else "in no folder train or test"
            problems.append(Problem(id, "", path, reason))
            continue
        rear = path.replace(f"_{FRONT}.", f"_{REAR}.")
        examples.append(Example(id, label, {"front": Source(path), "rear": Source(rear)}))
        parts[part].append(id)
    if not examples and not problems:
        raise UserError(f"--raw={root} has no image *_{FRONT}.png: it must hold {LAYOUT}")
    return Raw(examples, classes, {"as_shipped": parts}, problems)


VIEW = Modality(Stream("image", (256, 256, 3), crop=224, mean=IMAGENET_MEAN, std=IMAGENET_STD))

DESCRIPTION = Description(
    name="modelnet40",
    modalities={"front": VIEW, "rear": VIEW},
    enumerate=enumerate_objects,
    layout=LAYOUT,
    splits={"as_shipped": listed("as_shipped", "folders train and test")},
    default_split={"strict": "as_shipped", "paper": "as_shipped"},
    class_list="modelnet40",
)
