"""Access to files in local folders, through ``pathlib``, and in buckets (``gs://``), through
``etils.epath``.

A bucket has objects but no folders.  An object appears as a whole or not at all, cannot be appended
to, and is renamed by copying it.  So a file that is written under a temporary name and renamed on a
disk is uploaded to a bucket as one object.

Nothing is imported for a local path, and no TensorFlow for a bucket: ``gcsfs`` (extra
``gcs``) reads and writes.
"""

import contextlib
import functools
import importlib.util
import logging
import os
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

from mla_jax import errors
from mla_jax.errors import UserError

BUCKET = "gs://"
SHORTEST_BUCKET = 3
"""The fewest characters of a bucket's name, by Google's rule, which TensorStore also checks."""
COMMITTED = "commit_success.txt"
"""The object that orbax writes last: a checkpoint in a bucket without it is incomplete."""


def place(path: str | os.PathLike) -> pathlib.Path:
    """A path, local or in a bucket, with the methods of ``pathlib.Path``.

    Raises:
      UserError: another scheme than ``gs://``, or a bucket that cannot be used from here.
    """
    text = os.fspath(path)
    if "://" not in text:
        return pathlib.Path(path)
    if not is_known(text):
        scheme = text.partition("://")[0]
        raise UserError(
            f"{text}: {scheme}:// is not supported: name a local folder, or one of a Google Cloud "
            "Storage bucket (gs://BUCKET/FOLDER)"
        )
    bucket = _bucket_of(text)
    if len(bucket) < SHORTEST_BUCKET:
        raise UserError(f"{text} has no bucket name: write gs://BUCKET/FOLDER")
    _check_bucket(bucket)
    from etils import epath

    return epath.Path(text)


def in_bucket(path: str | os.PathLike) -> bool:
    """Whether a path is in a bucket."""
    return os.fspath(path).startswith(BUCKET)


def is_known(path: str | os.PathLike) -> bool:
    """Whether a path is local, or in a bucket of a supported kind."""
    return "://" not in os.fspath(path) or in_bucket(path)


@functools.cache
def file_system() -> Any:
    """The shared ``gcsfs`` file system.

    It queries the bucket each time: cached listings would hide what other processes, and
    TensorStore, have written since.

    Raises:
      UserError: ``gcsfs`` is not installed.
    """
    if importlib.util.find_spec("gcsfs") is None:
        raise UserError("a gs:// path needs gcsfs: pip install gcsfs")
    os.environ["EPATH_USE_TF"] = "false"  # epath uses TensorFlow's file system if installed
    import fsspec

    for name in ("gcsfs", "fsspec"):  # they log errors that they also raise
        logging.getLogger(name).setLevel(logging.CRITICAL)
    for name in ("gcs", "gs"):
        fsspec.config.conf.setdefault(name, {})["use_listings_cache"] = False
    return fsspec.filesystem("gcs", finalize_on_close=True)  # as epath does


@functools.cache
def _check_bucket(bucket: str) -> None:
    """Raises ``UserError`` unless the bucket exists and its objects may be listed."""
    file_system()  # raises if gcsfs is not installed
    try:
        require_answer(BUCKET + bucket)
    except FileNotFoundError as error:
        raise UserError(
            f"there is no bucket gs://{bucket}, or this account may not see it: check the name "
            "(gcloud storage ls)"
        ) from error
    except Exception as error:  # many kinds are raised
        reason = trouble(error) or str(error).partition("\n")[0]
        raise UserError(f"gs://{bucket} cannot be used: {reason}") from error


def require_answer(path: str | os.PathLike) -> None:
    """Raises what ``gcsfs`` raises unless the bucket of a path answers within about a minute."""
    with _noting_loss(path):
        file_system().call("GET", "b/{}/o", _bucket_of(path), maxResults=1, json_out=True)


_LOST: set[str] = set()


def is_lost(path: str | os.PathLike | None = None) -> bool:
    """Whether the bucket of a path (default: any) did not answer last time: each try takes a
    minute, so clean-up code does not try."""
    return bool(_LOST) if path is None else _bucket_of(path) in _LOST


@contextlib.contextmanager
def _noting_loss(path: str | os.PathLike) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if trouble(error) == REACHED:
            _LOST.add(_bucket_of(path))
        raise
    _LOST.discard(_bucket_of(path))


def _bucket_of(path: str | os.PathLike) -> str:
    return os.fspath(path).removeprefix(BUCKET).partition("/")[0]


def put(path: pathlib.Path, content: str | bytes) -> None:
    """Writes a whole file or nothing, even if it is interrupted."""
    if in_bucket(path):
        with _noting_loss(path):
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        return
    temporary = path.with_suffix(".tmp")
    if isinstance(content, str):
        temporary.write_text(content, encoding="utf-8")
    else:
        temporary.write_bytes(content)
    temporary.replace(path)


def absolute(path: pathlib.Path) -> pathlib.Path:
    """``path.absolute()``; a path in a bucket is already absolute."""
    return path if in_bucket(path) else path.absolute()


def is_whole(checkpoint: pathlib.Path) -> bool:
    """Whether a checkpoint was saved completely, to judge by names.

    On a disk orbax renames a finished checkpoint, so one with the final name is complete.
    """
    return not in_bucket(checkpoint) or (checkpoint / COMMITTED).exists()


def free_space(path: pathlib.Path) -> int:
    """Free bytes on the file system of ``path``; infinite for a bucket."""
    return sys.maxsize if in_bucket(path) else errors.free_space(path)


@contextlib.contextmanager
def watched(path: pathlib.Path, needed: int = 0) -> Iterator[None]:
    """Turns the errors of a full disk, or of a failing bucket, into one sentence.

    Args:
      path: the run's.
      needed: the bytes of a checkpoint, for the message.

    Raises:
      NoSpaceError: the disk is full.
      UserError: the bucket cannot be reached any more, or may not be written.
    """
    with errors.space_watched(path, needed) if not in_bucket(path) else contextlib.nullcontext():
        try:
            yield
        except Exception as error:
            reason = trouble(error) if in_bucket(path) else ""
            if not reason or isinstance(error, UserError):
                raise
            raise UserError(
                f"cannot continue in {path}: {reason}; then repeat the command, to continue from "
                "the last checkpoint"
            ) from error


REACHED = "it cannot be reached: check the network"
ALLOWED = (
    "no permission: give this account the role 'Storage Object User' (roles/storage.objectUser) on "
    "the bucket, or log in with gcloud auth application-default login"
)


def trouble(error: BaseException) -> str:
    """The meaning of a bucket's error and the remedy, to end a sentence; empty if unknown."""
    import aiohttp
    import google.auth.exceptions
    import requests
    from gcsfs.retry import HttpError

    unreachable = (
        aiohttp.ClientError,
        requests.ConnectionError,
        requests.Timeout,
        ConnectionError,
        TimeoutError,
    )
    for cause in _causes(error):
        text = str(cause)
        if isinstance(cause, google.auth.exceptions.TransportError):
            return REACHED
        if isinstance(cause, google.auth.exceptions.GoogleAuthError):
            return ALLOWED
        if isinstance(cause, HttpError) and str(cause.code) in ("401", "403"):
            return ALLOWED
        if isinstance(cause, OSError) and text.startswith("Forbidden"):
            return ALLOWED
        if isinstance(cause, HttpError) and str(cause.code) in ("408", "429", "503"):
            return REACHED
        if isinstance(cause, unreachable):
            return REACHED
        if "PERMISSION_DENIED" in text or "UNAUTHENTICATED" in text:  # TensorStore's
            return ALLOWED
        if "UNAVAILABLE" in text or "DEADLINE_EXCEEDED" in text:
            return REACHED
    return ""


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and the errors that caused it."""
    if error is None:
        return
    yield error
    for cause in (error.__cause__, error.__context__, *getattr(error, "exceptions", ())):
        yield from _causes(cause)
