"""What an error in reading a checkpoint means: damage, another run's arrays, or a disk or network
that failed just now."""

import json
import pathlib
import re

DAMAGED_ARRAYS = re.compile(
    r"(?:(?:DATA_LOSS|OUT_OF_RANGE|NOT_FOUND|FAILED_PRECONDITION): )?Error (?:opening|reading) "
)
"""How TensorStore's errors begin where its files are cut, changed or gone.

They have other codes where the operating system failed, and then ``os_error_code`` in the text.
"""
OTHER_STRUCTURE = re.compile("tree structures do not match|is not compatible with the stored shape")
SOUND, DAMAGED, OTHER, UNREADABLE = range(4)


class ChecksumError(Exception):
    """The arrays of a checkpoint are not those that were saved."""


def verdict_of(error: BaseException, path: pathlib.Path) -> tuple[int, str]:
    """What an error in reading a checkpoint means, and why in a few words."""
    chain = [error]
    while cause := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(cause)
    for e in chain:
        text = str(e)
        if isinstance(e, ChecksumError):
            return DAMAGED, "bad checksum"
        if isinstance(e, json.JSONDecodeError | UnicodeDecodeError):
            return DAMAGED, "unreadable"
        if isinstance(e, ValueError) and OTHER_STRUCTURE.search(text):
            return OTHER, ""
        answered = "os_error_code" not in text or text.startswith("NOT_FOUND")
        if DAMAGED_ARRAYS.match(text) and answered:
            return DAMAGED, "unreadable"
        missing = isinstance(e, FileNotFoundError) or "not found in the checkpoint" in text
        if type(e) is KeyError and not missing:  # a field of the metadata or of the progress
            return DAMAGED, "unreadable"
        if missing and _lacks_metadata(path):
            return DAMAGED, "unreadable"
    lines = str(chain[-1]).splitlines() or [type(chain[-1]).__name__]
    return UNREADABLE, lines[0][-200:]


def _lacks_metadata(path: pathlib.Path) -> bool:
    """Whether files are gone: orbax says so too where the file system failed to answer."""
    try:
        path.stat()
    except OSError:
        return False
    for part in ("state", "progress"):
        try:
            (path / part / "_METADATA").stat()
        except FileNotFoundError:
            return True
        except OSError:
            return False
    return False
