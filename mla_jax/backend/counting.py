"""Operations in loops, of which XLA's cost analysis counts one turn only."""

import collections
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from jax.extend import core

COUNTED = ("flops", "bytes accessed")


def of_loops(function: Callable[..., Any], *arguments: Any) -> Mapping[str, float]:
    """``{"flops": x, "bytes accessed": y}`` of all turns but the first of the loops in a function.

    Loops of a fixed length (``lax.scan``, and ``lax.fori_loop`` with constant bounds), before XLA
    changes them.  ``arguments``: arrays, or their shapes.
    """
    found: collections.Counter[str] = collections.Counter()
    for length, body in _loops(jax.make_jaxpr(function)(*arguments).jaxpr):
        shapes = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in body.jaxpr.invars]
        turn = core.jaxpr_as_fun(body)
        cost = jax.jit(turn).lower(*shapes).cost_analysis() or {}
        within = of_loops(turn, *shapes)
        for key in COUNTED:
            found[key] += (length - 1) * cost.get(key, 0.0) + length * within.get(key, 0.0)
    return found


def _loops(jaxpr: Any) -> Iterator[tuple[int, Any]]:
    """``(length, body)`` of the outermost loops."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan":
            yield equation.params["length"], equation.params["jaxpr"]
            continue
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                if isinstance(inner, core.ClosedJaxpr):
                    yield from _loops(inner.jaxpr)
                elif isinstance(inner, core.Jaxpr):
                    yield from _loops(inner)
