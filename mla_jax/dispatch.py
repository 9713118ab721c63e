"""Phases jitted one by one and dispatched with ``lax.switch`` on a Python integer.

The index is static, so XLA folds the switch away: the compiled program holds one branch, no
conditional and no copies, and the whole state is donated.  A traced index would be correct and
20 times slower on CPU, where a convolution's backward inside a conditional falls back to a naive
emitter, and it would copy every encoder on every backend; so it is refused.

Phases that say what they read (``methods.base.Solo``) and are alike share one program.  It takes
the one encoder and what all modalities share.  So it is compiled once for any number of modalities,
and a call hands over a few arrays, not the whole state.

A phase that takes alike modules as ``Stacks`` (``Phase.alike``) is given them so, and returns them
so: between two steps the state stays in that form, and ``state.apart()`` is the usual one.
"""

import collections
import concurrent.futures
import functools
import operator
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mla_jax import distributed
from mla_jax.backend import counting
from mla_jax.functional.optimizers import StepInfo
from mla_jax.methods.base import Phase, Solo, Update
from mla_jax.stacking import Layout
from mla_jax.state import Batch, Metrics, TrainState


class Shared(NamedTuple):
    """The program that alike solos share."""

    name: str
    """The modality that it is written for; others take part under this name."""
    program: Any
    """A jitted ``Update``."""


class Planned(NamedTuple):
    """A program of a batch, before it is compiled."""

    phase: int
    """The first phase that runs it."""
    modality: str
    """Of the ``Solo`` in that phase; empty for the program of a phase by itself."""
    runs: int
    """How often a batch runs it."""
    state: TrainState
    """What it takes of the state."""
    lower: Callable[[], jax.stages.Lowered]
    uncounted: Callable[[], Mapping[str, float]] = dict
    """``counting.of_loops``."""


class Dispatch:
    """``dispatch(i, state, batch, info)`` runs phase ``i`` and consumes (donates) ``state``.

    ``phases``: those of a stage, or the functions alone.  ``share=False`` compiles each phase by
    itself, whatever it says of what it reads.  ``donate=False`` leaves ``state`` usable.
    """

    def __init__(
        self,
        phases: Sequence[Phase | Update],
        compiler_options: dict | None = None,
        share: bool = True,
        donate: bool = True,
    ):
        whole = [p if isinstance(p, Phase) else Phase("", p) for p in phases]
        jitted = tuple(jax.jit(phase.update) for phase in whole)
        layout = Layout([phase.alike for phase in whole])
        self._donated = (1,) if donate else ()

        @functools.partial(
            jax.jit,
            static_argnums=0,
            donate_argnums=self._donated,
            compiler_options=compiler_options,
        )
        def switch(index, state, batch, info):
            # Not self._layout: a cycle, with which the programs would wait for the collector.
            state, metrics = jax.lax.switch(index, jitted, state, batch, info)
            return layout.kept(state), metrics

        self._switch = switch
        self._phases = whole
        self._count = len(jitted)
        self._solos = [phase.solos if share else () for phase in whole]
        self._options = compiler_options
        self._layout = layout
        self._shared: dict[int, list[tuple[Solo, Shared]]] = {}
        self._programs: list[
            tuple[int, jax.stages.Compiled, Callable[[], Mapping[str, float]]]
        ] = []
        """How often a batch runs each of them, the program, and ``Planned.uncounted``."""
        self.compile_seconds = 0.0
        """Time spent tracing and compiling the phases, all of them at the first call."""

    def _index(self, index: int) -> int:
        if isinstance(index, jax.core.Tracer):
            raise TypeError(
                "the phase index must be a Python integer, not a traced value: a traced lax.switch "
                "runs convolutions 20 times slower on CPU and copies the whole state everywhere; "
                "loop over the phases in Python instead of lax.scan, lax.map or jit"
            )
        index = operator.index(index)
        if not 0 <= index < self._count:
            raise IndexError(f"phase {index} of {self._count}")  # lax.switch would clamp it
        return index

    def __call__(
        self, index: int, state: TrainState, batch: Batch, info: StepInfo
    ) -> tuple[TrainState, Metrics]:
        index = self._index(index)
        state = self.held(state, batch)
        if not self._programs:
            self._compile(state, batch, info)
        if index not in self._shared:
            return self._switch(index, state, batch, info)
        reported: Metrics = {}
        for solo, (name, program) in self._shared[index]:
            part, found = program(*_view(solo, name, state, batch), info)
            state, reported = _put_back(solo, name, part, state), reported or found
        return state, reported

    def held(self, state: TrainState, batch: Batch) -> TrainState:
        """The state as the phases take and return it, with ``Stacks`` where they ask for them."""
        return self._layout.held(state, batch)

    def _compile(self, state: TrainState, batch: Batch, info: StepInfo) -> None:
        """Compiles all phases side by side; the calls then find the programs made here.

        Several processes compile one by one, so that all of them do it in the same order.
        """
        started = time.perf_counter()
        planned = self.plan(state, batch, info)
        lowered = [one.lower() for one in planned]
        _, processes = distributed.process()
        with concurrent.futures.ThreadPoolExecutor(None if processes == 1 else 1) as threads:
            compiled = list(threads.map(jax.stages.Lowered.compile, lowered))
        self._programs = [
            (one.runs, program, one.uncounted)
            for one, program in zip(planned, compiled, strict=True)
        ]
        self.compile_seconds += time.perf_counter() - started

    def plan(self, state: TrainState, batch: Batch, info: StepInfo) -> list[Planned]:
        """The programs of a batch, of arrays or of their shapes; those that are shared first."""
        state, plan = self.held(state, batch), []
        for solo, (name, program), count in self._share(state, batch):
            index = next(i for i, solos in enumerate(self._solos) if any(s is solo for s in solos))
            part, own = _view(solo, name, state, batch)
            lower = functools.partial(program.lower, part, own, info)
            plan.append(Planned(index, solo.modality, count, part, lower))
        for index in (i for i in range(self._count) if i not in self._shared):
            lower = functools.partial(self.lower, index, state, batch, info)
            uncounted: Callable[[], Mapping[str, float]] = dict
            if self._phases[index].parts:
                shapes = jax.tree.map(_shape, (state, batch, info))
                update = self._phases[index].update
                uncounted = functools.partial(counting.of_loops, update, *shapes)
            plan.append(Planned(index, "", 1, state, lower, uncounted))
        return plan

    def _share(self, state: TrainState, batch: Batch) -> list[tuple[Solo, Shared, int]]:
        """Fills ``_shared``; the programs in it, each with a solo that it is for, and how often a
        batch runs it."""
        kinds = [[_kind(solo, state, batch) for solo in solos] for solos in self._solos]
        leading = collections.Counter(of_phase[0] for of_phase in kinds if of_phase)
        first: dict[Any, tuple[Solo, Shared]] = {}
        counts: collections.Counter[Any] = collections.Counter()
        for index, of_phase in enumerate(kinds):
            if not of_phase or leading[of_phase[0]] == 1:
                continue  # it would share with nobody
            self._shared[index] = []
            for solo, kind in zip(self._solos[index], of_phase, strict=True):
                if kind not in first:
                    donated = tuple(i - 1 for i in self._donated)  # it takes no index
                    jitted = jax.jit(
                        solo.update, donate_argnums=donated, compiler_options=self._options
                    )
                    first[kind] = solo, Shared(solo.modality, jitted)
                counts[kind] += 1
                self._shared[index].append((solo, first[kind][1]))
        return [(*found, counts[kind]) for kind, found in first.items()]

    def lower(self, index: int, state: TrainState, batch: Batch, info: StepInfo):
        """The lowered program of one phase by itself, on the whole state, for whoever reads what
        XLA makes of it."""
        state = self.held(state, batch)
        return self._switch.lower(self._index(index), state, batch, info)

    @property
    def programs(self) -> int:
        """How many were compiled; 0 before the first call."""
        return len(self._programs)

    @property
    def flops(self) -> float | None:
        """Floating-point operations of one batch through all phases, on each device, as XLA counts
        them; None until they are compiled, and where the backend does not say.

        Counted when asked for: it takes about 0.2 s per program.
        """
        return self._counted["flops"] if self._programs else None

    @property
    def bytes_accessed(self) -> float | None:
        """Operands and results of all operations, in bytes, as ``flops`` otherwise."""
        return self._counted["bytes accessed"] if self._programs else None

    @functools.cached_property
    def _counted(self) -> dict[str, float | None]:
        costs = [(n, found.cost_analysis() or {}, more()) for n, found, more in self._programs]
        sums: dict[str, float | None] = {}
        for key in counting.COUNTED:
            found = [
                n * (cost[key] + more.get(key, 0.0))
                for n, cost, more in costs
                if cost.get(key) is not None
            ]
            sums[key] = float(sum(found)) if len(found) == len(costs) else None
        return sums


def _shape(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf))


def _view(solo: Solo, name: str, state: TrainState, batch: Batch) -> tuple[TrainState, Batch]:
    """What a solo reads, its modality under another name."""
    m = solo.modality
    one = state.replace(
        params={**state.params, "encoder": {name: state.params["encoder"][m]}},
        batch_stats={name: state.batch_stats[m]},
        opt_state={**state.opt_state, "encoder": {name: state.opt_state["encoder"][m]}},
    )
    return one, solo.of_batch(batch, name)


def _put_back(solo: Solo, name: str, part: TrainState, state: TrainState) -> TrainState:
    """The state with what a solo has written, of which ``part`` is what it returned."""

    def renewed(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
        return {**new, "encoder": {**old["encoder"], solo.modality: new["encoder"][name]}}

    return part.replace(
        params=renewed(state.params, part.params),
        batch_stats={**state.batch_stats, solo.modality: part.batch_stats[name]},
        opt_state=renewed(state.opt_state, part.opt_state),
    )


def _kind(solo: Solo, state: TrainState, batch: Batch) -> Any:
    """Equal for solos that one program suits: of equal kind, on arrays of equal type and place."""
    leaves, structure = jax.tree.flatten(_view(solo, "", state, batch))
    shapes = tuple((x.shape, x.dtype, getattr(x, "sharding", None)) for x in leaves)
    return solo.kind, structure, shapes
