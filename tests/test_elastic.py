"""A run goes on on other numbers of devices and processes: same examples, same losses."""

import json
import pathlib
import shutil
import subprocess

import jax
import numpy as np
import pytest

from mla_jax import train
from mla_jax.config import files
from mla_jax.distributed import data_parallel
from mla_jax.errors import UserError
from mla_jax.runs import metrics
from mla_jax.runs.workdir import Workdir
from tests.conftest import TINY
from tests.test_multiprocess import start

PER_EPOCH = 10
RUN = {"epochs": 2, "batch_size": 168, "log_every_steps": 1}  # of 1700 examples
OPTIONS = [f"--config.{name}={value}" for name, value in RUN.items()]


def trained(path: pathlib.Path, devices: int) -> list[str]:
    """Trains in this process, or goes on; what was said."""
    said = []
    train.train(files.load_config(TINY, RUN), path, None, jax.devices()[:devices], said.append)
    return said


def without_the_last_epoch(run: pathlib.Path, copy: pathlib.Path) -> pathlib.Path:
    """A copy of a finished run as it was after its first epoch."""
    shutil.copytree(run, copy)
    (copy / "result.json").unlink()
    shutil.rmtree(copy / "checkpoints" / str(2 * PER_EPOCH))
    assert Workdir(copy).newest_checkpoint() == PER_EPOCH
    return copy


def losses(path: pathlib.Path) -> np.ndarray:
    """Those of every batch: another order of the examples would give others."""
    lines = metrics.read_lines(path / "metrics.jsonl")
    found = [list(line["loss"].values()) for line in lines if line.get("event") == "steps"]
    assert len(found) == 2 * PER_EPOCH
    return np.array(found)


def require_same(run: pathlib.Path, other: pathlib.Path) -> None:
    assert losses(run).std(0).min() > 0.01
    np.testing.assert_allclose(losses(other), losses(run), rtol=1e-5, atol=1e-5)
    results = [json.loads((path / "result.json").read_text())["test"] for path in (run, other)]
    for name in results[0]["macro_f1"]:
        assert results[1][name] == pytest.approx(results[0][name], abs=2 / 950)


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    path = tmp_path_factory.mktemp("eight") / "run"
    trained(path, 8)
    return path


@pytest.mark.parametrize("devices", [4, 2, 1])
def test_eight_devices_go_on_as_fewer(devices, eight, tmp_path):
    copy = without_the_last_epoch(eight, tmp_path / "run")
    assert f"resuming {copy} after batch {PER_EPOCH} of {2 * PER_EPOCH}" in trained(copy, devices)
    require_same(eight, copy)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A run of two processes with a device each."""
    path = tmp_path_factory.mktemp("two") / "run"
    finished(start(path, *OPTIONS, "--processes=2", "--devices=1"))
    return path


def finished(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


@pytest.mark.parametrize("processes", [1, 4])
def test_two_processes_go_on_as_one_and_as_four(processes, two, tmp_path):
    copy = without_the_last_epoch(two, tmp_path / "run")
    if processes == 1:
        said = "\n".join(trained(copy, 1))
    else:
        options = [*OPTIONS, f"--processes={processes}", "--devices=1"]
        said = finished(start(copy, *options))
    assert f"resuming {copy} after batch {PER_EPOCH} of {2 * PER_EPOCH}" in said
    require_same(two, copy)


@pytest.mark.parametrize(
    ("batch_size", "sizes"), [(100, "96 or 104"), (7, "8"), (9, "8 or 16"), (1001, "1000 or 1008")]
)
def test_batches_that_do_not_divide_are_refused_with_the_sizes_that_would(batch_size, sizes):
    sentence = rf"batch_size={batch_size} does not divide among 8 devices: .*batch_size={sizes}$"
    with pytest.raises(UserError, match=sentence):
        data_parallel(batch_size, jax.devices()[:8])
