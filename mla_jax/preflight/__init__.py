"""Predicts a run on a TPU slice, on any machine, by compiling all its programs for the slice.

>>> from mla_jax.preflight import preflight
>>> preflight(mla_jax.load_config("configs/digits.py"), "v5e:2x2").fits    # doctest: +SKIP
True
"""

import contextlib
import importlib.metadata
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict, FrozenConfigDict

import mla_jax
from mla_jax.config import fields
from mla_jax.data import pipeline
from mla_jax.data.streams import Stream
from mla_jax.datasets import load_dataset
from mla_jax.preflight import estimate, input_rate, programs, verdicts
from mla_jax.preflight.topologies import Target, create_target
from mla_jax.program import build_program, masked


class StageEstimate(NamedTuple):
    """The estimate for one training stage on the slice."""

    name: str
    batch: estimate.Seconds
    """Sums over the phases of one batch."""
    step: float
    """Seconds of one batch through all phases, each limited by its slower part."""
    examples_per_second: float
    hours: float
    """Hours for all epochs of the stage, without evaluation, checkpoints and waiting for data."""
    cost_model: float | None
    """Seconds of one batch by the compiler's own cost model, plus ``batch.collectives``."""
    cost_model_hours: float | None


class Report(NamedTuple):
    """The result of ``preflight``; figures of programs are per device."""

    config: FrozenConfigDict
    """Resolved for the target: ``compute_dtype`` is what such a device would use."""
    target: Target
    dataset: str
    examples: int
    """Training examples per epoch."""
    programs: tuple[programs.Compiled, ...]
    """Empty if the batch has fewer examples than there are devices."""
    encoders: tuple[str, ...]
    """Flax's names of the encoders in the programs."""
    state_bytes: int
    example_bytes: int
    """Bytes of one example from the host to the devices."""
    jpegs: int
    """JPEG files of one example, if it is in files."""
    decoded: tuple[str, ...]
    """The modalities that are read and decoded; the others are arrays in memory."""
    stages: tuple[StageEstimate, ...]
    """Empty for targets without peaks, or if a phase does not fit."""
    rate: input_rate.Rate | None
    feed: estimate.Feed | None
    verdicts: tuple[verdicts.Verdict, ...]
    versions: dict[str, str]

    @property
    def fits(self) -> bool:
        return all(verdict.fits for verdict in self.verdicts)

    @property
    def batch_per_device(self) -> float:
        """Each part of the batch is on ``modality_devices`` devices."""
        return self.config.batch_size / len(self.target.devices) * self.config.modality_devices


def preflight(
    config: ConfigDict | FrozenConfigDict,
    topology: str,
    examples: int | None = None,
    find_rate: Callable[[dict[str, Stream]], input_rate.Rate | None] = lambda streams: None,
    say: Callable[[str], None] = lambda line: None,
) -> Report:
    """Compiles every program of a run: of its batches, its evaluation and initialisation.

    Args:
      config: a configuration, as for ``train``.
      topology: ``v5e:4x4``, ``v4:2x2x2``, ``cpu:4``: see ``topologies.CHIPS``.
      examples: training examples per epoch, for the hours (default: those of the data set).
      find_rate: gives, for the streams, how fast a core reads and decodes examples.
      say: prints a line before each program is compiled.

    Raises:
      UserError: no such topology, no compiler for it, or a configuration or data that cannot be
        used.
    """
    target = create_target(topology)
    config = resolved_for(config, target)
    dataset = masked(config, load_dataset(config.dataset, config.modalities))
    examples = examples or dataset.training_examples
    streams = dict(dataset.streams)
    found = Report(
        config, target, dataset.name, examples, (), (), 0, 0,
        sum(map(input_rate.jpegs, streams.values())), tuple(input_rate.recipes_of(streams)),
        (), None, None, (), _versions(target),
    )  # fmt: skip
    if config.batch_size * config.modality_devices < len(target.devices):
        return found._replace(verdicts=(verdicts.fewer_examples_than_devices(found),))
    program = build_program(config, dataset, target.devices)
    shapes = programs.shapes_of(program, dataset, config)
    rate = find_rate(streams)
    with _without_cache(target):
        compiled = tuple(programs.compile_all(program, shapes, say))
    found = found._replace(
        programs=compiled,
        encoders=programs.encoder_names(program),
        state_bytes=shapes.state_bytes,
        example_bytes=shapes.example_bytes,
        rate=rate,
    )
    phases = [c for c in compiled if c.stage]
    if target.chip and phases and not any(c.problem for c in phases):
        found = found._replace(stages=_estimated(found, program.method.stages))
        fastest = max(stage.examples_per_second for stage in found.stages)
        per_core = rate.per_core if rate else None
        found = found._replace(
            feed=estimate.feed(fastest, target.hosts, found.example_bytes, found.jpegs, per_core)
        )
    return found._replace(verdicts=tuple(verdicts.verdicts(found)))


def resolved_for(config: ConfigDict | FrozenConfigDict, target: Target) -> FrozenConfigDict:
    """The configuration checked and filled in as it would be on such a device."""
    config = ConfigDict(config.to_dict())
    if config.get("compute_dtype") == "auto":
        config.compute_dtype = "bfloat16" if target.chip else "float32"
    return fields.resolve(config, len(target.devices))


@contextlib.contextmanager
def _without_cache(target: Target) -> Iterator[None]:
    """Turns JAX's cache off, which would store programs for absent devices but cannot load them."""
    settings: Any = jax.config  # whose type does not know its attributes
    before = settings.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", before and target.chip is None)
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)


def _estimated(report: Report, stages: Any) -> tuple[StageEstimate, ...]:
    config, target = report.config, report.target
    per_epoch = max(
        1, pipeline.batches_per_epoch(max(report.examples, config.batch_size), config.batch_size,
                                      config.drop_last)
    )  # fmt: skip
    found = []
    for stage in stages:
        mine = [c for c in report.programs if c.stage == stage.name]
        if not mine:
            continue
        chip, batch_hours = target.chip, stage.epochs * per_epoch / 3600
        assert chip is not None
        each, cycles, told = [], 0, None
        for c in mine:
            assert c.text is not None  # every phase fits
            work, collectives = c.text.work, c.text.collectives
            once = estimate.phase_seconds(
                c.flops, work.memory_bytes, collectives, target.shape, chip
            )
            each += [once] * c.runs
            cycles += c.runs * work.cycles
        total, step = estimate.total(each), estimate.step_seconds(each)
        if chip.clock and cycles:
            told = cycles / chip.clock + total.collectives
        found.append(
            StageEstimate(
                stage.name, total, step, config.batch_size / step, batch_hours * step,
                told, told and batch_hours * told,
            )
        )  # fmt: skip
    return tuple(found)


def _versions(target: Target) -> dict[str, str]:
    found = {"mla_jax": mla_jax.__version__, "jax": jax.__version__}
    if target.chip:
        found["libtpu"] = importlib.metadata.version("libtpu")
    return found
