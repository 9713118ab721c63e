"""A data set on disk, declared: its modalities, the enumeration of its raw files, its splits.

One such description a data set is all that ``mla_jax.prepare`` (raw files to records), the loader
(records to batches) and the synthetic data need.
"""

import argparse
import functools
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from mla_jax.data.streams import Stream
from mla_jax.datasets.splits import SplitRule
from mla_jax.errors import UserError, check_choice

CLASSES = pathlib.Path(__file__).with_name("classes")
FOLDER_NAME = re.compile(r"\w[\w.+-]{0,99}")
"""What a variant of a user's own may be called: its records lie in a folder of that name."""


class Source(NamedTuple):
    """Where one modality of one example lies in the raw tree."""

    path: str = ""
    """Relative to the raw folder: a file, or a folder of frames."""
    second: str = ""
    """Flow: the folder of the vertical component."""
    text: str = ""
    start: float = 0.0
    """Seconds; with ``end`` the segment of the recording that belongs to the example."""
    end: float = 0.0
    frames: str = ""
    """A rule of ``media.pick_frames`` in the place of the modality's own."""


class Example(NamedTuple):
    """One example before its files are opened."""

    id: str
    label: str
    """The class's name."""
    sources: Mapping[str, Source | None]
    """None: the example lacks this modality, and is meant to."""
    groups: Mapping[str, str] = {}
    """What must not be split, as ``{"speaker": "1001"}``."""


class Problem(NamedTuple):
    """Something in the raw tree that could not be used."""

    id: str
    modality: str
    path: str
    reason: str


class Raw(NamedTuple):
    """What enumeration finds."""

    examples: Sequence[Example]
    classes: Sequence[str]
    lists: Mapping[str, Mapping[str, Sequence[str]]] = {}
    """``{list's name: {split: ids in order}}``."""
    problems: Sequence[Problem] = ()
    left_out: Mapping[str, int] = {}
    """What is not part of the data set by its own definition, counted by reason."""
    modalities: Mapping[str, "Modality"] = {}
    """Only where the raw tree says it (data set ``folder``)."""


class Modality(NamedTuple):
    """How one modality is stored: the stream, and which frames of a video make it up."""

    stream: Stream
    frames: str = "stride"
    """A rule of ``media.pick_frames``."""


class Description(NamedTuple):
    """A data set."""

    name: str
    modalities: Mapping[str, Modality]
    enumerate: Callable[[argparse.Namespace], Raw]
    """Lists what the flags of ``mla_jax.prepare`` name; opens lists, no media."""
    layout: str
    """How the raw folder must look; part of the sentences about missing things."""
    splits: Mapping[str, SplitRule]
    default_split: Mapping[str, str]
    """By protocol: ``{"strict": ..., "paper": ...}``."""
    class_list: str = ""
    """File of ``datasets/classes``; empty where the raw tree says it."""
    variants: Sequence[str] = ("",)
    """The first is the default."""
    variant_is_prepared: bool = False
    """Whether a variant has records of its own."""
    recipes: Sequence[str] = ("",)
    """Audio recipes, the default first."""
    flags: Sequence[str] = ()
    """Of those that only some data sets take: ``csv``, ``classes``, ``frames``."""
    adapt: Callable[[str, Stream, str], Stream] | None = None
    """``(modality, stream, variant) -> stream``: what a variant changes after preparation."""

    def check_variant(self, variant: str) -> None:
        """Raises ``UserError`` if there is no such variant, or it cannot be a folder's name."""
        what = f"variant of dataset '{self.name}'"
        if "classes" not in self.flags:  # else users name their own
            check_choice(what, variant, self.variants)
        elif not FOLDER_NAME.fullmatch(variant):
            raise UserError(
                f"unknown {what} '{variant}': call one of your own with at most 100 letters, "
                "digits, '_', '.', '+' and '-', the first a letter, a digit or '_'"
            )

    def configuration(self, variant: str, recipe: str) -> str:
        """The folder of the records, below the data set's name."""
        parts = [variant if self.variant_is_prepared else "", recipe]
        return "-".join(filter(None, parts)) or "standard"


@functools.cache
def class_names(name: str) -> tuple[str, ...]:
    """The lines of ``datasets/classes/<name>.txt``, in the order of the labels."""
    return tuple((CLASSES / f"{name}.txt").read_text(encoding="utf-8").splitlines())
