"""MVSA-Single: tweets with an image, in three classes of sentiment (Niu et al., 2016).

``data/<n>.jpg`` and QMF's jsonl files: 1,555 / 518 / 519 lines.  MLA tests on another list of 519,
32 of which are in QMF's validation part (quirk Q27): that is split ``mla``.
"""

import argparse

from mla_jax.datasets.description import Description, Raw, class_names
from mla_jax.datasets.jsonl import MODALITIES, enumerate_jsonl
from mla_jax.datasets.splits import listed

LAYOUT = "data/*.jpg with train.jsonl, dev.jsonl and test.jsonl"
MLA = {"train": "my_train_mvsa.txt", "test": "my_test_mvsa.txt"}


def enumerate_tweets(options: argparse.Namespace) -> Raw:
    """See ``jsonl.enumerate_jsonl``."""
    return enumerate_jsonl(options, LAYOUT, class_names("mvsa"), MLA)


DESCRIPTION = Description(
    name="mvsa",
    modalities=MODALITIES,
    enumerate=enumerate_tweets,
    layout=LAYOUT,
    splits={
        "qmf": listed("qmf", "train.jsonl, dev.jsonl, test.jsonl"),
        "mla": listed("mla", "my_train_mvsa.txt and my_test_mvsa.txt of MLA"),
    },
    default_split={"strict": "qmf", "paper": "qmf"},
    class_list="mvsa",
)
