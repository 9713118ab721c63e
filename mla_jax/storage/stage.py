"""A local copy of a bucket's folder, made once per host, because records are read in random order.

An interrupted copy continues where it stopped.  Each file is compared with the bucket's size
and CRC-32C when it is complete, and later by size and the object's generation.
"""

import base64
import concurrent.futures
import contextlib
import getpass
import hashlib
import json
import os
import pathlib
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import Any

from tqdm import tqdm

from mla_jax import storage
from mla_jax.errors import NoSpaceError, UserError, free_space, space_watched

try:
    import fcntl
except ImportError:  # Windows: two processes that copy at once are not detected
    fcntl = None  # type: ignore[assignment]

CHUNK = 8 << 20
"""Bytes per request."""
THREADS = 4
"""Files that are copied at the same time."""
NOTES = ".staged.json"
"""The file with ``{file: [size, CRC-32C, generation]}`` of what was copied and compared."""


def local_copy(
    folder: pathlib.Path, stage_dir: str = "", say: Callable[[str], None] = print
) -> pathlib.Path:
    """The local folder with the files of a bucket's folder, copied if they are not there yet.

    Args:
      folder: in a bucket; its files are copied, but not its folders.
      stage_dir: where copies go (default: a folder of this user under the system's temporary one).
      say: prints a line for the user.

    Raises:
      UserError: the bucket cannot be read, a file stays different from the bucket's, or the
        folder cannot be written.
      NoSpaceError: the disk is full.
    """
    local = _place_of(folder, stage_dir)
    try:
        local.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write to {local} ({error.strerror}): name another folder with --stage_dir"
        ) from error
    with storage.watched(folder), space_watched(local), _alone(local):
        wanted = _listing(folder)
        notes = _notes(local)
        missing = {n: w for n, w in wanted.items() if not _is_there(local / n, w, notes.get(n))}
        for name in set(notes) - set(wanted):  # no longer in the bucket
            (local / name).unlink(missing_ok=True)
        if missing:
            _copy(folder, local, wanted, missing, notes, say)
    return local


def _place_of(folder: pathlib.Path, stage_dir: str) -> pathlib.Path:
    """Where the copy of a bucket's folder is: under its name and a digest of its full path."""
    user = "".join(c for c in getpass.getuser() if c.isalnum()) or "user"
    base = pathlib.Path(stage_dir or pathlib.Path(tempfile.gettempdir()) / f"mla_jax-{user}")
    text = os.fspath(folder)
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return base.expanduser() / digest / text.rstrip("/").rpartition("/")[2]


def _listing(folder: pathlib.Path) -> dict[str, list[Any]]:
    """``{file: [size, CRC-32C, generation]}`` of a bucket's folder."""
    found = storage.file_system().ls(os.fspath(folder), detail=True)
    files = [entry for entry in found if entry["type"] == "file"]
    return {
        entry["name"].rpartition("/")[2]: [entry["size"], entry["crc32c"], entry["generation"]]
        for entry in files
        if not entry["name"].endswith("/")
    }


def _notes(local: pathlib.Path) -> dict[str, list[Any]]:
    try:
        return dict(json.loads((local / NOTES).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # missing or truncated: all files are compared again
        return {}


def _is_there(path: pathlib.Path, wanted: list[Any], noted: list[Any] | None) -> bool:
    """Whether a file was copied and compared, and still has the same size."""
    return noted == wanted and path.is_file() and path.stat().st_size == wanted[0]


def _copy(
    folder: pathlib.Path,
    local: pathlib.Path,
    wanted: dict[str, list[Any]],
    missing: dict[str, list[Any]],
    notes: dict[str, list[Any]],
    say: Callable[[str], None],
) -> None:
    total = sum(size for size, *_ in missing.values())
    begun = {name: _part(local, name, missing[name]) for name in missing}
    done = sum(part.stat().st_size for part in begun.values() if part.is_file())
    needed = total - done
    if free_space(local) < needed:
        raise NoSpaceError(local)
    already = f", of which {done / 1e6:,.1f} MB are here" if done else ""
    say(
        f"copying {len(missing)} of {len(wanted)} files ({total / 1e6:,.1f} MB{already}) from "
        f"{folder} to {local}"
    )
    lock = threading.Lock()
    bar = tqdm(total=total, initial=done, unit="B", unit_scale=True, disable=None, leave=False)

    def copy(name: str) -> None:
        _copy_file(folder / name, begun[name], missing[name], bar)
        with lock:
            begun[name].replace(local / name)
            notes[name] = missing[name]
            storage.put(local / NOTES, json.dumps(notes, indent=1))

    with bar, concurrent.futures.ThreadPoolExecutor(THREADS) as threads:
        waiting = [threads.submit(copy, name) for name in missing]
        try:
            for future in concurrent.futures.as_completed(waiting):
                future.result()
        except BaseException:
            for future in waiting:
                future.cancel()
            raise
    say(f"copied {folder}")


def _part(local: pathlib.Path, name: str, wanted: list[Any]) -> pathlib.Path:
    """The name of a file until it is complete; it differs for another object of the same name."""
    return local / f"{name}.{wanted[2]}.part"


def _copy_file(source: pathlib.Path, part: pathlib.Path, wanted: list[Any], bar: Any) -> None:
    """Copies the missing part of a file; if the result differs, copies it again from its start."""
    size, expected, _ = wanted
    for again in (False, True):
        if again or (part.is_file() and part.stat().st_size > size):
            part.unlink()
        start = part.stat().st_size if part.is_file() else 0
        with part.open("ab") as file:
            while start < size:
                end = min(start + CHUNK, size)
                content = storage.file_system().cat_file(os.fspath(source), start=start, end=end)
                file.write(content)
                start += len(content)
                bar.update(len(content))
                if not content:
                    break
        if part.stat().st_size == size and _crc32c(part) == expected:
            return
    raise UserError(
        f"the copy of {source} differs from the bucket's, twice: check the disk of {part.parent}"
    )


def _crc32c(path: pathlib.Path) -> str:
    """The checksum of a file, in the form of Google Cloud Storage."""
    import google_crc32c  # comes with gcsfs

    found = google_crc32c.Checksum()
    with path.open("rb") as file:
        while content := file.read(CHUNK):
            found.update(content)
    return base64.b64encode(found.digest()).decode()


@contextlib.contextmanager
def _alone(local: pathlib.Path) -> Iterator[None]:
    """Waits for other processes of this host that copy to the same folder."""
    with local.with_name(f"{local.name}.lock").open("w", encoding="utf-8") as file:
        if fcntl:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX)
        yield
