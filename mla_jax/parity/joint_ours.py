"""Runs our methods besides MLA on the same weights and batches and records the same quantities."""

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util

from mla_jax import methods
from mla_jax.convert.names import Tensors
from mla_jax.evaluate import accuracy, confusion_counts
from mla_jax.functional import fusion, losses
from mla_jax.functional.optimizers import StepInfo, create_optimizer
from mla_jax.methods import Task, create_method, late_fusion
from mla_jax.parity.cases import CLASSES, Case, nested, padded
from mla_jax.parity.columns import EXAMPLES, Column, resolved, training_batch
from mla_jax.parity.ours import EPOCHS, Applied, RecordingOptimizer, recording
from mla_jax.state import Prediction, TrainState


class Program:
    """The compiled pieces of one case and method, as training and evaluation use them."""

    def __init__(self, case: Case, method: str, fidelity: str, switches: Any, epochs: int = EPOCHS):
        self.case = case
        optimizer = create_optimizer(case.optimizer_config(), epochs).after(recording(Applied))
        self.switches = resolved(method, fidelity, switches)
        self.task = Task(CLASSES, epochs, examples=EXAMPLES)
        self.method = create_method(
            self.switches, case.encoders, RecordingOptimizer(*optimizer), self.task
        )
        self.training_forward = jax.jit(self._training_forward)
        self.ranking = jax.jit(self._ranking)

    @classmethod
    def of(cls, case: Case, column: Column, **changes: Any) -> "Program":
        """The program of one column; ``changes`` set switches wrong on purpose."""
        switches = {**column.switches, **changes}
        return cls(case, column.method, column.fidelity, switches)

    def state(self, tensors: Tensors) -> TrainState:
        """A fresh training state with the given weights, in their precision: all else is 0."""
        params, stats = nested(tensors)
        kind = jax.tree.leaves(params)[0].dtype
        shapes = jax.eval_shape(self.method.init, jax.random.key(0), self.case.batch(0))

        def zeros(x: jax.ShapeDtypeStruct) -> jax.Array:
            return jnp.zeros(x.shape, kind if jnp.issubdtype(x.dtype, jnp.floating) else x.dtype)

        state = jax.tree.map(zeros, shapes)
        return state.replace(params=params, batch_stats=stats)

    def _training_forward(self, state: TrainState, batch: Any) -> tuple[Tensors, Prediction]:
        """Rows of what a first training step sees, and its logits."""
        encoders, params = self.case.encoders, state.params
        z, _ = encoders.features(params["encoder"], state.batch_stats, batch, True)
        if self.switches.name == "qmf":
            rule = late_fusion.rule(encoders, self.task, self.method.fuse)
        else:
            module = methods.get(self.switches.get("joint", self.switches.name))
            rule = module.rule(self.switches, encoders, self.task)
        logits = rule.classify(params["head"], z, batch["present"], True)
        named = dict(zip(encoders.modalities, logits.unimodal, strict=True))
        if self.switches.fidelity != "released_m3ae":  # whose loss has no fused logits
            named["joint"] = self.method.fuse(logits, batch["present"], state.method_state)
        shown = {f"features, training/{m}": z[m] for m in z}
        for name, value in named.items():
            shown[f"logits/{name}"] = value
            mean = losses.cross_entropy(value, batch["label"]).mean()
            shown[f"loss/batch 1 {name}"] = mean
        return shown, logits

    def _ranking(self, logits: jax.Array, history: jax.Array, batch: Any) -> jax.Array:
        """Ranking losses ``[M]``, of the logits before a step and the history after it."""
        confidence = fusion.energy_weights(logits, batch["present"]).T
        least, most = history.min(1, keepdims=True), history.max(1, keepdims=True)
        badness = (history[:, batch["index"]] - least) / (most - least)
        rank = jax.vmap(losses.confidence_ranking, in_axes=(0, 0, 1, None))
        return rank(confidence, badness, batch["present"], self.switches.margin == "enforced").mean(
            1
        )


def record_step(found: Tensors, state: TrainState, number: int, batches: int) -> None:
    """Rows of parameters, statistics and, after the last batch, momentum."""
    rows = {"params": "parameters", "batch_stats": "batch statistics"}
    for name, value in traverse_util.flatten_dict(state.variables, sep="/").items():
        found[f"{rows[name.split('/', 1)[0]]} after {number}/{name}"] = value
    if number < batches:
        return
    for group, modules in state.opt_state.items():
        for key, module in modules.items():
            trace = optax.tree_utils.tree_get(module, "trace")
            for name, value in traverse_util.flatten_dict(trace, sep="/").items():
                found[f"momentum after {number}/params/{group}/{key}/{name}"] = value


def gradients(state: TrainState, group: str, key: str, what: str) -> Tensors:
    """The last gradients of an encoder or head, ``applied`` or before modulation (``raw``)."""
    opt_state = state.opt_state[group][key]
    tree = optax.tree_utils.tree_get(opt_state, what)
    if tree is None:
        tree = optax.tree_utils.tree_get(opt_state, "applied")
    return traverse_util.flatten_dict(tree, sep="/")


def record_gradients(found: Tensors, state: TrainState, case: Case, heads: Any) -> None:
    """Rows of the named encoder tensors and of heads, before modulation."""
    for m in case.modalities:
        raw = gradients(state, "encoder", m, "raw")
        for name in case.named:
            found[f"gradient of {m} {name}/{m}"] = raw[name]
    for key in heads:
        for name, value in gradients(state, "head", key, "applied").items():
            found[f"gradient of the head/{key}/{name}"] = value


@contextlib.contextmanager
def unit_noise() -> Iterator[None]:
    """Every normal draw is 1: OGM-GE's noise becomes its own standard deviation."""
    with mock.patch.object(
        jax.random, "normal", lambda key, shape=(), dtype=float: jnp.ones(shape, dtype)
    ):
        yield


def train(program: Program, tensors: Tensors, column: Column, dtype: Any) -> Tensors:
    """The phase of our method over the batches of the case."""
    case, method = program.case, program.method
    state = program.state(tensors)
    phase = jax.jit(method.stages[0].phases[0].update)
    found: Tensors = {}
    modulated = column.method.startswith("ogm")
    for number in range(1, case.batches + 1):
        later = "" if number == 1 else ", later batches"
        batch = jax.tree.map(jnp.asarray, training_batch(case, number - 1, dtype))
        info = StepInfo(*map(np.int32, (column.epoch, number - 1, case.batches)))
        if number == 1 or column.method == "qmf":
            shown, logits = program.training_forward(state, batch)
        if number == 1:
            found |= shown
        with unit_noise():
            state, metrics = phase(state, batch, info)
        found[f"loss{later}/batch {number} total"] = metrics["loss"]
        if number == 1:
            record_gradients(found, state, case, state.params["head"])
        for i, m in enumerate(case.modalities):
            if column.method == "qmf":
                at = f"{later}/batch {number} {m}"
                history = np.asarray(state.method_state["history"])
                ranked = program.ranking(logits.unimodal, history, batch)
                found[f"ranking loss{at}"], found[f"history{at}"] = ranked[i], history[i]
            if modulated:
                found |= modulation(program, state, m, number, column)
        record_step(found, state, number, case.batches)
    return {name: np.asarray(value) for name, value in found.items()}


def modulation(program: Program, state: TrainState, m: str, number: int, column: Column) -> Tensors:
    """What came out of the modulated gradients, and k and sigma, regressed from the first."""
    raw, applied = (gradients(state, "encoder", m, what) for what in ("raw", "applied"))
    found: Tensors = {}
    if number == 1:
        for name in program.case.named:
            found[f"gradient of {m} {name}, modulated/{m}"] = applied[name]
    if column.epoch == 0:
        later = "" if number == 1 else ", later batches"
        first = program.case.named[0]
        x, y = (np.asarray(g[first], np.float64).ravel() for g in (raw, applied))
        k = np.sum((x - x.mean()) * (y - y.mean())) / np.sum((x - x.mean()) ** 2)
        found[f"coefficient k{later}/batch {number} {m}"] = k
        if column.method == "ogm_ge":
            sigma = np.mean(y - k * x)
            found[f"deviation of the noise{later}/batch {number} {m}"] = sigma
    return found


def evaluate(program: Program, tensors: Tensors, dtype: Any, learnt: Any = None) -> Tensors:
    """Prediction, fusion and counts on the ragged test set, padded as training pads it.

    ``learnt``: the method state that fusion reads, where it reads one.
    """
    case, method = program.case, program.method
    state = program.state(tensors)
    learnt = state.method_state if learnt is None else learnt
    batches = case.test_batches(dtype)
    size = max(len(batch["label"]) for batch in batches)
    counts = confusion_counts(method)

    @jax.jit
    def score(variables: Any, batch: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        prediction = method.predict(variables, batch)
        shown = batch["present"] & batch["valid"][:, None]
        fused = method.fuse(prediction, shown, learnt)
        return fused, prediction.unimodal, counts(variables, learnt, batch)

    fused, unimodal, total = [], [], 0
    for batch in batches:
        n = len(batch["label"])
        all_, own, counted = score(state.variables, jax.tree.map(lambda x: padded(x, size), batch))
        fused.append(all_[:n])
        unimodal.append(own[:, :n])
        total = total + np.asarray(counted)
    named = {"fused": np.concatenate(fused)}
    named |= dict(zip(case.modalities, np.concatenate(unimodal, 1), strict=True))
    found: Tensors = {}
    for (name, logits), confusion in zip(named.items(), total, strict=True):
        found[f"accuracy on a ragged test set/{name}"] = np.array(accuracy(confusion))
        row = "fused logits" if name == "fused" else "unimodal logits, evaluation"
        found[f"{row}/{name}"] = logits
        found[f"predictions/{name}"] = logits.argmax(-1)
    return found
