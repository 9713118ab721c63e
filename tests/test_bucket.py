"""Runs in a bucket, against an emulator on this machine (``bucket_server``)."""

import concurrent.futures
import json
import logging
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.bucket_server import BUCKET, Server
from tests.conftest import TINY
from tests.runs import assert_same_run, config_of

pytest.importorskip("gcsfs", reason="the extra gcs is not installed")
ROOT = pathlib.Path(__file__).parents[1]
ARGUMENTS = "method=mla,modalities=audio+text"
MAIN = [f"--config={TINY}:{ARGUMENTS}", "--config.checkpoint.every_steps=10", "--config.epochs=3"]
MAIN += ["--config.loader.workers=0"]
"""The run of ``killed_run``, as a user would start it."""


@pytest.fixture(scope="module")
def files(bucket):
    from mla_jax import storage

    return storage.file_system()


def at(name: str) -> str:
    return f"gs://{BUCKET}/{name}"


def fetched(files, name: str, to: pathlib.Path) -> pathlib.Path:
    """A local copy of a run, without the objects that orbax uses for buckets alone."""
    files.get(at(name), str(to), recursive=True)
    return to


@pytest.fixture(scope="module")
def straight(commands, losing, tmp_path_factory):
    """The same run in a local folder; ``losing`` begins before it, and waits meanwhile."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    done = commands.run("mla_jax.main", [*MAIN, f"--workdir={folder}"])
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def killed(bucket, commands):
    """What a run in the bucket that was killed leaves."""
    options = [ARGUMENTS, at("cut"), "57", "SIGKILL", "0"]
    done = commands.run("tests.killed_run", options, **bucket.environment)
    assert done.returncode == -9, done.stderr
    return "cut"


@pytest.fixture(scope="module")
def resumed(bucket, commands, files, killed, tmp_path_factory):
    """A local copy of the killed run after it was resumed, and what the command said."""
    assert files.exists(at(f"{killed}/.lock")), "a killed run leaves its lock"
    options = [*MAIN, f"--workdir={at(killed)}"]
    done = commands.run("mla_jax.main", options, **bucket.environment)
    assert done.returncode == 0, done.stderr
    assert not files.exists(at(f"{killed}/.lock"))
    return fetched(files, killed, tmp_path_factory.mktemp("resumed") / "run"), done.stdout


def test_a_killed_run_goes_on_to_the_bit(resumed, straight):
    folder, said = resumed
    assert "resuming gs://bucket-one/cut after batch 50 of 78" in said
    assert_same_run(straight, folder, config_of("mla"))
    names = {path.name for path in straight.iterdir() if not path.name.startswith(".")}
    assert names == {path.name for path in folder.iterdir()}
    for name in ("config.json", "data.json", "confusion.json"):
        assert (straight / name).read_text() == (folder / name).read_text()
    with np.load(straight / "predictions.npz") as a, np.load(folder / "predictions.npz") as b:
        assert all((a[key] == b[key]).all() for key in a.files)


def test_a_finished_run_is_shown_and_opened(bucket, commands, resumed):
    done = commands.run("mla_jax.main", [*MAIN, f"--workdir={at('cut')}"], **bucket.environment)
    assert "holds a finished run; its result:" in done.stdout
    done = commands.run(
        "mla_jax.evaluate", [f"--run={at('cut')}", "--split=test"], **bucket.environment
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((resumed[0] / "result.json").read_text())
    assert f"{result['test']['fused']:.4f}" in done.stdout


def test_a_damaged_checkpoint_falls_back(bucket, commands, files, resumed, straight, tmp_path):
    newest, before = sorted(
        (p.rpartition("/")[2] for p in files.ls(at("cut/checkpoints"))), key=int, reverse=True
    )[:2]
    files.cp(at("cut"), at("damaged"), recursive=True)
    files.rm(at("damaged/result.json"))
    arrays = max(files.find(at(f"damaged/checkpoints/{newest}/state")), key=files.size)
    content = bytearray(files.cat_file(arrays))
    content[len(content) // 2] ^= 1
    files.pipe_file(arrays, bytes(content))
    options = [*MAIN, f"--workdir={at('damaged')}"]
    done = commands.run("mla_jax.main", options, **bucket.environment)
    assert done.returncode == 0, done.stderr
    assert f"checkpoint {newest} is damaged" in done.stdout
    assert f"moved to {at(f'damaged/damaged-{newest}')}" in done.stdout
    assert f"resuming {at('damaged')} after batch {before} of 78" in done.stdout
    assert_same_run(straight, fetched(files, "damaged", tmp_path / "run"), config_of("mla"))


def test_the_second_of_two_runs_is_refused(bucket, commands, files):
    environment = {**os.environ, **bucket.environment}
    words = [sys.executable, "-m", "tests.impatient_main", *MAIN, f"--workdir={at('two')}"]
    first = subprocess.Popen(
        [*words, "--config.epochs=400"], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL
    )
    try:
        wait_for(lambda: files.exists(at("two/metrics.jsonl")))
        options = [*MAIN, "--config.epochs=400", f"--workdir={at('two')}"]
        done = commands.run("tests.impatient_main", options, **bucket.environment)
        assert (done.returncode, done.stderr) == (
            2,
            f"error: another process is at work in {at('two')}: wait for it, or give another "
            "--workdir\n",
        )
        assert first.poll() is None, "the first one goes on"
    finally:
        first.send_signal(signal.SIGTERM)
        assert first.wait() == 143


def wait_for(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.parametrize(
    ("folder", "sentence"),
    [
        ("gs://bucket-two/run", "there is no bucket gs://bucket-two, or this account may not see"),
        ("gs://forbidden-bucket/run", "gs://forbidden-bucket cannot be used: no permission: give"),
        (
            "gs://readonly-bucket/run",
            "cannot continue in gs://readonly-bucket/run: no permission",
        ),
        ("gs://x/run", "gs://x/run has no bucket name: write gs://BUCKET/FOLDER"),
    ],
)
def test_buckets_that_cannot_be_used(folder, sentence, bucket, commands):
    done = commands.run("mla_jax.main", [*MAIN, f"--workdir={folder}"], **bucket.environment)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {sentence}"), done.stderr
    assert done.stderr.count("\n") == 1


def test_gcsfs_is_asked_for(bucket, monkeypatch):
    from mla_jax import storage
    from mla_jax.errors import UserError

    monkeypatch.setattr(storage.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs gcsfs: pip install gcsfs"):
        storage.file_system.__wrapped__()


def test_a_read_that_fails_is_raised_and_not_logged(bucket, monkeypatch, caplog):
    """The libraries log their errors too, with tracebacks, each from a thread of its own."""
    import gcsfs.retry

    from mla_jax import storage
    from tests.impatient_main import IMPATIENT

    server = Server()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.environment["STORAGE_EMULATOR_HOST"])
    monkeypatch.setattr(gcsfs.retry, "asyncio", IMPATIENT)
    files = type(storage.file_system())(skip_instance_cache=True)
    files.pipe_file(at("large"), bytes(1 << 20))
    with files.open(at("large"), "rb", block_size=1 << 16) as file:
        assert file.read(1 << 17) == bytes(1 << 17)
        server.stop()
        with pytest.raises(Exception) as failed:
            file.seek(1 << 19)
            file.read()
    assert storage.trouble(failed.value).startswith("it cannot be reached")
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


@pytest.fixture(scope="module")
def losing(tmp_path_factory):
    """A run whose bucket goes away after an epoch: its options, server and what it says.

    It tries for a while, in which other tests run.
    """
    server = Server(tmp_path_factory.mktemp("lost") / "objects")
    options = [*MAIN, "--config.epochs=5", f"--workdir={at('run')}"]
    run = subprocess.Popen(
        [sys.executable, "-u", "-m", "tests.impatient_main", *options],
        cwd=ROOT,
        env={**os.environ, **server.environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )

    def lose() -> str:
        for line in run.stdout:
            if line.startswith("epoch   1/5"):
                break
        server.stop()
        return run.communicate(timeout=300)[1]

    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        try:
            yield options, server, run, thread.submit(lose)
        finally:
            run.kill()


def test_the_bucket_goes_away_and_comes_back(losing, commands):
    """One sentence, and the same command goes on."""
    options, server, run, waiting = losing
    said = waiting.result()
    assert run.returncode == 2
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    assert lines[0].startswith(f"error: cannot continue in {at('run')}: it cannot be reached"), said
    assert "Traceback" not in said
    server.start()
    done = commands.run("mla_jax.main", options, **server.environment)
    server.stop()
    assert done.returncode == 0, done.stderr
    assert re.search(rf"resuming {at('run')} after batch \d+ of 130", done.stdout)
