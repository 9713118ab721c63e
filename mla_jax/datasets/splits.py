"""Named rules that split a data set into train, validation and test."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mla_jax.errors import UserError

PARTS = ("train", "validation", "test")


class Members(NamedTuple):
    """What a rule may use."""

    ids: Sequence[str]
    groups: Mapping[str, Sequence[str]]
    """``{"speaker": one name per example}``."""
    lists: Mapping[str, Mapping[str, Sequence[str]]]
    """``{name of a list: {part: ids in order}}``."""


Rows = dict[str, np.ndarray]
"""``{part: rows}`` with the parts in the order of ``PARTS``; ``validation`` may be absent."""


class SplitRule(NamedTuple):
    """A rule for splitting, and whether its validation part resembles its test part."""

    draw: Callable[[Members, int], Rows]
    """``(members, seed)``."""
    select_on_validation: bool = True


def listed(name: str, files: str) -> SplitRule:
    """The parts of a list from the user, in the list's order; ``files`` is for error messages.

    Ids in the list whose media were missing are left out.
    """

    def draw(members: Members, seed: int) -> Rows:
        del seed
        if name not in members.lists:
            raise UserError(
                f"split '{name}' needs its list files ({files}): put them into the raw folder or "
                "name their folder with --lists, and run prepare again (the records are kept)"
            )
        row = {id: i for i, id in enumerate(members.ids)}
        parts = members.lists[name]
        return {
            part: np.array([row[id] for id in parts[part] if id in row], np.int64)
            for part in PARTS
            if part in parts
        }

    return SplitRule(draw)


def random_parts(rest: str = "train", **fractions: float) -> SplitRule:
    """Parts of these fractions, rounded down, drawn from all examples; ``rest`` gets the others.

    Recordings of one person or scene may be in several parts (quirk Q26).
    """

    def draw(members: Members, seed: int) -> Rows:
        order = np.random.default_rng(seed).permutation(len(members.ids))
        return _cut(order, fractions, rest)

    return SplitRule(draw)


def disjoint_parts(group: str, **fractions: float) -> SplitRule:
    """As ``random_parts``, but with whole groups: no speaker is in two parts."""

    def draw(members: Members, seed: int) -> Rows:
        names = np.array(members.groups[group])
        unique = np.unique(names)
        drawn = _cut(np.random.default_rng(seed).permutation(len(unique)), fractions, "train")
        return {part: np.flatnonzero(np.isin(names, unique[g])) for part, g in drawn.items()}

    return SplitRule(draw)


def leave_one_out(group: str, test: str, validation: str) -> SplitRule:
    """Tests on one named group and validates on another."""

    def draw(members: Members, seed: int) -> Rows:
        del seed
        names = np.array(members.groups[group])
        held_out = np.isin(names, [test, validation])
        return {
            "train": np.flatnonzero(~held_out),
            "validation": np.flatnonzero(names == validation),
            "test": np.flatnonzero(names == test),
        }

    return SplitRule(draw)


def _cut(order: np.ndarray, fractions: Mapping[str, float], rest: str) -> Rows:
    sizes = {part: int(fractions[part] * len(order) + 1e-9) for part in fractions}
    sizes[rest] += len(order) - sum(sizes.values())
    pieces = np.split(order, np.cumsum([*sizes.values()])[:-1])
    found = {part: np.sort(piece) for part, piece in zip(sizes, pieces, strict=True)}
    return {part: found[part] for part in PARTS if part in found}
