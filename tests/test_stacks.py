"""Joint methods and ``schedule=fused`` hold alike modules together: the same computation, in a
program whose size does not depend on how many there are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mla_jax import evaluate, program, train
from mla_jax.config import fields
from mla_jax.encoders import create_encoders, many
from mla_jax.errors import NonFiniteLossError, UserError
from mla_jax.preflight import program_text
from mla_jax.program import build_program
from mla_jax.state import Stacks
from tests import test_many_modalities
from tests.conftest import build_config, build_dataset, fresh_state
from tests.runs import lines_without_time
from tests.test_dispatch import CLOCK, HASTE
from tests.test_many_modalities import NAMES, prepared, three_batches
from tests.test_spread import COLLECTIVE

JOINT = ("concat", "late_fusion", "modality_dropout", "ogm_ge", "qmf", "sum")
OTHER = {"c": {"name": "mlp", "hidden": 5}}
PLAIN = {m: {"name": "mlp", "hidden": 8, "norm": False} for m in NAMES[:9]}


@pytest.fixture
def float64(monkeypatch):
    """Everything in float64, where rounding hides nothing; three are many, to compile less."""

    def create(configs, modalities, feature_dim, dtype, spread):
        return create_encoders(configs, modalities, feature_dim, jnp.float64, spread)

    def wide(leaf):
        return leaf.astype(jnp.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    def fresh(*arguments):
        return jax.tree.map(wide, fresh_state(*arguments))

    monkeypatch.setattr(many, "MANY", 3)
    monkeypatch.setattr(program, "create_encoders", create)
    monkeypatch.setattr(test_many_modalities, "fresh_state", fresh)
    with jax.enable_x64(True):
        yield


def after_batches(count, **settings):
    """The state, apart, after three batches, what was reported, and the state as it is held."""
    program, dataset, state = prepared(count, 0.3, **settings)
    (stage,) = program.method.stages
    reported = {}
    for number, (batch, info) in enumerate(three_batches(program, dataset)):
        for index, phase in enumerate(stage.phases):
            state, metrics = program.dispatches[stage.name](index, state, batch, info)
            for name, of_phase, i in phase.named_metrics(jax.device_get(metrics)):
                reported[name, number] = {k: v if i is None else v[i] for k, v in of_phase.items()}
    return jax.device_get(state.apart()), reported, state


def assert_close(found, expected, atol=1e-9):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 0, atol), found, expected)


def one_by_one(monkeypatch, *arguments, **settings):
    with monkeypatch.context() as patch:
        patch.setattr(many, "MANY", 99)
        *found, held = after_batches(*arguments, **settings)
    assert type(held.params["encoder"]) is dict
    return found


@pytest.mark.parametrize("method", JOINT)
def test_joint_methods_are_what_they_are_one_by_one(method, monkeypatch, float64):
    settings = {"method": method, "encoders": OTHER}
    expected = one_by_one(monkeypatch, 4, **settings)
    *found, held = after_batches(4, **settings)
    assert_close(found, expected)
    assert held.params["encoder"].groups == (("a", "b", "d"), ("c",))
    by_modality = "a" in held.params["head"]
    assert isinstance(held.params["head"], Stacks) == by_modality  # all heads are alike


@pytest.mark.parametrize(
    ("fidelity", "settings"),
    [
        ("paper", {"encoders": OTHER, "absent": "zeros"}),
        # Before a batch normalisation the gradient of a bias is rounding, which Adam enlarges.
        ("released", {"absent": "skip", "optimizer.name": "adam", "encoders": PLAIN}),
        ("first_drop", {"absent": "skip", "encoders": OTHER}),
    ],
)
def test_the_fused_schedule_is_the_alternating_one(fidelity, settings, float64):
    """``test_schedule`` compares the bits of up to six modalities."""
    settings = {"fidelity": fidelity, **settings}
    *expected, _ = after_batches(4, **settings)
    *found, held = after_batches(4, **settings, **{"method.schedule": "fused"})
    assert len(held.params["encoder"].groups[0]) >= 3
    assert_close(found, expected)


def test_on_several_devices(float64):
    """The state of one device, and as many all-reduces for 8 modalities as for 4."""
    for method, settings in (("late_fusion", {}), ("mla", {"method.schedule": "fused"})):
        (alone, _, _), (found, _, held) = (
            after_batches(4, method=method, devices=devices, **settings) for devices in (1, 4)
        )
        assert isinstance(held.params["encoder"], Stacks)
        assert_close(found, alone)
        counts = []
        for count in (4, 8):
            text, _ = compiled(count, method=method, devices=4, **settings)
            counts.append(sum(c == "all-reduce" for c in COLLECTIVE.findall(text)))
        assert counts[0] == counts[1] > 0


@pytest.mark.parametrize(
    ("method", "settings"),
    [("late_fusion", {}), ("concat", {"encoders": OTHER}), ("mla", {"method.schedule": "fused"})],
)
def test_an_axis_of_modalities(method, settings, float64):
    """The state of one device; each device holds a part of the encoders."""
    count = 5 if "encoders" in settings else 4
    alone, _, _ = after_batches(count, method=method, **settings)
    over = {"modality_devices": 4, "devices": 8}
    found, _, held = after_batches(count, method=method, **settings, **over)
    assert_close(found, alone)
    for tree in (held.params, held.batch_stats, held.opt_state):
        stacks = tree.get("encoder", tree)
        for leaf in jax.tree.leaves(stacks.trees[0]):
            assert leaf.addressable_shards[0].data.nbytes == leaf.nbytes // 4
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(held.apart()))


def test_an_axis_of_modalities_divides_what_the_devices_exchange():
    amounts = []
    for over in (1, 4):
        text, _ = compiled(16, method="late_fusion", devices=8, modality_devices=over)
        amounts.append(sum(c.bytes for c in program_text.read(text).collectives))
    assert amounts[1] < 0.5 * amounts[0]


@pytest.mark.parametrize(
    ("arguments", "settings", "sentence"),
    [
        (
            (2,),
            {"devices": 4, "modality_devices": 3},
            "does not divide the number of devices, 4:",
        ),
        ((2,), {"devices": 4, "modality_devices": 2, "batch_size": 15}, "in groups of 2"),
        ((7,), {"devices": 4, "modality_devices": 2, "method": "concat"}, "there are none:"),
        ((9,), {"devices": 4, "modality_devices": 2, "method": "concat"}, "groups of 9:"),
        ((8,), {"devices": 4, "modality_devices": 2}, "set --config.method.schedule=fused"),
        ((8,), {"devices": 4, "modality_devices": 2, "method": "ensemble"}, "ensemble does not:"),
    ],
)
def test_an_axis_of_modalities_that_does_not_suit(arguments, settings, sentence):
    with pytest.raises(UserError, match=sentence):
        compiled(*arguments, **settings)


class StopAtThree:
    """A ``distributed.StopSignal`` that comes after the third batch."""

    received = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def __call__(self, step):
        return step == 3


def compiled(count, **settings):
    program, dataset, state = prepared(count, 0.3, **settings)
    batch = program.placement.shard(dataset.splits["train"].fetch(np.arange(16)))
    (dispatch,) = program.dispatches.values()
    lowered = dispatch.lower(0, state, batch, CLOCK)
    return lowered.compile(HASTE).as_text(), lowered


@pytest.mark.parametrize(
    ("method", "settings"),
    [("late_fusion", {}), ("concat", {}), ("mla", {"method.schedule": "fused"})],
)
def test_programs_do_not_grow(method, settings):
    products = []
    for count in (8, 16):
        program, dataset, state = prepared(count, method=method, **settings)
        batch = dataset.splits["train"].fetch(np.arange(16))
        (dispatch,) = program.dispatches.values()
        held = dispatch.held(state, batch)
        lowered = dispatch.lower(0, state, batch, CLOCK)
        products.append((lowered.as_text().count("dot_general"), len(jax.tree.leaves(held))))
    assert products[0] == products[1]


def test_a_run_and_its_resumption(tmp_path, monkeypatch):
    """Checkpoints, evaluation and telemetry have plain dictionaries; a run that was stopped ends
    with the same bits."""
    names = NAMES[:8]
    dataset = build_dataset(names)
    monkeypatch.setattr(train, "load_dataset", lambda *_: dataset)
    seen = []
    evaluated = evaluate.Evaluator.__call__

    def noting(self, state, *arguments, **options):
        seen.append(type(state.params["encoder"]))
        return evaluated(self, state, *arguments, **options)

    def measured(self, stage, state, batch, info):
        seen.append(type(state.params["encoder"]))
        return {}

    monkeypatch.setattr(evaluate.Evaluator, "__call__", noting)
    monkeypatch.setattr(train.Telemetry, "__call__", measured)
    record = train.Run.record
    monkeypatch.setattr(train.Run, "record", lambda run, line: "event" in line or record(run, line))
    settings = {"checkpoint.every_steps": 1, "telemetry.every_steps": 4, "epochs": 2}
    config = build_config(names, "late_fusion", **settings)
    devices = jax.devices()[:1]
    shared = build_program(fields.resolve(config, 1), dataset, devices)

    def trained(folder):
        return train.train(config, tmp_path / folder, shared, devices, say=len)

    run = trained("whole")
    assert set(seen) == {dict}
    state = run.load("last")
    assert type(state.params["encoder"]) is type(state.batch_stats) is dict

    with monkeypatch.context() as patch, pytest.raises(train.Interrupted):
        patch.setattr(train.distributed, "StopSignal", StopAtThree)
        trained("halves")
    again = trained("halves")
    jax.tree.map(np.testing.assert_array_equal, again.load("last"), state)
    assert lines_without_time(again.path) == lines_without_time(run.path)


def test_a_loss_that_is_not_finite_is_explained(tmp_path, monkeypatch):
    """Also where the metrics of all modalities are one array."""
    names = NAMES[:8]
    dataset = build_dataset(names)
    dataset.splits["train"].inputs["e"][7] = np.inf
    monkeypatch.setattr(train, "load_dataset", lambda *_: dataset)
    config = build_config(names, "mla", **{"method.schedule": "fused"})
    with pytest.raises(NonFiniteLossError) as error:
        train.train(config, tmp_path / "run", devices=jax.devices()[:1], say=len)
    facts = error.value.report
    assert (facts["phase"], facts["examples"], facts["inputs"]) == ("e", [7], ["e"])


def test_stacks_are_a_mapping():
    trees = {m: {"w": jnp.full(2, float(i))} for i, m in enumerate("abc")}
    stacks = Stacks.of([("a", "c"), ("b",)], trees)
    assert list(stacks) == ["a", "c", "b"] and len(stacks) == 3 and "b" in stacks
    assert [x.shape for x in jax.tree.leaves(stacks)] == [(2, 2), (2,)]
    for name, tree in stacks.apart().items():
        np.testing.assert_array_equal(tree["w"], trees[name]["w"])
        np.testing.assert_array_equal(stacks[name]["w"], trees[name]["w"])
    with pytest.raises(KeyError):
        stacks["d"]
