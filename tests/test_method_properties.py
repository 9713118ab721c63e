"""The properties that every registered method keeps; registering a method is what runs them on it.

Others are in ``test_method_switches`` (every value of every switch), ``test_digits_runs`` (whole
runs) and ``test_multiprocess`` (two processes compute what one does).
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mla_jax import methods
from mla_jax.config import fields
from mla_jax.errors import UserError
from mla_jax.functional.optimizers import StepInfo
from mla_jax.program import build_program
from tests.conftest import (
    BATCH,
    CLASSES,
    build_config,
    build_dataset,
    fresh_state,
)

NAMES = ("a", "b", "c", "d", "e")
COUNTS = (1, 2, 3, 5)
TRAINS_ONE_MODALITY = [name for name in methods.REGISTRY if methods.trains_one_modality(name)]
"""Methods for one modality only; they must say so."""
ROLES = {"film": {"method.condition_on": "a"}, "gated": {"method.gate": "c"}}
"""Where the order of modalities gives one of them a part to play, the part is given by name."""
LINEAR = {"name": "features", "projection": "linear"}  # where encoders are not the point
LEARNS = {"ae": {"method.dropout": 0.0, "optimizer.name": "adam", "optimizer.learning_rate": 0.01}}
"""AE through layers of ten numbers: its own optimiser, and no half of them dropped."""
HASTE = {"xla_backend_optimization_level": 0}  # the results count here, not the speed


def modalities_of(name: str, count: int = 2) -> tuple[str, ...]:
    return NAMES[:1] if name in TRAINS_ONE_MODALITY else NAMES[:count]


@functools.cache
def dataset_of(modalities, missing=0.0):
    return build_dataset(modalities, missing=missing)


class Prepared:
    """A method on synthetic data: its phases as a run compiles them, a fresh state, the data set.

    Compiling is what takes long here, so tests share one of these where they can.
    """

    def __init__(self, name, modalities, dataset, linear=False, encoder=None, **options):
        encoder = LINEAR if linear else encoder
        config = fields.resolve(build_config(modalities, name, encoder=encoder, **options))
        self.program = build_program(config, dataset, jax.devices()[:1])
        self.method, self.dataset = self.program.method, dataset
        self.state = fresh_state(self.program, dataset)
        self.stages = [
            (stage, [functools.partial(self.update, stage, i) for i in range(len(stage.phases))])
            for stage in self.method.stages
            if stage.phases  # the others are solved in closed form
        ]
        self._compiled = {}

        def fused(variables, method_state, batch):
            prediction = self.method.predict(variables, batch)
            return self.method.fuse(prediction, batch["present"], method_state), prediction.unimodal

        self.fused = jax.jit(fused, compiler_options=HASTE)

    def compiled(self, stage, index, batch):
        """A phase for batches of this size, compiled once."""
        key = stage.name, index, len(batch["label"])
        if key not in self._compiled:
            dispatch = self.program.dispatches[stage.name]
            lowered = dispatch.lower(index, self.state, batch, StepInfo(0, 0, 6))
            self._compiled[key] = lowered.compile(HASTE)
        return self._compiled[key]

    def update(self, stage, index, state, batch, info):
        """One phase on a copy of the state, which the program consumes."""
        copy = jax.device_put(state, may_alias=False)
        return self.compiled(stage, index, batch)(copy, batch, info)

    def batch(self, number: int = 0, size: int = BATCH, data=None):
        """A training batch, or one of other data of the same form."""
        split = (data or self.dataset).splits["train"]
        return split.fetch(np.arange(size) + size * number)

    def losses(self, batches: int = 30, data=None):
        """The mean loss of every batch of every stage, and the state at the end.

        ``data``: as for ``batch``.  The step info stays in the first epoch: a term that starts
        later is another loss.
        """
        state, found = self.state, []
        for _, updates in self.stages:
            found.append([])
            for step in range(batches):
                batch, info = self.batch(step % 6, data=data), StepInfo(0, step % 6, 6)
                state, loss = one_batch(updates, state, batch, info)
                found[-1].append(loss)
        return found, state


def one_batch(updates, state, batch, info):
    """All phases on one batch: the new state and the mean loss."""
    losses = []
    for update in updates:
        state, metrics = update(state, batch, info)
        losses.append(float(metrics["loss"]))
    return state, float(np.mean(losses))


@functools.cache
def prepared(name, modalities, missing=0.0, **options):
    return Prepared(name, modalities, dataset_of(modalities, missing), **options)


every_method = pytest.mark.parametrize("name", methods.REGISTRY)


@pytest.mark.parametrize(("name", "count"), list(itertools.product(methods.REGISTRY, COUNTS)))
def test_any_number_of_modalities(name, count):
    modalities = NAMES[:count]
    dataset = dataset_of(modalities)
    config = build_config(modalities, name, encoder=LINEAR if count > 2 else None)
    if name in TRAINS_ONE_MODALITY and count > 1:
        with pytest.raises(UserError, match=f"exactly one modality, not {'.'.join(modalities)}"):
            build_program(fields.resolve(config), dataset, jax.devices()[:1])
        return
    method = build_program(fields.resolve(config), dataset, jax.devices()[:1]).method
    batch = dataset.splits["train"].fetch(np.arange(BATCH))
    state = jax.eval_shape(lambda: method.init(jax.random.key(0), batch))
    assert (method.name, method.modalities, method.classes) == (name, modalities, CLASSES)
    assert tuple(state.params["encoder"]) == modalities
    assert set(state.batch_stats) == set(modalities)
    keys = {k: set(v) for k, v in state.params.items()}
    assert {k: set(v) for k, v in state.opt_state.items()} == keys
    floats = [x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.floating)]
    assert {x.dtype for x in floats} == {jnp.dtype("float32")}

    prediction = jax.eval_shape(method.predict, state.variables, batch)
    assert prediction.unimodal.shape == (count, BATCH, CLASSES)
    assert prediction.joint is None or prediction.joint.shape == (BATCH, CLASSES)
    fused = jax.eval_shape(method.fuse, prediction, batch["present"], state.method_state)
    assert (fused.shape, fused.dtype) == ((BATCH, CLASSES), jnp.float32)
    trained = [stage.epochs for stage in method.stages if stage.phases]
    assert config.epochs in trained or not trained
    for stage in method.stages:
        assert stage.epochs > 0 and (stage.phases or stage.on_epoch)
        for phase in stage.phases:
            new, metrics = jax.eval_shape(phase.update, state, batch, StepInfo(0, 0, 6))
            assert shapes(new) == shapes(state)
            assert metrics["loss"].shape == metrics["accuracy"].shape == ()
            assert metrics["example_loss"].shape == (BATCH,)


def shapes(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype), tree)


@every_method
def test_loss_falls_on_separable_classes(name):
    modalities = modalities_of(name)
    case = prepared(name, modalities, 0.4, **LEARNS.get(name, {}))
    found, state = case.losses(data=dataset_of(modalities))
    for losses in found:
        assert np.isfinite(losses).all()
        assert np.mean(losses[-6:]) < 0.8 * np.mean(losses[:2])
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state) if x.dtype == jnp.float32)


@every_method
def test_compiled_without_conditional_and_with_the_state_aliased(name):
    """Every phase of every stage: no branch in the program, and the whole state is donated."""
    case = prepared(name, modalities_of(name), 0.4)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(case.state))
    for stage, updates in case.stages:
        for index in range(len(updates)):
            compiled = case.compiled(stage, index, case.batch())
            assert " conditional(" not in compiled.as_text()
            assert compiled.memory_analysis().alias_size_in_bytes >= 0.95 * size


def absent_batch(dataset, garbage, size=32):
    """Examples of which some miss modalities, whose inputs are ``garbage``."""
    batch = dataset.splits["train"].fetch(np.arange(size))
    assert 0 < batch["present"].mean() < 1
    for i, modality in enumerate(dataset.modalities):
        x = batch["inputs"][modality]
        hole = ~batch["present"][:, i].reshape(-1, *[1] * (x.ndim - 1))
        batch["inputs"][modality] = np.where(hole, np.asarray(garbage, x.dtype), x)
    return batch


def stirred(state):
    """A state in which no number is zero any more, as where a closed form was not solved."""
    rng = np.random.default_rng(0)

    def stir(x):
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return x
        return x + rng.uniform(0.01, 0.1, x.shape).astype(x.dtype)

    return jax.tree.map(stir, state)


def fused_logits(case, state, batch):
    return jax.tree.map(np.asarray, case.fused(state.variables, state.method_state, batch))


FUSING = [name for name in methods.REGISTRY if name not in TRAINS_ONE_MODALITY]
OPTIONS = [(name, {}) for name in FUSING] + [
    ("late_fusion", {"method.fusion": "entropy"}),
    ("mla", {"method.fusion": "fixed"}),
    ("mla", {"method.fusion": "batch_entropy"}),
]


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_what_is_absent_changes_nothing(name, options):
    """Garbage in the place of absent modalities is never seen, and neighbours do not matter."""
    case = prepared(name, NAMES[:3], 0.4, linear=True, **options)
    _, state = prepared(name, NAMES[:3], 0.4, linear=True).losses(2)  # both stages have begun
    state = stirred(state)
    batches = [absent_batch(case.dataset, garbage) for garbage in (0.0, 1e6, np.nan)]
    (first, unimodal), *others = [fused_logits(case, state, batch) for batch in batches]
    assert np.isfinite(first).all()
    present = batches[0]["present"]
    for fused, alone in others:
        np.testing.assert_array_equal(fused, first)
        np.testing.assert_array_equal(alone[present.T], unimodal[present.T])
    if options.get("method.fusion") != "batch_entropy":
        full = case.dataset.splits["train"].fetch(np.arange(32))
        complete = present.all(1)
        everyone = {**full, "present": np.ones_like(present)}
        fused, _ = fused_logits(case, state, everyone)
        np.testing.assert_allclose(fused[complete], first[complete], rtol=1e-6)


@pytest.mark.parametrize("name", FUSING)
def test_training_ignores_what_is_absent(name):
    """Flipping ``present`` is enough, whatever the data set left in the place of the input."""
    case = prepared(name, NAMES[:2], 0.4)
    states = []
    for garbage in (0.0, 1e6, np.nan):
        new = case.state
        for step, (_, updates) in itertools.product(range(2), case.stages):
            batch = absent_batch(case.dataset, garbage, BATCH)
            new, _ = one_batch(updates, new, batch, StepInfo(0, step, 6))
        states.append(new)
    for other in states[1:]:
        jax.tree.map(np.testing.assert_array_equal, states[0], other)
    old, new = (s.params["encoder"] for s in (case.state, states[0]))
    moved = jax.tree.map(lambda x, y: np.abs(x - y).max() > 0, old, new)
    trains = getattr(methods.get(name), "TRAINS_ENCODERS", True)
    assert all(found == trains for found in jax.tree.leaves(moved))


@pytest.mark.parametrize("name", FUSING)
def test_a_modality_that_nobody_in_a_batch_has_takes_no_step(name):
    """No momentum, no decay, no running statistics; and its loss is a mean over nothing."""
    case = prepared(name, NAMES[:2], 0.4)
    _, state = prepared(name, NAMES[:2], 0.4).losses(2)
    batch = case.batch()
    batch["present"] = np.tile([True, False], (BATCH, 1))
    for stage, updates in case.stages:
        for phase, update in zip(stage.phases, updates, strict=True):
            new, metrics = update(state, batch, StepInfo(1, 0, 6))
            assert np.isfinite(metrics["loss"])
            assert all(np.isfinite(x).all() for x in jax.tree.leaves(new))
            assert metrics["examples"] == (0 if phase.name == "b" else BATCH)
            for tree, before in ((new.params, state.params), (new.opt_state, state.opt_state)):
                assert same(tree["encoder"]["b"], before["encoder"]["b"])
                if "b" in tree["head"] or phase.name == "b":
                    key = "b" if "b" in tree["head"] else "shared"
                    assert same(tree["head"][key], before["head"][key])
            assert same(new.batch_stats["b"], state.batch_stats["b"])
            assert not same(new.params, state.params) or phase.name == "b"


def same(a, b) -> bool:
    return all(map(np.array_equal, jax.tree.leaves(a), jax.tree.leaves(b)))


@every_method
def test_a_padded_batch_is_the_short_batch(name):
    """Batch statistics, losses, neighbours and gradients are those of the valid examples."""
    case = prepared(name, modalities_of(name), 0.4)
    if name == "modality_dropout":  # what it hides depends on the size of the batch
        return
    kept = BATCH - 6
    short, full = case.batch(size=kept), case.batch()
    padding = np.arange(BATCH) >= kept
    for array in full["inputs"].values():
        array[padding] = np.nan
    full |= {"valid": ~padding, "present": full["present"] & ~padding[:, None]}
    full["index"] = np.where(padding, 0, full["index"])
    _, state = prepared(name, case.dataset.modalities, 0.4).losses(2)
    for stage, updates in case.stages:
        for phase, update in zip(stage.phases, updates, strict=True):
            found, padded = update(state, full, StepInfo(0, 3, 6))
            expected, exact = update(state, short, StepInfo(0, 3, 6))
            np.testing.assert_allclose(padded["loss"], exact["loss"], rtol=1e-5)
            np.testing.assert_allclose(padded["accuracy"], exact["accuracy"], rtol=1e-6)
            assert padded["examples"] == exact["examples"] > 0, phase
            jax.tree.map(
                lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=2e-6),
                (found.params, found.batch_stats, found.method_state),
                (expected.params, expected.batch_stats, expected.method_state),
            )


@pytest.mark.parametrize("name", FUSING)
def test_the_order_of_modalities_permutes_parameters_and_nothing_else(name):
    order = (2, 0, 1)
    case = prepared(name, NAMES[:3], 0.4, linear=True, **ROLES.get(name, {}))
    dataset = dataset_of(NAMES[:3], 0.4)
    turned_data = dataset._replace(modalities=tuple(NAMES[i] for i in order))
    other = Prepared(name, turned_data.modalities, turned_data, True, **ROLES.get(name, {}))
    for m in NAMES[:3]:
        first, second = (c.state.params["encoder"][m] for c in (case, other))
        jax.tree.map(np.testing.assert_array_equal, first, second)

    def turn(leaf):
        """Rows and columns that belong to modalities, a block each, in the other order."""
        for axis, length in enumerate(leaf.shape):
            if length == 3 * build_config().feature_dim:
                blocks = jnp.split(leaf, 3, axis)
                leaf = jnp.concatenate([blocks[i] for i in order], axis)
        return leaf

    params = {**case.state.params, "head": jax.tree.map(turn, case.state.params["head"])}
    batch = dataset.splits["test"].fetch(np.arange(32))
    turned = {**batch, "present": batch["present"][:, order]}
    fused, unimodal = fused_logits(case, case.state, batch)
    new, alone = fused_logits(other, case.state.replace(params=params), turned)
    # The same sums in another order: a few roundings of logits of order 1.
    np.testing.assert_allclose(alone, unimodal[list(order)], atol=1e-5)
    np.testing.assert_allclose(new, fused, atol=1e-5)
