"""Stacks beside what is written by others: rules and stages of one's own, runs that are opened
again, runs of earlier versions; and the counts of operations."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mla_jax import methods, train
from mla_jax.backend import counting
from mla_jax.dispatch import Dispatch
from mla_jax.functional import fusion
from mla_jax.methods import joint, late_fusion
from mla_jax.runs.run import open_run
from mla_jax.state import Stacks
from tests.conftest import FEATURE_DIM, build_config, build_dataset
from tests.test_dispatch import CLOCK
from tests.test_many_modalities import NAMES, prepared
from tests.test_stacks import (  # noqa: F401 - a fixture
    OTHER,
    StopAtThree,
    after_batches,
    assert_close,
    float64,
    one_by_one,
)

# ---- Methods of one's own ------------------------------------------------------------------------


def own_method(**changes):
    """A module as ``methods.register`` takes it: late fusion whose rule is changed."""

    def build(switches, encoders, optimizer, task):
        def weigh(prediction, present, method_state):
            return fusion.equal_weights(prediction.unimodal, present)

        rule = late_fusion.rule(encoders, task, weigh)._replace(stacks=False, **changes)
        return joint.joint_method("own", rule, encoders, optimizer, task)

    return types.SimpleNamespace(FIDELITY={"paper": {}}, CHOICES={}, build=build)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    "changes",
    [
        {  # leaves of all features, in the order of the modalities
            "init_state": lambda rng: {"mean": {m: jnp.zeros(FEATURE_DIM) for m in NAMES[:4]}},
            "next_state": lambda step: {
                "mean": jax.tree.map(lambda z, old: z.mean(0) + old, step.features | {}, dict(
                    step.method_state["mean"]))
            },
        },
        {"modulate": lambda step: {"b": {}}},  # names one modality only
    ],
)  # fmt: skip
def test_a_rule_that_says_nothing_of_stacks_gets_dictionaries(changes, monkeypatch):
    monkeypatch.setitem(methods.REGISTRY, "own", own_method(**changes))
    settings = {"method": "own", "encoders": OTHER}
    expected = one_by_one(monkeypatch, 4, **settings)
    *found, held = after_batches(4, **settings)
    assert isinstance(held.params["encoder"], Stacks)
    assert_close(found, expected)


@pytest.mark.usefixtures("float64")
def test_a_modulation_of_one_modality(monkeypatch):
    """The groups of the optimisers' extra arguments may differ."""
    seen = []

    def extra(updates, state, params=None, *, coefficient=None, **rest):
        del params, rest
        seen.append(coefficient is not None)
        factor = 1.0 if coefficient is None else coefficient
        return jax.tree.map(lambda u: u * factor, updates), state

    transform = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), extra)

    def build(switches, encoders, optimizer, task):
        rule = late_fusion.rule(encoders, task, None)._replace(
            fuse=lambda prediction, present, state: prediction.unimodal.mean(0),
            modulate=lambda step: {"b": {"coefficient": jnp.float32(0.5)}},
        )
        modulated = optimizer.after(transform)
        return joint.joint_method("own", rule, encoders, optimizer, task, modulated)

    module = types.SimpleNamespace(FIDELITY={"paper": {}}, CHOICES={}, build=build)
    monkeypatch.setitem(methods.REGISTRY, "own", module)
    expected = one_by_one(monkeypatch, 4, method="own")
    *found, held = after_batches(4, method="own")
    assert isinstance(held.params["encoder"], Stacks) and set(seen) == {True, False}
    assert_close(found, expected)


def test_features_keep_the_order_of_the_modalities():
    for count in (3, 9):
        program, dataset, state = prepared(count, method="concat", encoders={"b": OTHER["c"]})
        batch = dataset.splits["test"].fetch(np.arange(4))
        encoders = program.encoders
        for train_mode in (False, True):
            found, _ = encoders.features(
                state.params["encoder"], state.batch_stats, batch, train_mode
            )
            assert list(found) == list(NAMES[:count])


def test_a_stage_that_takes_no_stacks_gets_none():
    program, dataset, state = prepared(8, method="concat")
    batch = dataset.splits["train"].fetch(np.arange(16))
    (first,) = program.dispatches.values()
    kinds = []

    def update(state, batch, info):
        kinds.append(type(state.params["encoder"]))
        return state, {}

    state, _ = first(0, state, batch, CLOCK)
    assert isinstance(state.params["encoder"], Stacks)
    state, _ = Dispatch([update])(0, state, batch, CLOCK)
    assert set(kinds) == {dict} and type(state.batch_stats) is dict
    state, _ = first(0, state, batch, CLOCK)
    assert isinstance(state.params["encoder"], Stacks)


# ---- What is said of the programs ----------------------------------------------------------------


def test_operations_in_loops_are_counted():
    """The head's sub-steps are a loop from 8 modalities on; XLA counts one turn of it."""
    flops = []
    for schedule in ("alternating", "fused"):
        program, dataset, state = prepared(8, **{"method.schedule": schedule})
        batch = dataset.splits["train"].fetch(np.arange(16))
        (stage,) = program.method.stages
        dispatch = program.dispatches[stage.name]
        for index in range(len(stage.phases)):
            state, _ = dispatch(index, state, batch, CLOCK)
        flops.append(dispatch.flops)
    assert flops[1] == pytest.approx(flops[0], rel=0.1)


def test_loops_within_loops():
    def turn(carry, _):
        return jax.lax.fori_loop(0, 3, lambda i, c: c @ c, carry), None

    def looped(x):
        return jax.lax.scan(turn, x, None, 5)[0]

    once = jax.jit(lambda x: x @ x).lower(jnp.eye(8)).cost_analysis()["flops"]
    found = counting.of_loops(jax.jit(looped), jnp.eye(8))["flops"]
    assert found == pytest.approx(once * 3 * 5 - once, rel=0.2)


def test_a_run_with_an_axis_of_modalities_opens_on_one_device(tmp_path, monkeypatch):
    names = NAMES[:8]
    dataset = build_dataset(names)
    monkeypatch.setattr(train, "load_dataset", lambda *_: dataset)
    config = build_config(names, "concat", modality_devices=2, epochs=1)
    run = train.train(config, tmp_path / "run", devices=jax.devices()[:4], say=len)
    again = open_run(tmp_path / "run")
    figures = again.evaluate(dataset.splits["test"])
    assert figures["fused"] == pytest.approx(run.result["test"]["fused"])


class OlderRun(train.Run):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        del self.identity["config"]["modality_devices"]


def test_a_run_of_an_earlier_version_goes_on(tmp_path, monkeypatch):
    """Its configuration lacks the newest fields, in the checkpoint too."""
    names = NAMES[:3]
    dataset = build_dataset(names)
    monkeypatch.setattr(train, "load_dataset", lambda *_: dataset)
    config = build_config(names, "concat", **{"checkpoint.every_steps": 1, "epochs": 2})
    with monkeypatch.context() as patch, pytest.raises(train.Interrupted):
        patch.setattr(train, "Run", OlderRun)
        patch.setattr(train.distributed, "StopSignal", StopAtThree)
        train.train(config, tmp_path / "run", devices=jax.devices()[:1], say=len)
    run = train.train(config, tmp_path / "run", devices=jax.devices()[:1], say=len)
    assert run.result["train"]["steps"] > 3
