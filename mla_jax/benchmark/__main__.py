"""Measures speed side by side and prints one table.

    python -m mla_jax.benchmark input --recipe=image,text
    python -m mla_jax.benchmark step --config=configs/digits.py --methods=concat,mla

``input --help`` and ``step --help`` list the options of each.
"""

import argparse
import json
import math
import os
import sys
from collections.abc import Sequence
from typing import Any

import jax

import mla_jax
from mla_jax import methods
from mla_jax.benchmark import input as input_benchmark
from mla_jax.benchmark import recipes
from mla_jax.benchmark import step as step_benchmark
from mla_jax.config.command_line import status_of
from mla_jax.config.help import HelpFormatter, create_parser
from mla_jax.errors import UserError, check_choice
from mla_jax.runs import report


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one benchmark; returns the exit status, 2 for bad input."""
    parser = create_parser("benchmark", __doc__)
    kinds = parser.add_subparsers(dest="kind", required=True)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--json", action="store_true", help="print JSON instead of a table")

    def add_command(kind: str, about: str) -> argparse.ArgumentParser:
        example = next(line for line in __doc__.splitlines() if f"benchmark {kind} --" in line)
        return kinds.add_parser(
            kind,
            parents=[shared],
            help=about.splitlines()[0],
            description=f"{about.splitlines()[0]}\n\n{example}",
            formatter_class=HelpFormatter,
        )

    add = add_command("input", input_benchmark.__doc__).add_argument
    add("--recipe", default=",".join(recipes.RECIPES), metavar="A,B", help="kinds of files")
    add("--workers", default="1,2", metavar="N,M", help="numbers of processes that load")
    add("--batch_size", type=int, default=64, metavar="N", help="examples per batch")
    add("--examples", type=int, default=512, metavar="N", help="files per recipe")
    add("--seconds", type=float, default=2.0, metavar="S", help="per measurement")
    add("--rounds", type=int, default=3, metavar="N", help="measurements, of which the best counts")

    add = add_command("step", step_benchmark.__doc__).add_argument
    add("--config", required=True, metavar="FILE[:name=value,...]", help="what is trained")
    add("--methods", default="concat,mla", metavar="A,B", help="each is a row of the table")
    add("--rounds", type=int, default=20, metavar="N", help="batches per method")

    chosen = parser.parse_args(arguments)
    return status_of("mla_jax.benchmark", lambda: _benchmark(chosen))


def _benchmark(chosen: argparse.Namespace) -> None:
    benchmark, rows = _run(chosen)
    if chosen.json:
        print(json.dumps({"kind": chosen.kind, "rows": rows, "machine": machine()}, indent=1))
        return
    print(report.markdown_table(benchmark.HEADER, benchmark.cells(rows)))
    print("\n" + benchmark.CAPTION.format(**vars(chosen)))
    print("; ".join(f"{key} {value}" for key, value in machine().items()))


def _run(chosen: argparse.Namespace) -> tuple[Any, list[dict[str, Any]]]:
    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    if chosen.rounds < 1:
        raise UserError(f"--rounds must be at least 1, not {chosen.rounds}")
    if chosen.kind == "step":
        names = chosen.methods.split(",")
        for name in names:
            check_choice("method", name, methods.REGISTRY)
        return step_benchmark, step_benchmark.measure(chosen.config, names, chosen.rounds, say)
    if chosen.examples < 1 or not 0 <= chosen.seconds < math.inf:
        raise UserError("--examples must be at least 1, and --seconds at least 0")
    names = chosen.recipe.split(",")
    for name in names:
        check_choice("recipe", name, recipes.RECIPES)
    workers = [int(number) if number.isdecimal() else 0 for number in chosen.workers.split(",")]
    if min(workers) < 1 or chosen.batch_size < 1:
        raise UserError(
            f"--workers={chosen.workers} --batch_size={chosen.batch_size} must be at least 1 each"
        )
    return input_benchmark, input_benchmark.measure(
        names, workers, chosen.batch_size, chosen.examples, chosen.seconds, chosen.rounds, say
    )


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "mla_jax": mla_jax.__version__,
        "jax": jax.__version__,
    }


if __name__ == "__main__":
    sys.exit(main())
