"""Examples a second from files to augmented batches, beside a PyTorch ``DataLoader``."""

import contextlib
import importlib.util
import json
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import jax
from absl import flags

from mla_jax import distributed
from mla_jax.benchmark import recipes, timing
from mla_jax.data import pipeline
from mla_jax.data.transform import create_transform
from mla_jax.errors import UserError

Batches = Callable[[], pipeline.Batches]

HEADER = ("recipe", "workers", "loaded", "threads", "processes", "torch", "ratio")
CAPTION = (
    "Examples a second. loaded: read and decoded by threads of this process; threads, processes: "
    "the same and that of worker processes, then to the device, augmented and normalised there; "
    "torch: DataLoader with so many worker processes and Pillow, batches left on the host; ratio: "
    "the better of threads and processes over torch. Median of {rounds} rounds of {seconds} s, all "
    "contenders in turn."
)


def measure(
    names: Sequence[str],
    workers: Sequence[int] = (1, 2),
    batch_size: int = 64,
    examples: int = 512,
    seconds: float = 2.0,
    rounds: int = 3,
    say: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """One row a recipe and number of workers; rates are None where PyTorch is not installed."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # grain's worker processes read them
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            paths = recipes.write_files(name, pathlib.Path(folder), max(examples, batch_size))
            for count in workers:
                say(f"{name}, {count} workers ...")
                found = _compare(name, paths, batch_size, count, seconds, rounds)
                rows.append({"recipe": name, "workers": count, "batch_size": batch_size, **found})
    return rows


def _compare(
    name: str,
    paths: list[list[pathlib.Path]],
    batch_size: int,
    workers: int,
    seconds: float,
    rounds: int,
) -> dict[str, Any]:
    split: Any = recipes.FileSplit(name, paths)  # all that a loader needs of a split

    def loaded(loader: pipeline.Loader) -> pipeline.Batches:
        return pipeline.training_batches(split, batch_size, 0, loader=loader)

    threads = pipeline.Loader(0, workers, 2 * workers)
    makers: dict[str, Batches] = {
        "loaded": lambda: loaded(threads),
        "threads": lambda: augmented(name, batch_size, loaded(threads)),
        "processes": lambda: augmented(name, batch_size, loaded(pipeline.Loader(workers, 1, 2))),
    }

    def contender(make: Batches) -> Callable[[], float]:
        def run() -> float:
            # Made anew in every round: a contender that waits must not load in the background.
            with contextlib.closing(make()) as batches:
                for _ in range(2 + workers):  # start workers, compile, fill the buffers
                    next(batches)
                return timing.rate(batches, batch_size, seconds)

        return run

    contenders = {key: contender(make) for key, make in makers.items()}
    if importlib.util.find_spec("torch"):
        contenders["torch"] = lambda: _torch_rate(name, paths, batch_size, workers, seconds)
    found: dict[str, Any] = timing.medians(timing.in_turns(contenders, rounds))
    torch = found.setdefault("torch", None)
    best = max(found["threads"], found["processes"])
    return {**found, "ratio": best / torch if torch else None}


def _torch_rate(
    name: str, paths: list[list[pathlib.Path]], batch_size: int, workers: int, seconds: float
) -> float:
    command = [sys.executable, "-m", "mla_jax.benchmark.torch_input", name]
    done = subprocess.run(
        [*command, str(batch_size), str(workers), str(seconds)],
        input=json.dumps([[str(path) for path in example] for example in paths]),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise UserError(
            f"the PyTorch side failed ({done.stderr.strip().splitlines()[-1]}): fix that "
            "installation, or remove it to measure without"
        )
    return float(done.stdout)


def augmented(name: str, batch_size: int, batches: pipeline.Batches) -> pipeline.Batches:
    """The batches as a training step gets them, one in the making while another is used."""
    placement = distributed.data_parallel(batch_size)
    of_recipe = create_transform({name: recipes.RECIPES[name]}, (name,))
    assert of_recipe is not None  # it has a stream
    transform = jax.jit(of_recipe, static_argnums=1)
    with contextlib.closing(batches):
        previous = None
        for batch in batches:
            made = transform(placement.shard(batch), True)
            if previous is not None:
                yield jax.block_until_ready(previous)
            previous = made


def cells(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """The rows as they are printed."""

    def text(row: dict[str, Any], key: str) -> str:
        value = row[key]
        if key == "recipe":
            return f"{value} ({recipes.ABOUT[value]})"
        if value is None:
            return "not installed" if key == "torch" else "–"
        return f"{value:.2f}" if key == "ratio" else f"{value:.0f}"

    return [[text(row, key) for key in HEADER] for row in rows]
