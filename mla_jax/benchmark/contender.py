"""One contender of ``benchmark step --against=torch``: a process that trains when it is told to.

    python -m mla_jax.benchmark.contender

Its first line of input is a ``Spec`` as JSON; each further line is a number of batches, which it
answers with the seconds that they took.  An empty line ends it, and is answered with the memory it
took at most.
"""

import importlib
import json
import os
import pathlib
import resource
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

BYTES_PER_UNIT = 1 if sys.platform == "darwin" else 1024
"""Of ``ru_maxrss``."""


class Spec(NamedTuple):
    """What a contender trains: MLA with a ResNet-18 per modality, on one random batch."""

    name: str
    """``torch``, ``published``, or an entry as ``--methods`` takes it."""
    config: str
    """The configuration, for ours."""
    batch_size: int
    inputs: dict[str, tuple[int, ...]]
    """``{modality: shape of one example}``, channels last."""
    classes: int
    optimizer: dict[str, Any]
    cores: int
    """The process is confined to so many."""
    reference: str = ""
    """A clone of the published code, for ``published``."""


class Contender(NamedTuple):
    """What a kind of contender gives: ``prepare(spec)`` returns one."""

    train: Callable[[int], None]
    """Trains on so many batches, and returns when the device has done it."""
    about: Callable[[], dict[str, Any]]
    """Version, device and type of the computation, once it is compiled."""
    device_memory: Callable[[], int | None]
    """Bytes of the device's own memory at the peak; None where it has none."""


def random_batch(spec: Spec) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Inputs float32, as a step has them after augmentation, channels last; labels int32."""
    rng, count = np.random.default_rng(0), spec.batch_size
    inputs = {
        m: rng.normal(size=(count, *shape)).astype(np.float32) for m, shape in spec.inputs.items()
    }
    return inputs, (np.arange(count) % spec.classes).astype(np.int32)


def main() -> None:
    """Answers the lines of the standard input."""
    started = time.perf_counter()
    spec = Spec(**json.loads(sys.stdin.readline()))
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: spec.cores])
    # Only what goes through `answer` may reach the parent, whatever libraries print.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**values: Any) -> None:
        print(json.dumps(values), file=out, flush=True)

    # Only one of the two, so that a PyTorch process has no JAX in it.
    side = "torch_step" if spec.name in ("torch", "published") else "our_step"
    kind = importlib.import_module(f"mla_jax.benchmark.{side}")
    contender = kind.prepare(spec)
    contender.train(1)
    answer(first=time.perf_counter() - started, **contender.about())
    for line in sys.stdin:
        if not line.strip():
            break
        wall, cpu = time.perf_counter(), time.process_time()
        contender.train(int(line))
        answer(wall=time.perf_counter() - wall, cpu=time.process_time() - cpu)
    answer(process=largest_size(), device=contender.device_memory())


def largest_size() -> int:
    """Bytes of this process's memory at its largest.

    Linux says so since the program began.  ``ru_maxrss`` also counts the parent from which it was
    forked.
    """
    status = pathlib.Path("/proc/self/status")
    for line in status.read_text(encoding="utf-8").splitlines() if status.exists() else ():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * BYTES_PER_UNIT


if __name__ == "__main__":
    main()
