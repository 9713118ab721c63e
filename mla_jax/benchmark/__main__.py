"""Measures speed side by side and prints one table.

    python -m mla_jax.benchmark input --recipe=image,text
    python -m mla_jax.benchmark step --config=configs/digits.py --methods=concat,mla
    python -m mla_jax.benchmark step --config=configs/kinetics_sounds.py:synthetic \\
        --against=torch --methods=mla,mla:schedule=fused --reference=PATH_TO_A_CLONE
    python -m mla_jax.benchmark memory --config=configs/kinetics_sounds.py:synthetic
    python -m mla_jax.benchmark modalities --counts=2,4,8 --methods=mla,concat

``input --help``, ``step --help``, ``memory --help`` and ``modalities --help`` list the options of
each.
"""

import argparse
import importlib.util
import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax

import mla_jax
from mla_jax import methods
from mla_jax.backend import allocation
from mla_jax.benchmark import against, modalities, recipes
from mla_jax.benchmark import input as input_benchmark
from mla_jax.benchmark import step as step_benchmark
from mla_jax.compare.variants import parse_variant
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
    add("--methods", default=None, metavar="A,B", help="each is a row of the table (default: "
        "concat,mla, or mla beside PyTorch)")  # fmt: skip
    about = "batches per method; beside PyTorch rounds of --steps batches"
    add("--rounds", type=int, default=20, metavar="N", help=about)
    add("--against", choices=("torch",), help="beside PyTorch, each contender in its own process")
    _add_contenders(add)

    add = add_command("memory", MEMORY).add_argument
    add("--config", required=True, metavar="FILE[:name=value,...]", help="what is trained")
    add("--methods", default=None, metavar="A,B", help="ours, beside PyTorch (default: mla)")
    _add_contenders(add)

    add = add_command("modalities", modalities.__doc__).add_argument
    add("--counts", default="2,4,8,16,32,64", metavar="N,M", help="numbers of modalities")
    add("--methods", default=modalities.DEFAULT, metavar="A,B", help="each for each number")
    add("--epochs", type=int, default=10, metavar="N", help="before the accuracies are taken")
    add("--seeds", type=int, default=3, metavar="N", help="runs that accuracies are the mean of")
    add("--rounds", type=int, default=20, metavar="N", help="batches that are timed")

    chosen = parser.parse_args(arguments)
    return status_of("mla_jax.benchmark", lambda: _benchmark(chosen))


MEMORY = "Memory at the peak of a training step beside PyTorch: of the process and of the device."


CONTENDERS = {"reference": "", "cores": "", "inputs": "", "batch_size": 0, "steps": 1}
"""Options of ``_add_contenders``, and their defaults."""


def _add_contenders(add: Callable[..., Any]) -> None:
    """Options of what has PyTorch beside it."""
    add("--reference", default="", metavar="CLONE", help="a clone of the published code to run too")
    add("--cores", default="", metavar="N,M", help="for each contender (default: all)")
    about = "shapes of examples (default: those of the configuration)"
    add("--inputs", default="", metavar="NAME=TxHxWxC,...", help=about)
    add("--batch_size", type=int, default=0, metavar="N", help="default: that of the configuration")
    add("--steps", type=int, default=1, metavar="N", help="batches per round; more on a GPU")


def _benchmark(chosen: argparse.Namespace) -> None:
    if chosen.kind == "memory" or getattr(chosen, "against", None):
        return _beside_torch(chosen)
    benchmark, rows = _run(chosen)
    if chosen.json:
        print(json.dumps({"kind": chosen.kind, "rows": rows, "machine": machine()}, indent=1))
        return
    print(report.markdown_table(benchmark.HEADER, benchmark.cells(rows)))
    facts = {"features": modalities.FEATURES, "classes": modalities.CLASSES, **vars(chosen)}
    print("\n" + benchmark.CAPTION.format(**facts))
    print("; ".join(f"{key} {value}" for key, value in machine().items()))


def _run(chosen: argparse.Namespace) -> tuple[Any, list[dict[str, Any]]]:
    if chosen.rounds < 1:
        raise UserError(f"--rounds must be at least 1, not {chosen.rounds}")
    if chosen.kind == "step":
        allocation.keep_freed_memory()  # as in training
        for option, default in CONTENDERS.items():
            if getattr(chosen, option) != default:
                raise UserError(f"--{option} is for --against=torch: give both or neither")
        names = (chosen.methods or "concat,mla").split(",")
        for name in names:
            check_choice("method", name, methods.REGISTRY)
        return step_benchmark, step_benchmark.measure(chosen.config, names, chosen.rounds, _say)
    if chosen.kind == "modalities":
        return modalities, modalities.measure(_specs(chosen), _say)
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
        names, workers, chosen.batch_size, chosen.examples, chosen.seconds, chosen.rounds, _say
    )


def _specs(chosen: argparse.Namespace) -> list[modalities.Spec]:
    """The rows that ``benchmark modalities`` was asked for."""
    counts = [int(number) if number.isdecimal() else 0 for number in chosen.counts.split(",")]
    if min(counts) < 1 or chosen.epochs < 1 or chosen.seeds < 1:
        raise UserError(
            f"--counts={chosen.counts} --epochs={chosen.epochs} --seeds={chosen.seeds} must be at "
            "least 1 each"
        )
    names = chosen.methods.split(",")
    for name in names:
        check_choice("method", parse_variant(name).method, modalities.METHODS)
    rest = (chosen.epochs, chosen.seeds, chosen.rounds)
    return [modalities.Spec(name, count, *rest) for count in counts for name in names]


def _beside_torch(chosen: argparse.Namespace) -> None:
    rounds = getattr(chosen, "rounds", 1)
    if chosen.kind == "step" and rounds < against.FEWEST_ROUNDS:
        raise UserError(
            f"--rounds={rounds} is too few beside PyTorch: at least {against.FEWEST_ROUNDS}"
        )
    if chosen.steps < 1 or chosen.batch_size < 0:
        raise UserError("--steps must be at least 1, and --batch_size at least 1 where it is given")
    if importlib.util.find_spec("torch") is None:
        raise UserError("PyTorch is not installed: pip install torch")
    available = _cores()
    cores = [int(n) if n.isdecimal() else 0 for n in chosen.cores.split(",") if chosen.cores]
    if any(not 1 <= count <= available for count in cores):
        raise UserError(f"--cores={chosen.cores} must be numbers from 1 to {available}")
    jax.config.update("jax_platforms", "cpu")  # this process only counts; others have the device
    found = against.measure(
        chosen.config, (chosen.methods or "mla").split(","), chosen.reference, cores or [available],
        parse_inputs(chosen.inputs), chosen.batch_size, rounds, chosen.steps, _say,
    )  # fmt: skip
    device = found["rows"][0]["device"]
    facts = {**machine(), "device": device, "load": " to ".join(f"{x:.1f}" for x in found["load"])}
    if chosen.json:
        print(
            json.dumps({"kind": chosen.kind, **found, "rounds": rounds, "machine": facts}, indent=1)
        )
        return
    if chosen.kind == "memory":
        print(report.markdown_table(against.MEMORY_HEADER, against.memory_cells(found)))
    else:
        print(report.markdown_table(against.HEADER, against.cells(found)))
        caption = {"rounds": rounds, "gflop": found["flops"] / 1e9, **found}
        print("\n" + against.CAPTION.format(**caption))
    shapes = (f"{m} {'x'.join(map(str, shape))}" for m, shape in found["inputs"].items())
    print("; ".join([*shapes, *(f"{key} {value}" for key, value in facts.items())]))


def parse_inputs(text: str) -> dict[str, tuple[int, ...]]:
    """``{modality: shape}`` of ``audio=256x128x1,video=3x224x224x3``; ``UserError`` otherwise."""
    found = {}
    for part in text.split(",") if text else ():
        name, _, shape = part.partition("=")
        sizes = shape.split("x")
        if not all(size.isdecimal() and int(size) for size in sizes):
            raise UserError(f"--inputs has '{part}': write audio=256x128x1,video=3x224x224x3")
        found[name] = tuple(map(int, sizes))
    return found


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "cores": _cores(),
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "mla_jax": mla_jax.__version__,
        "jax": jax.__version__,
    }


if __name__ == "__main__":
    sys.exit(main())
