"""Saves what a study has measured on a finished run, in the run's folder."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from mla_jax.config.command_line import write_whole
from mla_jax.runs.nulls import with_nulls

IDENTITY = "identity"


def read(path: pathlib.Path, identity: Any) -> dict[str, Any] | None:
    """What ``write`` saved; None if there is no file, or it is damaged or has another identity.

    Args:
      path: the file.
      identity: what the figures depend on, as plain JSON: the run's result, the form of the file.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return content if content[IDENTITY] == identity else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write(path: pathlib.Path, identity: Any, content: Mapping[str, Any]) -> dict[str, Any]:
    """Writes the whole file or nothing, and returns what ``read`` will: NaN and infinity become
    None."""
    found = with_nulls({IDENTITY: identity, **content})
    write_whole(path, (json.dumps(found) + "\n").encode())
    return found
