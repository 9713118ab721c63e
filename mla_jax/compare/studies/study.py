"""The definition of a study: the rows of a published table or figure, as data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Figures = Mapping[str, float]
"""``{"fused" or modality: per cent}``, with our names of the modalities."""


def columns(entries: tuple[str, ...], **figures: tuple[float, ...]) -> dict[str, Figures]:
    """``{entry: {figure: value}}`` of a published table with one column per entry.

    >>> columns(("sum", "mla"), fused=(60.32, 79.70))["mla"]
    {'fused': 79.7}
    """
    table = {name: dict(zip(entries, row, strict=True)) for name, row in figures.items()}
    return {entry: {name: row[entry] for name, row in table.items()} for entry in entries}


@dataclass(frozen=True)
class Study:
    """One file of ``mla_jax/compare/studies``; its docstring explains it and what it leaves out.

    The rows keep the order of ``entries``.  A comment beside a published figure gives its table
    and rows.
    """

    title: str
    entries: Mapping[str, str]
    """``{entry of --methods: the paper's heading for it}``: the rows."""
    source: str = ""
    """The source of the published figures, for example ``MLA paper, Table 1``."""
    published: Mapping[str, Mapping[str, Figures]] = field(default_factory=dict)
    """``{data set: {entry: figures}}``; other data sets are compared without published figures."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """``{data set: note for the reader}``; the key "" is for all data sets."""
    entries_are_columns: bool = False
    """Whether the paper's table has the entries as columns and the modalities as rows."""
    seeds: tuple[str, ...] = ("0", "1", "2")
    vary: tuple[str, ...] = ()
    """Options of ``--vary``."""
    missing: tuple[str, ...] = ()
    """Rates of ``--missing``."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the configuration that differ from its defaults, unless the command sets them."""
    measure: str = ""
    """What is measured on the finished runs besides their accuracy (``compare/measures.py``)."""
    same_unimodal: tuple[tuple[str, ...], ...] = ()
    """Groups of entries whose unimodal figures must be equal to the bit."""
