"""What single methods promise, beyond the properties that all of them keep."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mla_jax import methods
from mla_jax.config import fields
from mla_jax.errors import UserError
from mla_jax.functional.optimizers import StepInfo
from mla_jax.program import build_program
from tests.conftest import build_config
from tests.test_method_properties import (
    NAMES,
    Prepared,
    dataset_of,
    modalities_of,
    one_batch,
    prepared,
)
from tests.test_method_switches import build_and_trace, resolved

ROOT = pathlib.Path(__file__).parents[1]
D, CLASSES = 8, 3
VECTOR = {"kernel": (D, CLASSES), "bias": (CLASSES,)}


def test_heads():
    """What the heads of each method are, for two modalities; those of the methods for missing
    modalities are in their own tests."""
    one, square = VECTOR, {"kernel": (D, D), "bias": (D,)}
    joined = {"kernel": (2 * D, CLASSES), "bias": (CLASSES,)}
    private = {"a": one, "b": one}
    expected = {
        "concat": {"joint": joined},
        "modality_dropout": {"joint": joined},
        "ogm": {"joint": joined},
        "ogm_ge": {"joint": joined},
        "mla": {"shared": one},
        "film": {"film_b": {"kernel": (D, 2 * D), "bias": (2 * D,)}, "joint": one},
        "gated": {"gate_a": square, "gate_b": square, "joint": one},
        "dimml": {**private, "shared": one, "fused": {"joint": joined}},
        "unimodal": {"a": one},
    }
    for name in (name for name in methods.REGISTRY if not methods.handles_missing(name)):
        modalities = modalities_of(name)
        dataset = dataset_of(modalities)
        config = fields.resolve(build_config(modalities, name))
        method = build_program(config, dataset, jax.devices()[:1]).method
        batch = dataset.splits["train"].fetch(np.arange(2))
        state = jax.eval_shape(functools.partial(method.init, jax.random.key(0)), batch)
        found = jax.tree.map(lambda x: x.shape, state.params["head"])
        assert found == expected.get(name, private), name


def test_every_method_is_documented():
    overview = (ROOT / "docs" / "methods.md").read_text()
    for name in methods.REGISTRY:
        room = "missing/" if methods.handles_missing(name) else ""
        text = (ROOT / "docs" / "methods" / f"{name}.md").read_text()
        assert text.startswith(f"# {name}: ") and f"(methods/{name}.md)" in overview, name
        assert f"methods/{room}{name}.py" in text and f"<!-- generated: switches {name} -->" in text


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
    "projection.enabled": False,
    "projection.skip_first": True,
    "projection.alpha": 0.05,
    "zero_grad_drift": True,
}


@pytest.mark.parametrize("switch", OTHER_VALUES)
def test_switches_of_mla_that_are_no_choice(switch):
    paper, value = resolved("mla"), OTHER_VALUES[switch]
    found = resolved("mla", overrides={f"method.{switch}": value})
    assert {k: v for k, v in found.items() if v != paper[k]} == {switch: value}
    build_and_trace("mla", **{f"method.{switch}": value})


def test_fusion_weights_of_mla():
    build_and_trace("mla", **{"method.fusion": "fixed", "method.fusion_weights": (0.3, 0.7)})
    with pytest.raises(UserError, match="fusion_weights"):
        build_and_trace("mla", **{"method.fusion_weights": (0.3, 0.7)})


def trained(case, steps=3):
    state = case.state
    for i in range(steps):
        for _, updates in case.stages:
            state, _ = one_batch(updates, state, case.batch(i), StepInfo(0, i, 6))
    return state


@pytest.mark.parametrize("name", ["late_fusion", "ensemble"])
def test_separate_losses_are_unimodal_training_side_by_side(name):
    state = trained(prepared(name, NAMES[:3]))
    for i, modality in enumerate(NAMES[:3]):
        dataset = dataset_of(NAMES[:3])
        splits = {
            "train": dataset.splits["train"]._replace(
                inputs={modality: dataset.splits["train"].inputs[modality]},
                present=dataset.splits["train"].present[:, [i]],
            )
        }
        one = dataset._replace(modalities=(modality,), splits=splits)
        single = trained(Prepared("unimodal", (modality,), one))
        for tree in ("params", "opt_state"):
            for group in ("encoder", "head"):
                a, b = (getattr(s, tree)[group][modality] for s in (single, state))
                jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), a, b)


def test_sum_is_concat_with_its_kernel_in_blocks():
    joined, added = prepared("concat", NAMES[:3], 0.3), prepared("sum", NAMES[:3], 0.3)
    head = joined.state.params["head"]["joint"]
    blocks = head["kernel"].reshape(3, D, CLASSES)
    heads = {m: {"kernel": blocks[i], "bias": head["bias"] / 3} for i, m in enumerate(NAMES[:3])}
    params = {**joined.state.params, "head": heads}
    batch = joined.dataset.splits["test"].fetch(np.arange(16))
    a = joined.method.predict(joined.state.variables, batch)
    b = added.method.predict({**joined.state.variables, "params": params}, batch)
    np.testing.assert_allclose(a.joint, b.joint, atol=1e-5)
    np.testing.assert_allclose(a.unimodal, b.unimodal, atol=1e-5)


def test_unimodal_bias_of_sum():
    """Full in training always; in evaluation full or its share (main.py:292-295, 610-614)."""
    full, released = prepared("sum", NAMES[:2]), prepared("sum", NAMES[:2], fidelity="released")
    heads = jax.tree.map(lambda x: x + 1, full.state.params["head"])
    variables = {**full.state.variables, "params": {**full.state.params, "head": heads}}
    batch = full.batch()
    a, b = (case.method.predict(variables, batch) for case in (full, released))
    np.testing.assert_allclose(a.unimodal - b.unimodal, 0.5, atol=1e-6)
    np.testing.assert_array_equal(a.joint, b.joint)


def test_film_and_gated_by_hand():
    rng = np.random.default_rng(0)
    for name in ("film", "gated"):
        case = prepared(name, NAMES[:3])
        heads = jax.tree.map(lambda x: rng.normal(size=x.shape), case.state.params["head"])
        heads32 = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), heads)
        variables = {**case.state.variables, "params": {**case.state.params, "head": heads32}}
        batch = case.batch()
        z = features(case, variables, batch)

        def linear(head, x, heads=heads):
            return x @ heads[head]["kernel"] + heads[head]["bias"]

        if name == "film":
            gamma_b, beta_b = np.split(linear("film_b", z["a"]), 2, axis=1)
            gamma_c, beta_c = np.split(linear("film_c", z["a"]), 2, axis=1)
            h = gamma_b * z["b"] + beta_b + gamma_c * z["c"] + beta_c
        else:
            gate = [1 / (1 + np.exp(-linear(f"gate_{m}", z[m]))) for m in "ab"]
            h = gate[0] * gate[1] * linear("gate_c", z["c"])
        prediction = case.method.predict(variables, batch)
        np.testing.assert_allclose(prediction.joint, linear("joint", h), rtol=1e-4, atol=1e-4)


def features(case, variables, batch):
    """The encoders' features as float64, from the logits of an identity head on each."""
    heads = {m: {"kernel": jnp.eye(D), "bias": jnp.zeros(D)} for m in case.method.modalities}
    plain = prepared("late_fusion", case.method.modalities)
    params = {**variables["params"], "head": heads}
    z = plain.method.predict({**variables, "params": params}, batch).unimodal
    return {m: np.asarray(z[i], np.float64) for i, m in enumerate(case.method.modalities)}


def test_qmf_keeps_the_history_of_every_example():
    case = prepared("qmf", NAMES[:2])
    state = case.state
    seen = np.zeros(case.dataset.splits["train"].examples, bool)
    for i in range(2):
        batch = case.batch(i)
        state, _ = one_batch(case.stages[0][1], state, batch, StepInfo(0, i, 6))
        seen[batch["index"]] = True
    history = np.asarray(state.method_state["history"])
    assert (history[:, seen] > 0).all() and (history[:, ~seen] == 0).all()
    again, _ = one_batch(case.stages[0][1], state, case.batch(0), StepInfo(1, 0, 6))
    grown = np.asarray(again.method_state["history"]) - history
    assert (grown[:, case.batch(0)["index"]] > 0).all()


def test_modality_dropout_hides_at_random_and_never_everything():
    case = prepared("modality_dropout", NAMES[:2])
    first, again = (trained(case, 2) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first.params, again.params)
    never = Prepared("modality_dropout", NAMES[:2], case.dataset, **{"method.rate": 0.0})
    plain = trained(prepared("concat", NAMES[:2]), 2)
    hidden = trained(never, 2)
    jax.tree.map(np.testing.assert_array_equal, hidden.params, plain.params)
    joint = [s.params["head"]["joint"]["kernel"] for s in (first, plain)]
    assert np.abs(joint[0] - joint[1]).max() > 1e-4


def after_one_batch(case, *infos):
    """The state and the loss after the same batch at each ``(epoch, batch_index)``."""
    ((_, updates),) = case.stages
    return [one_batch(updates, case.state, case.batch(), StepInfo(*info, 6)) for info in infos]


STEPS = (0, 0), (0, 1), (1, 0), (1, 1)


def test_modality_dropout_hides_others_at_every_step():
    """Of one state and one batch: the loss differs by what is hidden alone."""
    case = prepared("modality_dropout", NAMES[:2])
    losses = [loss for _, loss in after_one_batch(case, *STEPS, STEPS[0])]
    assert len(set(losses[:-1])) == len(STEPS) and losses[-1] == losses[0]
    plain = prepared("concat", NAMES[:2])
    assert len({loss for _, loss in after_one_batch(plain, *STEPS)}) == 1


def encoders_after(case, *infos):
    """All parameters of the encoders after the same batch at each time, as one row each."""
    trees = [state.params["encoder"] for state, _ in after_one_batch(case, *infos)]
    return np.stack([np.concatenate([x.ravel() for x in jax.tree.leaves(t)]) for t in trees])


def test_ogm_ge_adds_other_noise_at_every_step():
    noisy = encoders_after(prepared("ogm_ge", NAMES[:2]), *STEPS, STEPS[0])
    np.testing.assert_array_equal(noisy[-1], noisy[0])
    without = encoders_after(prepared("ogm", NAMES[:2]), *STEPS)
    np.testing.assert_array_equal(without, without[:1].repeat(len(STEPS), 0))
    noise = noisy[: len(STEPS)] - without
    assert np.abs(np.corrcoef(noise)[~np.eye(len(STEPS), dtype=bool)]).max() < 0.3


@pytest.mark.parametrize("name", ["ogm", "ogm_ge"])
def test_ogm_ends_after_epoch_50(name):
    """From epoch 0 to 50, both included (``main.py:376``), and then it is joint training."""
    plain = encoders_after(prepared("concat", NAMES[:2]), (0, 0))[0]
    modulated = encoders_after(prepared(name, NAMES[:2]), (0, 0), (50, 0), (51, 0))
    assert (modulated[:2] != plain).any(1).all()
    np.testing.assert_allclose(modulated[2], plain, rtol=1e-6)


def test_dimml_sends_no_gradient_into_two_encoders():
    """Table 1.2 of the method: what each term moves; the fused head waits for stage 2."""
    case = prepared("dimml", NAMES[:2])
    state = case.state.replace(
        method_state={
            "effective": jnp.array([[True] * 4 + [False] * 4, [False] * 4 + [True] * 4]),
            "fused": jnp.zeros((), bool),
        }
    )
    (_, first), (_, second) = case.stages
    early, _ = one_batch(first, state, case.batch(), StepInfo(0, 0, 6))
    late, _ = one_batch(first, state, case.batch(), StepInfo(1, 0, 6))  # split_epoch is 1
    for m in NAMES[:2]:
        a, b = (s.params["encoder"][m] for s in (early, late))
        assert any(jax.tree.leaves(jax.tree.map(lambda x, y: np.abs(x - y).max() > 1e-7, a, b)))
    for key in ("a", "b", "shared"):  # the contrastive term has no head
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, atol=1e-7),
            early.params["head"][key],
            late.params["head"][key],
        )
    same = jax.tree.map(
        lambda x, y: bool((x == y).all()), late.params["head"], state.params["head"]
    )
    assert all(jax.tree.leaves(same["fused"])) and not any(jax.tree.leaves(same["shared"]))
    fused, _ = one_batch(second, late, case.batch(1), StepInfo(0, 0, 6))
    rest = [{k: v for k, v in s.params["head"].items() if k != "fused"} for s in (late, fused)]
    jax.tree.map(np.testing.assert_array_equal, *rest)
    jax.tree.map(np.testing.assert_array_equal, late.params["encoder"], fused.params["encoder"])
    jax.tree.map(np.testing.assert_array_equal, late.batch_stats, fused.batch_stats)
    assert bool(fused.method_state["fused"]) and not bool(late.method_state["fused"])


def test_dimml_refuses_epochs_that_do_not_fit():
    with pytest.raises(UserError, match=r"method.split_epoch=2 must be one of the 2 epochs after"):
        build_and_trace("dimml", **{"method.split_epoch": 2})
    with pytest.raises(UserError, match=r"method.fusion_epochs must be at least 0, not -1"):
        build_and_trace("dimml", **{"method.fusion_epochs": -1})


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("film", {"method.condition_on": "z"}, "unknown modality in method.condition_on 'z'"),
        ("gated", {"method.gate": "z"}, "unknown modality in method.gate 'z'"),
        ("ogm", {"method.alpha": -1.0}, "method.alpha must be at least 0"),
        ("qmf", {"method.ranking_weight": -1.0}, "method.ranking_weight must be at least 0"),
        ("modality_dropout", {"method.rate": 1.0}, "method.rate must be at least 0 and less"),
        ("ogm", {"method.alpha": float("nan")}, "method.alpha=nan must be a finite number"),
        ("ogm", {"method.first_epoch": 51}, "method.first_epoch=51 must not come after"),
        ("dimml", {"method.shared_weight": -1.0}, "method.shared_weight must be at least 0"),
        ("dimml", {"method.temperature": 0.0}, "method.temperature and .* must be positive"),
    ],
)
def test_values_that_make_no_sense(name, options, sentence):
    with pytest.raises(UserError, match=sentence):
        build_and_trace(name, **options)
