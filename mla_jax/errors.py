"""The one exception a user may see: a sentence that names the thing and the remedy."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input.  ``main`` prints its text alone, without a traceback, and exits with status 2."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns what to say after "unknown X 'name'": the nearest known name, or all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    choices = "known: " + ", ".join(known)
    if not close:
        return choices
    return f"did you mean '{close[0]}'?" + (f" ({choices})" if len(known) <= 12 else "")


def check_choice(what: str, name: str, known: Iterable[str]) -> None:
    """Raises ``UserError`` unless ``name`` is one of ``known``; ``what`` says what it names."""
    known = list(known)
    if name not in known:
        raise UserError(f"unknown {what} '{name}': {nearest(str(name), known)}")
