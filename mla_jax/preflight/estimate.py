"""Estimates from XLA's counts and published peaks; nothing is run or measured.

A step is estimated as the roofline of its phases, the longer of operations over the peak and
bytes over the memory's bandwidth, plus its collectives, which BatchNorm's statistics put between
layers so that little overlaps.  The first part is a lower bound: no program reaches the peak.
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from mla_jax.preflight.program_text import Collective
from mla_jax.preflight.topologies import HOP_SECONDS, Chip

PASSES = {"all-reduce": 2}
"""An all-reduce is a reduce-scatter and an all-gather."""


class Seconds(NamedTuple):
    """Estimated seconds of one phase, or of all phases of a batch, on each device."""

    compute: float
    """Operations over the peak."""
    memory: float
    """Bytes over the bandwidth of the memory."""
    collectives: float

    @property
    def step(self) -> float:
        return max(self.compute, self.memory) + self.collectives


class Feed(NamedTuple):
    """The input that one host must deliver at the estimated speed."""

    examples: float
    """Per second, like the others."""
    bytes: float
    jpegs: float
    cores: float | None
    """The number of busy cores like this machine's; None without a measured rate."""


def axis_hops(chips: int, wraps_at: int) -> int:
    """The hops from a chip to the farthest one on its axis."""
    return chips // 2 if chips % wraps_at == 0 else chips - 1


def collective_seconds(collective: Collective, shape: Sequence[int], chip: Chip) -> float:
    """Latency of the hops, and bytes over the links of all axes, for each pass.

    An axis that is a ring sends in both directions.  It is 0 for one chip.
    """
    if math.prod(shape) == 1:
        return 0.0
    used = [chips for chips in shape if chips > 1]
    hops = sum(axis_hops(chips, chip.wraps_at) for chips in used)
    width = sum(chip.link_bandwidth * (2 if n % chip.wraps_at == 0 else 1) for n in used)
    one_pass = hops * HOP_SECONDS + collective.bytes / width
    return PASSES.get(collective.kind, 1) * one_pass


def phase_seconds(
    flops: float,
    memory_bytes: float,
    collectives: Iterable[Collective],
    shape: Sequence[int],
    chip: Chip,
) -> Seconds:
    """The estimate of one phase on each device."""
    return Seconds(
        flops / chip.flops,
        memory_bytes / chip.hbm_bandwidth,
        sum(collective_seconds(c, shape, chip) for c in collectives),
    )


def total(phases: Iterable[Seconds]) -> Seconds:
    """The sum over phases that run one after the other; each is limited by its slower part."""
    phases = list(phases)
    return Seconds(*(sum(getattr(p, field) for p in phases) for field in Seconds._fields))


def step_seconds(phases: Iterable[Seconds]) -> float:
    return sum(phase.step for phase in phases)


def balanced_batch(batch_size: int, devices: int, seconds: Seconds) -> int | None:
    """The smallest batch, a multiple of the devices, whose compute is as long as its collectives.

    Compute grows with the examples per device; the collectives, of statistics and gradients, are
    the same for any batch.  None if there is no compute.
    """
    if not seconds.compute:
        return None
    per_device = batch_size / devices * seconds.collectives / seconds.compute
    return max(1, math.ceil(per_device - 1e-9)) * devices


def feed(
    examples_per_second: float,
    hosts: int,
    bytes_per_example: float,
    jpegs_per_example: float,
    rate_per_core: float | None,
) -> Feed:
    """What each host must deliver for this many examples per second on all devices."""
    examples = examples_per_second / hosts
    return Feed(
        examples,
        examples * bytes_per_example,
        examples * jpegs_per_example,
        examples / rate_per_core if rate_per_core else None,
    )
