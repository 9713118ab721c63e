"""What a run tells while it trains: lines of ``metrics.jsonl`` every few batches, and traces."""

import jax
import numpy as np
import pytest

from mla_jax import train
from mla_jax.config import fields
from mla_jax.config.limits import profiled_batches
from mla_jax.data import workers
from mla_jax.errors import Interrupted, UserError
from mla_jax.runs import metrics, progress, steps
from tests.conftest import digits_program
from tests.runs import PER_EPOCH, config_of, lines_without_time, run, signal_at

EVERY = 10


def logged(path):
    lines = metrics.read_lines(path / "metrics.jsonl")
    return [line for line in lines if line.get("event") == steps.EVENT]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("steps") / "run"
    run(config_of("mla", log_every_steps=EVERY), path)
    return path


def test_a_line_every_few_batches(whole):
    found = logged(whole)
    assert [line["step"] for line in found] == list(range(EVERY, 3 * PER_EPOCH + 1, EVERY))
    for line in found:
        assert line["epoch"] == (line["step"] - 1) // PER_EPOCH + 1
        assert line["stage"] == "alternate" and line["learning_rate"] == pytest.approx(0.05)
        assert set(line["loss"]) == {"audio", "text"}
        assert line["time"]["examples_per_second"] > 0
        assert line["time"]["input_seconds"] >= 0


def test_the_loss_is_that_of_the_batch(tmp_path):
    """With a line for every batch, the losses of an epoch have the mean of its line."""
    run(config_of("mla", log_every_steps=1), tmp_path / "run")
    losses = [line["loss"]["audio"] for line in logged(tmp_path / "run") if line["epoch"] == 3]
    *_, epoch = metrics.read_lines(tmp_path / "run" / "metrics.jsonl")
    assert len(losses) == PER_EPOCH and len(set(losses)) > 20
    np.testing.assert_allclose(np.mean(losses), epoch["train"]["audio/loss"], rtol=1e-6)


def test_a_run_says_how_many_workers_auto_is_and_is_the_same_with_them(
    whole, tmp_path, monkeypatch
):
    monkeypatch.setattr(workers, "automatic", lambda split, cores: 1)
    said = []
    run(config_of("mla", log_every_steps=EVERY), tmp_path / "run", said.append)
    assert "loader.workers=auto is 1 here" in said
    assert lines_without_time(tmp_path / "run") == lines_without_time(whole)


def test_lines_and_numbers_are_those_of_a_run_that_was_cut(whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        signal_at(patch, 34)
        with pytest.raises(Interrupted):
            run(config_of("mla", log_every_steps=EVERY), tmp_path / "cut")
    run(config_of("mla", log_every_steps=EVERY), tmp_path / "cut")
    assert lines_without_time(tmp_path / "cut") == lines_without_time(whole)
    run(config_of("mla"), tmp_path / "without")
    epochs = [line for line in lines_without_time(whole) if "event" not in line]
    assert lines_without_time(tmp_path / "without") == epochs


def test_the_heartbeat_has_the_newest_line(monkeypatch):
    monkeypatch.setattr(progress, "HEARTBEAT", 0.0)
    said = []
    bar = progress.ProgressBar(10, 0, said.append)
    bar.update(1)
    bar.note = "loss audio 0.500, 900 examples/s, 2% of it waiting for input"
    bar.update(1)
    assert said[0].startswith("batch 1 of 10, about ") and said[0].endswith(" left")
    assert said[1].endswith(f" left; {bar.note}")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", (0, 0, False)),
        ("3:9", (3, 9, False)),
        ("1:1", (1, 1, False)),
        ("2:4:all", (2, 4, True)),
    ],
)
def test_batches_to_trace(text, found):
    assert profiled_batches(text) == found


@pytest.mark.parametrize("text", ["3", "0:4", "5:4", "a:b", "1:2:some", "-1:2"])
def test_batches_that_make_no_sense(text):
    with pytest.raises(UserError, match="must be FROM:TO, two numbers of batches from 1"):
        fields.resolve(config_of("mla", profile=text))


@pytest.mark.parametrize("profile", ["3:5", "20:900"])
def test_a_trace(profile, tmp_path):
    """Of some batches, and of the last ones where the run ends before."""
    program, _ = digits_program("mla")
    said = []
    config = config_of("mla", profile=profile)
    train.train(config, tmp_path / "run", program, jax.devices()[:1], said.append)
    (trace,) = (tmp_path / "run" / "profile").rglob("*.xplane.pb")
    assert trace.stat().st_size > 1000
    first = profile.partition(":")[0]
    assert f"trace from batch {first} on: {tmp_path / 'run' / 'profile'}" in said
