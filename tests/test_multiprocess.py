"""Two processes of two devices each, through the script a user would run."""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from mla_jax import methods, train
from mla_jax.config import files
from mla_jax.runs import metrics
from mla_jax.runs.predictions import read_classes
from tests.every_method import BAD, losses_of
from tests.killed_run import processes_of_group
from tests.stopped_by_one import BATCH

ROOT = pathlib.Path(__file__).parents[1]
TINY = "tests/configs/tiny.py"
SCRIPT = "launch/local_multihost.sh"
PER_EPOCH = 10
RUN = {"epochs": 2, "batch_size": 168}  # of 1700 examples
OPTIONS = [f"--config.{name}={value}" for name, value in RUN.items()]


def start(workdir: pathlib.Path, *options: str) -> subprocess.Popen:
    environment = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [SCRIPT, f"--config={TINY}", f"--workdir={workdir}", *options],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def without_gloo(text: str) -> list[str]:
    """The lines that are not Gloo's, whose threads write into each other's."""
    return [s for s in text.splitlines() if not re.search(r"Gloo|connected|ranks|^[\d :.]*$", s)]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The same run in one process and in two, two epochs."""
    folder = tmp_path_factory.mktemp("pair")
    process = start(folder / "two", *OPTIONS)
    config = files.load_config(str(ROOT / TINY), RUN)
    train.train(config, folder / "one", devices=jax.devices()[:1], say=lambda line: None)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return folder, output


def test_losses_and_evaluation_counts_agree(pair):
    folder, _ = pair
    one, two = (metrics.read_lines(folder / name / "metrics.jsonl") for name in ("one", "two"))
    assert len(one) == len(two) == 2
    for name, value in one[0]["train"].items():
        if name.endswith("loss"):  # a mean over the first epoch
            np.testing.assert_allclose(two[0]["train"][name], value, rtol=1e-5, err_msg=name)
    for a, b in zip(one, two, strict=True):
        for split in ("validation", "test"):
            assert a[split]["examples"] == b[split]["examples"]
    confusion = [
        {k: np.array(v) for k, v in json.loads((folder / n / "confusion.json").read_text()).items()}
        for n in ("one", "two")
    ]
    for name, counts in confusion[0].items():
        np.testing.assert_array_equal(counts.sum(1), confusion[1][name].sum(1))
    assert one[0]["test"] == two[0]["test"]
    for name, counts in zip(("one", "two"), confusion, strict=True):
        kept = read_classes(folder / name / "predictions.npz").confusion(10)
        np.testing.assert_equal(kept, {k: v.tolist() for k, v in counts.items()})


def test_only_process_0_writes_and_prints(pair):
    folder, output = pair
    assert output.count("epoch   1/2") == 1
    assert without_gloo((folder / "two.process-1.log").read_text()) == []
    lines = (folder / "two" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 2


@pytest.fixture(scope="module")
def cut(tmp_path_factory):
    """A run with loader workers of which process 1 was signalled: its folder, the batches done."""
    folder = tmp_path_factory.mktemp("cut")
    process = start(
        folder / "run", "--module=tests.stopped_by_one", *OPTIONS,
        "--config.check_loss_every=1", "--config.loader.workers=1",
    )  # fmt: skip
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, output
    deadline = time.monotonic() + 20
    while (left := processes_of_group(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left
    log = (folder / "run.process-1.log").read_text()
    assert "SIGTERM: stopping after the current batch, with a checkpoint" in log
    stopped = {
        int(n)
        for text in (output, log)
        for n in re.findall(r"stopped after batch (\d+), checkpoint saved", text)
    }
    assert len(stopped) == 1, output
    return folder / "run", stopped.pop()


def test_sigterm_to_one_process_stops_both_at_the_same_step(cut):
    workdir, stopped = cut
    assert BATCH < stopped < 2 * PER_EPOCH
    steps = sorted(int(p.name) for p in (workdir / "checkpoints").iterdir())
    assert steps == [PER_EPOCH, stopped]


def test_both_go_on_from_the_checkpoint_before_a_damaged_one(pair, cut):
    """It is then the run that was never cut, also in what worker processes loaded."""
    folder, (workdir, stopped) = pair[0], cut
    for file in (workdir / "checkpoints" / str(stopped) / "state").rglob("d/*"):
        file.write_bytes(b"")
    process = start(workdir, *OPTIONS)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert output.count(f"checkpoint {stopped} is damaged (unreadable); moved to ") == 1
    assert f"resuming {workdir} after batch {PER_EPOCH} of {2 * PER_EPOCH}" in output
    assert (workdir / f"damaged-{stopped}").is_dir()
    straight = metrics.read_lines(folder / "two" / "metrics.jsonl")
    resumed = metrics.read_lines(workdir / "metrics.jsonl")
    for a, b in zip(straight, resumed, strict=True):
        assert {**a, "time": 0} == {**b, "time": 0}


def test_a_mistake_stops_all_processes(tmp_path):
    process = start(tmp_path / "bad", "--config.batch_size=63")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 2, output
    assert "batch_size=63 does not divide among 4 devices" in output


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def test_an_error_of_one_process_at_restore_is_the_verdict_of_both(tmp_path):
    port = free_port()
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.restored_by_two", port, index, str(tmp_path)],
            cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for index in "01"
    ]  # fmt: skip
    said = []
    try:
        for child in children:
            output, errors = child.communicate(timeout=60)
            assert child.returncode == 0, errors
            said.append(without_gloo(output))
    finally:
        for child in children:
            child.kill()
    for lines, reason in zip(said, ("another process cannot read it", "Stale file"), strict=True):
        assert lines[:2] == ["restored 2", "restored 2"]
        assert "2 cannot be read at the moment" in lines[2] and reason in lines[2]
        assert lines[3:] == ["restored 1", "checkpoints damaged-2"]


@pytest.fixture(scope="module")
def every_method(tmp_path_factory):
    """The losses of a few batches of every method in two processes, what the two then say of an
    example that is NaN, and the folder of that run."""
    folder = tmp_path_factory.mktemp("methods")
    output, port = folder / "two.json", free_port()
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
    haste = "--xla_backend_optimization_level=0"  # compiles in half the time
    environment["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {haste}"
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.every_method", str(output), port, "2", index],
            cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for index in "01"
    ]  # fmt: skip
    said = []
    for child in children:
        text, errors = child.communicate(timeout=240)
        assert child.returncode == 0, errors
        said += without_gloo(text)
    return json.loads(output.read_text()), said, folder / "nan"


@pytest.mark.parametrize("name", methods.REGISTRY)
def test_two_processes_compute_what_one_does(name, every_method):
    one = losses_of(name, jax.devices()[:1])
    assert len(one) >= 6
    np.testing.assert_allclose(every_method[0][name], one, rtol=1e-5)


def test_a_loss_that_is_nan_stops_both(every_method):
    """After the same batch, and both name the example that process 1 loaded."""
    _, said, workdir = every_method
    expected = (
        f"the loss of 'joint' is nan at batch 3 (epoch 2), on training examples {BAD} (their a "
        "holds NaN or infinity): fix or remove these examples"
    )
    assert said == [expected] * 2
    epoch, event = metrics.read_lines(workdir / "metrics.jsonl")
    assert (epoch["step"], event["event"], event["step"]) == (2, "non-finite loss", 3)
    assert event["examples"] == [BAD] and event["inputs"] == ["a"]
    assert [p.name for p in (workdir / "checkpoints").iterdir()] == ["2"]
