"""What XLA makes of a dispatched phase, and what a phase may not touch."""

import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mla_jax.datasets import ArraySplit
from mla_jax.dispatch import Dispatch
from mla_jax.functional.optimizers import StepInfo
from tests.conftest import fresh_state

CLOCK = StepInfo(0, 0, 6)
HASTE = {"xla_backend_optimization_level": 0}  # of machine code; the HLO stays as it is


def copied(tree):
    """Host copies that no donation can overwrite."""
    return jax.tree.map(lambda x: np.array(x), tree)


def prepare(make_dataset, make_program, method, modalities, **options):
    """The dispatch of a program's first stage, a state, a batch; images for ``conv2d``."""
    dataset = make_dataset(modalities)
    if options.get("encoder", {}).get("name") == "conv2d":
        rng = np.random.default_rng(0)
        split = dataset.splits["train"]
        inputs = {m: rng.normal(size=(split.examples, 8, 8, 1)).astype("f4") for m in modalities}
        split = ArraySplit(inputs, split.label, split.present)
        dataset = dataset._replace(splits={**dataset.splits, "train": split})
    program = make_program(dataset, method=method, **options)
    dispatch = program.dispatches[program.method.stages[0].name]
    state = fresh_state(program, dataset)
    return dispatch, state, program.placement.shard(dataset.splits["train"].fetch(np.arange(16)))


@pytest.fixture
def prepared(make_dataset, make_program):
    def build(method, modalities, **options):
        return prepare(make_dataset, make_program, method, modalities, **options)

    return build


@pytest.fixture(scope="module")
def ready(make_dataset, make_program):
    """An MLA dispatch of three phases; take a copy of the state before you donate it."""
    return prepare(make_dataset, make_program, "mla", ("a", "b", "c"))


def test_programs_end_with_their_dispatch(prepared):
    """Without the garbage collector, which a command asks for rarely: a comparison has many."""
    assert not gc.isenabled()
    dispatch, state, batch = prepared("concat", ("a", "b"))
    dispatch(0, state, batch, CLOCK)
    program = weakref.ref(dispatch._programs[0][1])
    assert program()
    del dispatch
    assert not program()


CONV = {"name": "conv2d", "widths": (4,)}


@pytest.mark.parametrize(("method", "phases"), [("mla", 2), ("ogm_ge", 1)])
def test_compiled_without_conditional_and_with_the_state_aliased(prepared, method, phases):
    """Convolutions too; ``test_method_properties`` asks all methods."""
    dispatch, state, batch = prepared(method, ("a", "b"), encoder=CONV)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    for index in range(phases):
        compiled = dispatch.lower(index, state, batch, CLOCK).compile(HASTE)
        assert " conditional(" not in compiled.as_text()
        assert compiled.memory_analysis().alias_size_in_bytes >= 0.95 * size


def test_a_traced_switch_would_be_noticed(ready):
    dispatch, state, batch = ready
    branches = [lambda s, b, c, i=i: dispatch._switch(i, s, b, c) for i in range(3)]
    traced = jax.jit(lambda i: jax.lax.switch(i, branches, state, batch, CLOCK))
    assert " conditional(" in traced.lower(0).compile(HASTE).as_text()


def test_the_state_is_donated(prepared):
    dispatch, state, batch = prepared("late_fusion", ("a", "b"))
    dispatch(0, state, batch, CLOCK)
    leaves = jax.tree.leaves(state)
    assert sum(leaf.is_deleted() for leaf in leaves) >= 0.95 * len(leaves)


def test_all_phases_are_compiled_at_the_first_call(prepared, caplog):
    dispatch, state, batch = prepared("mla", ("a", "b"))
    state, _ = dispatch(0, state, batch, CLOCK)
    once = dispatch.compile_seconds
    assert once > 0
    with jax.log_compiles(), caplog.at_level("WARNING"):
        for index in (1, 0, 1):
            state, _ = dispatch(index, state, batch, CLOCK)
    assert "compilation of jit(switch)" not in caplog.text
    assert dispatch.compile_seconds == once


def test_a_traced_index_is_refused(ready):
    dispatch, state, batch = ready

    def inside(index):
        return dispatch(index, state, batch, CLOCK)[1]["loss"]

    with pytest.raises(TypeError, match="Python integer, not a traced value"):
        jax.jit(inside)(0)
    with pytest.raises(TypeError, match="Python integer, not a traced value"):
        jax.lax.scan(lambda carry, i: (carry, inside(i)), 0, jnp.arange(3))
    with pytest.raises(TypeError, match="Python integer, not a traced value"):
        jax.jit(lambda i: dispatch.lower(i, state, batch, CLOCK) and 0)(0)


@pytest.mark.parametrize("index", [-1, 3])
def test_an_index_out_of_range_is_refused_not_clamped(ready, index):
    dispatch, state, batch = ready
    with pytest.raises(IndexError, match=f"phase {index} of 3"):
        dispatch(index, state, batch, CLOCK)


@pytest.mark.parametrize("index", [1.0, "1", None])
def test_an_index_that_is_no_integer_is_refused(ready, index):
    dispatch, state, batch = ready
    with pytest.raises(TypeError):
        dispatch(index, state, batch, CLOCK)


def test_an_integer_of_numpy_will_do():
    dispatch = Dispatch([lambda s, b, c: (s + 1, {}), lambda s, b, c: (s + 10, {})])
    assert float(dispatch(np.int64(1), jnp.zeros(()), {}, CLOCK)[0]) == 10


def same(before, after) -> bool:
    pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def parts(state, modality):
    return state.params["encoder"][modality], state.opt_state["encoder"][modality]


@pytest.mark.parametrize(("drift", "encoder"), [(False, None), (True, None), (False, CONV)])
def test_a_phase_leaves_the_other_encoders_alone(prepared, drift, encoder):
    options = {"encoder": encoder} if encoder else {}
    modalities = ("a", "b", "c") if encoder is None else ("a", "b")
    options["method.zero_grad_drift"] = drift
    dispatch, state, batch = prepared("mla", modalities, **options)
    for index in range(len(modalities)):  # so that momentum and statistics are not at their start
        state, _ = dispatch(index, state, batch, CLOCK)
    for index, trained in enumerate(modalities):
        before = copied(state)
        state, _ = dispatch(index, state, batch, CLOCK)
        after = copied(state)
        assert not same(before.params["head"], after.params["head"])
        for position, other in enumerate(modalities):
            unmoved = [
                same(*pair) for pair in zip(parts(before, other), parts(after, other), strict=True)
            ]
            drifts = drift and position < index
            expected = [False, False] if other == trained or drifts else [True, True]
            assert unmoved == expected, (trained, other)
            statistics = same(before.batch_stats[other], after.batch_stats[other])
            assert statistics == (other != trained), (trained, other)


def test_the_operations_of_a_batch_are_those_of_its_phases():
    """Two phases of one matrix product each: 2 B D C operations, and little else."""
    B, D, C = 32, 64, 16

    def update(state, batch, info):
        return state, {"sum": (batch @ state).sum()}

    dispatch = Dispatch([update, lambda *arguments: update(*arguments)])
    assert dispatch.flops is None
    dispatch(0, jnp.ones((D, C)), jnp.ones((B, D)), CLOCK)
    assert 2 * 2 * B * D * C <= dispatch.flops <= 2.2 * 2 * B * D * C
