"""How many examples per second one core of this machine reads and decodes."""

import contextlib
import json
import math
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any, NamedTuple

from mla_jax.benchmark import recipes, timing
from mla_jax.data import pipeline
from mla_jax.data.streams import Stream
from mla_jax.errors import UserError

RECIPE_OF = {
    "image": "image",
    "clip": "clip",
    "flow": "clip",
    "spectrogram": "spectrogram",
    "tokens": "text",
}
"""``{kind of stream: recipe of benchmark input}``; vectors are not decoded."""
JPEGS_OF_RECIPE = {"image": 1, "clip": 3}
BATCH, SECONDS = 32, 1.0
FORM = "a number, or the file that `python -m mla_jax.benchmark input --json > FILE` wrote"


class Rate(NamedTuple):
    """Examples per second, with all their modalities, that one core reads and decodes."""

    per_core: float
    source: str


def jpegs(stream: Stream) -> int:
    """JPEG files of one stored example."""
    frames = {"image": 1, "clip": stream.shape[0], "flow": 2 * stream.shape[0]}
    return frames.get(stream.kind, 0)


def recipes_of(streams: Mapping[str, Stream]) -> dict[str, str]:
    """``{modality: recipe}`` of modalities that must be read and decoded."""
    return {m: RECIPE_OF[s.kind] for m, s in streams.items() if s.kind in RECIPE_OF}


def combined(rates: Mapping[str, float], streams: Mapping[str, Stream]) -> float:
    """Examples per second of one core that loads every modality in turn.

    ``rates``: ``{recipe: rate}``, each for one modality.  The time of images grows with their
    number.
    """
    seconds = 0.0
    for modality, recipe in recipes_of(streams).items():
        scale = jpegs(streams[modality]) / JPEGS_OF_RECIPE.get(recipe, 1)
        seconds += (scale if recipe in JPEGS_OF_RECIPE else 1) / rates[recipe]
    return 1 / seconds


def parse(text: str, streams: Mapping[str, Stream]) -> Rate:
    """The rate in ``--input_rate``.

    Raises:
      UserError: it is neither a positive number nor such a file, a recipe is not in it, or there
        is nothing to read and decode.
    """
    wanted = _wanted(streams, "--input_rate")
    with contextlib.suppress(ValueError):
        number = float(text)
        if not 0 < number < math.inf:
            raise UserError(f"--input_rate={text} must be a positive number of examples per second")
        return Rate(number, "--input_rate")
    try:
        found = json.loads(pathlib.Path(text).read_text(encoding="utf-8"))
        rows = [(row["recipe"], row["loaded"] / row["workers"]) for row in found["rows"]]
    except OSError as error:
        raise UserError(f"--input_rate={text}: {error.strerror}: give {FORM}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"--input_rate={text} is not such a file: give {FORM}") from error
    rates = {name: max((r for n, r in rows if n == name), default=0) for name in wanted}
    for name, rate in rates.items():
        if not rate:
            raise UserError(
                f"--input_rate={text} has no rate for the recipe '{name}': measure it, "
                f"python -m mla_jax.benchmark input --recipe={','.join(wanted)} --json"
            )
    return Rate(combined(rates, streams), f"benchmark input, {pathlib.Path(text).name}")


def measure(streams: Mapping[str, Stream]) -> Rate:
    """Measures the rate here, with one thread.

    Raises:
      UserError: Pillow is not installed, or there is nothing to read and decode.
    """
    wanted, rates = _wanted(streams, "--measure_input"), {}
    with tempfile.TemporaryDirectory() as folder:
        for recipe in wanted:
            split: Any = recipes.FileSplit(  # all that a loader needs of a split
                recipe, recipes.write_files(recipe, pathlib.Path(folder), BATCH)
            )
            loader = pipeline.Loader(threads=1, prefetch=1)
            batches = pipeline.training_batches(split, BATCH, 0, loader=loader)
            with contextlib.closing(batches):
                next(batches)
                rates[recipe] = timing.rate(batches, BATCH, SECONDS)
    return Rate(combined(rates, streams), "measured here, one thread")


def _wanted(streams: Mapping[str, Stream], flag: str) -> list[str]:
    wanted = sorted(set(recipes_of(streams).values()))
    if not wanted:
        raise UserError(f"this data set has nothing to read and decode: leave out {flag}")
    return wanted
