"""Many modalities of one kind as one: their arrays side by side, one ``vmap``.

A program otherwise grows with the number of modalities, and so does the time that XLA takes for it.
What is computed as one may be rounded differently, so fewer than ``MANY`` stay apart, and keep
every bit.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mla_jax.state import Stacks, rows, stacked

MANY = 8
"""So many alike modalities are computed as one."""

Groups = Sequence[Sequence[str]]
"""Names of alike modalities, held together; one name where it stays apart."""


def each(function: Callable[..., Any], names: Sequence[str], *trees: Mapping[str, Any]) -> Any:
    """``stacked([function(*(tree[m] for tree in trees)) for m in names])``; as one for ``MANY``.

    ``trees``: what one of them has for each name is alike.

    >>> x, y = {"a": jnp.zeros(2), "b": jnp.ones(2)}, {"a": jnp.ones(2), "b": jnp.ones(2)}
    >>> each(jnp.add, ["a", "b"], x, y)
    Array([[1., 1.],
           [2., 2.]], dtype=float32)
    """
    if len(names) < MANY:
        found = [function(*(tree[m] for tree in trees)) for m in names]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *found)
    return jax.vmap(function)(*(rows(tree, names) for tree in trees))


def by_group(
    function_of: Callable[[str], Callable[..., Any]],
    groups: Groups,
    *trees: Mapping[str, Any],
    axis: str | None = None,
) -> Mapping[str, Any]:
    """``{m: function_of(m)(tree[m], ...)}``, computed as one for each group, with the function of
    its first name; ``Stacks`` if there is a group of several.

    ``axis``: of the mesh, if it divides the groups.
    """
    found = [mapped(function_of(group[0]), group, *trees, axis=axis) for group in groups]
    if all(len(group) == 1 for group in groups):
        return {m: one for (m,), one in zip(groups, found, strict=True)}
    # Without the barrier XLA would compute the whole once for each piece that is taken of it.
    return Stacks(groups, jax.lax.optimization_barrier(found))


def by_name(
    function: Callable[..., Any], group: Sequence[str], *trees: Mapping[str, Any]
) -> dict[str, Any]:
    """``{m: function(tree[m], ...)}`` for alike modalities; as one if there are ``MANY``."""
    groups = [group] if len(group) >= MANY else [[m] for m in group]
    return dict(by_group(lambda m: function, groups, *trees))


def mapped(
    function: Callable[..., Any],
    group: Sequence[str],
    *trees: Mapping[str, Any],
    axis: str | None = None,
) -> Any:
    """``function(tree[m], ...)`` for the one name m of a group, or ``vmap`` for several."""
    given = [rows(tree, group) for tree in trees]
    return jax.vmap(function, spmd_axis_name=axis)(*given) if group[1:] else function(*given)


def of_each(
    function: Callable[..., Any], trees: Mapping[str, Any], *others: Mapping[str, Any]
) -> Mapping[str, Any]:
    """``function(tree, *others' trees)`` for every name of ``trees``, held as ``trees`` are."""
    if isinstance(trees, Stacks):
        groups = trees.groups
        return Stacks(groups, [mapped(function, group, trees, *others) for group in groups])
    return {m: function(tree, *(other[m] for other in others)) for m, tree in trees.items()}


def by_rows(names: Sequence[str], array: Any) -> Mapping[str, Any]:
    """``{name: row}`` of an array's first axis; ``Stacks``, which need not be put together again,
    of ``MANY``."""
    if len(names) < MANY:
        return dict(zip(names, array, strict=True))
    return Stacks([names], [array])


def unzipped(pairs: Mapping[str, Any], count: int = 2) -> tuple[Mapping[str, Any], ...]:
    """A mapping to tuples as a tuple of mappings."""
    if isinstance(pairs, Stacks):
        return tuple(Stacks(pairs.groups, [t[i] for t in pairs.trees]) for i in range(count))
    return tuple({m: pair[i] for m, pair in pairs.items()} for i in range(count))


def alike(
    names: Sequence[str], kind: Callable[[str], Any], *trees: Mapping[str, Any]
) -> list[list[str]]:
    """The modalities in groups of equal kind and of equal shapes in each of ``trees``.

    Groups of fewer than ``MANY`` come one by one.
    """
    groups: dict[Any, list[str]] = {}
    for name in names:
        leaves, structure = jax.tree.flatten([tree[name] for tree in trees])
        shapes = tuple((jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
        groups.setdefault((kind(name), structure, shapes), []).append(name)
    found = []
    for group in groups.values():
        found += [group] if len(group) >= MANY else [[name] for name in group]
    return found


def convolves(function: Callable[..., Any], *arguments: Any) -> bool:
    """Whether there are convolutions in a function: side by side they would be grouped
    convolutions, for which CPUs have slow code only."""
    return "conv_general_dilated" in str(jax.make_jaxpr(function)(*arguments))


LARGEST = 2**28
"""Bytes of arrays that ``packed`` puts together."""


def packed(
    function: Callable[..., Any], names: Sequence[str], **options: Any
) -> Callable[..., Any]:
    """``jax.jit(function, **options)``, compiled sooner where it returns arrays ``{name: tree}``.

    Every array that a program returns takes XLA a little time.  Here it returns those that differ
    in their name alone as one, and a second program takes that to pieces, one of each at a time.
    """

    def call(*arguments: Any) -> Any:
        shapes = jax.eval_shape(function, *arguments)
        leaves, structure = jax.tree_util.tree_flatten_with_path(shapes)
        places: dict[Any, list[int]] = {}
        for place, (path, leaf) in enumerate(leaves):
            rest = tuple(key for key in path if getattr(key, "key", None) not in names)
            places.setdefault((rest, leaf.shape, leaf.dtype), []).append(place)
        groups = [
            group
            for (_, shape, dtype), group in places.items()
            if len(group) >= MANY and len(group) * math.prod(shape) * dtype.itemsize <= LARGEST
        ]
        single = sorted(set(range(len(leaves))).difference(*groups))

        def put_together(*arguments: Any) -> tuple[list[Any], list[Any]]:
            found = jax.tree.leaves(function(*arguments))
            return [found[i] for i in single], [stacked([found[i] for i in g]) for g in groups]

        def pick(together: list[Any], number: int) -> list[Any]:
            return [jax.lax.dynamic_index_in_dim(one, number, keepdims=False) for one in together]

        alone, together = jax.jit(put_together, **options)(*arguments)
        found: dict[int, Any] = dict(zip(single, alone, strict=True))
        taking = jax.jit(pick, **options)
        for count in {len(group) for group in groups}:
            chosen = [i for i, group in enumerate(groups) if len(group) == count]
            for number in range(count):
                pieces = taking([together[i] for i in chosen], np.int32(number))
                found |= {groups[i][number]: x for i, x in zip(chosen, pieces, strict=True)}
        return jax.tree.unflatten(structure, [found[i] for i in range(len(leaves))])

    return call
