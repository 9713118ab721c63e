"""The common shape of joint methods: one phase, one loss, every encoder and head stepped once."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mla_jax.encoders import Encoders
from mla_jax.heads import Head
from mla_jax.losses import accuracy
from mla_jax.methods.base import Method, Phase, Problem, Stage
from mla_jax.optim import Optimizer
from mla_jax.state import Batch, Clock, Metrics, Prediction, TrainState


class JointRule(NamedTuple):
    """What makes one joint method differ from another."""

    init_heads: Callable[[jax.Array], dict[str, Head]]
    classify: Callable[[Mapping[str, Head], Mapping[str, jax.Array], jax.Array], Prediction]
    """``(heads, features {modality: [B, D]}, present [B, M])`` -> logits."""
    loss: Callable[[Prediction, jax.Array, jax.Array], jax.Array]
    """``(prediction, label [B], present [B, M])`` -> each example's loss ``[B]``."""
    fuse: Callable[[Prediction, jax.Array, Any], jax.Array]


def joint_method(
    name: str, rule: JointRule, encoders: Encoders, optimizer: Optimizer, problem: Problem
) -> Method:
    """A method whose encoders and heads all follow the gradient of one mean loss."""
    modalities = encoders.modalities

    def init(rng: jax.Array, batch: Batch) -> TrainState:
        encoder_rng, head_rng = jax.random.split(rng)
        encoder_params, batch_stats = encoders.init(encoder_rng, batch["inputs"])
        params = {"encoder": encoder_params, "head": rule.init_heads(head_rng)}
        opt_state = {
            group: {key: optimizer.init(module) for key, module in modules.items()}
            for group, modules in params.items()
        }
        return TrainState(params=params, batch_stats=batch_stats, opt_state=opt_state)

    def features(params, batch_stats, batch: Batch, train: bool):
        z, stats = {}, {}
        for m in modalities:
            z[m], stats[m] = encoders.apply(
                m, params["encoder"][m], batch_stats[m], batch["inputs"][m], train
            )
        return z, stats

    def update(state: TrainState, batch: Batch, clock: Clock) -> tuple[TrainState, Metrics]:
        label, present = batch["label"], batch["present"]

        def objective(params):
            z, stats = features(params, state.batch_stats, batch, train=True)
            prediction = rule.classify(params["head"], z, present)
            losses = rule.loss(prediction, label, present)
            return losses.mean(), (losses, prediction, stats)

        grad = jax.value_and_grad(objective, has_aux=True)
        (loss, (losses, prediction, stats)), gradients = grad(state.params)
        params, opt_state = {}, {}
        for group, modules in state.params.items():
            params[group], opt_state[group] = {}, {}
            for key, module in modules.items():
                params[group][key], opt_state[group][key] = optimizer.step(
                    gradients[group][key], state.opt_state[group][key], module, clock
                )
        fused = rule.fuse(prediction, present, state.method_state)
        everyone = jnp.ones(label.shape, bool)
        metrics = {
            "loss": loss,
            "accuracy": accuracy(fused, label, everyone),
            "example_loss": losses,
        }
        state = state.replace(params=params, batch_stats=stats, opt_state=opt_state)
        return state, metrics

    def predict(variables: dict[str, Any], batch: Batch) -> Prediction:
        z, _ = features(variables["params"], variables["batch_stats"], batch, train=False)
        return rule.classify(variables["params"]["head"], z, batch["present"])

    stages = (Stage("joint", problem.epochs, (Phase("joint", update),)),)
    return Method(name, modalities, problem.classes, init, stages, predict, rule.fuse)
