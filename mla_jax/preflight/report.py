"""A report as Markdown, for people, and as JSON."""

import datetime
from typing import Any

from mla_jax.preflight import Report, programs
from mla_jax.preflight.topologies import GIB
from mla_jax.preflight.verdicts import next_batch
from mla_jax.runs.report import markdown_table

NAMES = {"bf16": "bfloat16", "f32": "float32", "f16": "float16", "f64": "float64"}
PROGRAM = ("program", "GFLOP", "GB touched", "GB in HBM", "HBM peak, GiB", "donated",
           "conditionals", "loops", "compile, s")  # fmt: skip
ESTIMATED = ("stage", "compute, ms", "memory, ms", "collectives, ms", "step, ms", "examples/s",
             "hours", "cost model, ms", "hours by it")  # fmt: skip


def to_markdown(report: Report) -> str:
    """The whole report."""
    config, target = report.config, report.target
    devices = len(target.devices)
    opening = (
        f"{devices} devices ({target.kind}) of {_counted(target.hosts, 'host')}; batch of "
        f"{config.batch_size}, {report.batch_per_device:g} per device; encoders in "
        f"{config.compute_dtype}."
    )
    parts = [f"# Preflight: {config.method.name} on {report.dataset}, {target.name}", opening]
    if report.programs:
        parts[-1] += f" The state takes {report.state_bytes / 1e6:,.1f} MB on each device."
        parts += _of_programs(report)
    if report.stages:
        parts += _of_estimates(report)
    parts += ["## Verdict", "\n".join(f"- {v.kind}: {v.text}" for v in report.verdicts)]
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    return "\n\n".join([*parts, f"{datetime.date.today()}, {versions}"]) + "\n"


def _of_programs(report: Report) -> list[str]:
    chip = report.target.chip
    memory = "HBM" if chip else "memory"
    header = [column.replace("HBM", memory) for column in PROGRAM]
    there = f" (a chip has {chip.hbm / GIB:.0f} GiB)" if chip else ""
    types = "Number of products and their share of the operations, by the type of the operands"
    if chip:
        types += "; a TPU multiplies float32 operands as bfloat16 unless a precision is named"
    return [
        "## Programs, per device",
        markdown_table(header, [_program(report, c) for c in report.programs]),
        "GB touched: the size of the operands and results of all operations, as XLA counts them. "
        f"GB in {memory}: of those that are stored there. Peak: arguments, results, temporaries, "
        f"the program{there}, and the rest of the state; the next batch takes "
        f"{next_batch(report) / 1e6:,.1f} MB more. Donated: share of what the program takes of the "
        "state. A program that runs several times per batch is listed once, with the figures of "
        "one run.",
        "## Collectives",
        markdown_table(
            ("program", "kind", "number", "all, MB", "largest, MB", "most of"),
            _collectives(report) or [["none", *[""] * 5]],
        ),
        "## Convolutions and matrix products",
        markdown_table(("program", "encoders", "others"), _products(report)),
        f"{types}.",
    ]


def _of_estimates(report: Report) -> list[str]:
    return [
        "## Estimated by arithmetic",
        markdown_table(ESTIMATED, [_estimated(stage) for stage in report.stages]),
        "Compute: operations divided by the chip's peak, which no program reaches; memory: bytes "
        "in HBM divided by its bandwidth; step: the longer of the two for each phase, plus the "
        f"collectives. Hours: {_counted(report.config.epochs, 'epoch')} of {report.examples:,} "
        "examples, without evaluation and without waiting for data. Cost model: cycles that the "
        "compiler expects, divided by the chip's clock, plus the collectives.",
        "## Input",
        _input(report),
    ]


def _program(report: Report, compiled: programs.Compiled) -> list[str]:
    seconds = f"{compiled.compile_seconds:.0f}"
    if compiled.problem:
        return [compiled.label, "–", "–", "–", "does not fit", "–", "–", "–", seconds]
    text, donated = compiled.text, "–"
    assert text is not None
    if compiled.stage:
        donated = f"{programs.donated_share(compiled):.0%}"
    return [
        compiled.label,
        _digits(compiled.flops / 1e9),
        _digits(compiled.bytes / 1e9),
        _digits(text.work.memory_bytes / 1e9),
        f"{compiled.peak / GIB:.3f}",
        donated,
        str(text.conditionals),
        str(text.loops),
        seconds,
    ]


def _collectives(report: Report) -> list[list[str]]:
    rows = []
    for compiled in report.programs:
        every = compiled.text.collectives if compiled.text else ()
        for kind, (number, size) in compiled.collectives().items():
            of_kind = tuple(c for c in every if c.kind == kind)
            largest = max(c.bytes for c in of_kind)
            place, count = next(iter(programs.places(of_kind).items()))
            sizes = [f"{bytes_ / 1e6:.3f}" for bytes_ in (size, largest)]
            rows.append([compiled.label, kind, str(number), *sizes, f"{count} {place}"])
    return rows


def _products(report: Report) -> list[list[str]]:
    rows = []
    for compiled in report.programs:
        if compiled.text and compiled.text.products:
            split = programs.of_encoders(compiled.text, report.encoders)
            rows.append([compiled.label, *map(_by_type, split)])
    return rows or [["none", "", ""]]


def _by_type(products: list[Any]) -> str:
    found = programs.dtypes(products)
    return ", ".join(
        f"{number} {_spelled(kind)} ({share:.0%})" for kind, (number, share) in found.items()
    ) or "none"  # fmt: skip


def _spelled(kind: str) -> str:
    name, _, rest = kind.partition(" ")
    return f"{NAMES.get(name, name)} {rest}".strip()


def _estimated(stage: Any) -> list[str]:
    return [
        stage.name,
        *(_digits(1e3 * seconds) for seconds in (*stage.batch, stage.step)),
        f"{stage.examples_per_second:,.0f}",
        _digits(stage.hours),
        "–" if stage.cost_model is None else _digits(1e3 * stage.cost_model),
        "–" if stage.cost_model is None else _digits(stage.cost_model_hours),
    ]


def _digits(value: float) -> str:
    """Three significant digits."""
    return f"{value:,.0f}" if value >= 100 or not value else f"{value:#.3g}"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _input(report: Report) -> str:
    feed, chip = report.feed, report.target.chip
    assert feed is not None and chip is not None
    files = f" and {feed.jpegs:,.0f} JPEG files" if feed.jpegs else ""
    line = (
        f"At that speed each host loads {feed.examples:,.0f} examples per second: "
        f"{feed.bytes / 1e6:,.1f} MB{files} per second, {report.example_bytes / 1e6:.3f} MB"
        + (f" and {_counted(report.jpegs, 'JPEG file')}" if report.jpegs else "")
        + " per example."
    )
    if not report.decoded:
        return f"{line} They are arrays in memory: nothing is read or decoded."
    if report.rate is None:
        return (
            line + " How fast a core reads and decodes them is not known here: measure it with "
            "--measure_input, or give it with --input_rate."
        )
    return (
        f"{line} One core reads and decodes {report.rate.per_core:,.0f} examples per second "
        f"({report.rate.source}), so {feed.cores:.1f} such cores are needed; a host has "
        f"{chip.host_cores} virtual CPUs."
    )


def to_json(report: Report) -> dict[str, Any]:
    """The same as JSON values; bytes, seconds and operations, unrounded."""
    config, target = report.config, report.target
    chip = target.chip
    return {
        "dataset": report.dataset,
        "method": config.method.name,
        "modalities": list(config.modalities),
        "compute_dtype": config.compute_dtype,
        "batch_size": config.batch_size,
        "batch_per_device": report.batch_per_device,
        "epochs": config.epochs,
        "examples": report.examples,
        "topology": {
            "name": target.name,
            "kind": target.kind,
            "devices": len(target.devices),
            "hosts": target.hosts,
            "chip": chip and chip._asdict(),
        },
        "state_bytes": report.state_bytes,
        "programs": [_program_json(report, compiled) for compiled in report.programs],
        "estimated": [
            {**stage._asdict(), "batch": stage.batch._asdict()} for stage in report.stages
        ],
        "input": {
            "example_bytes": report.example_bytes,
            "jpegs": report.jpegs,
            "rate": report.rate and report.rate._asdict(),
            "per_host_and_second": report.feed and report.feed._asdict(),
        },
        "verdicts": [verdict._asdict() for verdict in report.verdicts],
        "fits": report.fits,
        "date": str(datetime.date.today()),
        "versions": report.versions,
    }


def _program_json(report: Report, compiled: programs.Compiled) -> dict[str, Any]:
    found: dict[str, Any] = {"stage": compiled.stage, "name": compiled.name}
    found["runs"] = compiled.runs
    found["compile_seconds"] = round(compiled.compile_seconds, 3)
    if compiled.text is None:
        return {**found, "problem": compiled.problem, "needed": compiled.needed}
    text = compiled.text
    mine, others = programs.of_encoders(text, report.encoders)
    share = programs.donated_share(compiled) if compiled.stage else None
    return {
        **found,
        "flops": compiled.flops,
        "bytes": compiled.bytes,
        "memory_bytes": text.work.memory_bytes,
        "cycles": text.work.cycles,
        "peak": compiled.peak,
        "donated": share,
        "conditionals": text.conditionals,
        "loops": text.loops,
        "loops_with_products": text.loops_with_products,
        "collectives": {
            kind: {
                "number": number,
                "bytes": size,
                "places": programs.places(c for c in text.collectives if c.kind == kind),
            }
            for kind, (number, size) in compiled.collectives().items()
        },
        "products": {
            name: {
                kind: {
                    "number": number,
                    "share": share,
                    "places": programs.places(p for p in products if p.compute == kind),
                }
                for kind, (number, share) in programs.dtypes(products).items()
            }
            for name, products in (("encoders", mine), ("others", others))
        },
    }
