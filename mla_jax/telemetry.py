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
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import flatten_util
from ml_collections import FrozenConfigDict

from mla_jax.data.dataset import Dataset
from mla_jax.functional.losses import accuracy, cross_entropy, masked_mean
from mla_jax.functional.optimizers import StepInfo
from mla_jax.functional.projection import HIGHEST, ProjectionState, kernels
from mla_jax.methods.base import Method, Phase, Stage
from mla_jax.program import Program
from mla_jax.state import Batch, TrainState

EVENT = "telemetry"
"""The name of the telemetry lines in ``metrics.jsonl``."""


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
    """``measure`` for one method, jitted, and whether it was called."""

    def __init__(self, *chosen: Any):
        self._compute = jax.jit(functools.partial(measure, *chosen))
        self.called = False

    def __call__(self, *arguments: Any) -> dict[str, Any]:
        self.called = True
        return self._compute(*arguments)


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
    names = method.modalities
    present = probe["present"]

    def logits(variables: dict[str, Any]) -> jax.Array:
        """``float32[M, B, C]``: each modality's own prediction, in evaluation mode."""
        return method.predict(variables, probe).unimodal

    def losses(variables: dict[str, Any]) -> jax.Array:
        """``float32[M]``, in nats, each over the examples that have the modality."""
        each = [cross_entropy(of_one, probe["label"]) for of_one in logits(variables)]
        return jnp.stack([masked_mean(loss, present[:, i]) for i, loss in enumerate(each)])

    at_start = logits(state.variables)
    found: dict[str, Any] = {
        "loss": dict(zip(names, losses(state.variables), strict=True)),
        "accuracy": {
            m: accuracy(at_start[i], probe["label"], present[:, i]) for i, m in enumerate(names)
        },
        "discrepancy_ratio": discrepancy_ratios(at_start, probe["label"], present, names),
    }

    # ---- Gradients of each modality's loss -----------------------------------------------------
    gradients: dict[str, Any] = {}
    for i, m in enumerate(names):

        def loss_of_one(params: Any, i: int = i) -> jax.Array:
            return losses({**state.variables, "params": params})[i]

        gradients[m] = jax.grad(loss_of_one)(state.params)
    found["gradient_norm"] = {
        m: {
            "encoder": optax.tree.norm(gradient["encoder"].get(m, ())),
            "head": optax.tree.norm(gradient["head"]),
        }
        for m, gradient in gradients.items()
    }
    heads = {m: gradient["head"] for m, gradient in gradients.items()}
    found["head_cosine"] = cosines(heads)
    if P := projection_of(state):
        if is_product:
            projected = {m: project(P[0], head) for m, head in heads.items()}
            found["head_cosine_projected"] = cosines(projected)
        found["projection"] = spectrum(P[0])

    # ---- What each phase's step of the head does to every modality -----------------------------
    found |= {"update_norm": {}, "head_step": {}}
    for phase in phases:
        after, _ = phase.update(state, batch, info)
        moved = jax.tree.map(jnp.subtract, after.params, state.params)
        found["update_norm"][phase.name] = {
            f"{kind}/{name}": optax.tree.norm(tree)
            for kind, trees in moved.items()
            for name, tree in trees.items()
        }
        before = losses(state.variables)

        def change(
            step: Any, state: TrainState = state, before: jax.Array = before
        ) -> dict[str, jax.Array]:
            """How every modality's loss changes when only the head takes ``step``."""
            head = jax.tree.map(jnp.add, state.params["head"], step)
            variables = {**state.variables, "params": {**state.params, "head": head}}
            return dict(zip(names, losses(variables) - before, strict=True))

        def step_from(start: TrainState, phase: Phase = phase) -> Any:
            """The head's step from a state that differs in its optimiser only."""
            after, _ = phase.update(start, batch, info)
            return jax.tree.map(jnp.subtract, after.params["head"], start.params["head"])

        steps: dict[str, Any] = {"taken": moved["head"]}
        fresh = without_past(state)
        if not uses_adam(state):
            steps["gradient"] = step_from(fresh)
        if P and is_product and "gradient" in steps:
            steps["unprojected"] = plain = step_from(without_projection(fresh))
            length = optax.tree.norm(steps["gradient"])
            ratio = length / jnp.maximum(optax.tree.norm(plain), 1e-30)
            steps["same_length"] = jax.tree.map(lambda leaf, r=ratio: leaf * r, plain)
        found["head_step"][phase.name] = {
            name: {"length": optax.tree.norm(step), **change(step)} for name, step in steps.items()
        }
        state = after
    return found


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


def cosines(gradients: Mapping[str, Any]) -> dict[str, jax.Array]:
    """``{"a,b": cosine}`` between the gradients of each pair; 0 where one of them is 0."""
    flat = {m: flatten_util.ravel_pytree(tree)[0] for m, tree in gradients.items()}
    return {
        f"{a},{b}": jnp.vdot(flat[a], flat[b], precision=HIGHEST)
        / jnp.maximum(jnp.linalg.norm(flat[a]) * jnp.linalg.norm(flat[b]), 1e-30)
        for a, b in itertools.combinations(flat, 2)
    }


def is_projection(node: Any) -> bool:
    return isinstance(node, ProjectionState)


def projection_of(state: TrainState) -> list[jax.Array]:
    """``[P: float32[D, D]]`` where the head's gradient is projected, else ``[]``."""
    nodes = jax.tree.leaves(state.opt_state["head"], is_leaf=is_projection)
    return [node.P for node in nodes if is_projection(node)]


def project(P: jax.Array, head: Any) -> Any:
    """The gradient of a head after the projection: kernels only, as ``orthogonal_projection``."""
    chosen = kernels(len(P))(head)
    return jax.tree.map(
        lambda leaf, yes: jnp.matmul(P, leaf, precision=HIGHEST) if yes else leaf, head, chosen
    )


def without_projection(state: TrainState) -> TrainState:
    """``state`` with every P replaced by the identity."""
    opt_state = jax.tree.map(
        lambda node: (
            node._replace(P=jnp.eye(len(node.P), dtype=node.P.dtype))
            if is_projection(node)
            else node
        ),
        state.opt_state,
        is_leaf=is_projection,
    )
    return state.replace(opt_state=opt_state)


def without_past(state: TrainState) -> TrainState:
    """``state`` with the momentum of the heads' optimisers cleared; every P stays."""
    head = jax.tree.map(
        lambda node: node if is_projection(node) else jnp.zeros_like(node),
        state.opt_state["head"],
        is_leaf=is_projection,
    )
    return state.replace(opt_state={**state.opt_state, "head": head})


def uses_adam(state: TrainState) -> bool:
    """Whether the step of a head is not a linear function of its gradients."""

    def is_adam(node: Any) -> bool:
        return isinstance(node, optax.ScaleByAdamState)

    return any(map(is_adam, jax.tree.leaves(state.opt_state["head"], is_leaf=is_adam)))


def spectrum(P: jax.Array) -> dict[str, jax.Array]:
    """What P lets through: its eigenvalues, and its effective rank (Roy & Vetterli, 2007).

    The effective rank is the exponential of the entropy of the eigenvalues' shares: D for the
    identity, 1 if only one direction is left.
    """
    values = jnp.maximum(jnp.linalg.eigvalsh(P), 0)
    shares = values / jnp.maximum(values.sum(), 1e-30)
    return {
        "largest": values[-1],
        "median": jnp.median(values),
        "smallest": values[0],
        "mean": values.mean(),
        "effective_rank": jnp.exp(jax.scipy.special.entr(shares).sum()),
    }
