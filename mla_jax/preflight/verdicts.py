"""The conclusions from the figures of a report, in sentences."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from mla_jax.preflight import estimate, programs
from mla_jax.preflight.topologies import GIB

if TYPE_CHECKING:
    from mla_jax.preflight import Report

DONATED = 0.95
"""The least share of the state that must be donated, or a step holds it twice."""


class Verdict(NamedTuple):
    kind: str
    """``fits``, ``does not fit``, ``too small a batch``, ``collectives longer than compute``,
    ``input-bound``, or ``program`` for what XLA should not have made of it."""
    text: str
    fits: bool = True
    """False: the run cannot start."""


def fewer_examples_than_devices(report: "Report") -> Verdict:
    devices = len(report.target.devices) // report.config.modality_devices
    return Verdict(
        "too small a batch",
        f"batch_size={report.config.batch_size} has fewer examples than there are devices: set "
        f"--config.batch_size={devices} or a multiple of it, or take fewer devices",
        fits=False,
    )


def verdicts(report: "Report") -> Iterator[Verdict]:
    """All verdicts on a report with programs; the first is whether it fits."""
    problems = list(_memory(report))
    yield from problems or [_fits(report)]
    yield from _structure(report)
    if report.stages:
        yield from _collectives(report)
        yield from _input(report)


def next_batch(report: "Report") -> int:
    """Bytes per device of the batch that arrives while another is in use."""
    return int(report.example_bytes * report.batch_per_device)


def taken_by(report: "Report", compiled: programs.Compiled) -> int:
    """Bytes per device while a program runs: its own peak and what else is in memory.

    For a phase that is the next batch; for the evaluation it is the training state, of which the
    evaluation itself reads a part.
    """
    if compiled.stage:
        return compiled.peak + next_batch(report)
    return compiled.peak + report.state_bytes * (compiled.name == programs.EVALUATION)


def _fits(report: "Report") -> Verdict:
    largest = max(report.programs, key=lambda c: taken_by(report, c))
    if not report.target.chip:
        return Verdict("fits", f"every program compiles for {report.target.name}; there is no "
                       "memory of a chip to compare it with")  # fmt: skip
    taken, there = taken_by(report, largest), report.target.chip.hbm
    return Verdict(
        "fits",
        f"at its peak '{largest.label}' takes {taken / GIB:.2f} of {there / GIB:.0f} GiB of HBM "
        f"({taken / there:.0%}), with the next batch or the training state beside it",
    )


def _memory(report: "Report") -> Iterator[Verdict]:
    chip = report.target.chip
    for compiled in report.programs:
        taken = taken_by(report, compiled)
        if compiled.problem:
            needs = compiled.problem
            if compiled.needed is not None and chip:
                needs = (
                    f"it needs {compiled.needed / GIB:.2f} GiB, and a {report.target.kind} has "
                    f"{chip.hbm / GIB:.0f} GiB (the compiler: {compiled.problem})"
                )
        elif chip and taken > chip.hbm:
            needs = f"at its peak it takes {taken / GIB:.2f} of {chip.hbm / GIB:.0f} GiB of HBM"
        else:
            continue
        remedy = (
            "lower --config.evaluation.batch_size"
            if compiled.name == programs.EVALUATION and not compiled.stage
            else "lower --config.batch_size, or take more devices"
        )
        yield Verdict("does not fit", f"'{compiled.label}': {needs}: {remedy}", fits=False)


def _structure(report: "Report") -> Iterator[Verdict]:
    """Checks in the compiled programs what the design of the step promises."""
    in_bfloat16 = report.target.chip and report.config.compute_dtype == "bfloat16"
    for compiled in report.programs:
        text = compiled.text
        if text is None or (compiled.name == programs.INITIALIZATION and not compiled.stage):
            continue
        where = f"'{compiled.label}'"
        if text.conditionals:
            yield Verdict("program", f"{where} has {text.conditionals} conditionals, none expected")
        if text.loops_with_products:
            yield Verdict(
                "program", f"{where} has {text.loops_with_products} loops with convolutions or "
                "matrix products in them, none expected",
            )  # fmt: skip
        if compiled.stage:
            share = programs.donated_share(compiled)
            if share < DONATED:
                yield Verdict("program", f"{where} donates {share:.0%} of the state, at least "
                              f"{DONATED:.0%} expected: a step holds the rest twice")  # fmt: skip
        if in_bfloat16:
            mine, _ = programs.of_encoders(text, report.encoders)
            if other := programs.in_full_precision(mine):
                yield Verdict(
                    "program", f"{where} multiplies {len(other)} of {len(mine)} convolutions and "
                    f"matrix products of its encoders as {other[0].compute}, not as bfloat16",
                )  # fmt: skip


def _collectives(report: "Report") -> Iterator[Verdict]:
    batch, devices = report.config.batch_size, len(report.target.devices)
    for stage in report.stages:
        seconds = stage.batch
        if seconds.collectives <= seconds.compute:
            continue
        mine = [c for c in report.programs if c.text and c.stage == stage.name]
        count = sum(c.runs * len(c.text.collectives) for c in mine if c.text)
        balanced = estimate.balanced_batch(batch, devices, seconds)
        if balanced is None or balanced > report.examples:
            remedy = "no batch of this data set makes compute as long: take fewer devices"
        else:
            remedy = (f"from batch_size={balanced} on they are not longer: raise the batch, or "
                      "take fewer devices")  # fmt: skip
        yield Verdict(
            "collectives longer than compute",
            f"estimated: a batch of {batch} on {devices} devices spends "
            f"{1e3 * seconds.collectives:.3g} ms in {count} collectives and "
            f"{1e3 * seconds.compute:.3g} ms of compute at the peak; {remedy}",
        )


def _input(report: "Report") -> Iterator[Verdict]:
    feed, chip = report.feed, report.target.chip
    assert feed is not None and chip is not None  # there are stages
    if feed.cores is not None and feed.cores > chip.host_cores:
        yield Verdict(
            "input-bound",
            f"estimated: each host must feed {feed.examples:,.0f} examples per second, which "
            f"takes {feed.cores:.0f} cores like this machine's; such a host has {chip.host_cores}",
        )
