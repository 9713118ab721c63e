"""The TPU slices that programs can be compiled for, and the peaks of their chips.

Peaks are published figures: nothing here was measured.
"""

import contextlib
import importlib.util
import math
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from mla_jax.errors import UserError

HOP_SECONDS = 1e-6
"""Assumed for a message from chip to chip, however small ("How to Scale Your Model", part 3:
about 1 microsecond a hop)."""
GIB = 2**30


class Chip(NamedTuple):
    """One chip, which JAX shows as one device."""

    flops: float
    """bfloat16 operations per second at the peak."""
    hbm: int
    """Bytes of memory."""
    hbm_bandwidth: float
    """Bytes per second to and from the memory."""
    link_bandwidth: float
    """Bytes per second of one link between chips, in one direction."""
    axes: int
    """2 or 3: a slice is a grid with this many dimensions."""
    wraps_at: int
    """An axis is a ring if its length is a multiple of this, else a line."""
    host_cores: int
    """Virtual CPUs of the host of four chips."""
    clock: float | None
    """Cycles per second, to interpret the compiler's cost model; None if not published.
    """
    source: str


def _documented(name: str, machine: str, also: str = "") -> str:
    return (
        f"cloud.google.com/tpu/docs/{name} (compute, HBM, links); "
        f"cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus (host {machine}){also}"
    )


ISCA = "; links and clock: Jouppi et al., ISCA 2023"
CHIPS: Mapping[str, Chip] = {
    "v4": Chip(
        275e12, 32 * GIB, 1200e9, 50e9, 3, 4, 240, 1.05e9,
        _documented("v4", "ct4p-hightpu-4t", ISCA),
    ),
    "v5e": Chip(
        197e12, 16 * GIB, 819e9, 50e9, 2, 16, 112, 1.5e9, _documented("v5e", "ct5lp-hightpu-4t")
    ),
    "v5p": Chip(
        459e12, 95 * GIB, 2765e9, 100e9, 3, 4, 208, 1.75e9, _documented("v5p", "ct5p-hightpu-4t")
    ),
    "v6e": Chip(
        918e12, 32 * GIB, 1640e9, 100e9, 2, 16, 180, None, _documented("v6e", "ct6e-standard-4t")
    ),
}  # fmt: skip
EXAMPLES = {
    "v4": "v4:2x2x1, v4:2x2x2, v4:4x4x4",
    "v5e": "v5e:1x1, v5e:2x2, v5e:4x4, v5e:16x16",
    "v5p": "v5p:2x2x1, v5p:2x2x2, v5p:4x4x4",
    "v6e": "v6e:1x1, v6e:2x2, v6e:4x4, v6e:16x16",
}
KNOWN = f"{'; '.join(EXAMPLES.values())}, or cpu:N for N simulated devices"
NAME = re.compile(r"(\w+):(\d+(?:x\d+)*)")
QUIET = {
    "TPU_SKIP_MDS_QUERY": "1",  # query no metadata server, which only Google's machines have
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # no TPU is opened, so no lock is needed
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
}
"""Environment variables that libtpu reads when loaded; they do not change what is compiled."""


class Target(NamedTuple):
    """The devices that programs are compiled for."""

    name: str
    chip: Chip | None
    """None for simulated CPU devices, which have no peaks."""
    shape: tuple[int, ...]
    """Chips along each axis of the slice."""
    devices: list[Any]
    hosts: int

    @property
    def kind(self) -> str:
        return self.devices[0].device_kind


def create_target(name: str) -> Target:
    """The target named ``v5e:4x4``, ``v4:2x2x2``, ``cpu:4`` and so on.

    Raises:
      UserError: there is no such slice, or no compiler for it.
    """
    found = NAME.fullmatch(name)
    kind = found[1] if found else ""
    if not found or kind not in (*CHIPS, "cpu"):
        raise UserError(f"unknown topology '{name}': known are {KNOWN}")
    shape = tuple(map(int, found[2].split("x")))
    if min(shape) < 1 or len(shape) != (1 if kind == "cpu" else CHIPS[kind].axes):
        form = {1: "cpu:N", 2: f"{kind}:XxY", 3: f"{kind}:XxYxZ"}[
            1 if kind == "cpu" else CHIPS[kind].axes
        ]
        raise UserError(f"unknown topology '{name}': write {form}; known are {KNOWN}")
    if kind == "cpu":
        return Target(name, None, shape, _cpu_devices(shape[0]), 1)
    return _of_tpu(name, CHIPS[kind], shape)


def _of_tpu(name: str, chip: Chip, shape: tuple[int, ...]) -> Target:
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            f"--topology={name} needs the compiler for TPUs, which is not installed: "
            "pip install -e '.[tpu]' in the clone (no TPU is needed)"
        )
    options: dict[str, Any] = {"chip_config_name": "megacore"} if name.startswith("v4") else {}
    if math.prod(shape) == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        with _quiet():
            devices: Any = topologies.get_topology_desc(name, "tpu", **options).devices
    except (RuntimeError, NotImplementedError) as error:  # JaxRuntimeError is a RuntimeError
        text = str(error).partition("\n")[0]
        if "INVALID_ARGUMENT" not in text:
            raise UserError(
                f"the compiler for TPUs does not start ({text}): install the libtpu that goes "
                f"with jax {jax.__version__}, pip install -e '.[tpu]' in the clone"
            ) from error
        reason = text.removeprefix("INVALID_ARGUMENT: ")
        raise UserError(f"there is no topology '{name}' ({reason}): known are {KNOWN}") from error
    return Target(name, chip, shape, list(devices), len({d.process_index for d in devices}))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Sets ``QUIET`` in the environment while libtpu is loaded, unless already set."""
    added = {name: value for name, value in QUIET.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def _cpu_devices(count: int) -> list[Any]:
    """``count`` simulated devices; their number is fixed once JAX has started."""
    with contextlib.suppress(RuntimeError):  # JAX has started already, maybe with enough devices
        jax.config.update("jax_num_cpu_devices", count)
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise UserError(
            f"--topology=cpu:{count}: JAX has started with {len(devices)} CPU devices: repeat it "
            "in a new process"
        )
    return devices[:count]


def table() -> tuple[list[str], list[list[str]], list[str]]:
    """Header, rows and lines below, for ``--topology=list``."""
    header = ["chip", "TFLOP/s (bf16)", "HBM, GiB", "HBM, GB/s", "link, GB/s", "vCPUs per host",
              "as in"]  # fmt: skip
    rows = [
        [
            name,
            f"{chip.flops / 1e12:.0f}",
            f"{chip.hbm / GIB:.0f}",
            f"{chip.hbm_bandwidth / 1e9:.0f}",
            f"{chip.link_bandwidth / 1e9:.0f}",
            f"{chip.host_cores}",
            EXAMPLES[name],
        ]
        for name, chip in CHIPS.items()
    ]
    below = [
        "Peaks as published, per chip; a link's bandwidth is that of one direction; a host has "
        "four chips.",
        f"Assumed: {HOP_SECONDS * 1e6:.0f} microsecond per hop between chips (jax-ml.github.io/"
        "scaling-book, part 3; the clocks of v5e and v5p are of its part 2).",
        "cpu:N: N simulated CPU devices, without peaks and estimates.",
        "Sources:",
        *(f"  {name}: {chip.source}" for name, chip in CHIPS.items()),
    ]
    return header, rows, below
