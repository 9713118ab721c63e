"""The declaration of a data set on disk: its modalities, raw files and splits.

One such description per data set is all that ``mla_jax.prepare`` (raw files to records), the loader
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
"""The allowed names of a user's own variant: its records are in a folder of that name."""


class Source(NamedTuple):
    """Where one modality of one example is in the raw folder."""

    path: str = ""
    """Relative to the raw folder: a file, or a folder of frames."""
    second: str = ""
    """For flow: the folder of the vertical component."""
    text: str = ""
    start: float = 0.0
    """In seconds; with ``end``, the segment of the recording that belongs to the example."""
    end: float = 0.0
    frames: str = ""
    """A rule of ``media.pick_frames`` that replaces the modality's own."""


class Example(NamedTuple):
    """One example before its files are opened."""

    id: str
    label: str
    """The class name."""
    sources: Mapping[str, Source | None]
    """None: the example intentionally lacks this modality."""
    groups: Mapping[str, str] = {}
    """Groups that must not be split, as ``{"speaker": "1001"}``."""


class Problem(NamedTuple):
    """A file or entry of the raw folder that could not be used."""

    id: str
    modality: str
    path: str
    reason: str


class Raw(NamedTuple):
    """The result of enumeration."""

    examples: Sequence[Example]
    classes: Sequence[str]
    lists: Mapping[str, Mapping[str, Sequence[str]]] = {}
    """``{name of a list: {split: ids in order}}``."""
    problems: Sequence[Problem] = ()
    left_out: Mapping[str, int] = {}
    """``{reason: count}`` of files that by definition are not part of the data set."""
    modalities: Mapping[str, "Modality"] = {}
    """Only if the raw folder defines them (data set ``folder``)."""


class Modality(NamedTuple):
    """How one modality is stored: the stream, and which frames of a video are used."""

    stream: Stream
    frames: str = "stride"
    """A rule of ``media.pick_frames``."""


class Description(NamedTuple):
    """The description of a data set."""

    name: str
    modalities: Mapping[str, Modality]
    enumerate: Callable[[argparse.Namespace], Raw]
    """Lists the examples for the flags of ``mla_jax.prepare``; opens lists, but no media."""
    layout: str
    """The layout of the raw folder, for error messages about missing files."""
    splits: Mapping[str, SplitRule]
    default_split: Mapping[str, str]
    """``{"strict": ..., "paper": ...}``: the default split of each protocol."""
    class_list: str = ""
    """A file of ``datasets/classes``; empty if the raw folder defines the classes."""
    variants: Sequence[str] = ("",)
    """The variants; the first is the default."""
    variant_is_prepared: bool = False
    """Whether each variant has its own records."""
    recipes: Sequence[str] = ("",)
    """Audio recipes, with the default first."""
    flags: Sequence[str] = ()
    """The flags, of those for only some data sets: ``csv``, ``classes``, ``frames``."""
    adapt: Callable[[str, Stream, str], Stream] | None = None
    """``(modality, stream, variant) -> stream``: what a variant changes after preparation."""

    def check_variant(self, variant: str) -> None:
        """Raises ``UserError`` if there is no such variant, or it cannot be a folder's name."""
        what = f"variant of dataset '{self.name}'"
        if "classes" not in self.flags:  # otherwise users name their own
            check_choice(what, variant, self.variants)
        elif not FOLDER_NAME.fullmatch(variant):
            raise UserError(
                f"unknown {what} '{variant}': name your own with at most 100 letters, "
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
