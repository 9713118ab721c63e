"""Measures speed side by side and prints one table.

python -m mla_jax.benchmark input --recipe=image,text
python -m mla_jax.benchmark step --config=configs/digits.py --methods=concat,mla
"""

import argparse
import json
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
from mla_jax.errors import UserError, check_choice
from mla_jax.runs import report


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one benchmark; returns the exit status, 2 for bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m mla_jax.benchmark",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kinds = parser.add_subparsers(dest="kind", required=True)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--json", action="store_true", help="print JSON instead of a table")

    command = kinds.add_parser("input", parents=[shared], help=input_benchmark.__doc__)
    command.add_argument("--recipe", default=",".join(recipes.RECIPES), metavar="A,B")
    command.add_argument("--workers", default="1,2", metavar="N,M")
    command.add_argument("--batch_size", type=int, default=64)
    command.add_argument("--examples", type=int, default=512, help="files a recipe")
    command.add_argument("--seconds", type=float, default=2.0, help="a measurement")
    command.add_argument("--rounds", type=int, default=3)

    command = kinds.add_parser("step", parents=[shared], help=step_benchmark.__doc__)
    command.add_argument("--config", required=True, metavar="FILE[:name=value,...]")
    command.add_argument("--methods", default="concat,mla", metavar="A,B")
    command.add_argument("--rounds", type=int, default=20, help="batches a method")

    chosen = parser.parse_args(arguments)
    try:
        benchmark, rows = _run(chosen)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if chosen.json:
        print(json.dumps({"kind": chosen.kind, "rows": rows, "machine": machine()}, indent=1))
        return 0
    print(report.markdown_table(benchmark.HEADER, benchmark.cells(rows)))
    print("\n" + benchmark.CAPTION.format(**vars(chosen)))
    print("; ".join(f"{key} {value}" for key, value in machine().items()))
    return 0


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
