"""Sizes, initialisation and dropout of the networks after the encoders, from the switches."""

import zlib
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from mla_jax.errors import UserError
from mla_jax.functional.autoencoders import Drop, dropout
from mla_jax.functional.optimizers import StepInfo
from mla_jax.methods.base import Task
from mla_jax.state import Batch

STARTS = ("head_init", "normal", "kaiming")
"""Initialisations of linear layers: ``head_init`` is ``config.head_init``; the others are
``autoencoders.INITIALIZATIONS``."""

LARGEST_WIDTH = 65536


def start_of(initialization: str, task: Task) -> str:
    """The initialisation for a value in ``STARTS``."""
    return task.head_init if initialization == "head_init" else initialization


def widths(switch: str, given: Sequence[int], published: Sequence[float]) -> tuple[int, ...]:
    """The given widths of layers, or for () the published ones, rounded.

    Raises:
      UserError: a width is not possible; the message names ``method.<switch>``.
    """
    for width in given:
        if isinstance(width, bool) or not isinstance(width, int) or not 0 < width <= LARGEST_WIDTH:
            raise UserError(
                f"method.{switch}={tuple(given)} must be widths of layers, integers from 1 to "
                f"{LARGEST_WIDTH}, for example (256, 128), or () for the published ones"
            )
    return tuple(given) or tuple(max(1, round(width)) for width in published)


def check_dropout(switch: str, rate: float) -> None:
    """Raises ``UserError`` unless 0 <= rate < 1."""
    if rate == 1:
        raise UserError(f"method.{switch} must be at least 0 and less than 1, not {rate}")


def example_dropout(
    key_data: jax.Array, batch: Batch, info: StepInfo, rate: float
) -> Callable[[str], Drop]:
    """``(name of a network) -> dropout``, drawn in every step for each example.

    What is dropped depends on the key, the step, the example's ``index`` and the network's
    name, but not on the batch size or the number of processes.
    """
    epoch = jnp.asarray(info.epoch)
    step = epoch * info.batches_per_epoch + info.batch_index
    key = jax.random.fold_in(jax.random.wrap_key_data(key_data), step)

    def of_network(name: str) -> Drop:
        own = jax.random.fold_in(key, zlib.crc32(name.encode()) & 0x7FFFFFFF)
        keys = jax.vmap(lambda index: jax.random.fold_in(own, index))(batch["index"])
        return dropout(keys, rate)

    return of_network
