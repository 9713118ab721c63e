"""A run of MLA cut short and resumed is the run that was never cut, whatever happened to it.

``test_digits_runs`` cuts and resumes runs of every method.
"""

import functools
import json
import os
import pathlib
import re
import shutil
import signal
import time

import jax
import numpy as np
import pytest

from mla_jax import train
from mla_jax.config import fields
from mla_jax.errors import Interrupted, UserError
from mla_jax.program import initial_state
from mla_jax.runs import checkpoint, metrics, report
from mla_jax.runs.checkpoint import Checkpoints
from mla_jax.runs.workdir import Workdir
from tests.conftest import digits_program
from tests.killed_run import processes_of_group
from tests.runs import (
    PER_EPOCH,
    assert_same_run,
    config_of,
    run,
    signal_at,
    unbroken,
)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """``straight(method)``: the directory of an unbroken run, made once."""
    return functools.cache(lambda method: unbroken(method, tmp_path_factory.mktemp(method)))


@pytest.mark.parametrize(("number", "status"), [("SIGTERM", 143), ("SIGKILL", -9)])
def test_a_signal_to_a_run_with_workers(number, status, commands, tmp_path):
    """SIGTERM goes to all processes of the run, SIGKILL to the trainer alone; no worker is left.

    What is compared runs in processes of its own: in one that has run many other tests, the same
    program was found to differ by a rounding.
    """
    arguments = ["method=mla,modalities=audio+text", str(tmp_path / "cut"), "57", number, "2"]
    done = commands.run("tests.killed_run", arguments)
    group, *lines = done.stdout.splitlines()
    deadline = time.monotonic() + 20
    while (left := processes_of_group(int(group))) and time.monotonic() < deadline:
        time.sleep(0.05)
    if left:
        os.killpg(int(group), signal.SIGKILL)
    assert (done.returncode, left) == (status, []), done.stderr
    last = 58 if number == "SIGTERM" else 50
    assert Workdir(tmp_path / "cut").newest_checkpoint() == last
    assert lines
    if number == "SIGTERM":
        # On a loaded machine XLA may say, between rows of asterisks, that it compiles slowly.
        noise = re.compile(r"[* ]*|.*slow.*", re.IGNORECASE)
        said = [line for line in done.stderr.splitlines() if not noise.fullmatch(line)]
        assert said == ["SIGTERM: stopping after the current batch, with a checkpoint"]
        for folder, workers in (("cut", "2"), ("straight", "0")):
            whole = [arguments[0], str(tmp_path / folder), "1000", number, workers]
            done = commands.run("tests.killed_run", whole)
            assert done.returncode == 0, done.stderr
        assert_same_run(tmp_path / "straight", tmp_path / "cut", config_of("mla"))


@pytest.fixture
def interrupted(tmp_path, monkeypatch):
    """A run stopped after batch 40, with checkpoints 26 and 40."""
    with monkeypatch.context() as patch:
        signal_at(patch, 39, signal.SIGINT)
        with pytest.raises(Interrupted):
            run(config_of("mla"), tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize("damage", ["truncate_all", "flip_a_byte", "metadata", "empty"])
def test_damaged_checkpoint_falls_back(damage, interrupted, straight, capfd):
    newest = interrupted / "checkpoints" / "40"
    data = a_file_of_arrays(newest)
    if damage == "truncate_all":
        for file in filter(pathlib.Path.is_file, newest.rglob("*")):
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    elif damage == "flip_a_byte":
        content = bytearray(data.read_bytes())
        content[len(content) // 2] ^= 0xFF
        data.write_bytes(content)
    elif damage == "metadata":
        (newest / "state" / "_METADATA").write_text("{")
    else:
        shutil.rmtree(newest)
        newest.mkdir()
    said = []
    run(config_of("mla"), interrupted, said.append)
    assert said[0].startswith("checkpoint 40 is damaged (")
    assert said[0].endswith(f"moved to {interrupted / 'damaged-40'}")
    assert said[1] == f"resuming {interrupted} after batch 26 of {3 * PER_EPOCH}"
    assert capfd.readouterr().err == ""
    assert_same_run(straight("mla"), interrupted, config_of("mla"))


@pytest.fixture(scope="module")
def two_epochs(tmp_path_factory):
    """A run stopped after batch 60, in its third epoch."""
    path = tmp_path_factory.mktemp("two_epochs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        signal_at(patch, 59)
        with pytest.raises(Interrupted):
            run(config_of("mla"), path)
    return path


def a_file_of_arrays(checkpoint: pathlib.Path) -> pathlib.Path:
    return max((checkpoint / "state").rglob("d/*"), key=lambda p: p.stat().st_size)


FILES = {
    "arrays": a_file_of_arrays,
    "metadata": lambda checkpoint: checkpoint / "state" / "_METADATA",
    "progress": lambda checkpoint: checkpoint / "progress" / "manifest.ocdbt",
}


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("for_ever", [False, True])
def test_a_file_that_cannot_be_read_at_the_moment(file, for_ever, interrupted, monkeypatch):
    """The operating system fails (a link to itself does it); that is not damage."""
    path = FILES[file](interrupted / "checkpoints" / "40")
    path.rename(interrupted / "away")
    path.symlink_to(path)

    class Clock:
        def sleep(self, seconds):
            if not for_ever:
                (interrupted / "away").replace(path)

    monkeypatch.setattr(checkpoint, "time", Clock(), raising=False)
    before = sorted(interrupted.rglob("*"))
    like, said = initial_state(*digits_program("mla"), 0), []
    checkpoints = Checkpoints(interrupted / "checkpoints")
    if for_ever:
        with pytest.raises(UserError, match=r"checkpoints/40 cannot be read at the moment \(") as e:
            checkpoints.restore(like, said.append)
        assert "repeat the command" in str(e.value) and len(str(e.value)) < 500
        assert sorted(interrupted.rglob("*")) == before
    else:
        assert checkpoints.restore(like, said.append)[1]["batches"] == 40
    assert said == [] and not list(interrupted.glob("damaged-*"))
    checkpoints.close()


@pytest.mark.parametrize("error", [OSError(116, "Stale file handle"), MemoryError()])
def test_errors_that_are_no_damage(error, interrupted, monkeypatch):
    failures, pauses = [error], []

    def fail_once(state, whole=checkpoint.checksum):
        if failures:
            raise failures.pop()
        return whole(state)

    monkeypatch.setattr(checkpoint, "checksum", fail_once)
    monkeypatch.setattr(checkpoint, "PAUSES", (0.0,), raising=False)
    checkpoints = Checkpoints(interrupted / "checkpoints")
    found = checkpoints.restore(initial_state(*digits_program("mla"), 0), pauses.append)
    assert found[1]["batches"] == 40 and pauses == []
    checkpoints.close()


def test_another_structure_is_no_damage(interrupted):
    checkpoints, like = Checkpoints(interrupted / "checkpoints"), {"w": jax.numpy.zeros(3)}
    for _ in range(2):
        with pytest.raises(UserError, match="another run, or of another version"):
            checkpoints.restore(like)
    assert not list(interrupted.glob("damaged-*"))
    checkpoints.close()


def test_all_checkpoints_damaged(interrupted):
    for file in (interrupted / "checkpoints").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    for _ in range(2):  # it stays so: nothing starts over in silence
        with pytest.raises(UserError, match=r"all checkpoints of .* are damaged: start in another"):
            run(config_of("mla"), interrupted)


def test_a_directory_that_lost_its_configuration(interrupted, straight, tmp_path):
    (interrupted / "config.json").unlink()
    with pytest.raises(UserError, match=r"config\.json is gone"):
        run(config_of("mla", seed=9), interrupted)
    another = fields.to_json(fields.resolve(config_of("mla", seed=9)))
    data = json.loads((straight("mla") / "config.json").read_text())["data"]
    (interrupted / "config.json").write_text(json.dumps({"config": another, "data": data}))
    with pytest.raises(UserError, match="seed: 0 -> 9"):  # the checkpoint itself knows
        run(config_of("mla", seed=9), interrupted)


@pytest.mark.parametrize("file", ["config.json", "result.json", "metrics.jsonl"])
@pytest.mark.parametrize("content", ["{}\n", "[]\n", "{\n", "\x00garbage\n"])
def test_damaged_files_of_a_run(file, content, interrupted):
    (interrupted / file).write_text(content)
    with pytest.raises(UserError, match=f"{file}.*(damaged|unreadable)"):
        run(config_of("mla"), interrupted)


@pytest.mark.parametrize(
    ("cut", "missing"),
    [
        (lambda lines: lines, ""),
        (lambda lines: [lines[0], lines[1][:30]], "epoch 2"),  # a line without its end
        (lambda lines: lines[1:], "epoch 1"),
        (lambda lines: [], "epochs 1, 2"),
        (None, "epochs 1, 2"),
    ],
)
def test_epochs_that_metrics_jsonl_lacks(cut, missing, two_epochs, tmp_path):
    path = shutil.copytree(two_epochs, tmp_path / "run") / "metrics.jsonl"
    if cut:
        path.write_text("".join(cut(path.read_text().splitlines(keepends=True))))
    else:
        path.unlink()
    said = []
    lines = run(config_of("mla"), tmp_path / "run", said.append) and metrics.read_lines(path)
    told = [line for line in said if "metrics.jsonl" in line]
    assert len(told) == bool(missing)
    assert not told or told[0].startswith(f"{path} was cut short and lacks {missing}: so will")
    assert {line["epoch"] for line in lines} >= {3} and len(lines) == 3 - len(missing.split()[1:])


def test_two_runs_in_one_directory(interrupted):
    other = Workdir(interrupted)
    other.create(other.identity(), other.data())
    with pytest.raises(UserError, match="another process is at work"):
        run(config_of("mla"), interrupted)
    other.release()


def contents(path: pathlib.Path) -> dict[pathlib.Path, bytes]:
    return {p: p.read_bytes() for p in path.rglob("*") if p.is_file()}


@pytest.mark.parametrize("still_at_work", [True, False])
def test_a_run_that_comes_second_leaves_nothing_in_the_folder(still_at_work, tmp_path):
    """Both saw an empty folder; the first one locked it, and is at work or stopped early."""
    data = digits_program("mla")[1].spec()
    identities = [
        {"config": fields.to_json(fields.resolve(config_of("mla", seed=seed))), "data": fingerprint}
        for seed, fingerprint in ((0, "first"), (9, "second"))
    ]
    first, second = Workdir(tmp_path / "run"), Workdir(tmp_path / "run")
    for workdir, identity in zip((first, second), identities, strict=True):
        workdir.check(identity)
    first.create(identities[0], data)
    if not still_at_work:
        first.release()
    before = contents(tmp_path)
    sentence = "another process is at work" if still_at_work else "seed: 0 -> 9"
    with pytest.raises(UserError, match=sentence):
        second.create(identities[1], data._replace(name="second"))
    second.release()
    assert contents(tmp_path) == before
    first.release()


def test_the_data_of_a_run_that_never_began_is_replaced(tmp_path):
    """It was killed between ``data.json`` and ``config.json``."""
    data = digits_program("mla")[1].spec()
    killed, second = Workdir(tmp_path), Workdir(tmp_path)
    killed.write_data(data._replace(name="killed"))
    second.create({"config": {"epochs": 1}, "data": "second"}, data)
    second.release()
    assert second.data() == data


def test_another_configuration_is_refused(interrupted):
    changed = config_of("mla", **{"optimizer.learning_rate": 0.01, "seed": 3})
    before = sorted(interrupted.rglob("*"))
    with pytest.raises(UserError) as error:
        run(changed, interrupted)
    assert "optimizer.learning_rate: 0.05 -> 0.01; seed: 0 -> 3" in str(error.value)
    assert sorted(interrupted.rglob("*")) == before


def test_how_often_to_save_may_change(interrupted, straight):
    changed = config_of("mla", **{"checkpoint.every_steps": 7, "check_loss_every": 3})
    run(changed, interrupted)
    assert_same_run(straight("mla"), interrupted, config_of("mla"))


def test_finished_run_shows_its_result_again(straight):
    path = straight("concat")
    before = {p: p.stat().st_mtime_ns for p in path.rglob("*")}
    said = []
    result = run(config_of("concat"), path, said.append)
    assert said == [f"{path} holds a finished run; its result:", report.closing_lines(path, result)]
    assert {p: p.stat().st_mtime_ns for p in path.rglob("*")} == before


def test_restored_on_other_device_counts(interrupted, straight):
    """Saved on one device, resumed on four: the same run up to rounding."""
    train.train(config_of("mla"), interrupted, devices=jax.devices()[:4], say=lambda line: None)
    one, four = (metrics.read_lines(p / "metrics.jsonl")[1] for p in (straight("mla"), interrupted))
    for name, value in one["train"].items():  # of the epoch in which the devices changed
        np.testing.assert_allclose(four["train"][name], value, rtol=1e-3, err_msg=name)


def test_a_second_run_is_the_same_run(straight, tmp_path):
    run(config_of("mla"), tmp_path / "again")
    assert_same_run(straight("mla"), tmp_path / "again", config_of("mla"))
