"""The losses of AE, CRA, MMIN and IF-MMIN by hand, their stages and their predictions."""

import itertools

import jax
import numpy as np
import pytest

from mla_jax.functional import autoencoders, losses
from mla_jax.functional.optimizers import StepInfo
from tests.test_method_properties import BATCH, NAMES, Prepared, dataset_of
from tests.test_missing_reconstruct import linear, relu

LINEAR = {"name": "features", "projection": "linear"}
METHODS = ("ae", "cra", "mmin", "if_mmin")

# ---- Losses ------------------------------------------------------------------------------------

MODALITIES = ("b", "a", "c")  # not in the order in which JAX sorts a dictionary
PLAIN = {"method.dropout": 0.0, "encoder": LINEAR}
TAUGHT = {**PLAIN, "method.teacher_dropout": 0.0}


@pytest.fixture(scope="module")
def masked():
    """A batch of which the data lack some and masks hide more."""
    dataset = dataset_of(NAMES[:3], 0.2)
    batch = dataset.splits["train"].fetch(np.arange(BATCH))
    order = [NAMES.index(m) for m in MODALITIES]
    available = batch["present"][:, order]
    hide = np.random.default_rng(1).random(available.shape) < 0.4
    hidden = available & hide
    assert hidden.any(0).all() and not available.all()
    return {**batch, "present": available & ~hide, "available": available}


def prepared(name, options):
    dataset = dataset_of(NAMES[:3], 0.2)._replace(modalities=MODALITIES)
    return Prepared(name, MODALITIES, dataset, **options)


def float64(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def features(encoder, batch, present):
    """``[B, M, D]``: what linear encoders make of inputs, zero where not present."""
    found = []
    for i, m in enumerate(MODALITIES):
        (layer,) = float64(encoder[m]).values()
        found.append(linear(layer, batch["inputs"][m] * present[:, [i]].astype(np.float64)))
    return np.stack(found, 1)


def perceptron(layers, x):
    layers = float64(layers)
    for i in range(len(layers) - 1):
        x = relu(linear(layers[str(i)], x))
    return linear(layers[str(len(layers) - 1)], x)


def cross_entropy(logits, label):
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    return -np.log(exponentials[np.arange(len(label)), label] / exponentials.sum(1))


def check(update, state, batch, expected):
    _, metrics = update(state, batch, StepInfo(0, 0, 6))
    np.testing.assert_allclose(metrics["example_loss"], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(metrics["loss"], expected.mean(), rtol=1e-4)


@pytest.mark.parametrize("name", ["ae", "cra"])
def test_the_losses_of_reconstruction_by_hand(name, masked):
    case = prepared(name, PLAIN)
    ((_, (update,)),) = case.stages
    heads, present = case.state.params["head"], masked["present"]
    c = features(case.state.params["encoder"], masked, present).reshape(BATCH, -1)
    network = {
        "ae": autoencoders.simple_autoencoder,
        "cra": autoencoders.residual_autoencoder,
    }[name]
    code = np.asarray(network(heads["autoencoder"], c)[0], np.float64)
    expected = cross_entropy(perceptron(heads["classifier"], code), masked["label"])
    weight = {"ae": 2.56, "cra": 5.12}[name]
    for i, m in enumerate(MODALITIES):
        error = np.square(perceptron(heads[f"decoder_{m}"], code) - masked["inputs"][m]).mean(1)
        expected += weight * error * (masked["available"][:, i] & ~present[:, i])
    check(update, case.state, masked, expected)


def elementwise(errors, known):
    """A mean over the elements of ``[B, M, D]`` of modalities that are known, shared out."""
    return (errors.mean(2) * known).sum(1) * len(known) / known.sum()


def test_the_losses_of_mmin_by_hand(masked):
    case = prepared("mmin", TAUGHT)
    (_, (teach,)), (_, (imagine,)) = case.stages
    params, label = case.state.params, masked["label"]
    heads, present, available = params["head"], masked["present"], masked["available"]
    everything = features(params["encoder"], masked, available)
    logits = perceptron(heads["teacher"], everything.reshape(BATCH, -1))
    check(teach, case.state, masked, cross_entropy(logits, label))

    teacher = jax.tree.map(lambda x: x + 0.3, params["encoder"])  # another than the student
    method_state = {**case.state.method_state}
    method_state["teacher"] = {**method_state["teacher"], "encoder": teacher}
    state = case.state.replace(method_state=method_state)
    t = features(teacher, masked, available & ~present)
    h = features(params["encoder"], masked, present)
    imagined, latent = autoencoders.residual_autoencoder(heads["forward"], h.reshape(BATCH, -1))
    returned, _ = autoencoders.residual_autoencoder(heads["backward"], imagined)
    expected = cross_entropy(perceptron(heads["classifier"], np.asarray(latent)), label)
    expected += 4 * elementwise(np.square(t - np.asarray(imagined).reshape(h.shape)), available)
    expected += 2 * elementwise(np.square(h - np.asarray(returned).reshape(h.shape)), available)
    check(imagine, state, masked, expected)


def invariant(layers, features):
    flat = features.reshape(-1, features.shape[-1])
    return np.asarray(autoencoders.leaky_layers(layers, flat)).reshape(features.shape)


def test_the_losses_of_if_mmin_by_hand(masked):
    case = prepared("if_mmin", TAUGHT)
    (_, (teach,)), (_, (imagine,)) = case.stages
    params, label = case.state.params, masked["label"]
    heads, present, available = params["head"], masked["present"], masked["available"]
    f = features(params["encoder"], masked, available)
    H = invariant(heads["invariant"], f)
    both = np.concatenate([f.reshape(BATCH, -1), H.reshape(BATCH, -1)], 1)
    expected = cross_entropy(perceptron(heads["teacher"], both), label)
    for m, n in itertools.combinations(range(3), 2):
        x, y = H[available[:, m], m], H[available[:, n], n]
        expected += np.asarray(losses.central_moment_discrepancy(x, y, 5)) / 3
    check(teach, case.state, masked, expected)

    changed = jax.tree.map(
        lambda x: x + 0.3, (params["encoder"], {"invariant": heads["invariant"]})
    )
    teacher = {**case.state.method_state["teacher"], "encoder": changed[0], "head": changed[1]}
    state = case.state.replace(method_state={**case.state.method_state, "teacher": teacher})
    t = features(changed[0], masked, available & ~present)
    H_whole = invariant(changed[1]["invariant"], features(changed[0], masked, available))
    f = features(params["encoder"], masked, present)
    H = invariant(heads["invariant"], f)
    imagined, latent = autoencoders.invariant_autoencoder(
        heads["forward"], f.reshape(BATCH, -1), H.reshape(BATCH, -1)
    )
    expected = cross_entropy(perceptron(heads["classifier"], np.asarray(latent)), label)
    expected += elementwise(np.square(t - np.asarray(imagined).reshape(f.shape)), available)
    expected += 100 * elementwise(np.square(H_whole - H), available)
    check(imagine, state, masked, expected)


# ---- Stages and predictions --------------------------------------------------------------------


def same(a, b):
    return all(map(np.array_equal, jax.tree.leaves(a), jax.tree.leaves(b)))


@pytest.mark.parametrize(
    ("name", "heads"), [("mmin", {"teacher"}), ("if_mmin", {"teacher", "invariant"})]
)
def test_the_teacher_sees_everything_hands_over_and_is_frozen(name, heads, masked):
    case = prepared(name, {"encoder": LINEAR, "optimizer.name": "adam"})
    (first, (teach,)), (second, (imagine,)) = case.stages
    before = case.state
    taught, _ = teach(before, masked, StepInfo(0, 0, 6))
    moved = {k for k, v in taught.params["head"].items() if not same(v, before.params["head"][k])}
    assert moved == heads
    shown, _ = teach(before, {**masked, "present": masked["available"]}, StepInfo(0, 0, 6))
    assert same(shown.params, taught.params), "masks hide nothing from the teacher"
    assert first.on_epoch is None

    begun = second.on_epoch(taught, 0, None)
    teacher = begun.method_state["teacher"]
    assert same(teacher["encoder"], taught.params["encoder"])
    assert same(teacher["batch_stats"], taught.batch_stats)
    assert set(teacher["head"]) == heads - {"teacher"}
    assert same(teacher["head"], {k: taught.params["head"][k] for k in teacher["head"]})
    assert same(begun.params, taught.params)
    assert same(begun.opt_state, before.opt_state) and not same(begun.opt_state, taught.opt_state)
    buffers = [x.unsafe_buffer_pointer() for x in jax.tree.leaves(begun)]
    assert len(set(buffers)) == len(buffers), "the state could not be donated"
    assert second.on_epoch(begun, 1, None) is begun

    imagined, _ = imagine(begun, masked, StepInfo(0, 0, 6))
    assert same(imagined.method_state, begun.method_state)
    moved = {k for k, v in imagined.params["head"].items() if not same(v, begun.params["head"][k])}
    assert moved == set(begun.params["head"]) - {"teacher"}
    assert not any(
        same(imagined.params["encoder"][m], begun.params["encoder"][m]) for m in MODALITIES
    )


@pytest.mark.parametrize("name", METHODS)
def test_predictions_with_one_modality_are_those_with_all_others_absent(name, masked):
    case = prepared(name, {})
    batch = {k: v for k, v in masked.items() if k != "available"}
    batch["present"] = np.ones_like(batch["present"])
    predict = jax.jit(case.method.predict)
    complete = predict(case.state.variables, batch)
    for i in range(3):
        alone = {**batch, "present": np.tile(np.arange(3) == i, (BATCH, 1))}
        joint = predict(case.state.variables, alone).joint
        np.testing.assert_allclose(complete.unimodal[i], joint, atol=1e-5)
        assert np.abs(joint - complete.joint).max() > 1e-3


@pytest.mark.parametrize("name", METHODS)
def test_one_batch_can_be_learnt_by_heart(name, masked):
    case = prepared(
        name,
        {"encoder": LINEAR, "optimizer.name": "adam", "optimizer.learning_rate": 0.01,
         "optimizer.weight_decay": 0.0, "method.dropout": 0.0},
    )  # fmt: skip
    state = case.state
    for stage, (update,) in case.stages:
        if stage.on_epoch:
            state = stage.on_epoch(state, 0, None)
        first = None
        for _ in range(150):
            state, metrics = update(state, masked, StepInfo(0, 0, 1))
            first = first or float(metrics["loss"])
    assert float(metrics["accuracy"]) >= 15 / 16
    assert float(metrics["loss"]) < 0.5 * first
