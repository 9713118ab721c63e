"""What a case of misuse is, and the contents of files that cases are made of."""

import io
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

Content = str | bytes | Callable[[Any], None] | None
"""Text, bytes, a function that makes the path or changes what is there, or None: removed."""

PYTHON = "UserError"
"""Stands for the exit status where Python is typed: the exception."""


class Case(NamedTuple):
    """Something wrong that a user does, and what must come of it."""

    typed: str
    """``main --config=small.py`` after ``python -m mla_jax.``, or lines of Python."""
    sentence: str
    """Words that the answer must have."""
    status: int | str = 2
    files: Mapping[str, Content] = {}
    """What lies at paths of the working folder, beside or in place of what is sound there."""
    holds: str = ""
    """Says in words what is wrong with the files, or what else happens."""
    needs_run: bool = False
    """Whether a finished run lies in ``run``."""
    leaves: str = ""
    """A path that may be changed: progress that the same command goes on from."""
    during: str = ""
    """A function; Ctrl-C comes when it is called."""


def python(typed: str, sentence: str, **options: Any) -> Case:
    """A case of the Python front door."""
    return Case(typed, sentence, PYTHON, **options)


def npz(**arrays: Any) -> bytes:
    """The bytes of an ``.npz`` file."""
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def npy(array: Any) -> bytes:
    """The bytes of an ``.npy`` file."""
    file = io.BytesIO()
    np.save(file, np.asarray(array))
    return file.getvalue()


def first_bytes(share: float) -> Callable[[Any], None]:
    """Cuts the file that is there to a share of its length."""

    def cut(path: Any) -> None:
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])

    return cut


def replaced(old: str, new: str) -> Callable[[Any], None]:
    """Replaces words in the text file that is there."""

    def replace(path: Any) -> None:
        text = path.read_text()
        assert old in text, f"{path} has no {old}"
        path.write_text(text.replace(old, new))

    return replace
