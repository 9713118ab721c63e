"""Masks that hide modalities, by the protocols of the literature on missing modalities.

A mask hides modalities that an example has.  Masks are drawn once, from the seed of
``config.missing`` and the split, so every method, seed and process of a comparison gets the same
masks.  At a lower rate of the same rule (except ``fraction``) nothing more is hidden.  p is the
nominal rate, M the number of modalities.

* ``rate`` (CPM-Nets, Zhang et al., NeurIPS 2019; GCNet): one modality of each example, drawn
  uniformly, is kept; each other one is kept with probability max(0, 1 - p M / (M - 1)).  A share p
  of all entries is missing, up to (M - 1) / M, where every example has exactly one modality.
* ``bernoulli``: each modality is missing with probability p, given that at least one is left.  The
  true rate is (p - p^M) / (1 - p^M).
* ``six`` (MMIN, Zhao et al., ACL 2021): in training, each load of an example draws one of the
  2^M - 2 incomplete patterns, uniformly (six for three modalities).  In evaluation, each example
  occurs once with every pattern.
* ``fraction`` (TATE, Zeng et al., SIGIR 2022): a share p of the examples loses one modality.  The
  last modality is lost twice as often as any other one, as in the released code, which draws an
  integer from 0 to M inclusive.

No rule hides the last modality that an example has.
"""

import hashlib
import io
import itertools
import json
import pathlib
import zipfile
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mla_jax import storage
from mla_jax.data.dataset import Dataset, Split, fetch_wanted
from mla_jax.data.hashing import draws
from mla_jax.errors import UserError

if TYPE_CHECKING:
    from mla_jax.state import Batch

RULES = ("none", "rate", "bernoulli", "six", "fraction")
FILLS = ("zero", "train_mean")
SALT = 0x6D61736B
"""Separates the masks from other draws with the same seed."""
PARTS = ("train", "validation", "test")
MASKS = "masks.npz"
"""The file in a run's folder that holds the masks."""
MOST_PATTERNS = 6
"""Up to this many modalities, all subsets are listed."""


def draw(rule: str, available: np.ndarray, rate: float, seed: Sequence[int]) -> np.ndarray:
    """``bool[N, M]``: what a rule with a rate leaves of ``available: bool[N, M]``."""
    rng = np.random.default_rng((SALT, *seed))
    chance, order = rng.random(available.shape), rng.random(available.shape)
    if rule == "rate":
        M = available.shape[1]
        others = max(0.0, 1 - rate * M / (M - 1))
        return available & ((chance < others) | _first(available, order))
    if rule == "bernoulli":
        return _bernoulli(available, rate, chance)
    if rule == "fraction":
        return _fraction(available, rate, chance, order)
    raise ValueError(f"'{rule}' has no masks that are drawn once")


def _first(available: np.ndarray, order: np.ndarray) -> np.ndarray:
    """``bool[N, M]``: the available entry with the lowest ``order`` in each row, if it has one."""
    order = np.where(available, order, np.inf)
    lowest = order == order.min(1, keepdims=True)
    return available & lowest


def _bernoulli(available: np.ndarray, rate: float, chance: np.ndarray) -> np.ndarray:
    """Independent entries, given that each row keeps one; column by column, without redrawing."""
    kept = np.zeros_like(available)
    left = available.sum(1)  # available entries from this column on
    for m in range(available.shape[1]):
        needed = ~kept.any(1) & (left > 0)
        keep = np.where(needed, (1 - rate) / (1 - rate ** np.maximum(left, 1)), 1 - rate)
        kept[:, m] = available[:, m] & (chance[:, m] < keep)
        left = left - available[:, m]
    return kept


def _fraction(
    available: np.ndarray, rate: float, chance: np.ndarray, order: np.ndarray
) -> np.ndarray:
    """Removes one entry from a share ``rate`` of the rows that have several."""
    tickets = np.ones(available.shape[1])
    tickets[-1] = 2
    # The lowest -log(u) / tickets is entry m with a probability proportional to its tickets.
    lost = _first(available, -np.log1p(-order) / tickets)
    affected = (chance[:, 0] < rate) & (available.sum(1) > 1)
    return available & ~(lost & affected[:, None])


def patterns(modalities: int, complete: bool = True) -> np.ndarray:
    """``bool[S, M]``: every non-empty set of modalities, smaller sets first."""
    sets = [
        [m in chosen for m in range(modalities)]
        for size in range(1, modalities + complete)
        for chosen in itertools.combinations(range(modalities), size)
    ]
    return np.array(sets, bool).reshape(-1, modalities)


class MaskedSplit:
    """A split with a mask that hides modalities.  Hidden inputs are not decoded.

    With ``keep_hidden`` they are loaded anyway, and batches have ``available``.
    """

    def __init__(self, split: Split, mask: np.ndarray, keep_hidden: bool = False):
        """``mask: bool[N, M]``, False where a modality is hidden."""
        self.unmasked, self._keep_hidden = split, keep_hidden
        self.label, self.present = split.label, split.present & mask

    @property
    def examples(self) -> int:
        return self.unmasked.examples

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return self.unmasked.shapes

    def fetch(self, index: np.ndarray) -> "Batch":
        """The batch of examples ``index: int[B]``, all valid."""
        return self._masked(index, self.present[index])

    def _masked(self, index: np.ndarray, present: np.ndarray) -> "Batch":
        if self._keep_hidden:
            batch = self.unmasked.fetch(index)
            return {**batch, "available": batch["present"], "present": present}
        return {**fetch_wanted(self.unmasked, index, present), "present": present}


class PatternPerFetch(MaskedSplit):
    """``six`` in training: the mask of an example depends on the epoch (``fetch_in_epoch``)."""

    def __init__(self, split: Split, seed: int, keep_hidden: bool = False):
        self._seed, self._available = seed, split.present
        super().__init__(split, self._drawn(np.arange(split.examples), 0), keep_hidden)

    def fetch_in_epoch(self, index: np.ndarray, epoch: int) -> "Batch":
        """The batch of examples ``index: int[B]``, with their masks of that epoch."""
        return self._masked(index, self._drawn(index, epoch))

    def _drawn(self, index: np.ndarray, epoch: int) -> np.ndarray:
        """``bool[B, M]``: one of the incomplete patterns of each example's modalities.

        The bits of a number from 1 to 2^k - 2 tell which of its k modalities are left.
        """
        available = self._available[index]
        count = available.sum(1)
        several = count > 1
        choices = np.where(several, 2 ** np.maximum(count, 2) - 2, 1)
        number = 1 + draws(self._seed, epoch, index).astype(np.int64) % choices
        place = np.cumsum(available, axis=1) - 1  # the entry's number among those of its row
        left = (number[:, None] >> np.maximum(place, 0)) & 1 == 1
        return available & (left | ~several[:, None])


class EveryPattern:
    """``six`` in evaluation: each example once with every incomplete pattern that it can have."""

    def __init__(self, split: Split):
        incomplete = patterns(split.present.shape[1], complete=False)
        rows, masks = [], []
        for pattern in incomplete:
            fits = split.present[:, pattern].all(1)
            rows.append(np.flatnonzero(fits))
            masks.append(np.tile(pattern, (fits.sum(), 1)))
        self._split, self._rows = split, np.concatenate(rows)
        self.label, self.present = split.label[self._rows], np.concatenate(masks)
        self.unmasked = split

    @property
    def examples(self) -> int:
        return len(self._rows)

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return self._split.shapes

    def fetch(self, index: np.ndarray) -> "Batch":
        """The batch of examples ``index: int[B]``, all valid; numbers are those of this split."""
        present = self.present[index]
        batch = fetch_wanted(self._split, self._rows[index], present)
        return {**batch, "present": present, "index": np.asarray(index, np.int32)}


def mask_dataset(dataset: Dataset, missing: Any, keep_hidden: bool = False) -> Dataset:
    """The data set under ``config.missing``.

    The training split has the rate ``missing.train``, the others ``missing.test``.
    ``keep_hidden``: training batches include what the masks hide.

    Raises:
      UserError: too few modalities, or a masks file that does not match the data.
    """
    if missing.rule == "none" and not missing.masks:
        return _with_fill(dataset, missing.fill)
    M = len(dataset.modalities)
    if M < 2:
        raise UserError(
            f"missing modalities need at least two, and this run has only "
            f"'{dataset.modalities[0]}': name more in --config.modalities, or set "
            "--config.missing.rule=none"
        )
    if missing.rule == "six":
        if M > MOST_PATTERNS:
            raise UserError(
                f"missing.rule=six goes through all patterns of at most {MOST_PATTERNS} "
                f"modalities, and this run has {M}: use rate or bernoulli"
            )
        splits: dict[str, Split] = {
            part: EveryPattern(s) for part, s in dataset.splits.items() if part != "train"
        }
        splits["train"] = PatternPerFetch(dataset.splits["train"], missing.seed, keep_hidden)
        masks: dict[str, np.ndarray] = {}
    else:
        masks = _read(missing.masks, dataset) if missing.masks else _draw_all(dataset, missing)
        splits = {
            part: MaskedSplit(split, masks[part], keep_hidden and part == "train")
            for part, split in dataset.splits.items()
        }
    splits = {part: splits[part] for part in dataset.splits}  # in their order
    masked = dataset._replace(
        splits=splits, masks=masks, fingerprint=f"{dataset.fingerprint}-{_digest(missing, masks)}"
    )
    return _with_fill(masked, missing.fill)


def mask_split(split: Split, part: str, missing: Any, rate: float) -> Split:
    """One unmasked split of a data set, masked at another ``rate`` than in ``config.missing``."""
    if missing.rule == "six":
        return EveryPattern(split)
    return MaskedSplit(split, _draw(split, part, missing, rate))


def _draw_all(dataset: Dataset, missing: Any) -> dict[str, np.ndarray]:
    rates = {"train": missing.train}
    return {
        part: _draw(split, part, missing, rates.get(part, missing.test))
        for part, split in dataset.splits.items()
    }


def _draw(split: Split, part: str, missing: Any, rate: float) -> np.ndarray:
    return draw(missing.rule, split.present, rate, (missing.seed, PARTS.index(part)))


def _digest(missing: Any, masks: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256(json.dumps([missing.rule, missing.seed]).encode())
    for part in sorted(masks):
        digest.update(part.encode() + np.packbits(masks[part]).tobytes())
    return f"missing{digest.hexdigest()[:8]}"


def _with_fill(dataset: Dataset, fill: str) -> Dataset:
    """The data set with the mean of each modality's training examples as fill, if ``fill`` asks.

    Raises:
      UserError: a modality is not of real numbers, or is normalised on the device.
    """
    if fill == "zero":
        return dataset
    means = {}
    split = dataset.splits["train"]
    for column, modality in enumerate(dataset.modalities):
        stream = dataset.streams.get(modality)
        rows = np.flatnonzero(split.present[:, column])
        first = split.fetch(rows[:1])["inputs"][modality]
        if first.dtype.kind != "f" or (stream is not None and stream.kind != "vector"):
            raise UserError(
                f"missing.fill=train_mean needs vectors of real numbers, and '{modality}' is not: "
                "set --config.missing.fill=zero (images and spectrograms are normalised, so 0 is "
                "about their mean)"
            )
        total = np.zeros(first.shape[1:])
        for start in range(0, len(rows), 1024):
            total += split.fetch(rows[start : start + 1024])["inputs"][modality].sum(0, np.float64)
        means[modality] = (total / max(len(rows), 1)).astype(first.dtype)
    return dataset._replace(fill=means)


def _read(path: str, dataset: Dataset) -> dict[str, np.ndarray]:
    """The masks of an ``.npz`` file: ``train``, ``test`` and so on, and ``modalities``.

    Raises:
      UserError: the file is missing or damaged, or does not match the data.
    """
    try:
        with storage.place(path).open("rb") as file, np.load(file, allow_pickle=False) as archive:
            found = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError, TypeError) as error:
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise UserError(
            f"missing.masks={path} cannot be read ({reason or 'damaged'}): name an .npz file with "
            "a boolean array [examples, modalities] for each split"
        ) from error
    names = [str(name) for name in np.ravel(found.get("modalities", dataset.modalities))]
    lacking = [m for m in dataset.modalities if m not in names]
    if lacking:
        raise UserError(
            f"the masks of {path} are of {'+'.join(names)}, and '{lacking[0]}' is not among them: "
            "make others, or choose these modalities"
        )
    columns = [names.index(m) for m in dataset.modalities]
    masks = {}
    for part, split in dataset.splits.items():
        mask = found.get(part)
        shape = (split.examples, len(names))
        if mask is None or mask.shape != shape or not np.isin(mask, (0, 1)).all():
            what = "is missing" if mask is None else f"is {mask.dtype}{list(mask.shape)}"
            raise UserError(
                f"array '{part}' of {path} {what}: the {part} split needs bool{list(shape)}, with "
                "True where a modality is left"
            )
        masks[part] = mask.astype(bool)[:, columns]
        empty = np.flatnonzero(split.present.any(1) & ~(split.present & masks[part]).any(1))
        if len(empty):
            raise UserError(
                f"array '{part}' of {path} leaves example {empty[0]} without any modality: leave "
                "at least one"
            )
    return masks


def save(path: pathlib.Path, dataset: Dataset) -> None:
    """Writes the masks of a data set, in the form of ``config.missing.masks``."""
    content = io.BytesIO()
    arrays: dict[str, Any] = {"modalities": np.array(dataset.modalities), **dataset.masks}
    np.savez_compressed(content, **arrays)
    storage.put(path, content.getvalue())


def missing_share(split: Split) -> float:
    """The missing share of all modalities of all examples of a split."""
    return float(1 - split.present.mean())
