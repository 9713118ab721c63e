"""MLA as one program per batch, ``method.schedule=fused``: the same computation in another order.

Bits are equal here because the tests compile in haste.  A program that is optimised may contract
other products with sums than two programs do; then they agree with ``--xla_cpu_max_isa=AVX``, which
leaves out the fused multiply-add (docs/speed.md).
"""

import jax
import numpy as np
import pytest

from mla_jax import train
from mla_jax.config import fields
from mla_jax.errors import UserError
from mla_jax.functional.optimizers import StepInfo
from mla_jax.program import build_program
from tests.conftest import build_config, build_dataset, fresh_state
from tests.runs import lines_without_time
from tests.test_spread import CLOCK, COLLECTIVE, HASTE

BATCHES = 3
SCHEDULES = ("alternating", "fused")


def prepared(modalities, schedule, missing=0.0, devices=1, **settings):
    config = build_config(modalities, **{"method.schedule": schedule, **settings})
    dataset = build_dataset(modalities, missing=missing)
    program = build_program(fields.resolve(config), dataset, jax.devices()[:devices])
    return program, dataset, fresh_state(program, dataset)


def after_batches(count, schedule, **settings):
    program, dataset, state = prepared(tuple("abcdef"[:count]), schedule, **settings)
    (stage,) = program.method.stages
    assert len(stage.phases) == (1 if schedule == "fused" else count)
    reported = []
    for number in range(BATCHES):
        rows = np.arange(16) + 16 * number
        batch = program.placement.shard(dataset.splits["train"].fetch(rows))
        info = StepInfo(*map(np.int32, (0, number, BATCHES)))
        for i, phase in enumerate(stage.phases):
            state, metrics = program.dispatches[stage.name](i, state, batch, info)
            reported += phase.named_metrics(jax.device_get(metrics))
    return jax.device_get(state), reported


@pytest.mark.parametrize("count", range(1, 7))
@pytest.mark.parametrize("fidelity", ["paper", "released", "first_drop"])
def test_every_bit_is_that_of_the_alternating_schedule(fidelity, count):
    both = [after_batches(count, schedule, fidelity=fidelity) for schedule in SCHEDULES]
    jax.tree.map(np.testing.assert_array_equal, *both)


@pytest.mark.parametrize(
    "settings",
    [
        {"missing": 0.4},
        {"missing": 0.4, "fidelity": "released", "absent": "skip"},
        {"optimizer.name": "adam", "fidelity": "released"},
        {"missing": 0.4, "absent": "zeros"},
        {"batch_norm": "device", "batch_norm_devices": 4},
    ],
)
def test_with_absent_modalities_and_with_adam(settings):
    both = [after_batches(3, schedule, **settings) for schedule in SCHEDULES]
    jax.tree.map(np.testing.assert_array_equal, *both)


def test_a_run_reports_the_same(tmp_path, monkeypatch):
    """Lines by modality, accuracies, telemetry."""
    dataset = build_dataset()
    monkeypatch.setattr(train, "load_dataset", lambda *_: dataset)
    lines, results = [], []
    for schedule in SCHEDULES:
        config = build_config(**{"method.schedule": schedule, "telemetry.every_steps": 2})
        run = train.train(config, tmp_path / schedule, devices=jax.devices()[:1], say=len)
        lines.append(lines_without_time(run.path))
        results.append((run.result["test"], run.result["train"]["steps"]))
    assert lines[0] == lines[1]
    assert results[0] == results[1]
    assert any("telemetry" in line for line in lines[0])


def test_on_several_devices():
    """The head's sums are gone, the state is that of one device; a TPU also joins the encoders'
    gradients (docs/speed.md)."""

    def compiled(schedule, devices):
        program, dataset, state = prepared(("a", "b", "c", "d"), schedule, devices=devices)
        batch = program.placement.shard(dataset.splits["train"].fetch(np.arange(16)))
        (stage,) = program.method.stages
        arguments, dispatch = (batch, CLOCK), program.dispatches[stage.name]
        texts = [
            dispatch.lower(phase, state, *arguments).compile(HASTE).as_text()
            for phase in range(len(stage.phases))
        ]
        all_reduces = sum(COLLECTIVE.findall(text).count("all-reduce") for text in texts)
        for phase in range(len(stage.phases)):
            state, _ = dispatch(phase, state, *arguments)
        return all_reduces, jax.device_get(state)

    (alternating, expected), (fused, found) = (compiled(schedule, 8) for schedule in SCHEDULES)
    assert fused <= alternating - 7
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), expected, found)


def test_a_misspelt_schedule():
    with pytest.raises(UserError, match=r"method\.schedule 'fusd': did you mean 'fused'"):
        prepared(("a", "b"), "fusd")
