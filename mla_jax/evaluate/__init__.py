"""Evaluation: every example counted exactly once, on any number of devices.

Confusion counts are summed on the devices, over them and over the batches, and are read once per
split, as integers; every figure is computed from the sums, with one division at the end.  So the
next batch is loaded while one is computed.
"""

import collections
import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mla_jax import distributed
from mla_jax.data.dataset import Split
from mla_jax.data.missing import MOST_PATTERNS, patterns
from mla_jax.data.pipeline import HERE, Loader, evaluation_batches
from mla_jax.encoders import many
from mla_jax.errors import UserError
from mla_jax.evaluate.figures import pooled, summarize
from mla_jax.methods import Method
from mla_jax.methods.base import Accumulate
from mla_jax.state import Batch, Prediction, TrainState

IN_FLIGHT = 2
"""Batches at most that wait for the devices: more would fill their memory."""


class Outputs(NamedTuple):
    """What a method says of one batch."""

    fused: jax.Array
    """Logits ``float32[B, C]``."""
    unimodal: jax.Array
    """Logits ``float32[M, B, C]``."""
    weights: jax.Array | None
    """``Method.weigh``: ``float32[B, M]``, or None."""


class Counts(NamedTuple):
    """Sums over the examples of a batch."""

    confusion: Any
    """``int32[1 + M, C, C]``, fused first, then each modality over the examples that have it; row =
    label, column = prediction."""
    bad_inputs: Any
    """``int32[M]``: examples whose input of that modality holds NaN or infinity."""
    bad_logits: Any
    """``int32[1 + M]``: examples with a logit that is NaN or infinite, fused first."""


class Classes(NamedTuple):
    """What was predicted of every example of a split, in its order; all confusion counts."""

    modalities: tuple[str, ...]
    fused: np.ndarray
    """``int32[N]``: the class with the largest fused logit."""
    unimodal: np.ndarray
    """``int32[M, N]``: that of each modality; -1 where an example lacks it."""
    label: np.ndarray
    """``int32[N]``."""

    @property
    def present(self) -> np.ndarray:
        """``bool[N, M]``."""
        return (self.unimodal >= 0).T

    def confusion(self, classes: int) -> dict[str, list[list[int]]]:
        """The counts of ``summarize``: ``int[C, C]`` of ``fused`` and of each modality."""
        found = {}
        predicted_by = dict(zip(self.modalities, self.unimodal, strict=True))
        for name, predicted in {"fused": self.fused, **predicted_by}.items():
            counts, there = np.zeros((classes, classes), np.int64), predicted >= 0
            np.add.at(counts, (self.label[there], predicted[there]), 1)
            found[name] = counts.tolist()
        return found


def outputs(method: Method) -> Callable[[dict[str, Any], Any, Batch], Outputs]:
    """The pure function behind prediction: ``(variables, method_state, batch) -> Outputs``."""

    def compute(variables: dict[str, Any], method_state: Any, batch: Batch) -> Outputs:
        prediction = method.predict(variables, batch)
        present = batch["present"] & batch["valid"][:, None]
        fused = method.fuse(prediction, present, method_state)
        weights = method.weigh(prediction, present, method_state) if method.weigh else None
        return Outputs(fused, prediction.unimodal, weights)

    return compute


def confusion_counts(method: Method) -> Callable[[dict[str, Any], Any, Batch], Counts]:
    """The pure function behind evaluation: ``(variables, method_state, batch) -> Counts``."""
    compute = counts_and_classes(method)
    return lambda *arguments: compute(*arguments)[0]


def counts_and_classes(
    method: Method,
) -> Callable[[dict[str, Any], Any, Batch], tuple[Counts, jax.Array]]:
    """``(variables, method_state, batch) -> Counts, int32[1 + M, B]``: also the classes that are
    counted, fused first."""
    compute = outputs(method)

    def counts(
        variables: dict[str, Any], method_state: Any, batch: Batch
    ) -> tuple[Counts, jax.Array]:
        found = compute(variables, method_state, batch)
        present = batch["present"] & batch["valid"][:, None]
        logits = jnp.concatenate([found.fused[None], found.unimodal])
        counted = jnp.concatenate([batch["valid"][None], present.T])
        zeros = jnp.zeros((method.classes, method.classes), jnp.int32)
        classes = logits.argmax(-1)
        confusion = jax.vmap(lambda p, n: zeros.at[batch["label"], p].add(n))(
            classes, counted.astype(jnp.int32)
        )
        finite = _finite_inputs(method.modalities, batch["inputs"])
        sums = Counts(
            confusion,
            bad_inputs=(~finite & present.T).sum(1),
            bad_logits=(~jnp.isfinite(logits).all(-1) & counted).sum(1),
        )
        return sums, jnp.where(counted, classes, -1)

    return counts


def subset_counts(
    method: Method, subsets: np.ndarray
) -> Callable[[dict[str, Any], Any, Batch], jax.Array]:
    """The pure function behind ``Evaluator.subsets``: ``int32[S, C, C]`` of the fused predictions.

    Counts an example for each of ``subsets: bool[S, M]`` of whose modalities it lacks none, and
    predicts as if it had no others.
    """

    def counts(variables: dict[str, Any], method_state: Any, batch: Batch) -> jax.Array:
        present = batch["present"] & batch["valid"][:, None]
        shown = present & subsets[:, None]  # [S, B, M]

        def fused(prediction: Prediction) -> jax.Array:
            """``[S, B, C]`` of logits ``[M, S, B, C]``; a fusion may look at its whole batch."""
            joint = None if prediction.joint is None else 0
            axes = Prediction(1, joint)  # type: ignore[arg-type]  # axes in the place of arrays
            fuse = jax.vmap(method.fuse, in_axes=(axes, 0, None))
            return fuse(prediction, shown, method_state)

        def repeated(array: jax.Array) -> jax.Array:
            """``[B, ...]`` once per subset: ``[S B, ...]``."""
            return jnp.broadcast_to(array, (len(subsets), *array.shape)).reshape(
                -1, *array.shape[1:]
            )

        def by_subset(logits: jax.Array) -> jax.Array:
            return logits.reshape(*logits.shape[:-2], len(subsets), -1, logits.shape[-1])

        # An example's logits do not depend on its neighbours: the subsets are one large batch.
        if is_late(method):
            alone = method.predict(variables, batch)
            shape = (len(alone.unimodal), len(subsets), *alone.unimodal.shape[1:])
            prediction = Prediction(jnp.broadcast_to(alone.unimodal[:, None], shape))
        else:
            everything = jax.tree.map(repeated, {k: v for k, v in batch.items() if k != "present"})
            everything["present"] = shown.reshape(-1, shown.shape[-1])
            prediction = jax.tree.map(by_subset, method.predict(variables, everything))
        counted = (present | ~subsets[:, None]).all(-1) & batch["valid"]
        zeros = jnp.zeros((method.classes, method.classes), jnp.int32)
        return jax.vmap(lambda p, n: zeros.at[batch["label"], p].add(n))(
            fused(prediction).argmax(-1), counted.astype(jnp.int32)
        )

    return counts


def is_late(method: Method) -> bool:
    """Whether each modality is predicted by itself, so that one pass serves all subsets."""
    return method.weigh is not None and not method.weighs_joint


def _finite(array: jax.Array) -> jax.Array:
    """``bool[B]``: whether all numbers of an example are."""
    return jnp.isfinite(array).all(tuple(range(1, array.ndim)))


def _finite_inputs(names: Sequence[str], inputs: Mapping[str, jax.Array]) -> jax.Array:
    """``bool[M, B]``: ``_finite`` of each modality."""
    if len({(inputs[m].shape, inputs[m].dtype) for m in names}) == 1:
        return many.each(_finite, names, inputs)
    return jnp.stack([_finite(inputs[m]) for m in names])


class Evaluator:
    """A pmapped ``confusion_counts`` over the local devices of every process."""

    def __init__(
        self, method: Method, devices: Sequence[jax.Device] | None = None, loader: Loader = HERE
    ):
        self.modalities, self._loader = method.modalities, loader
        self._given = devices
        self._devices = list(devices) if devices else jax.local_devices()
        compute = counts_and_classes(method)

        def everywhere(*arguments: Any) -> tuple[Counts, tuple[jax.Array, jax.Array]]:
            """Counts, and the examples ``int32[devices, B]`` (-1: padding) with their classes."""
            counts, classes = compute(*arguments)
            index = jnp.where(arguments[2]["valid"], arguments[2]["index"], -1)
            return jax.lax.psum(counts, "data"), jax.lax.all_gather((index, classes), "data")

        self._method = method
        self._counts = self._mapped(everywhere)

    def _mapped(self, function: Callable[..., Any]) -> Any:
        """``function(variables, method_state, batch)`` of one batch per device of axis ``data``,
        whose result is the same on all of them."""
        return jax.pmap(
            function,
            axis_name="data",
            in_axes=(None, None, 0),
            out_axes=None,
            devices=self._given,
        )

    @functools.cached_property
    def _counts_by_subset(self) -> Callable[..., Any]:
        counts = subset_counts(self._method, patterns(len(self.modalities)))
        return self._mapped(lambda *arguments: jax.lax.psum(counts(*arguments), "data"))

    def _batches(self, split: Split, batch_size: int) -> Any:
        """``with``: this process's batches, a block of ``batch_size`` per device."""
        where = len(self._devices), *distributed.process()
        return contextlib.closing(evaluation_batches(split, batch_size, *where, self._loader))

    def _summed(self, count: Callable[[Batch], Any], split: Split, batch_size: int) -> Any:
        """The sums of ``count`` over a split, ``int64``: on the devices, read once."""
        total, running = None, _Running()
        with self._batches(split, batch_size) as batches:
            for batch in batches:
                found = count(batch)
                total = found if total is None else jax.tree.map(jnp.add, total, found)
                running.add(total)
        return jax.tree.map(lambda counts: np.asarray(counts, np.int64), total)

    def subsets(self, state: TrainState, split: Split, batch_size: int) -> dict[str, Any]:
        """How well the fusion does with every subset of the modalities, over a split.

        ``{"a": figures, ..., "a+b+c": figures, "incomplete": figures}`` with ``accuracy``,
        ``macro_f1``, ``weighted_f1`` and ``examples``.  A subset counts the examples that have all
        of it, as if they had no others.  ``incomplete`` pools all subsets but the whole, as the
        protocol ``six`` does.

        Raises:
          UserError: there are more than ``MOST_PATTERNS`` modalities.
        """
        M = len(self.modalities)
        if M > MOST_PATTERNS:
            raise UserError(
                f"all subsets are evaluated for up to {MOST_PATTERNS} modalities, not for {M}: "
                "choose some with --modalities"
            )
        count = functools.partial(self._counts_by_subset, state.variables, state.method_state)
        total = self._summed(count, split, batch_size)
        names = ["+".join(np.array(self.modalities)[subset]) for subset in patterns(M)]
        found = dict(zip(names, map(pooled, total), strict=True))
        return {**found, "incomplete": pooled(total[:-1].sum(0))} if M > 1 else found

    def __call__(
        self, state: TrainState, split: Split, batch_size: int, name: str = ""
    ) -> dict[str, Any]:
        """Accuracy, macro-F1 and confusion counts over a split; ``batch_size`` is per device.

        Where logits are not finite, ``not_finite`` says of how many examples: ``{"fused": 3}``.

        Raises:
          UserError: an input is not finite; the sentence has the ``name`` of the split.
        """
        count = functools.partial(self._counts, state.variables, state.method_state)
        total = self._summed(lambda batch: count(batch)[0], split, batch_size)
        for column, modality in enumerate(self.modalities):
            if bad := total.bad_inputs[column]:
                first = _first_not_finite(split, modality, column)
                raise UserError(
                    f"'{modality}' holds NaN or infinity in {bad} of the {split.examples} examples "
                    f"of the {name or 'given'} split, the first is example {first}: fix or remove "
                    "them"
                )
        figures = summarize(total.confusion, self.modalities)
        bad = zip(figures["confusion"], total.bad_logits.tolist(), strict=True)
        not_finite = {name: number for name, number in bad if number}
        return {**figures, "not_finite": not_finite} if not_finite else figures

    def lower(self, state: TrainState, batch: Batch) -> Any:
        """The lowered program of ``__call__`` on a batch ``[devices, B, ...]``; shapes will do."""
        return self._counts.lower(state.variables, state.method_state, batch)

    def classes(self, state: TrainState, split: Split, batch_size: int) -> Classes:
        """What each example of a split is counted as, on every process; as ``__call__`` counts it,
        with the same program."""
        found = np.empty((1 + len(self.modalities), split.examples), np.int32)
        told, running = [], _Running()
        with self._batches(split, batch_size) as batches:
            for batch in batches:
                _, of_batch = self._counts(state.variables, state.method_state, batch)
                told.append(of_batch)
                running.add(of_batch)
        for index, classes in jax.device_get(told):  # [devices, B], [devices, 1 + M, B]
            valid = index >= 0
            found[:, index[valid]] = classes.swapaxes(0, 1)[:, valid]
        return Classes(self.modalities, found[0], found[1:], np.asarray(split.label, np.int32))


class _Running:
    """Waits for the batch ``IN_FLIGHT`` batches ago, whenever one more is computed."""

    def __init__(self) -> None:
        self._results: collections.deque = collections.deque()

    def add(self, result: Any) -> None:
        self._results.append(result)
        if len(self._results) > IN_FLIGHT:
            jax.block_until_ready(self._results.popleft())


def _first_not_finite(split: Split, modality: str, column: int) -> int:
    """The first example that has the modality, and has NaN or infinity in its input."""
    for row in np.flatnonzero(split.present[:, column]).tolist():
        (example,) = split.fetch(np.array([row]))["inputs"][modality]
        if not np.isfinite(np.asarray(example, np.float32)).all():
            return row
    raise ValueError(f"all inputs of '{modality}' are finite")


class TrainingReduction:
    """Reduces over every training example once, in evaluation mode: ``methods.ReduceTraining``.

    The global batches are the same for any number of processes; the last one is padded.
    """

    def __init__(
        self, split: Split, batch_size: int, place: distributed.DataParallel, loader: Loader = HERE
    ):
        self._placement, where = place, distributed.process()
        self._order = (split, batch_size // where[1], 1, *where, loader)

    def __call__(self, accumulate: Accumulate, variables: dict[str, Any], carry: Any) -> Any:
        accumulate, carry = jax.jit(accumulate), self._placement.replicate(carry)
        with contextlib.closing(evaluation_batches(*self._order)) as batches:
            for batch in batches:
                local = jax.tree.map(lambda array: array[0], batch)
                carry = accumulate(variables, carry, self._placement.shard(local))
        return carry
