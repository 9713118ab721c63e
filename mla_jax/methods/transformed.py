"""A method whose encoders see transformed inputs: the one place where the two are put together."""

import functools
from collections.abc import Callable
from typing import Any

from mla_jax.datasets.base import Transform
from mla_jax.methods.base import Method, Phase, Stage
from mla_jax.state import Batch


def transformed(method: Method, transform: Transform | None) -> Method:
    """``method`` on ``transform(batch, train)`` in place of ``batch["inputs"]``, everywhere.

    Augmented in every phase; in evaluation mode in ``init``, in ``predict`` and where ``on_epoch``
    visits the training examples.  A modality that a phase does not read costs nothing: XLA drops
    its transform.
    """
    if transform is None:
        return method

    def prepared(batch: Batch, train: bool) -> Batch:
        return {**batch, "inputs": transform(batch, train)}

    def after(function: Callable, position: int, train: bool) -> Callable:
        """``function`` with the batch that is its argument number ``position`` prepared."""

        @functools.wraps(function)
        def composed(*arguments: Any) -> Any:
            batch = prepared(arguments[position], train)
            return function(*arguments[:position], batch, *arguments[position + 1 :])

        return composed

    # One result a function: what was compiled for it is found again in the next epoch.
    evaluating = functools.cache(lambda fold: after(fold, 2, train=False))

    def on_epoch(original: Callable, state: Any, epoch: int, *visits: Callable) -> Any:
        prepared_visits = (
            lambda fold, *rest, visit=visit: visit(evaluating(fold), *rest) for visit in visits
        )
        return original(state, epoch, *prepared_visits)

    def stage(original: Stage) -> Stage:
        phases = (Phase(p.name, after(p.update, 1, train=True)) for p in original.phases)
        changes: dict[str, Any] = {"phases": tuple(phases)}
        if original.on_epoch:
            changes["on_epoch"] = functools.partial(on_epoch, original.on_epoch)
        return original._replace(**changes)

    return method._replace(
        init=after(method.init, 1, train=False),
        stages=tuple(map(stage, method.stages)),
        predict=after(method.predict, 1, train=False),
    )
