"""What may end a command: bad input, a loss that is not finite, a full disk, a signal."""

import contextlib
import difflib
import errno
import pathlib
import shutil
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import mla_jax
from mla_jax.loading import command_of

NO_SPACE = {errno.ENOSPC, errno.EDQUOT}


class UserError(Exception):
    """Bad input: a sentence that names the thing and the remedy.

    Commands print only this sentence, without a traceback, and exit with status 2.

    >>> mla_jax.load_config("configs/digits.py", {"epoch": 5})
    Traceback (most recent call last):
        ...
    mla_jax.errors.UserError: unknown configuration field 'epoch': did you mean 'epochs'?
    """


class NonFiniteLossError(Exception):
    """A phase's loss is not finite; ``report`` says where, as JSON values.

    >>> where = {"phase": "image", "loss": "nan", "step": 40, "epoch": 2, "examples": [7, 31]}
    >>> print(mla_jax.NonFiniteLossError({**where, "inputs": ["image"]}))
    the loss of 'image' is nan at batch 40 (epoch 2), on training examples 7, 31 (their image
    holds NaN or infinity): fix or remove these examples
    """

    def __init__(self, report: dict[str, Any]):
        self.report = report
        examples = report["examples"]
        shown = ", ".join(map(str, examples[:8])) + (", ..." if len(examples) > 8 else "")
        remedy = "lower optimizer.learning_rate, or check these examples"
        if report["step"] == 1:
            remedy = "this is the first batch, so check the encoder's fields and these examples"
        if report["inputs"]:
            shown += f" (their {' and '.join(report['inputs'])} holds NaN or infinity)"
            remedy = "fix or remove these examples"
        super().__init__(
            f"the loss of '{report['phase']}' is {report['loss']} at batch {report['step']} (epoch "
            f"{report['epoch']}), on training examples {shown}: {remedy}"
        )


class Interrupted(Exception):  # noqa: N818 - it is an outcome, not an error
    """The run stopped at a signal, with a checkpoint; ``signal`` is the signal's number.

    >>> stopped = mla_jax.Interrupted(signal=15, batches=40)
    >>> print(stopped)
    stopped after batch 40, checkpoint saved: the same command resumes
    >>> stopped.signal
    15
    """

    def __init__(self, signal: int, batches: int):
        super().__init__(
            f"stopped after batch {batches}, checkpoint saved: the same command resumes"
        )
        self.signal = signal


class NoSpaceError(Exception):
    """The disk, or the quota, is full; what was saved before is kept."""

    def __init__(self, path: pathlib.Path, needed: int = 0):
        checkpoint = f"a checkpoint needs {needed / 1e6:,.1f} MB, " if needed else ""
        super().__init__(
            f"no space is left for {path}: {checkpoint}{free_space(path) / 1e6:,.1f} MB are free: "
            "free some space and repeat the command, which continues from what is saved"
        )


def free_space(path: pathlib.Path) -> int:
    """Free bytes on the file system where ``path`` is, or will be."""
    existing = next(p for p in (path, *path.absolute().parents) if p.exists())
    return shutil.disk_usage(existing).free


@contextlib.contextmanager
def space_watched(path: pathlib.Path, needed: int = 0) -> Iterator[None]:
    """Raises ``NoSpaceError`` for any error within that comes from a full disk or quota.

    ``needed``: the bytes of a checkpoint, for the message; 0 if no checkpoint is written.
    """
    try:
        yield
    except Exception as error:
        if _is_no_space(error):
            raise NoSpaceError(path, needed) from error
        raise


def _is_no_space(error: BaseException | None) -> bool:
    """Whether this error, or one that caused it, says that the disk or quota is full."""
    if error is None:
        return False
    if isinstance(error, NoSpaceError) or getattr(error, "errno", None) in NO_SPACE:
        return True
    # TensorStore raises ValueError, with the number in its text.
    if any(f"os_error_code='{number}'" in str(error) for number in NO_SPACE):
        return True
    causes = (error.__cause__, error.__context__, *getattr(error, "exceptions", ()))
    return any(map(_is_no_space, causes))


def _check_package() -> None:
    """Ends a command, or an import, if Python takes another folder for the package ``mla_jax``.

    In the parent folder of a clone named ``mla_jax``, the clone becomes a namespace package:
    modules are found where they are installed, except those that a folder of the clone hides
    (``runs/``), and the names that ``__init__.py`` defines are missing.
    """
    if getattr(mla_jax, "__file__", None) is not None:
        return
    folder = next(iter(mla_jax.__path__))
    sentence = (
        f"Python takes the folder {folder} for the package mla_jax: repeat the command in another "
        f"folder, for example after cd {folder}"
    )
    if not command_of(sys.orig_argv)[0]:
        raise ImportError(sentence)
    print(f"error: {sentence}", file=sys.stderr)
    raise SystemExit(2)


_check_package()  # now, since the next import may be of a hidden module


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
