"""Figures that a study has measured of a finished run, kept in the run's folder."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from mla_jax.config.command_line import write_whole
from mla_jax.runs.nulls import with_nulls

IDENTITY = "identity"


def read(path: pathlib.Path, identity: Any) -> dict[str, Any] | None:
    """What ``write`` put there; None where nothing is, or it is damaged or of something else.

    Args:
      path: of the file.
      identity: what the figures depend on, as plain JSON: the run's result, the form of the file.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return content if content[IDENTITY] == identity else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write(path: pathlib.Path, identity: Any, content: Mapping[str, Any]) -> dict[str, Any]:
    """Writes all of it or nothing, and returns what ``read`` will: figures that are no numbers are
    null."""
    found = with_nulls({IDENTITY: identity, **content})
    write_whole(path, (json.dumps(found) + "\n").encode())
    return found
