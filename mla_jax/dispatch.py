"""Phases jitted one by one and dispatched with ``lax.switch`` on a Python integer.

The index is static, so XLA folds the switch away: the compiled program holds one branch, no
conditional and no copies, and the whole state is donated.  A traced index would be correct and
20 times slower on CPU, where a convolution's backward inside a conditional falls back to a naive
emitter, and it would copy every encoder on every backend; so it is refused.
"""

import concurrent.futures
import functools
import operator
import time
from collections.abc import Callable, Sequence

import jax

from mla_jax import distributed
from mla_jax.functional.optimizers import StepInfo
from mla_jax.state import Batch, Metrics, TrainState

Update = Callable[[TrainState, Batch, StepInfo], tuple[TrainState, Metrics]]


class Dispatch:
    """``dispatch(i, state, batch, info)`` runs phase ``i`` and consumes (donates) ``state``."""

    def __init__(self, updates: Sequence[Update], compiler_options: dict | None = None):
        phases = tuple(jax.jit(update) for update in updates)

        @functools.partial(
            jax.jit, static_argnums=0, donate_argnums=1, compiler_options=compiler_options
        )
        def switch(index, state, batch, info):
            return jax.lax.switch(index, phases, state, batch, info)

        self._switch = switch
        self._count = len(phases)
        self._programs: list[jax.stages.Compiled] = []
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
        if not self._programs:
            self._compile(state, batch, info)
        return self._switch(index, state, batch, info)

    def _compile(self, state: TrainState, batch: Batch, info: StepInfo) -> None:
        """Compiles all phases side by side; the calls then find the programs made here.

        Several processes compile one by one, so that all of them do it in the same order.
        """
        started = time.perf_counter()
        lowered = [self.lower(index, state, batch, info) for index in range(self._count)]
        _, processes = distributed.process()
        with concurrent.futures.ThreadPoolExecutor(None if processes == 1 else 1) as threads:
            self._programs = list(threads.map(jax.stages.Lowered.compile, lowered))
        self.compile_seconds += time.perf_counter() - started

    def lower(self, index: int, state: TrainState, batch: Batch, info: StepInfo):
        """The lowered program of one phase, for the tests that read what XLA made of it."""
        return self._switch.lower(self._index(index), state, batch, info)

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
        costs = [program.cost_analysis() or {} for program in self._programs]
        sums: dict[str, float | None] = {}
        for key in ("flops", "bytes accessed"):
            found = [cost[key] for cost in costs if cost.get(key) is not None]
            sums[key] = float(sum(found)) if len(found) == len(costs) else None
        return sums
