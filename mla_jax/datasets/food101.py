"""UPMC Food-101: photographs with the titles of their web pages (Wang et al., 2015), 101 dishes.

It is not ETH Zurich's Food-101, which TFDS has.  ``images/{train,test}/<class>/<class>_<n>.jpg``
and the jsonl files of MMBT and QMF: 62,971 / 5,000 / 22,715 lines.
"""

import argparse

from mla_jax.datasets.description import Description, Raw, class_names
from mla_jax.datasets.jsonl import MODALITIES, enumerate_jsonl
from mla_jax.datasets.splits import listed

LAYOUT = "images/ with train.jsonl, dev.jsonl and test.jsonl"
MLA = {"train": "my_train_food.txt", "test": "my_test_food.txt"}


def enumerate_dishes(options: argparse.Namespace) -> Raw:
    """See ``jsonl.enumerate_jsonl``."""
    return enumerate_jsonl(options, LAYOUT, class_names("food101"), MLA)


DESCRIPTION = Description(
    name="food101",
    modalities=MODALITIES,
    enumerate=enumerate_dishes,
    layout=LAYOUT,
    splits={
        "qmf": listed("qmf", "train.jsonl, dev.jsonl, test.jsonl"),
        "mla": listed("mla", "my_train_food.txt and my_test_food.txt of MLA"),
    },
    default_split={"strict": "qmf", "paper": "qmf"},
    class_list="food101",
)
