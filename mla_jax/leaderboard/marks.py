"""The comments of a page that mark a table of an artefact, or the sources of figures.

<!-- results: NAME PART option=value -->     a block, up to <!-- /results -->
<!-- numbers: NAME option=value; NAME -->    the sources of the figures that follow
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from mla_jax.errors import UserError, check_choice

BLOCK = re.compile(r"<!-- results: (?P<marker>.*?) -->\n(?P<body>.*?)<!-- /results -->", re.DOTALL)
SEPARATOR = "|"
"""Separates the values of an option, because labels may have commas."""


class Marker(NamedTuple):
    """``NAME WORD option=a|b``."""

    name: str
    words: tuple[str, ...]
    options: Mapping[str, tuple[str, ...]]

    @property
    def text(self) -> str:
        options = (f"{k}={SEPARATOR.join(values)}" for k, values in self.options.items())
        return " ".join([self.name, *self.words, *options])


def parse(text: str, where: str, words: Iterable[str], options: Iterable[str]) -> Marker:
    """Reads a marker; ``words`` and ``options`` are the allowed ones, ``where`` is its place.

    Raises:
      UserError: it has no name, or an unknown word or option.
    """
    name, *rest = text.split() or [""]
    found: dict[str, tuple[str, ...]] = {}
    plain = []
    for token in rest:
        option, equals, value = token.partition("=")
        try:
            if equals:
                check_choice("option", option, options)
                found[option] = tuple(value.split(SEPARATOR))
            else:
                check_choice("part", option, words)
                plain.append(option)
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
    return Marker(name, tuple(plain), found)


def squeezed(name: Any) -> str:
    """A name as it is written in an option, without spaces."""
    return str(name).replace(" ", "")


def chosen(names: Iterable[str], wanted: Iterable[str] | None, what: str, where: str) -> list[str]:
    """The ``names`` in ``wanted``, in that order; all of them if it is None.

    Raises:
      UserError: there is no such name.
    """
    by_name = {squeezed(name): name for name in names}
    for name in wanted or ():
        if name not in by_name:
            raise UserError(f"{where}: there is no {what} '{name}', only {', '.join(by_name)}")
    return list(by_name.values()) if wanted is None else [by_name[name] for name in wanted]


def line_of(text: str, place: int) -> int:
    """The line, from 1, of a place in a text."""
    return text.count("\n", 0, place) + 1
