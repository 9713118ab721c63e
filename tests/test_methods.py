"""What every method must keep, for any number of modalities, and MLA against the paper by hand."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mla_jax import configuration, methods, train
from mla_jax.errors import UserError
from mla_jax.state import Clock

CLASSES, D, F, BATCH = 3, 8, 6, 16
NAMES = ("a", "b", "c", "d", "e")
COUNTS = (1, 2, 3, 5)
FUSING = ("concat", "late_fusion", "mla")
CASES = [
    (name, NAMES[:count])
    for name, count in itertools.product(methods.REGISTRY, COUNTS)
    if name != "unimodal" or count == 1
]
BAG = {"name": "ngram_bag", "vocabulary": 20}  # no batch statistics: examples cannot meet


def updates_of(method):
    """The jitted phases, compiled in haste: here the results count, not the speed."""
    haste = {"xla_backend_optimization_level": 0}
    return [jax.jit(phase.update, compiler_options=haste) for phase in method.stages[0].phases]


def one_batch(updates, state, batch, clock):
    """All phases on one batch: the new state and the mean loss."""
    losses = []
    for update in updates:
        state, metrics = update(state, batch, clock)
        losses.append(float(metrics["loss"]))
    return state, float(np.mean(losses))


def assert_trees(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


@pytest.fixture(scope="module")
def prepare(make_dataset, make_program):
    def build(name, modalities, missing=0.0, dataset=None, **options):
        dataset = dataset or make_dataset(modalities, missing=missing)
        program = make_program(dataset, method=name, **options)
        return program.method, train.initial_state(program, dataset, seed=0), dataset

    return build


@pytest.mark.parametrize(("name", "modalities"), CASES)
def test_shapes(make_dataset, make_program, name, modalities):
    dataset = make_dataset(modalities)
    method = make_program(dataset, method=name).method
    batch = dataset.splits["train"].fetch(np.arange(BATCH))
    state = jax.eval_shape(lambda: method.init(jax.random.key(0), batch))
    assert (method.name, method.modalities, method.classes) == (name, modalities, CLASSES)
    assert tuple(state.params["encoder"]) == modalities
    assert set(state.batch_stats) == set(modalities)
    heads = {k: (h["kernel"].shape, h["bias"].shape) for k, h in state.params["head"].items()}
    one = ((D, CLASSES), (CLASSES,))
    assert heads == {
        "concat": {"joint": ((len(modalities) * D, CLASSES), (CLASSES,))},
        "mla": {"shared": one},
    }.get(name, dict.fromkeys(modalities, one))
    assert {k: set(v) for k, v in state.opt_state.items()} == {
        k: set(v) for k, v in state.params.items()
    }
    floats = [x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.floating)]
    assert {x.dtype for x in floats} == {jnp.dtype("float32")}

    prediction = jax.eval_shape(method.predict, state.variables, batch)
    assert prediction.unimodal.shape == (len(modalities), BATCH, CLASSES)
    fused = jax.eval_shape(method.fuse, prediction, batch["present"], state.method_state)
    assert (fused.shape, fused.dtype) == ((BATCH, CLASSES), jnp.float32)
    (stage,) = method.stages
    assert stage.epochs == 2
    assert [p.name for p in stage.phases] == (list(modalities) if name == "mla" else ["joint"])
    for phase in stage.phases:
        new, metrics = jax.eval_shape(phase.update, state, batch, Clock(0, 0, 6))
        assert jax.tree.map(lambda x: (x.shape, x.dtype), new) == jax.tree.map(
            lambda x: (x.shape, x.dtype), state
        )
        assert metrics["loss"].shape == metrics["accuracy"].shape == ()
        assert metrics["example_loss"].shape == (BATCH,)


@pytest.mark.parametrize(("name", "modalities"), CASES)
def test_loss_falls(prepare, name, modalities):
    method, state, dataset = prepare(name, modalities)
    updates, losses = updates_of(method), []
    for step in range(30):
        batch = dataset.splits["train"].fetch(np.arange(BATCH) + BATCH * (step % 6))
        state, loss = one_batch(updates, state, batch, Clock(step // 6, step % 6, 6))
        losses.append(loss)
    assert np.isfinite(losses).all()
    assert np.mean(losses[-6:]) < 0.8 * np.mean(losses[:2])


@pytest.mark.parametrize("count", [2, 3])
def test_unimodal_refuses_company(make_dataset, make_program, count):
    with pytest.raises(UserError, match=r"exactly one modality, not a\+b.*modalities=a"):
        make_program(make_dataset(NAMES[:count]), method="unimodal")


def absent_batch(dataset, garbage):
    """32 examples of which some miss modalities, whose inputs are ``garbage``."""
    batch = dataset.splits["train"].fetch(np.arange(32))
    assert 0 < batch["present"].mean() < 1
    for i, modality in enumerate(dataset.modalities):
        x = batch["inputs"][modality]
        hole = ~batch["present"][:, i].reshape(-1, *[1] * (x.ndim - 1))
        batch["inputs"][modality] = np.where(hole, np.asarray(garbage, x.dtype), x)
    return batch


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("concat", {}),
        ("late_fusion", {}),
        ("late_fusion", {"method.fusion": "entropy"}),
        ("mla", {}),
        ("mla", {"method.fusion": "fixed"}),
        ("mla", {"method.fusion": "batch_entropy"}),
    ],
)
def test_fused_logits_ignore_what_is_absent(prepare, name, options):
    method, state, dataset = prepare(name, NAMES[:3], missing=0.4, **options)

    @jax.jit
    def fused(variables, batch):
        return method.fuse(method.predict(variables, batch), batch["present"], state.method_state)

    results = [
        np.asarray(fused(state.variables, absent_batch(dataset, garbage)))
        for garbage in (0.0, 1e6, np.nan)
    ]
    assert np.isfinite(results[0]).all()
    np.testing.assert_array_equal(results[1], results[0])
    np.testing.assert_array_equal(results[2], results[0])


@pytest.mark.parametrize("name", FUSING)
def test_training_ignores_what_is_absent(prepare, make_dataset, name):
    """With an encoder without batch statistics; through those, garbage would be felt."""
    dataset = make_dataset(NAMES[:2], missing=0.4)
    rng = np.random.default_rng(0)
    split = dataset.splits["train"]
    ids = {m: rng.integers(1, 10, (split.examples, 4)).astype(np.int32) for m in NAMES[:2]}
    dataset = dataset._replace(splits={"train": split._replace(inputs=ids)})
    method, state, _ = prepare(name, NAMES[:2], dataset=dataset, encoder=BAG)
    updates = updates_of(method)
    states = []
    for garbage in (0, 15):  # id 15 is nobody's: its embedding moves by decay alone
        new = state
        for step in range(2):
            new, _ = one_batch(updates, new, absent_batch(dataset, garbage), Clock(0, step, 6))
        states.append(new)
    assert_trees(states[0], states[1], rtol=0, atol=0)
    moved = jax.tree.map(lambda x, y: np.abs(x - y).max() > 0, state.params, states[0].params)
    assert all(jax.tree.leaves(moved))


@pytest.mark.parametrize("name", FUSING)
def test_a_batch_that_lacks_a_modality_altogether_is_finite(prepare, name):
    method, state, dataset = prepare(name, NAMES[:2])
    batch = dataset.splits["train"].fetch(np.arange(BATCH))
    batch["present"] = np.tile([True, False], (BATCH, 1))
    new, loss = one_batch(updates_of(method), state, batch, Clock(0, 0, 6))
    assert np.isfinite(loss)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(new))


@pytest.mark.parametrize("name", FUSING)
def test_the_order_of_modalities_permutes_parameters_and_nothing_else(prepare, name):
    order = (2, 0, 1)
    method, state, dataset = prepare(name, NAMES[:3], missing=0.3)
    permuted, other, _ = prepare(name, tuple(NAMES[i] for i in order))
    assert_trees(
        {m: state.params["encoder"][m] for m in NAMES[:3]},
        {m: other.params["encoder"][m] for m in NAMES[:3]},
        rtol=0,
    )
    params = dict(state.params)
    if name == "concat":
        joint = state.params["head"]["joint"]
        blocks = joint["kernel"].reshape(3, D, CLASSES)
        kernel = jnp.concatenate([blocks[i] for i in order])
        params["head"] = {"joint": {"kernel": kernel, "bias": joint["bias"]}}
    batch = dataset.splits["test"].fetch(np.arange(BATCH))
    turned = {**batch, "present": batch["present"][:, order]}
    first = method.predict(state.variables, batch)
    second = permuted.predict({**state.variables, "params": params}, turned)
    # The same sums in another order: a few roundings of logits of order 1.
    np.testing.assert_allclose(second.unimodal, first.unimodal[jnp.array(order)], atol=1e-5)
    np.testing.assert_allclose(
        permuted.fuse(second, turned["present"], ()),
        method.fuse(first, batch["present"], ()),
        atol=1e-5,
    )


FIDELITIES = [(n, f) for n, module in methods.REGISTRY.items() for f in module.FIDELITY]


def build_and_trace(make_dataset, make_program, name, **options):
    dataset = make_dataset(("a",) if name == "unimodal" else ("a", "b"))
    method = make_program(dataset, method=name, **options).method
    batch = dataset.splits["train"].fetch(np.arange(BATCH))
    state = jax.eval_shape(lambda: method.init(jax.random.key(0), batch))
    for phase in method.stages[0].phases:
        jax.eval_shape(phase.update, state, batch, Clock(0, 0, 6))
    prediction = jax.eval_shape(method.predict, state.variables, batch)
    jax.eval_shape(method.fuse, prediction, batch["present"], state.method_state)


def resolved(name, fidelity="paper", overrides=None):
    config = configuration.base_config()
    config.method = configuration.method_block(name, fidelity)
    configuration.override(config, overrides or {})
    return configuration.flatten(configuration.resolve(config).method.to_dict())


@pytest.mark.parametrize(("name", "fidelity"), FIDELITIES)
def test_a_fidelity_is_its_differences_from_the_paper(make_dataset, make_program, name, fidelity):
    paper, chosen = resolved(name), resolved(name, fidelity)
    differing = {k: v for k, v in chosen.items() if v != paper[k]}
    expected = configuration.flatten(methods.REGISTRY[name].FIDELITY[fidelity])
    if fidelity == "paper":
        assert {k: v for k, v in chosen.items() if k not in ("name", "fidelity")} == expected
        expected = {}
    assert differing == {**expected, **({} if fidelity == "paper" else {"fidelity": fidelity})}
    build_and_trace(make_dataset, make_program, name, fidelity=fidelity)


def test_mla_fidelities_are_those_of_the_specification():
    off = resolved("mla", "released")
    assert not off["projection.enabled"]
    drop = resolved("mla", "first_drop")
    assert drop["projection.enabled"] and drop["projection.skip_first"]
    assert drop["projection.denominator"] == "elementwise"
    assert drop["projection.normalize"] == "frobenius"
    assert drop["projection.order"] == "update_then_project"
    for released in (off, drop):
        assert released["fusion"] == "batch_entropy"
        assert released["zero_grad_drift"]


OTHER_VALUES = {
    **methods.mla.CHOICES,
    "projection.enabled": (False, True),
    "projection.skip_first": (False, True),
    "projection.alpha": (0.0, 0.05),
    "fusion_weights": ((), (0.3, 0.7)),
    "zero_grad_drift": (False, True),
}


@pytest.mark.parametrize("switch", configuration.flatten(methods.mla.FIDELITY["paper"]))
def test_every_switch_of_mla_alone(make_dataset, make_program, switch):
    paper = resolved("mla")
    others = [v for v in OTHER_VALUES[switch] if v != paper[switch]]
    assert others
    for value in others:
        overrides = {f"method.{switch}": value}
        if switch == "fusion_weights":  # they mean nothing without it
            overrides["method.fusion"] = paper["fusion"] = "fixed"
        found = resolved("mla", overrides=overrides)
        assert {k: v for k, v in found.items() if v != paper[k]} == {switch: value}
        build_and_trace(make_dataset, make_program, "mla", **overrides)


def test_late_fusion_is_unimodal_training_side_by_side(prepare):
    together, state, dataset = prepare("late_fusion", NAMES[:3])
    clocks = [Clock(0, i, 6) for i in range(3)]
    batches = [dataset.splits["train"].fetch(np.arange(BATCH) + BATCH * i) for i in range(3)]
    for batch, clock in zip(batches, clocks, strict=True):
        state, _ = one_batch(updates_of(together), state, batch, clock)
    for i, modality in enumerate(NAMES[:3]):
        alone, single, _ = prepare("unimodal", (modality,))
        for batch, clock in zip(batches, clocks, strict=True):
            one = {**batch, "present": batch["present"][:, [i]]}
            single, _ = one_batch(updates_of(alone), single, one, clock)
        for tree in ("params", "opt_state"):
            for group in ("encoder", "head"):
                assert_trees(
                    getattr(single, tree)[group][modality],
                    getattr(state, tree)[group][modality],
                    rtol=0,
                    atol=1e-6,
                )
