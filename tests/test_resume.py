"""A run cut short and resumed is the run that was never cut, bit for bit."""

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

from mla_jax import methods, train
from mla_jax.config import fields, files
from mla_jax.data import pipeline
from mla_jax.errors import Interrupted, UserError
from mla_jax.program import initial_state
from mla_jax.runs import checkpoint, metrics, report
from mla_jax.runs.checkpoint import Checkpoints
from mla_jax.runs.workdir import Workdir
from tests.conftest import TINY, digits_program
from tests.killed_run import processes_of_group

PER_EPOCH = 26  # 1700 examples in batches of 64
MODALITIES = {"unimodal": "audio"}
KILLED_METHODS = ("dimml", "mla", "ogm_ge", "qmf")
"""Those whose method state is more than nothing: a projection, masks, a history, a key."""


def tiny(method: str, **overrides):
    modalities = MODALITIES.get(method, "audio+text")
    config = files.load_config(TINY, overrides, {"method": method, "modalities": modalities})
    config.epochs = 3
    return config


def epochs_of(method: str) -> int:
    """The epochs of ``tiny(method)``, all stages together."""
    return sum(stage.epochs for stage in digits_program(method)[0].method.stages)


def run(config, path, say=None):
    program, _ = digits_program(config.method.name)
    return train.train(config, path, program, jax.devices()[:1], say or (lambda line: None)).result


def signal_at(monkeypatch, batch: int, number: int = signal.SIGTERM) -> None:
    """Sends this process a real signal while it loads batch ``batch`` (from 0)."""
    original = pipeline.training_batches

    def loader(split, batch_size, seed, start=0, *process):
        for i, item in enumerate(original(split, batch_size, seed, start, *process), start):
            if i == batch:
                signal.raise_signal(number)
            yield item

    monkeypatch.setattr(pipeline, "training_batches", loader)


def lines_without_time(path: pathlib.Path) -> list[dict]:
    lines = metrics.read_lines(path / "metrics.jsonl")
    return [{k: v for k, v in line.items() if k != "time"} for line in lines]


def final_state(path: pathlib.Path, config):
    checkpoints = Checkpoints(path / "checkpoints")
    like = initial_state(*digits_program(config.method.name), 0)
    state, progress = checkpoints.restore(like)
    checkpoints.close()
    return state, progress


def assert_same_run(a: pathlib.Path, b: pathlib.Path, config) -> None:
    (state_a, progress_a), (state_b, progress_b) = final_state(a, config), final_state(b, config)
    leaves_a, leaves_b = jax.tree.leaves_with_path(state_a), jax.tree.leaves_with_path(state_b)
    assert len(leaves_a) == len(leaves_b) > 0
    for (path, x), (_, y) in zip(leaves_a, leaves_b, strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y), jax.tree_util.keystr(path))
    assert progress_a["batches"] == progress_b["batches"]
    assert lines_without_time(a) == lines_without_time(b)
    results = [json.loads((path / "result.json").read_text()) for path in (a, b)]
    assert results[0]["test"] == results[1]["test"]
    assert results[0]["selection"] == results[1]["selection"]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The directory of an unbroken run of a method, made once."""
    made = {}

    def get(method: str) -> pathlib.Path:
        if method not in made:
            made[method] = tmp_path_factory.mktemp(method) / "straight"
            run(tiny(method), made[method])
        return made[method]

    return get


INSIDE, AT_THE_END = PER_EPOCH + 9, PER_EPOCH - 1
CUTS = [(method, 9 if method == "cca" else INSIDE) for method in methods.REGISTRY]
CUTS += [("mla", AT_THE_END), ("dimml", AT_THE_END), ("dimml", 3 * PER_EPOCH + 4)]
CUTS += [("dcca", 3 * PER_EPOCH - 1), ("dcca", 3 * PER_EPOCH + 4)]
"""CCA has one epoch.  DI-MML splits its dimensions after epoch 1 and is in its second stage after
epoch 3; DCCA fits its SVM after epoch 3."""


@pytest.mark.parametrize(("method", "batch"), CUTS)
def test_sigterm_and_resume(method, batch, straight, tmp_path, monkeypatch):
    config = tiny(method)
    with monkeypatch.context() as patch:
        signal_at(patch, batch)
        with pytest.raises(Interrupted, match=f"stopped after batch {batch + 1}"):
            run(config, tmp_path / "cut")
    said = []
    run(config, tmp_path / "cut", said.append)
    total = epochs_of(method) * PER_EPOCH
    assert said[0] == f"resuming {tmp_path / 'cut'} after batch {batch + 1} of {total}"
    assert_same_run(straight(method), tmp_path / "cut", config)


@pytest.mark.parametrize("method", KILLED_METHODS)
def test_kill_9_and_resume(method, commands, straight, tmp_path):
    """A killed process leaves a metrics file that runs ahead of its newest checkpoint."""
    arguments = f"method={method},modalities={MODALITIES.get(method, 'audio+text')}"
    done = commands.run("tests.killed_run", [arguments, str(tmp_path / "cut"), "57"])
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert lines_without_time(tmp_path / "cut")[-1]["step"] == 2 * PER_EPOCH
    run(tiny(method), tmp_path / "cut")
    assert_same_run(straight(method), tmp_path / "cut", tiny(method))


@pytest.mark.parametrize(("number", "status"), [("SIGTERM", 143), ("SIGKILL", -9)])
def test_a_signal_to_a_run_with_workers(number, status, commands, straight, tmp_path):
    """SIGTERM goes to all processes of the run, SIGKILL to the trainer alone; no worker is left."""
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
        # On a loaded machine XLA may say, between rows of asterisks, that it compiles slowly, and
        # Python that it cleans up the batch that a worker was writing when it was ended.
        noise = re.compile(r"[* ]*|.*slow.*|.*resource_tracker.*", re.IGNORECASE)
        said = [line for line in done.stderr.splitlines() if not noise.fullmatch(line)]
        assert said == ["SIGTERM: stopping after the batch in hand, with a checkpoint"]
        run(tiny("mla"), tmp_path / "cut")
        assert_same_run(straight("mla"), tmp_path / "cut", tiny("mla"))


@pytest.fixture
def interrupted(tmp_path, monkeypatch):
    """A run stopped after batch 40, with checkpoints 26 and 40."""
    with monkeypatch.context() as patch:
        signal_at(patch, 39, signal.SIGINT)
        with pytest.raises(Interrupted):
            run(tiny("mla"), tmp_path / "run")
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
    run(tiny("mla"), interrupted, said.append)
    assert said[0].startswith("checkpoint 40 is damaged (")
    assert said[0].endswith(f"moved to {interrupted / 'damaged-40'}")
    assert said[1] == f"resuming {interrupted} after batch 26 of {3 * PER_EPOCH}"
    assert capfd.readouterr().err == ""
    assert_same_run(straight("mla"), interrupted, tiny("mla"))


@pytest.fixture(scope="module")
def two_epochs(tmp_path_factory):
    """A run stopped after batch 60, in its third epoch."""
    path = tmp_path_factory.mktemp("two_epochs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        signal_at(patch, 59)
        with pytest.raises(Interrupted):
            run(tiny("mla"), path)
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
            run(tiny("mla"), interrupted)


def test_a_directory_that_lost_its_configuration(interrupted, straight, tmp_path):
    (interrupted / "config.json").unlink()
    with pytest.raises(UserError, match=r"config\.json is gone"):
        run(tiny("mla", seed=9), interrupted)
    another = fields.to_json(fields.resolve(tiny("mla", seed=9)))
    data = json.loads((straight("mla") / "config.json").read_text())["data"]
    (interrupted / "config.json").write_text(json.dumps({"config": another, "data": data}))
    with pytest.raises(UserError, match="seed: 0 -> 9"):  # the checkpoint itself knows
        run(tiny("mla", seed=9), interrupted)


@pytest.mark.parametrize("file", ["config.json", "result.json", "metrics.jsonl"])
@pytest.mark.parametrize("content", ["{}\n", "[]\n", "{\n", "\x00garbage\n"])
def test_damaged_files_of_a_run(file, content, interrupted):
    (interrupted / file).write_text(content)
    with pytest.raises(UserError, match=f"{file}.*(damaged|unreadable)"):
        run(tiny("mla"), interrupted)


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
    lines = run(tiny("mla"), tmp_path / "run", said.append) and metrics.read_lines(path)
    told = [line for line in said if "metrics.jsonl" in line]
    assert len(told) == bool(missing)
    assert not told or told[0].startswith(f"{path} was cut short and lacks {missing}: so will")
    assert {line["epoch"] for line in lines} >= {3} and len(lines) == 3 - len(missing.split()[1:])


def test_two_runs_in_one_directory(interrupted):
    other = Workdir(interrupted)
    other.create(other.identity(), other.data())
    with pytest.raises(UserError, match="another process is at work"):
        run(tiny("mla"), interrupted)
    other.release()


def contents(path: pathlib.Path) -> dict[pathlib.Path, bytes]:
    return {p: p.read_bytes() for p in path.rglob("*") if p.is_file()}


@pytest.mark.parametrize("still_at_work", [True, False])
def test_a_run_that_comes_second_leaves_nothing_in_the_folder(still_at_work, tmp_path):
    """Both saw an empty folder; the first one locked it, and is at work or stopped early."""
    data = digits_program("mla")[1].spec()
    identities = [
        {"config": fields.to_json(fields.resolve(tiny("mla", seed=seed))), "data": fingerprint}
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
    changed = tiny("mla", **{"optimizer.learning_rate": 0.01, "seed": 3})
    before = sorted(interrupted.rglob("*"))
    with pytest.raises(UserError) as error:
        run(changed, interrupted)
    assert "optimizer.learning_rate: 0.05 -> 0.01; seed: 0 -> 3" in str(error.value)
    assert sorted(interrupted.rglob("*")) == before


def test_how_often_to_save_may_change(interrupted, straight):
    changed = tiny("mla", **{"checkpoint.every_steps": 7, "check_loss_every": 3})
    run(changed, interrupted)
    assert_same_run(straight("mla"), interrupted, tiny("mla"))


def test_finished_run_shows_its_result_again(straight):
    path = straight("concat")
    before = {p: p.stat().st_mtime_ns for p in path.rglob("*")}
    said = []
    result = run(tiny("concat"), path, said.append)
    assert said == [f"{path} holds a finished run; its result:", report.closing_lines(path, result)]
    assert {p: p.stat().st_mtime_ns for p in path.rglob("*")} == before


def test_restored_on_other_device_counts(interrupted, straight):
    """Saved on one device, resumed on four: the same run up to rounding."""
    train.train(tiny("mla"), interrupted, devices=jax.devices()[:4], say=lambda line: None)
    one, four = (metrics.read_lines(p / "metrics.jsonl")[1] for p in (straight("mla"), interrupted))
    for name, value in one["train"].items():  # of the epoch in which the devices changed
        np.testing.assert_allclose(four["train"][name], value, rtol=1e-3, err_msg=name)


def test_a_second_run_is_the_same_run(straight, tmp_path):
    run(tiny("mla"), tmp_path / "again")
    assert_same_run(straight("mla"), tmp_path / "again", tiny("mla"))
