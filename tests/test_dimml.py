"""DI-MML's sizes, calendar and contrastive loss, as its specification has them (1.4, 2.2, 3, 6)."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mla_jax import methods
from mla_jax.config import fields
from mla_jax.encoders import Encoders
from mla_jax.encoders.small import Mlp
from mla_jax.functional.optimizers import StepInfo, create_optimizer, learning_rate_schedule
from mla_jax.methods import Task
from mla_jax.state import Prediction
from tests.test_method_properties import NAMES, Prepared, dataset_of

EPOCHS = 150


def build(classes, **switches):
    encoders = Encoders({m: Mlp(512, 2) for m in ("audio", "visual")}, 512)
    chosen = {"name": "dimml", "fidelity": "released", **switches}
    switches = fields.ConfigDict(fields.resolve_switches(chosen))
    optimizer = create_optimizer(fields.base_config().optimizer, EPOCHS)
    return methods.create_method(switches, encoders, optimizer, Task(classes, EPOCHS, 100))


@pytest.mark.parametrize(
    ("classes", "own", "fused"),
    [(6, 3078, 6150), (28, 14364, 28700), (101, 51813, 103525), (40, 20520, 41000)],
)
def test_head_counts(classes, own, fused):
    batch = {"inputs": {m: np.zeros((1, 4), np.float32) for m in ("audio", "visual")}}
    heads = jax.eval_shape(build(classes).init, jax.random.key(0), batch).params["head"]
    counts = {n: sum(x.size for x in jax.tree.leaves(head)) for n, head in heads.items()}
    assert counts == {"audio": own, "visual": own, "shared": own, "fused": fused}


@pytest.mark.parametrize(
    ("epoch", "rate"), [(0, 1e-3), (69, 1e-3), (70, 1e-4), (139, 1e-4), (140, 1e-5), (149, 1e-5)]
)
def test_learning_rates(epoch, rate):
    schedule = learning_rate_schedule(fields.base_config().optimizer, EPOCHS)
    for info in (StepInfo(epoch, 0, 10), StepInfo(epoch, 9, 10)):
        np.testing.assert_allclose(schedule(info), rate, rtol=1e-6)


def test_stages_are_150_and_20_epochs():
    method = build(6)
    assert [(s.name, s.epochs) for s in method.stages] == [("detached", 150), ("fusion", 20)]
    assert method.describe(None)[0].startswith("dimensions are split after epoch 20;")


@pytest.mark.parametrize("learnt", [False, True])
def test_without_certainty_all_predictions_weigh_the_same(learnt):
    """The modalities that are there, and the fused head once it has learnt."""
    present = np.array([[True, True], [True, False], [False, True], [False, False]])
    rng = np.random.default_rng(0)
    prediction = Prediction(rng.normal(size=(2, 4, 6)), rng.normal(size=(4, 6)))
    state = {"fused": jnp.asarray(learnt)}
    weights = np.asarray(build(6, fusion="equal").weigh(prediction, present, state))
    there = np.concatenate([present, present.any(1, keepdims=True) & learnt], 1)
    np.testing.assert_allclose(weights, there / np.maximum(there.sum(1, keepdims=True), 1))


def test_the_contrastive_loss_by_hand():
    """What it adds to each example's loss: over the dimensions that tell classes apart in the
    teacher and not in the student, among the examples that have both modalities."""
    modalities, temperature = NAMES[:3], 10
    encoder = {"name": "features", "projection": "linear"}
    case = Prepared("dimml", modalities, dataset_of(modalities, 0.4), encoder=encoder)
    effective = np.array([list(row) for row in ("11110001", "11001101", "10101011")]) == "1"
    method_state = {**case.state.method_state, "effective": jnp.asarray(effective)}
    state, batch = case.state.replace(method_state=method_state), case.batch()
    (update,) = case.stages[0][1]
    early, late = (
        np.asarray(update(state, batch, StepInfo(epoch, 0, 6))[1]["example_loss"], np.float64)
        for epoch in (0, 1)  # it starts after the first of two epochs
    )
    z, present = [], batch["present"]
    for m in modalities:
        (layer,) = case.state.params["encoder"][m].values()
        z.append(batch["inputs"][m].astype(np.float64) @ layer["kernel"] + layer["bias"])
    expected = np.zeros(len(present))
    for teacher, student in itertools.permutations(range(3), 2):
        dimensions = effective[teacher] & ~effective[student]
        have_both = np.flatnonzero(present[:, teacher] & present[:, student])
        assert dimensions.any() and (effective[teacher] & effective[student]).any()
        assert 1 < len(have_both) < min(present[:, [teacher, student]].sum(0))
        a, b = (z[i][np.ix_(have_both, dimensions)] for i in (student, teacher))
        similarity = np.exp(a @ b.T / temperature)
        losses = np.log(similarity.sum(1) / similarity.diagonal())
        expected[have_both] += losses * len(present) / len(have_both)
    np.testing.assert_allclose(late - early, expected, rtol=1e-4, atol=1e-4)
