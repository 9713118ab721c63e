"""Runs a case in this process and says what a user would have seen."""

import contextlib
import io
import os
import pathlib
import runpy
import shlex
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from unittest import mock

import absl.app  # defines flags of its own, which must be there before others are taken away
import absl.logging
import jax
from absl import flags
from absl.testing import flagsaver

import mla_jax
from mla_jax import program
from mla_jax.dispatch import Dispatch
from mla_jax.errors import UserError
from mla_jax.program import Program
from mla_jax.state import TrainState
from tests.misuse import world
from tests.misuse.case import PYTHON, Case

ROOT = pathlib.Path(__file__).parents[2]


class Outcome(NamedTuple):
    """What came of a case."""

    status: int | str
    said: str
    """What stands on standard error, or the text of the exception."""
    changed: list[str]
    """The paths of the working folder that are new, gone or different."""


def run(case: Case, folder: pathlib.Path, copy_run: Callable[[pathlib.Path], None]) -> Outcome:
    """Builds the working folder of a case in ``folder``, which is empty, and runs the case there.

    Args:
      case: what to run.
      folder: an empty folder.
      copy_run: puts a finished run at a path.
    """
    world.build(folder, case, copy_run)
    before = world.listing(folder)
    answer = python if case.status == PYTHON else command
    with contextlib.chdir(folder), without_training(), interrupted(case.during):
        status, said = answer(case.typed)
    after = world.listing(folder)
    changed = [
        path
        for path in sorted(before.keys() | after.keys())
        if before.get(path, ...) != after.get(path, ...)
        and not (case.leaves and (path + "/").startswith(case.leaves + "/"))
    ]
    return Outcome(status, plain(said, folder), changed)


def plain(said: str, folder: pathlib.Path) -> str:
    """The answer without the paths of this machine."""
    return said.replace(f"{folder}/", "").replace(str(folder), ".").replace(f"{ROOT}/", "CLONE/")


def command(typed: str) -> tuple[int, str]:
    """``(exit status, standard error)`` of ``python -m mla_jax.TYPED``, run in this process."""
    module, *options = shlex.split(typed)
    saved = flagsaver.save_flag_values()
    err, status = io.StringIO(), 0
    alone = mock.patch.object(jax.distributed, "initialize", side_effect=ValueError("no cluster"))
    quiet = mock.patch.object(absl.logging, "use_absl_handler")
    argv = mock.patch.object(sys, "argv", [module, *options])
    try:
        with (
            contextlib.redirect_stderr(err),
            contextlib.redirect_stdout(io.StringIO()),
            warnings.catch_warnings(),
            alone,
            quiet,
            argv,
        ):
            warnings.simplefilter("ignore", RuntimeWarning)  # the module is imported already
            runpy.run_module(f"mla_jax.{module}", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        err.write(traceback.format_exc())
        status = 1
    finally:
        flagsaver.restore_flag_values(saved)
        flags.FLAGS.mark_as_parsed()
    return status, err.getvalue()


def python(typed: str) -> tuple[str, str]:
    """``(type of the exception, its text)`` of lines of Python."""
    err = io.StringIO()
    try:
        with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
            exec(typed, {"mla_jax": mla_jax})
    except UserError as error:
        return PYTHON, f"{error}\n"
    except Exception:
        return "Traceback", err.getvalue() + traceback.format_exc()
    return "nothing", err.getvalue()


@contextlib.contextmanager
def without_training() -> Iterator[None]:
    """Misuse that reaches the first step was not noticed."""
    unnoticed = AssertionError("the training began")
    with (
        mock.patch.object(Dispatch, "__call__", side_effect=unnoticed),
        mock.patch("mla_jax.train.build_program", build_program),
        mock.patch("mla_jax.train.initial_state", initial_state),
    ):
        yield


PROGRAMS: dict[Any, Program] = {}
STATES: dict[Any, tuple[Program, TrainState]] = {}


def build_program(config: Any, dataset: Any, devices: Any) -> Program:
    """That of ``mla_jax.program``, built once for equal configurations and data."""
    key = (str(config), dataset.fingerprint, str(devices))
    if key not in PROGRAMS:
        PROGRAMS[key] = program.build_program(config, dataset, devices)
    return PROGRAMS[key]


def initial_state(built: Program, dataset: Any, seed: int) -> TrainState:
    """That of ``mla_jax.program``, computed once for each program: none is trained."""
    key = (id(built), dataset.fingerprint, seed)
    if key not in STATES:
        STATES[key] = built, program.initial_state(built, dataset, seed)
    return STATES[key][1]


@contextlib.contextmanager
def interrupted(function: str) -> Iterator[None]:
    """Ctrl-C comes when ``function`` is called; nothing happens if it is empty."""

    def interrupt(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    if not function:
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with mock.patch(function, side_effect=interrupt):
            yield
    finally:
        signal.signal(signal.SIGINT, handler)
