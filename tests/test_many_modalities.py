"""Alike modalities share programs: every bit is that of programs of their own, and the number and
the size of the programs do not depend on how many modalities there are."""

import collections
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mla_jax import preflight
from mla_jax.benchmark import modalities
from mla_jax.benchmark.__main__ import main
from mla_jax.config import fields
from mla_jax.data.streams import Stream
from mla_jax.datasets import ArraySplit
from mla_jax.dispatch import Dispatch
from mla_jax.encoders import create_encoders, many
from mla_jax.functional.optimizers import StepInfo
from mla_jax.preflight import topologies
from mla_jax.program import build_program, initial_state
from tests.conftest import FEATURES, build_config, build_dataset, fresh_state
from tests.test_dispatch import CLOCK, CONV, HASTE

NAMES = tuple("abcdefghijklmnop")


def prepared(count, missing=0.0, streams=None, encoders=None, method="mla", devices=1, **settings):
    dataset = build_dataset(NAMES[:count], missing=missing)
    if streams:
        dataset = dataset._replace(streams=streams)
        for split in dataset.splits.values():
            split.inputs.update({m: x.astype(streams[m].dtype) for m, x in split.inputs.items()})
    config = build_config(NAMES[:count], method, **settings)
    for modality, encoder in (encoders or {}).items():
        config.encoders[modality] = encoder
    program = build_program(fields.resolve(config, devices), dataset, jax.devices()[:devices])
    return program, dataset, fresh_state(program, dataset)


def three_batches(program, dataset):
    """``(batch, info)``; in the third one nobody has the second modality."""
    for number in range(3):
        batch = dataset.splits["train"].fetch(np.arange(16) + 16 * number)
        batch["draw"] = np.arange(16, dtype=np.uint32) + 16 * number
        if number == 2:
            batch["present"][:, 1] = False
        yield program.placement.shard(batch), StepInfo(*map(np.int32, (0, number, 3)))


def after_batches(share, *arguments, **settings):
    """The state, what was reported, and the dispatch."""
    program, dataset, state = prepared(*arguments, **settings)
    (stage,) = program.method.stages
    dispatch, reported = Dispatch(stage.phases, share=share), []
    for batch, info in three_batches(program, dataset):
        for index in range(len(stage.phases)):
            state, metrics = dispatch(index, state, batch, info)
            reported.append(jax.device_get(metrics))
    return jax.device_get(state), reported, dispatch


def assert_same_bits(programs, *arguments, **settings):
    (*found, dispatch), (*expected, alone) = (
        after_batches(share, *arguments, **settings) for share in (True, False)
    )
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert (dispatch.programs, alone.programs) == (programs, arguments[0])
    assert dispatch.flops == pytest.approx(alone.flops, rel=0.03)


def collectives_of(compiled):
    """``{kind: bytes}`` of a batch."""
    found = collections.Counter()
    for one in compiled:
        for kind, (_, size) in one.collectives().items():
            found[kind] += one.runs * size
    return found


@pytest.mark.parametrize(
    ("fidelity", "settings"),
    [
        ("paper", {}),
        ("paper", {"absent": "zeros", "optimizer.name": "adam"}),
        ("released", {"absent": "skip"}),
        ("released", {"absent": "zeros"}),
        ("first_drop", {"absent": "skip"}),
    ],
)
def test_every_bit_is_that_of_programs_of_their_own(fidelity, settings):
    drifts = fidelity != "paper"  # then one more for the encoders that were stepped before
    assert_same_bits(1 + drifts, 4, 0.3, fidelity=fidelity, **settings)


def test_an_encoder_of_another_kind_has_its_own_program():
    other = {"name": "mlp", "hidden": 5}
    for fidelity, programs in (("paper", 2), ("released", 3)):  # its drift is in its own
        assert_same_bits(programs, 3, encoders={"c": other}, fidelity=fidelity)


def test_draws_are_those_of_the_modality():
    """Noise is drawn under the modality's name, which is a number that the shared program takes."""
    noisy = Stream("vector", (FEATURES,), "float32", noise=0.5, mean=(1.0,), std=(2.0,))
    streams = {"a": noisy, "b": noisy, "c": noisy._replace(mean=(2.0,))}
    assert_same_bits(2, 3, 0.3, streams)


def test_on_several_devices():
    assert_same_bits(1, 2, 0.3, devices=4)


def test_the_rate_of_the_head():
    """Of the first step, in which there is no momentum yet; ``paper`` without its projection."""
    moved = []
    for factor in (1.0, 0.25):
        settings = {"method.head_rate": factor, "method.projection.enabled": False}
        program, dataset, state = prepared(2, **settings)
        before, batch = jax.device_get(state.params), dataset.splits["train"].fetch(np.arange(16))
        state, _ = program.dispatches["alternate"](0, state, batch, CLOCK)
        moved.append(jax.tree.map(lambda a, b: np.asarray(a) - b, state.params, before))
    for part in ("encoder", "head"):
        scale = 0.25 if part == "head" else 1.0
        assert any(x.any() for x in jax.tree.leaves(moved[0][part]))
        jax.tree.map(
            lambda a, b, s=scale: np.testing.assert_allclose(b, s * a, atol=1e-7),
            moved[0][part], moved[1][part],
        )  # fmt: skip


def test_the_shared_program_is_compiled_as_others_are():
    """No branch, and all that it is given of the state is donated."""
    program, dataset, state = prepared(3, fidelity="released")
    batch = program.placement.shard(dataset.splits["train"].fetch(np.arange(16)))
    dispatch = program.dispatches["alternate"]
    head = sum(x.nbytes for x in jax.tree.leaves((state.params["head"], state.opt_state["head"])))
    whole = sum(x.nbytes for x in jax.tree.leaves(state))
    planned = dispatch.plan(state, batch, CLOCK)
    assert [one.runs for one in planned] == [3, 3]  # the step, and the drifts of those before
    for one in planned:
        compiled = one.lower().compile(HASTE)
        assert " conditional(" not in compiled.as_text()
        given = head + (whole - head) / 3
        assert compiled.memory_analysis().alias_size_in_bytes >= 0.95 * given
    held = [state.params["head"]["shared"]["kernel"], *jax.tree.leaves(state.opt_state["encoder"])]
    for index in range(3):
        state, _ = dispatch(index, state, batch, CLOCK)
    assert all(leaf.is_deleted() for leaf in held)


def test_preflight_compiles_each_shared_program_once():
    """Its figures, as often as a batch runs them, are those of programs of their own."""
    other = {"d": {"name": "mlp", "hidden": 5}}
    program, dataset, _ = prepared(4, fidelity="released", encoders=other, devices=4)
    config = fields.resolve(build_config(NAMES[:4]), 4)
    shapes = preflight.programs.shapes_of(program, dataset, config)
    (stage,) = program.method.stages

    def compiled_by(dispatch):
        changed = program._replace(dispatches={stage.name: dispatch})
        return [c for c in preflight.programs.compile_all(changed, shapes) if c.stage]

    found = compiled_by(program.dispatches[stage.name])
    alone = compiled_by(Dispatch(stage.phases, share=False))
    assert [c.label for c in found] == [
        "alternate/a (3 times per batch)", "alternate/b, a (3 times per batch)", "alternate/d",
    ]  # fmt: skip
    assert [c.label for c in alone] == [f"alternate/{m}" for m in NAMES[:4]]
    assert sum(c.runs * c.flops for c in found) == pytest.approx(
        sum(c.flops for c in alone), rel=0.1
    )
    assert collectives_of(found) == pytest.approx(collectives_of(alone), rel=0.01)
    for one in (*found, *alone):
        assert preflight.programs.donated_share(one) >= 0.95
    assert max(c.peak for c in found) == pytest.approx(max(c.peak for c in alone), rel=0.2)

    def estimated(compiled):
        chip = topologies.CHIPS["v5e"]
        target = topologies.Target("v5e:2x2", chip, (2, 2), [], 1)
        report = types.SimpleNamespace(
            config=config, target=target, examples=128, programs=compiled
        )
        return preflight._estimated(report, (stage,))

    each = [c._replace(runs=1) for c in found for _ in range(c.runs)]
    assert estimated(found) == estimated(each) and len(each) == 7


@pytest.mark.parametrize("method", ["mla", "late_fusion", "concat"])
def test_evaluation_and_initialisation_do_not_grow(method, monkeypatch):
    """As many products for 16 modalities as for 8, and the same predictions as one by one."""
    products, initial, predicted = [], [], []
    for count in (8, 16):
        program, dataset, state = prepared(count, missing=0.3, method=method)
        batch = dataset.splits["test"].fetch(np.arange(16))
        one = jax.tree.map(lambda x: x[None], batch)
        text = program.evaluator.lower(state, one).as_text()
        start = jax.jit(program.method.init).lower(jax.random.key(0), batch).as_text()
        products.append((text.count("dot_general"), start.count("call @")))
    assert products[0] == products[1]
    for smallest in (many.MANY, 99):
        monkeypatch.setattr(many, "MANY", smallest)
        program, dataset, _ = prepared(8, missing=0.3, method=method)
        initial.append(jax.device_get(initial_state(program, dataset, 0)))
        found = jax.jit(program.method.predict)(initial[0].variables, batch | {
            "inputs": {m: batch["inputs"][m] for m in NAMES[:8]},
            "present": batch["present"][:, :8],
        })  # fmt: skip
        predicted.append(jax.device_get(found))
    jax.tree.map(np.testing.assert_array_equal, *initial)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *predicted)


def test_encoders_that_convolve_or_differ_stay_apart():
    names = NAMES[:9]

    def groups_of(configs, shape):
        encoders = create_encoders(configs, names, 4, jnp.float32)
        keys = encoders.keys(jax.random.key(0))
        inputs = {m: np.zeros((1, *shape), np.float32) for m in names}
        return encoders._alike(lambda m: encoders.modules[m].init, keys, inputs)

    vectors = {m: {"name": "mlp", "hidden": 7 if m == "c" else 8} for m in names}
    assert groups_of(vectors, (5,)) == [[m for m in names if m != "c"], ["c"]]
    assert groups_of({m: dict(CONV) for m in names}, (8, 8, 1)) == [[m] for m in names]


def test_the_benchmark(monkeypatch, capsys):
    monkeypatch.setattr(modalities, "SIZES", {"train": 64, "test": 64})
    monkeypatch.setattr(modalities, "in_process", modalities.measure_one)
    command = ["modalities", "--counts=3", "--methods=mla", "--epochs=1", "--seeds=1", "--rounds=1"]
    assert main([*command, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert (row["count"], row["programs"], len(row["accuracy"][0]["modalities"])) == (3, 1, 3)
    assert row["step"]["wall"] > 0 and row["memory"] > 0
    monkeypatch.setattr(modalities, "in_process", lambda spec: row)
    assert main(command) == 0
    assert capsys.readouterr().out.splitlines()[2].startswith("| 3 | mla | 1 |")
    for wrong, sentence in (("--counts=0", "must be at least 1"), ("--methods=mlaa", "'mla'?")):
        assert main([*command, wrong]) == 2
        assert sentence in capsys.readouterr().err


def test_the_data_of_the_benchmark_is_the_same_every_time():
    first, second = modalities.dataset_of(4), modalities.dataset_of(4)
    for split, other in zip(first.splits.values(), second.splits.values(), strict=True):
        assert isinstance(split, ArraySplit)
        jax.tree.map(np.testing.assert_array_equal, split.inputs, other.inputs)
    inputs, label = first.splits["train"].inputs, first.splits["train"].label
    means = ([x[label == c].mean(0) for c in range(modalities.CLASSES)] for x in inputs.values())
    spread = [np.std(of_one, 0).mean() for of_one in means]
    assert spread == sorted(spread, reverse=True)
