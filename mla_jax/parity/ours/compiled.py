"""Our compiled method of one column, and the rows of its training and evaluation."""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util

from mla_jax import methods
from mla_jax.config import fields
from mla_jax.evaluate import confusion_counts
from mla_jax.functional.optimizers import (
    Optimizer,
    StepInfo,
    create_optimizer,
    learning_rate_schedule,
)
from mla_jax.methods import Task, create_method, late_fusion
from mla_jax.methods.joint import JointRule
from mla_jax.parity import rows
from mla_jax.parity.cases import CLASSES, EXAMPLES, Case, nested, padded
from mla_jax.parity.columns import Column
from mla_jax.parity.formula import Tensors
from mla_jax.state import Batch, TrainState


def recording(name: str) -> optax.GradientTransformation:
    """Passes gradients on and keeps the last under ``name``, to see what a phase computed."""
    return optax.GradientTransformation(
        lambda params: {name: jax.tree.map(jnp.zeros_like, params)},
        lambda updates, state, params=None: (updates, {name: updates}),
    )


class RecordingOptimizer(Optimizer):
    """An optimiser that also keeps gradients as they come, and before a transform (``raw``)."""

    def after(self, transform: optax.GradientTransformation) -> Optimizer:
        return super().after(optax.chain(recording("raw"), transform))


class CompiledMethod:
    """The compiled pieces of our method of a column, as training and evaluation use them."""

    def __init__(
        self, column: Column, case: Case, dtype: Any = np.float32, broken: str = "", **changes: Any
    ):
        """``broken`` and ``changes`` set switches wrong on purpose (``Column.resolved``)."""
        self.column, self.case, self.dtype = column, case, dtype
        self.switches = column.resolved(broken, **changes)
        self.task = Task(CLASSES, column.epochs, EXAMPLES)
        optimizer = create_optimizer(case.optimizer_config(), column.epochs)
        optimizer = RecordingOptimizer(*optimizer.after(recording("applied")))
        self.method = create_method(self.switches, case.encoders, optimizer, self.task)
        self.stages = [[jax.jit(p.update) for p in stage.phases] for stage in self.method.stages]
        self.features = jax.jit(
            lambda state, batch: case.encoders.features(
                state.params["encoder"], state.batch_stats, batch, True
            )[0]
        )

    @property
    def rule(self) -> JointRule:
        """The rule of a joint method."""
        if self.switches.name == "qmf":
            assert self.method.weigh is not None  # QMF fuses predictions
            return late_fusion.rule(self.case.encoders, self.task, self.method.weigh)
        module = methods.get(self.switches.get("joint", self.switches.name))
        return module.rule(self.switches, self.case.encoders, self.task)

    def start(self, found: Tensors) -> TrainState:
        """The state that both sides start from, ``found`` by theirs or else by formula."""
        initial = rows.without_prefix(found, rows.INITIAL)
        return self.state(initial or self.column.weights(self.case, self.shapes(), self.dtype))

    def state(self, tensors: Tensors) -> TrainState:
        """A fresh training state with the given weights, in their precision.

        All else is 0, but for projections, which start from the identity.
        """
        params, stats = nested(tensors)
        kind = jax.tree.leaves(params)[0].dtype

        def fresh(path: Any, x: jax.ShapeDtypeStruct) -> jax.Array:
            dtype = kind if jnp.issubdtype(x.dtype, jnp.floating) else x.dtype
            projection = getattr(path[-1], "name", "") == "P"
            return jnp.eye(len(x), dtype=dtype) if projection else jnp.zeros(x.shape, dtype)

        state = jax.tree_util.tree_map_with_path(fresh, self._abstract_state())
        stats = {m: stats.get(m, {}) for m in self.case.modalities}  # transformers have none
        return state.replace(params=params, batch_stats=stats)

    def batches(self) -> Iterator[tuple[int, Batch, StepInfo]]:
        """The training set: numbers from 1, batches padded to one size, and their ``StepInfo``."""
        for i, batch in enumerate(self.case.training_batches(self.dtype)):
            info = StepInfo(*map(np.int32, (self.column.epoch, i, self.case.batches)))
            full = jax.tree.map(lambda x: jnp.asarray(padded(x, self.case.batch_size)), batch)
            yield i + 1, full, info

    def after(self, state: TrainState, number: int) -> Tensors:
        """Rows of parameters, statistics and, after the last batch, momentum."""
        momentum = _by_module(state, "trace") if number == self.case.batches else {}
        return rows.state(traverse_util.flatten_dict(state.variables, sep="/"), momentum, number)

    def evaluate(self, tensors: Tensors, learnt: Any = None) -> tuple[dict[str, Any], np.ndarray]:
        """Logits and features of the uneven test set, and the counts of our own evaluation.

        ``learnt``: the method state for the fusion, if it needs one.  The batches are padded
        to one size, as in training; the padding must have no effect.
        """
        method, state = self.method, self.state(tensors)
        learnt = state.method_state if learnt is None else learnt

        @jax.jit
        def score(variables: Any, batch: Batch) -> tuple[dict[str, Any], jax.Array]:
            prediction = method.predict(variables, batch)
            present = batch["present"] & batch["valid"][:, None]
            own, stats = variables["params"]["encoder"], variables["batch_stats"]
            shown = dict(zip(self.case.modalities, prediction.unimodal, strict=True))
            shown["fused"] = method.fuse(prediction, present, learnt)
            shown["features"], _ = self.case.encoders.features(own, stats, batch, False)
            if prediction.joint is not None:
                shown["joint"] = prediction.joint
            counts = confusion_counts(method._replace(predict=lambda *_: prediction))
            return shown, counts(variables, learnt, batch).confusion

        batches = self.case.test_batches(self.dtype)
        sizes = [len(batch["label"]) for batch in batches]
        found, total = [], np.zeros(())
        for batch, n in zip(batches, sizes, strict=True):
            full = jax.tree.map(lambda x: padded(x, max(sizes)), batch)
            shown, counted = score(state.variables, full)
            found.append(jax.tree.map(lambda x, n=n: np.asarray(x)[:n], shown))
            total = total + np.asarray(counted)
        return jax.tree.map(lambda *parts: np.concatenate(parts), *found), total

    def initialization(self) -> Tensors:
        """Rows of our initialisation."""

        def extremes(rng: jax.Array, batch: Batch) -> Any:
            variables = self.method.init(rng, batch).variables
            return jax.tree.map(lambda x: jnp.stack([x.min(), x.max()]), variables)

        with unit_noise():
            found = jax.jit(extremes)(jax.random.key(0), self.case.batch(0))
        return rows.initialization(traverse_util.flatten_dict(found, sep="/"))

    def shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """The shapes of all parameters and statistics."""
        return traverse_util.flatten_dict(self._abstract_state().variables, sep="/")

    def _abstract_state(self) -> TrainState:
        return jax.eval_shape(self.method.init, jax.random.key(0), self.case.batch(0))


def gradients(state: TrainState, what: str) -> Tensors:
    """The last gradients, ``applied`` or before projection or modulation (``raw``)."""
    return _by_module(state, what, "applied")


def _by_module(state: TrainState, *what: str) -> Tensors:
    """The optimiser state of all encoders and heads, under the first name that each has."""
    found: Tensors = {}
    for group, modules in state.opt_state.items():
        for key, opt_state in modules.items():
            trees = (optax.tree_utils.tree_get(opt_state, name) for name in what)
            tree = next(tree for tree in trees if tree is not None)
            flat = traverse_util.flatten_dict(tree, sep="/")
            found |= rows.with_prefix(flat, f"params/{group}/{key}/")
    return found


def learning_rates(epochs: int) -> Tensors:
    """Our default learning rate in each epoch, in the middle of it."""
    rate = learning_rate_schedule(fields.base_config().optimizer, epochs)
    return rows.rates(np.array([rate(StepInfo(epoch, 5, 10)) for epoch in range(epochs)]))


@contextlib.contextmanager
def unit_noise() -> Iterator[None]:
    """Makes every normal draw one standard deviation, also for truncated distributions."""

    def draw(value: float, key: Any, *others: Any, dtype: Any = float, **_: Any) -> jax.Array:
        shape = next((x for x in others if isinstance(x, tuple)), ())
        return jnp.full(shape, value, dtype)

    one = functools.partial(draw, 1)
    cut_at_two = functools.partial(draw, 0.8796256610342398)  # the deviation of such a normal
    inner = jax.nn.initializers.variance_scaling.__globals__["random"]  # not jax.random itself
    with (
        mock.patch.object(jax.random, "normal", one),
        mock.patch.multiple(inner, normal=one, truncated_normal=cut_at_two),
    ):
        yield
