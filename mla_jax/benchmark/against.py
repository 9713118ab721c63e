"""A training step of MLA beside PyTorch: a tuned one, and the published loop.

Every contender is a process of its own with the same cores.  All are warm and alive while they take
turns, so that a change of the machine's load hits all of them.
"""

import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any

import jax
import numpy as np

from mla_jax.benchmark import our_step
from mla_jax.benchmark.contender import Spec
from mla_jax.compare.variants import parse_variant
from mla_jax.config import fields
from mla_jax.data.transform import create_transform
from mla_jax.datasets import load_dataset
from mla_jax.errors import UserError
from mla_jax.parity.theirs import clones

FEWEST_ROUNDS = 7
MIRRORED = {
    "optimizer.name": "sgd",
    "optimizer.nesterov": False,
    "optimizer.clip_norm": 0.0,
    "feature_dim": 512,
}
"""Fields of the configuration that the PyTorch side has no other value of."""
PEAKS: Mapping[str, float] = {
    "NVIDIA H100 80GB HBM3": 989.4e12,
    "NVIDIA H200": 989.4e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
}
"""Dense bfloat16 operations per second, by the device's name (NVIDIA's data sheets)."""
HEADER = (
    "contender", "cores", "type", "wall, ms", "CPU, ms", "wall ratio", "CPU ratio",
    "examples/s", "MFU", "first, s",
)  # fmt: skip
MEMORY_HEADER = ("contender", "cores", "type", "process, GB", "device, GB")
CAPTION = (
    "A batch of {batch_size} through all modalities: forward, backward, optimiser; no loading, no "
    "augmentation. Minimum / median per batch over {rounds} rounds of {steps} batches, all "
    "contenders in turn; CPU: of all threads of the process. Ratio: to the first row with the same "
    "cores, the median of the rounds' own ratios. MFU: {gflop:.0f} GFLOP per batch, the same for "
    "all rows, over the peak of the device in bfloat16. first: starting and compiling."
)


@dataclasses.dataclass
class Running:
    """A contender's process."""

    spec: Spec
    process: subprocess.Popen
    errors: IO[str]
    """What it writes there: a pipe that nobody empties would stop it."""
    about: dict[str, Any] = dataclasses.field(default_factory=dict)
    wall: list[float] = dataclasses.field(default_factory=list)
    cpu: list[float] = dataclasses.field(default_factory=list)

    def ask(self, line: str) -> dict[str, Any]:
        """Writes a line and reads the answer.

        Raises:
          UserError: the process ended instead.
        """
        asked, answers = self.process.stdin, self.process.stdout
        assert asked is not None and answers is not None  # both are pipes
        with contextlib.suppress(BrokenPipeError):
            asked.write(line + "\n")
            asked.flush()
        answer = answers.readline()
        if not answer:
            status = self.process.wait()
            self.errors.seek(0)
            last = self.errors.read().strip().splitlines()[-1:]
            raise UserError(
                f"the contender '{self.spec.name}' ended without an answer "
                f"({'; '.join([f'status {status}', *last])}): fix that, or leave it out"
            )
        return json.loads(answer)


def measure(
    filename: str,
    entries: Sequence[str],
    reference: str,
    cores: Sequence[int],
    inputs: Mapping[str, tuple[int, ...]],
    batch_size: int,
    rounds: int,
    steps: int,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """``{"rows", "batch_size", "steps", "inputs", "flops", "load"}``; PyTorch first.

    Args:
      filename: the configuration, ``FILE`` or ``FILE:name=value,...``.
      entries: our rows, as ``mla`` or ``mla:schedule=fused``.
      reference: a clone of the published code, or "" to leave it out.
      cores: how many each contender gets; each number is a table of its own.
      inputs: shapes that replace those of the configuration.
      batch_size: 0 for that of the configuration.

    Raises:
      UserError: a configuration or an entry that cannot be compared, no PyTorch, or a contender
        that failed.
    """
    base = spec_of(filename, entries, inputs, batch_size)
    if reference:
        check_published(base, reference)
    flops = our_step.flops(base._replace(name=entries[0]))
    names = ["torch", *(["published"] if reference else []), *entries]
    load = [os.getloadavg()[0]]
    rows = []
    for count in cores:
        with contextlib.ExitStack() as stack:
            running = []
            for name in names:
                spec = base._replace(name=name, cores=count, reference=reference)
                say(f"starting {name} on {count} cores ...")
                running.append(stack.enter_context(started(spec)))
                say(f"  ready after {running[-1].about['first']:.0f} s")
            check_devices(running)
            for number in range(rounds):
                for contender in running:
                    found = contender.ask(str(steps))
                    contender.wall.append(found["wall"] / steps)
                    contender.cpu.append(found["cpu"] / steps)
                say(f"round {number + 1} of {rounds}")
            memory = [contender.ask("") for contender in running]
        rows += [
            row_of(contender, running[0], used)
            for contender, used in zip(running, memory, strict=True)
        ]
    load.append(os.getloadavg()[0])
    return {
        "rows": rows,
        "batch_size": base.batch_size,
        "steps": steps,
        "inputs": {m: list(shape) for m, shape in base.inputs.items()},
        "flops": flops,
        "load": load,
    }


def spec_of(
    filename: str, entries: Sequence[str], inputs: Mapping[str, tuple[int, ...]], batch_size: int
) -> Spec:
    """What all contenders train; raises ``UserError`` where PyTorch has nothing like it."""
    for entry in entries:
        if parse_variant(entry).method != "mla":
            raise UserError(f"--against=torch has MLA alone: --methods={entry} must be of mla")
    configs = [our_step.config_of(filename, entry) for entry in entries]
    config = configs[0]
    dataset = load_dataset(config.dataset, config.modalities)
    for modality in config.modalities:
        name = config.encoders[modality].name
        if name != "resnet18":
            raise UserError(
                f"--against=torch has ResNet-18 alone, and encoders.{modality} is '{name}': choose "
                "a configuration such as configs/kinetics_sounds.py:synthetic"
            )
    for field, value in MIRRORED.items():
        if (mine := fields.flatten(config.to_dict())[field]) != value:
            raise UserError(
                f"--against=torch has {field}={value} alone, and the configuration has {mine}: "
                "choose one such as configs/kinetics_sounds.py:synthetic"
            )
    if unknown := sorted(set(inputs) - set(config.modalities)):
        raise UserError(
            f"--inputs has '{unknown[0]}', and the modalities are {', '.join(config.modalities)}"
        )
    transform = create_transform(dataset.streams, config.modalities)
    assert transform is not None  # data for ResNet-18 has streams
    batch = dataset.splits["train"].fetch(np.arange(1))
    made = jax.eval_shape(lambda b: transform(b, False), batch)
    shapes = {m: tuple(inputs.get(m, made[m].shape[1:])) for m in config.modalities}
    for m, shape in inputs.items():
        if len(shape) != made[m].ndim - 1:
            raise UserError(
                f"--inputs gives '{m}' {len(shape)} axes, and its examples have "
                f"{made[m].ndim - 1}, as {'x'.join(map(str, made[m].shape[1:]))}"
            )
    optimizer = {k: config.optimizer[k] for k in ("learning_rate", "momentum", "weight_decay")}
    return Spec(
        entries[0], filename, batch_size or config.batch_size, shapes, dataset.classes, optimizer, 1
    )


def check_devices(running: Sequence[Running]) -> None:
    """Raises ``UserError`` unless all contenders compute on the same kind of device."""
    first, *others = running
    for other in others:
        if other.about["device"] != first.about["device"]:
            raise UserError(
                f"'{first.spec.name}' has the device {first.about['device']}, and "
                f"'{other.spec.name}' {other.about['device']}: install the PyTorch and the JAX "
                "that have the same one"
            )


def check_published(spec: Spec, reference: str) -> None:
    """Raises ``UserError`` unless the clone is there and its classifier takes these inputs."""
    clones.check(reference, "reference")
    ranks = [len(shape) for shape in spec.inputs.values()]
    if ranks != [3, 4] or [shape[-1] for shape in spec.inputs.values()] != [1, 3]:
        raise UserError(
            "the published loop takes spectrograms [T, F, 1] and clips [T, H, W, 3]: leave out "
            "--reference, or choose configs/kinetics_sounds.py:synthetic"
        )


@contextlib.contextmanager
def started(spec: Spec) -> Iterator[Running]:
    """A contender that has trained on one batch; it ends with the context."""
    # Several processes share a GPU, and JAX would take most of its memory.
    environment = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    environment |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(spec.cores))
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "mla_jax.benchmark.contender"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment,
        )
        running = Running(spec, process, errors)
        try:
            running.about = running.ask(json.dumps(spec._asdict()))
            yield running
        finally:
            process.kill()
            process.communicate()


def row_of(running: Running, first: Running, memory: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of one contender; seconds are of one batch, memory in bytes."""

    def ratio(kind: str) -> float:
        pairs = zip(getattr(running, kind), getattr(first, kind), strict=True)
        return statistics.median(mine / theirs for mine, theirs in pairs)

    found: dict[str, Any] = {
        "contender": running.spec.name,
        "cores": running.spec.cores,
        **running.about,
        "memory": dict(memory),
        "wall_ratio": ratio("wall"),
        "cpu_ratio": ratio("cpu"),
        "examples_per_second": running.spec.batch_size / statistics.median(running.wall),
    }
    for kind in ("wall", "cpu"):
        seconds = getattr(running, kind)
        found[kind] = {"minimum": min(seconds), "median": statistics.median(seconds)}
    return found


def peak_of(device: str) -> float | None:
    """Operations per second of a device at its peak, where it is known."""
    return PEAKS.get(device)


def cells(found: Mapping[str, Any]) -> list[list[str]]:
    """The rows of ``step`` as they are printed."""
    return [
        [
            *_named(row),
            _range(row["wall"]),
            _range(row["cpu"]),
            f"{row['wall_ratio']:.2f}",
            f"{row['cpu_ratio']:.2f}",
            f"{row['examples_per_second']:.1f}",
            _mfu(row, found),
            f"{row['first']:.0f}",
        ]
        for row in found["rows"]
    ]


def memory_cells(found: Mapping[str, Any]) -> list[list[str]]:
    """The rows of ``memory`` as they are printed."""

    def gigabytes(count: int | None) -> str:
        return "–" if count is None else f"{count / 1e9:.2f}"

    return [
        [*_named(row), *(gigabytes(row["memory"][kind]) for kind in ("process", "device"))]
        for row in found["rows"]
    ]


def _named(row: Mapping[str, Any]) -> list[str]:
    label = row["contender"].replace("|", "/")
    return [f"{label} ({row['version']})", str(row["cores"]), row["dtype"]]


def _range(seconds: Mapping[str, float]) -> str:
    return f"{1000 * seconds['minimum']:.1f} / {1000 * seconds['median']:.1f}"


def _mfu(row: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    peak = peak_of(row["device"])
    return "–" if peak is None else f"{found['flops'] / row['wall']['median'] / peak:.1%}"
