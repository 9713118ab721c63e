"""Every fidelity and every value of every switch of every method builds what it says."""

import jax
import numpy as np
import pytest

from mla_jax import methods
from mla_jax.config import fields
from mla_jax.errors import UserError
from mla_jax.functional.optimizers import StepInfo
from mla_jax.program import build_program
from tests.conftest import BATCH, build_config
from tests.test_method_properties import dataset_of, every_method, modalities_of

FIDELITIES = [(n, f) for n, module in methods.REGISTRY.items() for f in module.FIDELITY]


def resolved(name, fidelity="paper", overrides=None):
    """The switches of a method as a flat dictionary."""
    config = fields.base_config()
    config.method = fields.method_block(name, fidelity)
    fields.override(config, overrides or {})
    return fields.flatten(fields.resolve(config).method.to_dict())


def build_and_trace(name, **options):
    """Traces every phase and the prediction of a method with other switches."""
    modalities = modalities_of(name)
    dataset = dataset_of(modalities)
    config = fields.resolve(build_config(modalities, name, **options))
    method = build_program(config, dataset, jax.devices()[:1]).method
    batch = dataset.splits["train"].fetch(np.arange(BATCH))
    state = jax.eval_shape(lambda: method.init(jax.random.key(0), batch))
    for phase in (phase for stage in method.stages for phase in stage.phases):
        jax.eval_shape(phase.update, state, batch, StepInfo(0, 0, 6))
    prediction = jax.eval_shape(method.predict, state.variables, batch)
    jax.eval_shape(method.fuse, prediction, batch["present"], state.method_state)


@pytest.mark.parametrize(("name", "fidelity"), FIDELITIES)
def test_a_fidelity_is_its_differences_from_the_paper(name, fidelity):
    paper, chosen = resolved(name), resolved(name, fidelity)
    differing = {k: v for k, v in chosen.items() if v != paper[k]}
    expected = fields.flatten(methods.REGISTRY[name].FIDELITY[fidelity])
    if fidelity == "paper":
        assert {k: v for k, v in chosen.items() if k not in ("name", "fidelity")} == expected
        expected = {}
    else:
        expected = {k: v for k, v in expected.items() if v != paper[k]} | {"fidelity": fidelity}
    assert differing == expected
    build_and_trace(name, fidelity=fidelity)


@every_method
def test_there_is_a_paper_and_a_released_preset(name):
    assert next(iter(methods.REGISTRY[name].FIDELITY)) == "paper"
    assert "released" in methods.REGISTRY[name].FIDELITY


SWITCHES = [
    (name, switch) for name, module in methods.REGISTRY.items() for switch in module.CHOICES
]


@pytest.mark.parametrize(("name", "switch"), SWITCHES)
def test_every_value_of_every_switch_alone(name, switch):
    paper = resolved(name)
    for value in methods.REGISTRY[name].CHOICES[switch]:
        if value == paper[switch]:
            continue
        found = resolved(name, overrides={f"method.{switch}": value})
        assert {k: v for k, v in found.items() if v != paper[k]} == {switch: value}
        build_and_trace(name, **{f"method.{switch}": value})
    with pytest.raises(UserError, match=f"unknown value of method.{switch} 'nonsense'"):
        resolved(name, overrides={f"method.{switch}": "nonsense"})
