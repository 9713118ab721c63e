"""Checks of shapes, so that a wrong width gets a clear error before a matrix product fails."""

from typing import Any

import jax.numpy as jnp

from mla_jax.errors import UserError


def check_axes(**arrays: tuple[Any, str]) -> dict[str, int]:
    """Raises ``UserError`` unless every array has the axes named for it; returns the sizes.

    ``check_axes(logits=(logits, "M B C"), present=(present, "B M"))``: a letter is the same size
    everywhere, a number is that size.  It works on tracers, since it only reads shapes.

    >>> from mla_jax.functional.shapes import check_axes
    >>> logits, present = jnp.zeros((2, 8, 6)), jnp.ones((8, 2), bool)
    >>> check_axes(logits=(logits, "M B C"), present=(present, "B M"))
    {'M': 2, 'B': 8, 'C': 6}
    >>> check_axes(logits=(logits, "M B C"), present=(present, "M B"))
    Traceback (most recent call last):
        ...
    mla_jax.errors.UserError: 'present' must have the shape [M=2, B=8], not [8, 2]
    """
    sizes: dict[str, int] = {}
    for name, (array, axes) in arrays.items():
        shape, letters = tuple(jnp.shape(array)), axes.split()
        fits = len(shape) == len(letters) and all(
            length == (int(axis) if axis.isdigit() else sizes.setdefault(axis, length))
            for axis, length in zip(letters, shape, strict=True)
        )
        if not fits:
            wanted = ", ".join(
                f"{axis}={sizes[axis]}" if axis in sizes else axis for axis in letters
            )
            raise UserError(f"'{name}' must have the shape [{wanted}], not {list(shape)}")
    return sizes
