"""Synthetic data for a data set, with its shapes, types and classes.

The first modality is strong and each later one weaker, so joint training neglects those: an
example is its class's pattern times the modality's strength plus noise.  Everything depends only on
the seed and the example's number; arrays are made when they are fetched.
"""

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from mla_jax.data import audio
from mla_jax.data.dataset import Dataset
from mla_jax.data.streams import Stream
from mla_jax.datasets.description import Description, class_names
from mla_jax.errors import UserError, check_choice

if TYPE_CHECKING:  # preparing starts one process per core, without JAX
    from mla_jax.state import Batch

STRENGTHS = (1.5, 0.25, 0.2)
"""Strength of the class's pattern in the first, second, ... modality; noise has deviation 1."""
GRID = 8
"""A pattern has this many cells per side, enlarged to the image."""
WORDS, VOCABULARY = 12, 1000


def load(
    description: Description,
    config: Any,
    modalities: tuple[str, ...],
    variant: str,
    recipe: str,
) -> Dataset:
    """Splits of ``config.synthetic_sizes`` examples: train, validation, test.

    Raises:
      UserError: it has no synthetic data, a modality is unknown, or there are not three sizes.
    """
    if not description.modalities:
        raise UserError(
            f"dataset '{description.name}' is your own data and has no synthetic form: "
            "choose another dataset to try the program"
        )
    sizes = tuple(config.synthetic_sizes)
    if len(sizes) != 3 or min(sizes) < 1:
        raise UserError(f"dataset.synthetic_sizes={sizes} must be three sizes of at least 1")
    for modality in modalities:
        what = f"modality of dataset '{description.name}'"
        check_choice(what, modality, description.modalities)
    streams, strengths = {}, {}
    for place, (modality, how) in enumerate(description.modalities.items()):
        stream = how.stream
        if stream.kind == "spectrogram":
            stream = stream._replace(shape=(*audio.RECIPES[recipe].shape, 1))
        stream = description.adapt(modality, stream, variant) if description.adapt else stream
        streams[modality] = stream
        strengths[modality] = STRENGTHS[min(place, len(STRENGTHS) - 1)]
    classes = class_names(description.class_list)
    chosen = {m: streams[m] for m in modalities}
    splits = {
        part: SyntheticSplit(chosen, strengths, len(classes), size, (config.split_seed, number))
        for number, (part, size) in enumerate(
            zip(("train", "validation", "test"), sizes, strict=True)
        )
    }
    name = f"{description.name}_synthetic"
    fingerprint = "-".join(
        filter(None, (name, variant, recipe, *map(str, sizes), f"seed{config.split_seed}"))
    )
    return Dataset(name, modalities, classes, splits, fingerprint, streams=chosen)


class SyntheticSplit:
    """Examples made on demand; the trainer uses it like an ``ArraySplit``."""

    def __init__(
        self,
        streams: Mapping[str, Stream],
        strengths: Mapping[str, float],
        classes: int,
        examples: int,
        seed: tuple[int, int],
    ):
        self.streams, self.strengths, self.seed = dict(streams), dict(strengths), seed
        self.classes = classes
        rng = np.random.default_rng(seed)
        self.label = rng.permutation(np.arange(examples) % classes).astype(np.int32)
        self.present = np.ones((examples, len(self.streams)), bool)

    @property
    def examples(self) -> int:
        return len(self.label)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of one example of each modality."""
        return {modality: stream.shape for modality, stream in self.streams.items()}

    def fetch(self, index: np.ndarray) -> "Batch":
        """The batch of examples ``index: int[B]``, all valid."""
        index = np.asarray(index, np.int32)
        return {
            "inputs": {m: np.stack([self._make(m, int(i)) for i in index]) for m in self.streams},
            "present": self.present[index],
            "label": self.label[index],
            "index": index,
            "valid": np.ones(index.shape, bool),
            "aspect": np.ones((len(index), len(self.streams)), np.float32),
        }

    def _make(self, modality: str, i: int) -> np.ndarray:
        stream, strength = self.streams[modality], self.strengths[modality]
        label = int(self.label[i])
        rng = np.random.default_rng([*self.seed, i, *modality.encode()])
        if stream.kind == "tokens":
            return _words(stream, label, strength, rng)
        if stream.kind == "vector":
            pattern = class_pattern(modality, self.classes, 1)[label]
            length = int(np.prod(stream.shape))
            values = np.resize(pattern.ravel(), length) * strength + rng.normal(size=length)
            return values.reshape(stream.shape).astype(stream.dtype)
        *frames, height, width, channels = stream.shape
        pattern = class_pattern(modality, self.classes, channels)[label]
        cells = strength * pattern + rng.normal(size=(*frames, GRID, GRID, channels))
        if stream.dtype == "uint8":
            cells = np.clip(cells * 32 + 128, 0, 255).astype(np.uint8)
        else:
            cells = (cells * 4 - 8).astype(stream.dtype)  # the usual range of log energies
        wide = np.repeat(cells, -(-width // GRID), -2)[..., :width, :]
        return np.repeat(wide, -(-height // GRID), -3)[..., :height, :, :]


@functools.cache
def class_pattern(modality: str, classes: int, channels: int) -> np.ndarray:
    """``float64[classes, 8, 8, channels]``, the same in every split.

    Each cell has its own value, of deviation 1; images also have a colour of the class everywhere,
    of deviation 1 too, because random crops and flips destroy the first but keep the second.
    """
    rng = np.random.default_rng(list(modality.encode()))
    cells = rng.normal(size=(classes, GRID, GRID, 1))
    if channels == 1:
        return cells
    return cells + rng.normal(size=(classes, 1, 1, channels))


def _words(stream: Stream, label: int, strength: float, rng: np.random.Generator) -> np.ndarray:
    """A dozen words, each one of the class's three words with probability ``strength`` / 2."""
    own = VOCABULARY + 3 * label + rng.integers(0, 3, WORDS)
    other = rng.integers(1, VOCABULARY, WORDS)
    ids = np.zeros(stream.shape, stream.dtype)
    words = np.where(rng.random(WORDS) < strength / 2, own, other)[: stream.shape[0]]
    ids[: len(words)] = words
    return ids
