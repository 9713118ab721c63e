"""Telemetry of imbalance: who learns, whose gradient dominates, and what the head forgets.

    python -m mla_jax.main --config=configs/digits.py --config.telemetry.every_steps=5

Every ``config.telemetry.every_steps`` batches a run is measured on a fixed probe batch, just
before it takes the step.  The step is also computed here, on copies, so that the compiled
training step is the same with telemetry and without it.  It works for every method: it needs
``Method.predict``, the phases, and a state with encoders and heads.

What the head forgets.  For each phase of the batch (MLA: one per modality m) only the head is
updated as the phase updates it.  The loss of every modality k is taken on the probe batch, before
and after:

    head_step[m][k] = L_k(encoders, head after the step for m) - L_k(encoders, head before it)

Positive off the diagonal is forgetting: the head's step for m has made k worse.  There are four
such steps; the run itself takes only the first:

* ``taken``: the step of the run.  With a momentum of 0.9 most of it comes from the gradients of
  earlier steps, including those of other modalities.
* ``gradient``: the step without momentum: only this batch's gradient, and the weight decay.
* ``unprojected``: as ``gradient``, but with the identity in the place of P.
* ``same_length``: ``unprojected``, scaled to the length of ``gradient``.  A P that shrinks the step
  acts like a smaller learning rate; only this step shows the effect of the direction.

The last two need a projection that replaces the gradient by P times it, with P from before the
batch: not ``order=update_then_project``, and not ``apply=add``.  Adam rescales its steps, so the
last three would not show the effect of a gradient: with Adam only ``taken`` is measured.
"""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import flatten_util
from ml_collections import FrozenConfigDict

from mla_jax.data.dataset import Dataset
from mla_jax.dispatch import Dispatch
from mla_jax.encoders import many
from mla_jax.functional.losses import accuracy, cross_entropy, masked_mean
from mla_jax.functional.optimizers import StepInfo
from mla_jax.functional.projection import HIGHEST
from mla_jax.methods.base import Method, Phase, Stage
from mla_jax.program import Program
from mla_jax.state import Batch, TrainState
from mla_jax.telemetry.head_state import (
    project,
    projection_of,
    spectrum,
    uses_adam,
    without_past,
    without_projection,
)

EVENT = "telemetry"
"""The name of the telemetry lines in ``metrics.jsonl``."""

APART = 8
"""Modalities from which the measurement is several programs."""


def measurements(lines: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The lines with telemetry among those of ``metrics.jsonl``, in their order."""
    return [line for line in lines if line.get("event") == EVENT]


class Telemetry:
    """The measurements of a run: ask ``telemetry.due(step)``, then call ``telemetry(...)``."""

    def __init__(self, program: Program, dataset: Dataset, config: FrozenConfigDict):
        """
        Args:
          program: the run's; its steps are not changed.
          dataset: its training split gives the probe batch.
          config: resolved; only ``telemetry`` and ``method`` are used.
        """
        self._every = config.telemetry.every_steps
        self._measured = functools.partial(measured, program.method, acts_as_product(config))
        if self._every:
            probe = probe_batch(dataset, config.telemetry.examples)
            self._probe = program.placement.replicate(probe)

    def due(self, step: int) -> bool:
        """Whether to measure before batch number ``step``, from 0."""
        return bool(self._every) and step % self._every == 0

    def has_compiled(self, stage: Stage) -> bool:
        """Whether the next measurement in this stage need not compile."""
        return self._measured(stage.single_phases).called

    def __call__(
        self, stage: Stage, state: TrainState, batch: Batch, info: StepInfo
    ) -> dict[str, Any]:
        """The measurements of one batch, numbers in nested dictionaries; ``state`` stays usable."""
        found = self._measured(stage.single_phases)(state, batch, info, self._probe)
        return jax.tree.map(lambda value: float(np.asarray(value)), jax.device_get(found))


class Measured:
    """``measure`` for one method, compiled, and whether it was called.

    It is one program, which grows with the square of the number of modalities.  From ``APART`` on
    its parts are programs of their own, most of which serve all phases, and phases that are alike
    share the program of their step.
    """

    def __init__(self, method: Method, is_product: bool, phases: tuple[Phase, ...]):
        self.called, self._compute = False, self._compiled(method, is_product, phases)

    @staticmethod
    def _compiled(
        method: Method, is_product: bool, phases: tuple[Phase, ...]
    ) -> Callable[..., dict[str, Any]]:
        if len(method.modalities) < APART:
            return jax.jit(functools.partial(measure, method, is_product, phases))
        steps = Dispatch([Phase(p.name, p.update, solos=p.solos) for p in phases], donate=False)
        parts = parts_of(method, phases, jax.jit)
        parts = parts._replace(step=steps, gradient=_one_by_one(parts.gradient, method))

        def compute(*arguments: Any) -> dict[str, Any]:
            found = combine(parts, method.modalities, is_product, phases, *arguments)
            return named(method.modalities, jax.device_get(found))

        return compute

    def __call__(self, *arguments: Any) -> dict[str, Any]:
        self.called = True
        return self._compute(*arguments)


def _one_by_one(gradient: Callable, method: Method) -> Callable:
    """``Parts.gradient``, compiled: for each modality by itself where there are convolutions, which
    cost more than compiling them.  Else once for all modalities: the backward pass is through all
    encoders, as it is in any case where alike ones are computed as one."""
    together, apart = jax.jit(gradient), jax.jit(gradient, static_argnums=0)
    chosen: list[Callable] = []

    def of_one(i: int, params: Any, variables: dict[str, Any], probe: Batch) -> Any:
        if not chosen:
            convolves = many.convolves(method.predict, variables, probe)
            chosen.append(apart if convolves else lambda i, *rest: together(np.int32(i), *rest))
        return chosen[0](i, params, variables, probe)

    return of_one


@functools.lru_cache(maxsize=2)  # the runs of one program, with several seeds, compile once
def measured(method: Method, is_product: bool, phases: tuple[Phase, ...]) -> Measured:
    """The ``Measured`` of a method's stage, the same object for equal arguments."""
    return Measured(method, is_product, phases)


def acts_as_product(config: FrozenConfigDict) -> bool:
    """Whether a method's projection is P times the gradient, with P from before the batch."""
    options = config.method.get("projection", {})
    kept = {"order": "project_then_update", "apply": "replace"}
    return all(options.get(name, value) == value for name, value in kept.items())


def probe_batch(dataset: Dataset, examples: int) -> Batch:
    """At most ``examples`` of the training split, always the same ones, as a batch without
    augmentation."""
    split = dataset.splits["train"]
    chosen = np.random.default_rng(0).permutation(split.examples)[:examples]
    batch = split.fetch(np.sort(chosen))
    return {**batch, "valid": np.ones(len(chosen), bool)}


def measure(
    method: Method,
    is_product: bool,
    phases: tuple[Phase, ...],
    state: TrainState,
    batch: Batch,
    info: StepInfo,
    probe: Batch,
) -> dict[str, Any]:
    """The measurements before one batch: pure; scalars ``float32[]`` in nested dictionaries.

    ``is_product``: see ``acts_as_product``.
    """
    parts, names = parts_of(method, phases, lambda function: function), method.modalities
    return named(names, combine(parts, names, is_product, phases, state, batch, info, probe))


class Parts(NamedTuple):
    """The computations of ``measure``, each of them pure."""

    at_start: Callable[..., dict[str, Any]]
    gradient: Callable[..., tuple[jax.Array, Any]]
    """Of the loss of a modality, by its number: the norm for its encoder, and that of all heads."""
    norm: Callable[[Any], jax.Array]
    cosine: Callable[[Any, Any], jax.Array]
    project: Callable[[jax.Array, Any], Any]
    spectrum: Callable[[jax.Array], dict[str, jax.Array]]
    step: Callable[[int, TrainState, Batch, StepInfo], tuple[TrainState, Any]]
    """The step of a phase, from a state that stays usable."""
    without_past: Callable[[TrainState], TrainState]
    without_projection: Callable[[TrainState], TrainState]
    update_norms: Callable[[Any, Any], dict[str, jax.Array]]
    head_steps: Callable[..., dict[str, Any]]


def parts_of(
    method: Method, phases: tuple[Phase, ...], compiled: Callable[[Callable], Any]
) -> Parts:
    """The ``Parts`` of a method's stage, each given to ``compiled`` (``jax.jit``, or nothing)."""
    names, predict = method.modalities, compiled(method.predict)

    def logits(variables: dict[str, Any], probe: Batch) -> jax.Array:
        """``float32[M, B, C]``: each modality's own prediction, in evaluation mode."""
        return predict(variables, probe).unimodal

    def losses(variables: dict[str, Any], probe: Batch) -> jax.Array:
        """``float32[M]``, in nats, each over the examples that have the modality."""
        each = [cross_entropy(of_one, probe["label"]) for of_one in logits(variables, probe)]
        return jnp.stack([masked_mean(loss, probe["present"][:, i]) for i, loss in enumerate(each)])

    def at_start(variables: dict[str, Any], probe: Batch) -> dict[str, Any]:
        found, present = logits(variables, probe), probe["present"]
        right = [accuracy(found[i], probe["label"], present[:, i]) for i in range(len(names))]
        return {
            "loss": losses(variables, probe),
            "accuracy": jnp.stack(right),
            "discrepancy_ratio": discrepancy_ratios(found, probe["label"], present, names),
        }

    def gradient_of(
        i: int | jax.Array, params: Any, variables: dict[str, Any], probe: Batch
    ) -> tuple[jax.Array, Any]:
        def loss_of_one(params: Any) -> jax.Array:
            return losses({**variables, "params": params}, probe)[i]

        gradient = jax.grad(loss_of_one)(params)
        norms = [optax.tree.norm(gradient["encoder"].get(m, ())) for m in names]
        return norms[i] if isinstance(i, int) else jnp.stack(norms)[i], gradient["head"]

    def head_steps(
        variables: dict[str, Any], heads: dict[str, Any], probe: Batch
    ) -> dict[str, dict[str, jax.Array]]:
        """How every modality's loss changes when only the head takes a step, to one of ``heads``.

        ``same_length`` follows from the other steps.
        """
        params, before = variables["params"], losses(variables, probe)

        def change(step: Any) -> jax.Array:
            head = jax.tree.map(jnp.add, params["head"], step)
            return losses({**variables, "params": {**params, "head": head}}, probe) - before

        steps = {
            name: jax.tree.map(jnp.subtract, head, params["head"]) for name, head in heads.items()
        }
        if "unprojected" in steps:
            length, plain = optax.tree.norm(steps["gradient"]), steps["unprojected"]
            ratio = length / jnp.maximum(optax.tree.norm(plain), 1e-30)
            steps["same_length"] = jax.tree.map(lambda leaf: leaf * ratio, plain)
        return {
            name: {"length": optax.tree.norm(step), "change": change(step)}
            for name, step in steps.items()
        }

    return Parts(
        compiled(at_start),
        gradient_of,
        compiled(optax.tree.norm),
        compiled(cosine),
        compiled(project),
        compiled(spectrum),
        lambda index, *arguments: phases[index].update(*arguments),
        compiled(without_past),
        compiled(without_projection),
        compiled(update_norms),
        compiled(head_steps),
    )


def combine(
    parts: Parts,
    names: tuple[str, ...],
    is_product: bool,
    phases: tuple[Phase, ...],
    state: TrainState,
    batch: Batch,
    info: StepInfo,
    probe: Batch,
) -> dict[str, Any]:
    """The measurements by ``parts``; what is of every modality is a ``float32[M]``."""
    found = parts.at_start(state.variables, probe)

    # ---- Gradients of each modality's loss -----------------------------------------------------
    found["gradient_norm"], heads = {}, {}
    for i, m in enumerate(names):
        norm, heads[m] = parts.gradient(i, state.params, state.variables, probe)
        found["gradient_norm"][m] = {"encoder": norm, "head": parts.norm(heads[m])}
    found["head_cosine"] = cosines(heads, parts.cosine)
    if P := projection_of(state):
        if is_product:
            projected = {m: parts.project(P[0], head) for m, head in heads.items()}
            found["head_cosine_projected"] = cosines(projected, parts.cosine)
        found["projection"] = parts.spectrum(P[0])

    # ---- What each phase's step of the head does to every modality -----------------------------
    found |= {"update_norm": {}, "head_step": {}}
    for index, phase in enumerate(phases):

        def after_step(start: TrainState, index: int = index) -> TrainState:
            """After the phase's step, from a state that differs in its optimiser only."""
            return parts.step(index, start, batch, info)[0]

        after, fresh = after_step(state), parts.without_past(state)
        found["update_norm"][phase.name] = parts.update_norms(after.params, state.params)
        ends = {"taken": after.params["head"]}
        if not uses_adam(state):
            ends["gradient"] = after_step(fresh).params["head"]
        if P and is_product and "gradient" in ends:
            ends["unprojected"] = after_step(parts.without_projection(fresh)).params["head"]
        found["head_step"][phase.name] = parts.head_steps(state.variables, ends, probe)
        state = after
    return found


def named(names: tuple[str, ...], found: dict[str, Any]) -> dict[str, Any]:
    """``found`` with numbers by the name of the modality in place of each ``float32[M]``."""

    def by_name(values: Any) -> dict[str, Any]:
        return dict(zip(names, values, strict=True))

    steps = {
        phase: {
            name: {"length": step["length"], **by_name(step["change"])}
            for name, step in of_phase.items()
        }
        for phase, of_phase in found["head_step"].items()
    }
    start = {key: by_name(found[key]) for key in ("loss", "accuracy")}
    return {**found, **start, "head_step": steps}


def update_norms(after: dict[str, Any], before: dict[str, Any]) -> dict[str, jax.Array]:
    """``{"encoder/a": norm, ..., "head/shared": norm}`` of what a step changes."""
    moved = jax.tree.map(jnp.subtract, after, before)
    return {
        f"{kind}/{name}": optax.tree.norm(tree)
        for kind, trees in moved.items()
        for name, tree in trees.items()
    }


def discrepancy_ratios(
    logits: jax.Array, label: jax.Array, present: jax.Array, names: tuple[str, ...]
) -> dict[str, jax.Array]:
    """OGM's ratio (Peng et al., CVPR 2022, equation 8): how far a modality leads the others.

    The sum over the examples of the probability of the right class, divided by the mean of that
    sum over the other modalities.  Above 1: it leads.

    Args:
      logits: ``float[M, B, C]``.
      label: ``int[B]``.
      present: ``bool[B, M]``.
    """
    right = jnp.take_along_axis(jax.nn.softmax(logits), label[None, :, None], 2)[..., 0]
    scores = jnp.where(present.T, right, 0).sum(1)
    others = (scores.sum() - scores) / max(len(names) - 1, 1)
    return dict(zip(names, scores / jnp.maximum(others, 1e-12), strict=True)) if names[1:] else {}


def cosine(a: jax.Array, b: jax.Array) -> jax.Array:
    """Between two vectors; 0 where one of them is 0."""
    lengths = jnp.linalg.norm(a) * jnp.linalg.norm(b)
    return jnp.vdot(a, b, precision=HIGHEST) / jnp.maximum(lengths, 1e-30)


def cosines(
    gradients: Mapping[str, Any], of_two: Callable[[Any, Any], jax.Array] = cosine
) -> dict[str, jax.Array]:
    """``{"a,b": cosine}`` between the gradients of each pair."""
    flat = {m: flatten_util.ravel_pytree(tree)[0] for m, tree in gradients.items()}
    return {f"{a},{b}": of_two(flat[a], flat[b]) for a, b in itertools.combinations(flat, 2)}
