"""Many modalities of one kind as one: their arrays side by side, one ``vmap``.

The programs that initialise and evaluate otherwise grow with the number of modalities, and so does
the time that XLA takes for them.  What is computed as one may be rounded differently, so fewer than
``MANY`` stay apart, and keep every bit.  Training is left as it is.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

MANY = 8
"""So many alike modalities are computed as one."""


def stacked(trees: Sequence[Any]) -> Any:
    """One tree of the leaves of alike trees, along a new first axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def unstacked(tree: Any, count: int) -> list[Any]:
    """The trees that ``stacked`` put together."""
    # Without the barrier XLA would compute the whole once for each of its pieces.
    leaves, structure = jax.tree.flatten(jax.lax.optimization_barrier(tree))
    pieces = [[piece[0] for piece in jnp.split(leaf, count)] for leaf in leaves]
    return [jax.tree.unflatten(structure, leaves) for leaves in zip(*pieces, strict=True)]


def each(function: Callable[..., Any], *arguments: Sequence[Any], train: bool = False) -> Any:
    """``stacked([function(*of_one) for of_one in zip(*arguments)])``; for ``MANY`` at once, but in
    training, where nothing is gained: most of the program is the optimiser's.

    ``arguments``: for each modality a tree; the modalities' trees are alike.

    >>> each(lambda x, y: x + y, [jnp.zeros(2), jnp.ones(2)], [jnp.ones(2), jnp.ones(2)])
    Array([[1., 1.],
           [2., 2.]], dtype=float32)
    """
    if train or len(arguments[0]) < MANY:
        return stacked([function(*of_one) for of_one in zip(*arguments, strict=True)])
    return jax.vmap(function)(*map(stacked, arguments))


def by_name(
    function: Callable[..., Any], group: Sequence[str], *arguments: Mapping[str, Any]
) -> dict[str, Any]:
    """``{m: function(argument[m], ...)}`` for a group of ``alike``, at once if it has ``MANY``."""
    if len(group) < MANY:
        return {m: function(*(argument[m] for argument in arguments)) for m in group}
    together = jax.vmap(function)(
        *(stacked([argument[m] for m in group]) for argument in arguments)
    )
    return dict(zip(group, unstacked(together, len(group)), strict=True))


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
