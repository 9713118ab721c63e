"""DI-MML's sizes and calendar, as its specification lists them (sections 2.2, 3 and 6)."""

import jax
import numpy as np
import pytest

from mla_jax import methods
from mla_jax.config import fields
from mla_jax.encoders import Encoders
from mla_jax.encoders.small import Mlp
from mla_jax.functional.optimizers import StepInfo, create_optimizer, learning_rate_schedule
from mla_jax.methods import Task

EPOCHS = 150


def build(classes):
    encoders = Encoders({m: Mlp(512, 2) for m in ("audio", "visual")}, 512)
    switches = fields.ConfigDict(fields.resolve_switches({"name": "dimml", "fidelity": "released"}))
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
    assert [(s.name, s.epochs) for s in build(6).stages] == [("detached", 150), ("fusion", 20)]
