"""How devices share the forward pass of a training batch, and their collectives.

Without this module XLA decides: it sees one program on the whole batch, and adds two all-reduces
per batch normalisation and one per gradient, in the type in which the gradient is computed.
Here each device runs the encoder on its own rows (``jax.shard_map``), so that the collectives are
the ones written down.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mla_jax.errors import UserError
from mla_jax.state import DATA_AXIS, MODALITY_AXIS

BATCH_NORMS = ("global", "device")
GRADIENT_SUMS = ("compute", "float32")

Forward = Callable[[Any, Any, jax.Array, jax.Array | None], tuple[jax.Array, Any]]
"""``(params, batch_stats, inputs[B, ...], present: bool[B] | None) -> (features, batch_stats)``."""


class Spread(NamedTuple):
    """The devices of a run, and two settings of its configuration."""

    mesh: Mesh | None = None
    """A mesh with an axis ``data`` and perhaps one more, ``modality``; None for one device."""
    parts: int = 0
    """How many parts of equal size a batch is divided into for its statistics
    (``batch_norm=device``); 0: the statistics are those of the whole batch."""
    sum_in_float32: bool = False
    """Add up the devices' gradients in float32, whatever their type."""
    compiled_for: str = ""
    """The platform that encoders are written for, if not that of the devices."""

    @property
    def devices(self) -> int:
        """Among how many a batch is divided."""
        return 1 if self.mesh is None else self.mesh.shape[DATA_AXIS]

    @property
    def platform(self) -> str | None:
        """That of the devices, as ``cpu``, or the one given; None if it is not known."""
        known = None if self.mesh is None else self.mesh.devices.flat[0].platform
        return self.compiled_for or known

    @property
    def axis_name(self) -> str | None:
        """The axis over which batch normalisation takes its statistics, if there is one."""
        return DATA_AXIS if self.devices > 1 and not self.parts else None

    @property
    def modality_axis(self) -> str | None:
        """The axis that divides stacks of alike encoders, if there is one."""
        axes = () if self.mesh is None else self.mesh.axis_names
        return MODALITY_AXIS if MODALITY_AXIS in axes else None

    def gathered(self, rows: Any) -> Any:
        """The same arrays, with every row of a batch on every device."""
        return self._constrained(rows, PartitionSpec())

    def divided(self, rows: Any) -> Any:
        """The same arrays, with each device's rows of a batch on that device."""
        return self._constrained(rows, PartitionSpec(DATA_AXIS))

    def undivided(self, stacks: Any) -> Any:
        """The same arrays ``[M, B, ...]``, with all modalities on every device: so that each takes
        what it needs from its own memory."""
        return self._constrained(stacks, PartitionSpec(None, DATA_AXIS))

    def _constrained(self, rows: Any, partition: PartitionSpec) -> Any:
        if self.mesh is None or self.mesh.size == 1:
            return rows
        return jax.lax.with_sharding_constraint(rows, NamedSharding(self.mesh, partition))

    def over(self, forward: Forward, normalized: bool, synchronized: bool) -> Forward:
        """``forward`` of a training batch, on all devices.

        ``normalized``: whether the encoder uses batch statistics; ``synchronized``: whether it
        takes them over ``axis_name``.  If nothing has to be specified, for example with one
        device and no parts, it is ``forward`` itself.

        Raises:
          UserError: the parts do not divide among the devices, or gradients are to be summed in
            float32 and the statistics of the whole batch are not synchronized.
        """
        parts = self.parts if normalized else 0
        if parts % self.devices:
            raise UserError(
                f"batch_norm_devices={parts} does not divide among {self.devices} devices: run on "
                f"a number of devices that divides {parts}, or start a run with other statistics"
            )
        if parts > self.devices:
            forward = _by_parts(forward, parts // self.devices)
        if self.devices == 1:
            return forward
        if normalized and not parts and not synchronized:
            if self.sum_in_float32:
                raise UserError(
                    "gradient_sum_dtype=float32 needs encoders whose batch normalisation takes an "
                    "axis_name: give them that field, or set batch_norm=device"
                )
            return forward  # XLA computes the statistics of the whole batch
        if not normalized and not self.sum_in_float32:
            return forward

        def on_each_device(
            params: Any, batch_stats: Any, inputs: jax.Array, present: jax.Array | None
        ) -> tuple[jax.Array, Any]:
            if self.sum_in_float32:
                # A gradient is summed where its parameter begins to differ between devices.  By
                # default that is where it meets the batch, when it already has the compute type.
                params = jax.tree.map(lambda p: jax.lax.pcast(p, DATA_AXIS, to="varying"), params)
            features, batch_stats = forward(params, batch_stats, inputs, present)
            return features, _of_the_first(batch_stats) if parts else batch_stats

        same, rows = PartitionSpec(), PartitionSpec(DATA_AXIS)
        return jax.shard_map(
            on_each_device,
            mesh=self.mesh,
            in_specs=(same, same, rows, rows),
            out_specs=(rows, same),
        )


ALONE = Spread()
"""One device."""


def _by_parts(forward: Forward, parts: int) -> Forward:
    """``forward`` of each of ``parts`` parts; the statistics of the first are kept."""

    def split(rows: jax.Array) -> jax.Array:
        return rows.reshape(parts, -1, *rows.shape[1:])

    def of_parts(
        params: Any, batch_stats: Any, inputs: jax.Array, present: jax.Array | None
    ) -> tuple[jax.Array, Any]:
        if len(inputs) % parts:
            raise UserError(f"a batch of {len(inputs)} does not divide into {parts} parts")
        present = None if present is None else split(present)
        one = jax.vmap(forward, in_axes=(None, None, 0, 0))
        features, batch_stats = one(params, batch_stats, split(inputs), present)
        first = jax.tree.map(lambda stacked: stacked[0], batch_stats)
        return features.reshape(-1, *features.shape[2:]), first

    return of_parts


def _of_the_first(batch_stats: Any) -> Any:
    """The statistics of the first device, on all devices: one all-reduce for all of them."""
    if not jax.tree.leaves(batch_stats):
        return batch_stats
    together, apart = ravel_pytree(batch_stats)
    first = jax.lax.axis_index(DATA_AXIS) == 0
    return apart(jax.lax.psum(jnp.where(first, together, 0), DATA_AXIS))
