"""A full disk: one sentence, status 1, and the run goes on after space is made."""

import errno
import pathlib
import shutil

import jax
import pytest

from mla_jax import train
from mla_jax.config import command_line, files
from mla_jax.errors import NoSpaceError, UserError, space_watched
from mla_jax.prepare import __main__ as prepare
from mla_jax.runs import metrics, plots, report
from mla_jax.runs.checkpoint import Checkpoints
from mla_jax.runs.workdir import Workdir
from tests.conftest import TINY, digits_program

FULL = OSError(errno.ENOSPC, "No space left on device")
TENSORSTORE = ValueError(
    "RESOURCE_EXHAUSTED: Failed writing: \"d\": No space left on device [os_error_code='28']"
)


def config():
    found = files.load_config(TINY, {}, {"method": "mla", "modalities": "audio+text"})
    found.epochs = 3
    return found


def run(path):
    program = digits_program("mla")[0]
    return train.train(config(), path, program, jax.devices()[:1], lambda line: None).result


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    path = tmp_path_factory.mktemp("straight") / "run"
    return run(path), path


def failing(monkeypatch, owner, name, error, call=1):
    """``owner.name`` raises ``error`` at its call number ``call``, and at all after it.

    Closing first ends Orbax's threads, as they have where it fails by itself: a thread that still
    writes would meet the next run in the same folder.
    """
    whole, calls = getattr(owner, name), []

    def fail(*arguments, **options):
        calls.append(1)
        if len(calls) >= call:
            if name == "close":
                whole(*arguments, **options)
            raise error
        return whole(*arguments, **options)

    monkeypatch.setattr(owner, name, fail)


def by_threads():
    error = RuntimeError("a thread failed")
    error.__cause__ = ExceptionGroup("threads", [KeyError("another"), TENSORSTORE])
    return error


WRITERS = {
    "config": (Workdir, "_write", FULL, 1),
    "metrics": (metrics.MetricsFile, "write", FULL, 2),
    "checkpoint": (Checkpoints, "save", by_threads(), 2),
    "checkpoint_at_close": (Checkpoints, "close", TENSORSTORE, 1),
    "curves": (plots, "curves", FULL, 1),
    "report": (report, "write_report", OSError(errno.EDQUOT, "Disk quota exceeded"), 1),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_one_sentence_and_the_run_goes_on(writer, straight, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        failing(patch, *WRITERS[writer])
        with pytest.raises(NoSpaceError) as error:
            run(tmp_path / "run")
    free = shutil.disk_usage(tmp_path).free / 1e6
    assert str(error.value).startswith(
        f"no space is left for {tmp_path / 'run'}: a checkpoint needs 0.2 MB, "
    )
    shown = float(
        str(error.value).split("needs 0.2 MB, ")[1].split(" MB are free")[0].replace(",", "")
    )
    assert shown == pytest.approx(free, rel=0.2)
    assert "\n" not in str(error.value)
    result, path = straight
    again = run(tmp_path / "run")
    assert (again["test"], again["selection"]) == (result["test"], result["selection"])
    lines = [metrics.read_lines(p / "metrics.jsonl") for p in (tmp_path / "run", path)]
    assert [{**a, "time": 0} for a in lines[0]] == [{**a, "time": 0} for a in lines[1]]


def test_a_checkpoint_without_room_is_not_begun(tmp_path, monkeypatch):
    """Orbax's threads would write tracebacks while they fail."""
    full = shutil.disk_usage(tmp_path)._replace(free=5000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    with pytest.raises(NoSpaceError, match=r"checkpoint needs 0\.2 MB, 0\.0 MB are free"):
        run(tmp_path / "run")
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []


def test_other_errors_stay_what_they_are(tmp_path):
    for error in (UserError("x"), OSError(errno.EIO, "Input/output error"), ValueError("28")):
        with pytest.raises(type(error)) as found, space_watched(tmp_path, 5):
            raise error
        assert found.value is error


def test_the_commands_end_with_status_1(tmp_path, monkeypatch, capsys):
    def full(*arguments, **options):
        raise NoSpaceError(tmp_path, 2_500_000)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(command_line.app, "run", full)
        command_line.run_command(lambda: None)
    said = capsys.readouterr().err
    assert end.value.code == 1 and said.count("\n") == 1
    assert said.startswith(f"error: no space is left for {tmp_path}: a checkpoint needs 2.5 MB, ")

    class Plan:
        folder = pathlib.Path(tmp_path / "records")

    def enospc(*arguments):
        raise FULL

    monkeypatch.setattr(prepare, "make_plan", lambda *arguments: Plan)
    monkeypatch.setattr(prepare.run, "prepare", enospc)
    assert prepare.main(["--dataset=cremad", f"--raw={tmp_path}"]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"mla_jax.prepare: no space is left for {Plan.folder}: ")
    assert "MB are free: free some space" in said and said.count("\n") == 1
