"""What may end a command: bad input, a loss that is no number, a signal."""

import difflib
from collections.abc import Iterable
from typing import Any

import mla_jax


class UserError(Exception):
    """Bad input: a sentence that names the thing and the remedy.

    Commands print it alone, without a traceback, and exit with status 2.
    """


class NonFiniteLossError(Exception):
    """A phase's loss is not finite; ``report`` says where, as JSON values."""

    def __init__(self, report: dict[str, Any]):
        self.report = report
        examples = report["examples"]
        shown = ", ".join(map(str, examples[:8])) + (", ..." if len(examples) > 8 else "")
        remedy = "lower optimizer.learning_rate, or look at these examples"
        if report["step"] == 1:
            remedy = "it is the first batch, so look at the encoder's fields and at these examples"
        if report["inputs"]:
            shown += f" (their {' and '.join(report['inputs'])} holds NaN or infinity)"
            remedy = "mend or remove these examples"
        super().__init__(
            f"the loss of '{report['phase']}' is {report['loss']} at batch {report['step']} (epoch "
            f"{report['epoch']}), on training examples {shown}: {remedy}"
        )


class Interrupted(Exception):  # noqa: N818 - it is an outcome, not an error
    """The run stopped at a signal, with a checkpoint; ``signal`` is the signal's number."""

    def __init__(self, signal: int, batches: int):
        super().__init__(f"stopped after batch {batches}, checkpoint saved: same command resumes")
        self.signal = signal


def check_package() -> None:
    """Raises ``UserError`` if Python takes a folder for ``mla_jax``; every command calls it first.

    In the parent folder of a clone that is called ``mla_jax``, the clone is a namespace package:
    the modules are found where they are installed, and what ``__init__.py`` defines is not.
    """
    if getattr(mla_jax, "__file__", None) is None:
        folder = next(iter(mla_jax.__path__))
        raise UserError(
            f"Python takes the folder {folder} for the package mla_jax: repeat the command in "
            f"another folder, for example after cd {folder}"
        )


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
