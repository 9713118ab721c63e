"""The common shape of joint methods: one phase, one loss, every encoder and head stepped once."""

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mla_jax.encoders import Encoders, many
from mla_jax.functional.losses import accuracy, cross_entropy, shared_out
from mla_jax.functional.optimizers import Optimizer, StepInfo
from mla_jax.methods.base import Method, Phase, Stage, Task, Weigh
from mla_jax.state import Batch, Metrics, Prediction, Stacks, TrainState

Features = Mapping[str, jax.Array]
"""``{modality: float32[B, D]}``."""


class Step(NamedTuple):
    """All that a rule may look at in one training step."""

    batch: Batch
    info: StepInfo
    features: Features
    heads: Mapping[str, Any]
    prediction: Prediction
    method_state: Any


class JointRule(NamedTuple):
    """What makes one joint method differ from another; the first four are all that most need."""

    init_heads: Callable[[jax.Array], dict[str, Any]]
    """``(rng) -> {name: head}``."""
    classify: Callable[[Mapping[str, Any], Features, jax.Array, bool], Prediction]
    """``(heads, features, present: bool[B, M], train) -> logits``."""
    loss: Callable[[Step], jax.Array]
    """Each example's loss ``float32[B]``; their mean over the valid examples is minimised."""
    fuse: Callable[[Prediction, jax.Array, Any], jax.Array]
    """``Method.fuse``."""
    init_state: Callable[[jax.Array], Any] = lambda rng: ()
    """``(rng) -> method_state``."""
    next_state: Callable[[Step], Any] = lambda step: step.method_state
    """The new ``method_state``, made before the loss, which sees it; no gradient passes."""
    show: Callable[[Batch, StepInfo, Any], jax.Array] = lambda batch, info, state: batch["present"]
    """``(batch, info, method_state) -> bool[B, M]``: which modalities the heads get to see."""
    modulate: Callable[[Step], dict[str, dict[str, Any]]] = lambda step: {}
    """``{modality: extra arguments of its encoder's optimiser}``; no gradient passes."""
    idle_heads: tuple[str, ...] = ()
    """Heads that this phase leaves alone."""
    weigh: Weigh | None = None
    """``Method.weigh``."""
    stacks: bool = False
    """Whether ``classify`` and what takes a ``Step`` also work on ``Stacks`` of features and heads,
    which they then get in training with many alike modalities.  Else they get dictionaries."""


def joint_loss(step: Step) -> jax.Array:
    """Cross-entropy of the joint logits, the loss of plain joint training: ``float32[B]``."""
    assert step.prediction.joint is not None  # the method has a joint head
    return cross_entropy(step.prediction.joint, step.batch["label"])


def joint_fusion(prediction: Prediction, present: jax.Array, method_state: Any) -> jax.Array:
    """The joint logits as they are."""
    del present, method_state
    assert prediction.joint is not None  # the method has a joint head
    return prediction.joint


def visible(features: Features, present: jax.Array, modalities: tuple[str, ...]) -> Features:
    """The features with zeros where ``present: bool[B, M]`` is False."""
    return {m: jnp.where(present[:, [i]], features[m], 0) for i, m in enumerate(modalities)}


def alone_and_together(
    joint: Callable[[Mapping[str, Any], Features], jax.Array], modalities: tuple[str, ...]
) -> Callable[..., Prediction]:
    """A ``classify`` for heads that mix modalities: a modality's own logits are the joint ones
    with the features of all others zero.

    ``joint``: ``(heads, features) -> float32[B, C]``; missing modalities have zero features.
    """

    def classify(heads, features, present, train: bool) -> Prediction:
        del train
        z = visible(features, present, modalities)
        only = [{k: z[k] if k == m else jnp.zeros_like(z[k]) for k in modalities}
                for m in modalities]  # fmt: skip
        return Prediction(jnp.stack([joint(heads, zs) for zs in only]), joint=joint(heads, z))

    return classify


class Learnt(NamedTuple):
    """What a look at a batch yields: the loss to follow, and the rest of the new state."""

    losses: jax.Array
    """Each example's loss ``float32[B]``; their mean over the valid examples is minimised."""
    logits: jax.Array
    """Fused, ``float32[B, C]``: what the accuracy is of."""
    batch_stats: Mapping[str, Any]
    method_state: Any
    modulation: Mapping[str, dict[str, Any]] = MappingProxyType({})
    """``{modality: extra arguments of its encoder's optimiser}``."""


Learn = Callable[[dict[str, Any], TrainState, Batch, StepInfo], Learnt]
"""``(params, state, batch, info) -> Learnt``: the gradient is taken for ``params``."""

Optimizers = Mapping[str, Optimizer]
"""Those of the two groups of parameters, ``encoder`` and ``head``."""


def initial_state(
    encoders: Encoders,
    optimizers: Optimizers,
    init_heads: Callable[[jax.Array], dict[str, Any]],
    init_state: Callable[[jax.Array], Any],
    rng: jax.Array,
    batch: Batch,
) -> TrainState:
    """Encoders, heads, an optimiser state for each of them, and the method's own state."""
    encoder_rng, head_rng = jax.random.split(rng)
    encoder_params, batch_stats = encoders.init(encoder_rng, batch["inputs"])
    params = {"encoder": encoder_params, "head": init_heads(head_rng)}
    method_state = init_state(jax.random.fold_in(rng, 2))  # split gave 0 and 1
    return TrainState(params, batch_stats, initial_opt_state(optimizers, params), method_state)


def initial_opt_state(optimizers: Optimizers, params: dict[str, Any]) -> dict[str, Any]:
    """The states of optimisers that have not made a step, keyed like ``params``."""
    return {
        group: {key: optimizers[group].init(module) for key, module in modules.items()}
        for group, modules in params.items()
    }


def gradient_step(
    learn: Learn,
    modalities: tuple[str, ...],
    optimizers: Optimizers,
    idle_heads: tuple[str, ...] = (),
) -> Callable[[TrainState, Batch, StepInfo], tuple[TrainState, Metrics]]:
    """``Phase.update``: every encoder, and every head but ``idle_heads``, follows ``learn``'s loss.

    An encoder takes no step on a batch in which nobody has its modality; neither does a head that
    is called like the modality.
    """

    def update(state: TrainState, batch: Batch, info: StepInfo) -> tuple[TrainState, Metrics]:
        def objective(params):
            learnt = learn(params, state, batch, info)
            losses = shared_out(learnt.losses, batch["valid"])
            return losses.mean(), learnt._replace(losses=losses)

        grad = jax.value_and_grad(objective, has_aux=True)
        (loss, learnt), gradients = grad(state.params)
        occurs = many.by_rows(modalities, batch["present"].any(0))
        extras = {"encoder": learnt.modulation}

        def step(group: str, theta: Any, g: Any, s: Any, where: Any, extra: Any) -> Any:
            return optimizers[group].step(g, s, theta, info, where=where, **extra)

        params, opt_state = {}, {}
        for group, modules in state.params.items():
            idle = [key for key in modules if group == "head" and key in idle_heads]
            moving = {key: modules[key] for key in modules if key not in idle} if idle else modules
            by_modality = isinstance(moving, Stacks)
            where = occurs if by_modality else {key: occurs.get(key) for key in moving}
            extra = {key: extras.get(group, {}).get(key, {}) for key in moving}
            one_by_one = len({jax.tree.structure(of_one) for of_one in extra.values()}) > 1
            stepped = many.of_each(
                functools.partial(step, group),
                dict(moving) if one_by_one else moving,
                gradients[group], state.opt_state[group], where, extra,
            )  # fmt: skip
            if one_by_one and isinstance(moving, Stacks):
                stepped = Stacks.of(moving.groups, stepped)
            params[group], opt_state[group] = many.unzipped(stepped)
            if idle:
                params[group] = {**modules, **params[group]}
                opt_state[group] = {**state.opt_state[group], **opt_state[group]}
        metrics = {
            "loss": loss,
            "accuracy": accuracy(learnt.logits, batch["label"], batch["valid"]),
            "examples": batch["valid"].sum(),
            "example_loss": learnt.losses,
        }
        return TrainState(params, learnt.batch_stats, opt_state, learnt.method_state), metrics

    return update


def joint_method(
    name: str,
    rule: JointRule,
    encoders: Encoders,
    optimizer: Optimizer,
    task: Task,
    encoder_optimizer: Optimizer | None = None,
) -> Method:
    """A method whose encoders and heads all follow the gradient of one mean loss.

    ``encoder_optimizer`` (default: ``optimizer``) takes the extra arguments of ``rule.modulate``.
    """
    modalities = encoders.modalities
    optimizers = {"encoder": encoder_optimizer or optimizer, "head": optimizer}

    def init(rng: jax.Array, batch: Batch) -> TrainState:
        return initial_state(encoders, optimizers, rule.init_heads, rule.init_state, rng, batch)

    def learn(params: dict[str, Any], state: TrainState, batch: Batch, info: StepInfo) -> Learnt:
        shown = rule.show(batch, info, state.method_state)
        z, stats = encoders.features(params["encoder"], state.batch_stats, batch, train=True)
        heads = params["head"]
        if not rule.stacks:
            z, heads = {m: z[m] for m in modalities}, {key: heads[key] for key in sorted(heads)}
        prediction = rule.classify(heads, z, shown, True)
        step = Step(batch, info, z, heads, prediction, state.method_state)
        step = step._replace(method_state=jax.lax.stop_gradient(rule.next_state(step)))
        fused = rule.fuse(prediction, batch["present"], step.method_state)
        return Learnt(rule.loss(step), fused, stats, step.method_state, rule.modulate(step))

    def predict(variables: dict[str, Any], batch: Batch) -> Prediction:
        params, batch_stats = variables["params"], variables["batch_stats"]
        z, _ = encoders.features(params["encoder"], batch_stats, batch, train=False)
        return rule.classify(params["head"], z, batch["present"], False)

    update = gradient_step(learn, modalities, optimizers, rule.idle_heads)
    alike = functools.partial(encoders.alike, heads=not rule.idle_heads)
    stages = (Stage("joint", task.epochs, (Phase("joint", update, alike=alike),)),)
    return Method(
        name, modalities, task.classes, init, stages, predict, rule.fuse, weigh=rule.weigh
    )
