"""Runs this package on the same weights and batches and records the same quantities."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util
from ml_collections import ConfigDict

from mla_jax.convert.names import Tensors
from mla_jax.evaluate import accuracy, confusion_counts
from mla_jax.functional.heads import apply_head
from mla_jax.functional.optimizers import (
    Optimizer,
    StepInfo,
    create_optimizer,
    learning_rate_schedule,
)
from mla_jax.functional.projection import alpha_schedule, orthogonal_projection
from mla_jax.methods import Method, Task, create_method
from mla_jax.parity.cases import CLASSES, MODALITIES, Case, Mode, nested, padded, switches
from mla_jax.state import TrainState

EPOCHS = 100
EXAMPLES = 1000


class Applied(NamedTuple):
    """The state of ``recording``: the last gradient that came by, as the optimiser got it."""

    applied: Any


class Raw(NamedTuple):
    """The same, before the projection."""

    raw: Any


def recording(kind: type) -> optax.GradientTransformation:
    """Passes gradients on unchanged and keeps them, so that a phase shows what it computed."""

    def init(params: Any) -> Any:
        return kind(jax.tree.map(jnp.zeros_like, params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del state, params
        return updates, kind(updates)

    return optax.GradientTransformation(init, update)


class RecordingOptimizer(Optimizer):
    """An optimiser that also keeps what reached it before and after a projection."""

    def after(self, transform: optax.GradientTransformation) -> Optimizer:
        return super().after(optax.chain(recording(Raw), transform))


class Program:
    """The compiled pieces of one case and mode, as training and evaluation use them."""

    def __init__(self, case: Case, mode: Mode, broken: str = ""):
        self.case = case
        optimizer = create_optimizer(case.optimizer_config(), EPOCHS).after(recording(Applied))
        optimizer = RecordingOptimizer(*optimizer)
        self.optimizer = optimizer
        task = Task(CLASSES, EPOCHS, examples=EXAMPLES)

        def method(**changes: Any) -> Method:
            chosen = switches(mode, broken, **changes)
            return create_method(chosen, case.encoders, optimizer, task)

        self.method = method()
        self.rules = {"fixed": method(fusion="fixed"), "dynamic": self.method}
        self.phases = [jax.jit(phase.update) for phase in self.method.stages[0].phases]
        self.switches = switches(mode, broken)
        apply = case.encoders.apply
        self.features = {
            train: jax.jit(lambda m, p, s, x, t=train: apply(m, p, s, x, t)[0], static_argnums=0)
            for train in (True, False)
        }

    def state(self, tensors: Tensors) -> TrainState:
        """A fresh training state with the given weights, in their precision."""
        params, stats = nested(tensors)
        options = dict(self.switches.projection)
        enabled, _ = options.pop("enabled"), options.pop("alpha")
        head = self.optimizer
        if enabled:
            head = head.after(orthogonal_projection(self.case.encoders.feature_dim, **options))
        opt_state = {
            "encoder": {m: self.optimizer.init(params["encoder"][m]) for m in MODALITIES},
            "head": {"shared": head.init(params["head"]["shared"])},
        }
        return TrainState(params=params, batch_stats=stats, opt_state=opt_state)


def train(program: Program, tensors: Tensors, dtype: Any) -> Tensors:
    """The phases of our method over the batches of the case."""
    case = program.case
    state = program.state(tensors)
    found: Tensors = {}
    identity = np.eye(case.encoders.feature_dim)
    for number in range(1, case.batches + 1):
        batch = jax.tree.map(jnp.asarray, case.batch(number - 1, dtype=dtype))
        info = StepInfo(*map(np.int32, (0, number - 1, case.batches)))
        if number == 1:
            for m in MODALITIES:
                z = program.features[True](
                    m, state.params["encoder"][m], state.batch_stats[m], batch["inputs"][m]
                )
                found[f"features, training/{m}"] = z
        for m, phase in zip(MODALITIES, program.phases, strict=True):
            if number == 1:
                head = state.params["head"]["shared"]
                found[f"logits/{m}"] = apply_head(head, found[f"features, training/{m}"])
            state, metrics = phase(state, batch, info)
            when = "loss" if number == 1 else "loss, later batches"
            found[f"{when}/batch {number} {m}"] = metrics["loss"]
            head = state.params["head"]["shared"]
            head_opt = state.opt_state["head"]["shared"]
            for name in ("kernel", "bias"):
                found[f"head after each sub-step/batch {number} {m} {name}"] = head[name]
            if number == 1:
                applied = optax.tree_utils.tree_get(head_opt, "applied")
                raw = optax.tree_utils.tree_get(head_opt, "raw", applied)
                for name in ("kernel", "bias"):
                    found[f"gradient of the head/{m} {name}"] = raw[name]
                    found[f"gradient of the head, projected/{m} {name}"] = applied[name]
                gradient = optax.tree_utils.tree_get(state.opt_state["encoder"][m], "applied")
                gradient = traverse_util.flatten_dict(gradient, sep="/")
                for name in case.named:
                    found[f"gradient of {m} {name}/{m}"] = gradient[name]
            P = optax.tree_utils.tree_get(head_opt, "P", identity)  # no projection: P stays I
            found[f"projection matrix in training/batch {number} {m}"] = P
        flat = traverse_util.flatten_dict(state.variables, sep="/")
        rows = {"params": "parameters", "batch_stats": "batch statistics"}
        for name, value in flat.items():
            found[f"{rows[name.split('/', 1)[0]]} after {number}/{name}"] = value
    for group, modules in state.opt_state.items():
        for key, module in modules.items():
            trace = optax.tree_utils.tree_get(module, "trace")
            for name, value in traverse_util.flatten_dict(trace, sep="/").items():
                found[f"momentum after {case.batches}/params/{group}/{key}/{name}"] = value
    return {name: np.asarray(value) for name, value in found.items()}


def evaluate(program: Program, tensors: Tensors, dtype: Any) -> Tensors:
    """Prediction and fusion on the ragged test set, and the counts of our own evaluation.

    The evaluation batches are padded to one size, as training does; the padding must not show.
    """
    case = program.case
    state = program.state(tensors)
    batches = case.test_batches(dtype)
    size = max(len(batch["label"]) for batch in batches)
    full = [jax.tree.map(lambda x: padded(x, size), batch) for batch in batches]
    predict = jax.jit(program.method.predict)
    predictions = [predict(state.variables, batch) for batch in full]
    counted = [len(batch["label"]) for batch in batches]
    found: dict[str, Any] = {}
    for m in MODALITIES:
        features = [
            program.features[False](
                m, state.params["encoder"][m], state.batch_stats[m], batch["inputs"][m]
            )[:n]
            for batch, n in zip(full, counted, strict=True)
        ]
        found[f"features, evaluation/{m}"] = np.concatenate(features)
    for rule, method in program.rules.items():
        ready = method._replace(predict=lambda variables, batch: batch["prediction"])
        fuse, counts = jax.jit(method.fuse), jax.jit(confusion_counts(ready))
        fused, total = [], 0
        for batch, n, prediction in zip(full, counted, predictions, strict=True):
            fused.append(fuse(prediction, batch["present"] & batch["valid"][:, None], ())[:n])
            total = total + np.asarray(
                counts(state.variables, (), {**batch, "prediction": prediction})
            )
        fused = np.concatenate(fused)
        found[f"fused logits, {rule} fusion/all"] = fused
        found[f"predictions/{rule} fusion"] = fused.argmax(-1)
        found[f"accuracy on a ragged test set/{rule} fusion"] = np.array(list(map(accuracy, total)))
    pairs = list(zip(predictions, counted, strict=True))
    for i, m in enumerate(MODALITIES):
        logits = np.concatenate([p.unimodal[i, :n] for p, n in pairs])
        found[f"predictions/{m}"] = logits.argmax(-1)
    return {name: np.asarray(value) for name, value in found.items()}


def projection_updates(
    chosen: ConfigDict, gradients: np.ndarray, features: np.ndarray, per_epoch: int
) -> Tensors:
    """Our projection by itself: ``gradients: [N, C, D]``, ``features: [N, B, D]``."""
    options = dict(chosen.projection)
    enabled, _ = options.pop("enabled"), options.pop("alpha")
    dim = gradients.shape[-1]
    transform = orthogonal_projection(dim, **options)
    state, update = transform.init(None), jax.jit(transform.update)
    found: Tensors = {}
    for n, (G, Z) in enumerate(zip(gradients, features, strict=True)):
        kernel = jnp.asarray(G.T)
        if enabled:
            alpha = alpha_schedule(n // len(MODALITIES) % per_epoch, per_epoch)
            mean = jnp.asarray(Z).mean(0)
            updates, state = update({"kernel": kernel}, state, feature_mean=mean, alpha=alpha)
            kernel = updates["kernel"]
        found[f"projection matrix, 20 updates/{n + 1}"] = np.asarray(state.P)
        found[f"projected gradient, 20 updates/{n + 1}"] = np.asarray(kernel)
    return found


def step_lr(case: Case, epochs: int) -> np.ndarray:
    """The learning rate in each epoch, in the middle of it."""
    rate = learning_rate_schedule(case.optimizer_config(), epochs)
    return np.array([rate(StepInfo(epoch, 5, 10)) for epoch in range(epochs)])
