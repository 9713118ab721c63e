"""What a study is: the rows of a published table or figure, as data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Figures = Mapping[str, float]
"""Per cent by ``fused`` or modality, by our names."""


def columns(entries: tuple[str, ...], **figures: tuple[float, ...]) -> dict[str, Figures]:
    """``{entry: {figure: value}}`` of a published table with one column per entry.

    >>> columns(("sum", "mla"), fused=(60.32, 79.70))["mla"]
    {'fused': 79.7}
    """
    table = {name: dict(zip(entries, row, strict=True)) for name, row in figures.items()}
    return {entry: {name: row[entry] for name, row in table.items()} for entry in entries}


@dataclass(frozen=True)
class Study:
    """One file of ``mla_jax/compare/studies``; its docstring says what it is and what is left out.

    The rows keep the order of ``entries``.  A published figure has its table and its rows beside
    it, in a comment.
    """

    title: str
    entries: Mapping[str, str]
    """The rows: entries of ``--methods``, with the heading that the paper gives each."""
    source: str = ""
    """Where the published figures are from, as ``MLA paper, Table 1``."""
    published: Mapping[str, Mapping[str, Figures]] = field(default_factory=dict)
    """``{data set: {entry: figures}}``; a data set that has none is compared without them."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """What a reader must know: by data set, and for all of them under an empty name."""
    entries_are_columns: bool = False
    """Whether the paper's columns are the entries, and its rows the modalities."""
    seeds: tuple[str, ...] = ("0", "1", "2")
    vary: tuple[str, ...] = ()
    """As ``--vary`` takes them."""
    missing: tuple[str, ...] = ()
    """As ``--missing`` takes them."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the configuration that differ from its defaults, unless the command sets them."""
    measure: str = ""
    """What is measured of the finished runs beside their accuracy (``compare/measures.py``)."""
    same_unimodal: tuple[tuple[str, ...], ...] = ()
    """Groups of entries whose unimodal figures must be equal to the bit."""
