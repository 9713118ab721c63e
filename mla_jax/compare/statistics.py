"""Whether rows differ significantly: intervals and paired tests.

A row is right or wrong on every test example, once per seed: ``correct: bool[S, N]``, from the
``predictions.npz`` of its runs.  Rows are paired by example and seed.  Where a seed does not
mean the same thing for two methods (each draws its own weights), pairing by it is harmless.
"""

import math
import pathlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from mla_jax.errors import UserError
from mla_jax.runs.predictions import Classes, read_classes
from mla_jax.runs.workdir import Workdir

LEVEL = 0.05
"""The significance level of all tests together, after Holm's correction."""
SHARE = 0.95
"""The confidence level of the intervals."""
RESAMPLES = 10_000
MOST_DRAWS, FEWEST_RESAMPLES = 10_000_000, 2_000
"""Over 1,000 examples are resampled less often: at most so many draws in all, or so many times."""
CHUNK = 500_000
"""How many examples are drawn at a time, to limit memory."""

NO_PREDICTIONS = "no predictions.npz: trained by an earlier version, or not as one run"

Row = Sequence[tuple[int, Classes]]
"""What the runs of a row predict, each with its seed."""


def mean_and_std(values: Sequence[float]) -> tuple[float, float]:
    """The mean and the sample standard deviation (``n - 1``), NaN of a single value."""
    array = np.asarray(values, float)
    return float(array.mean()), float(array.std(ddof=1)) if len(array) > 1 else math.nan


def resampled_accuracies(correct: np.ndarray, seed: int = 0) -> np.ndarray:
    """The accuracies of resampled seeds and resampled examples, the same for all rows.

    Two crossed levels: a resample draws seeds and, independently, examples, and every row is
    evaluated on the same ones (Owen 2007, "The pigeonhole bootstrap", Annals of Applied
    Statistics 1(2)).  Its variance counts that of seeds and that of examples once each; the part
    that belongs to one seed on one example counts up to three times, so intervals are rather wide.
    ``S - 1`` seeds are drawn of ``S``, which makes the variance between seeds unbiased (Rao & Wu
    1988; ``S`` draws would have ``(S - 1) / S`` of it).  Resampling cannot show tails that three
    seeds do not have: with very few seeds an interval may still be too narrow.  With one seed it
    is over examples only.  Simulated with 200 examples, 95 % intervals covered the truth in 96 to
    99.8 % of cases with 3 or 5 seeds and in 94 % with one, and the paired test at 5 % rejected a
    true "no difference" in 0.3 to 4 % and in 6 %.

    Args:
      correct: ``bool[R, S, N]``, rows by seeds by examples.
      seed: of the resampling, so that the same runs give the same figures.

    Returns:
      ``float64[B, R]``; ``B`` is ``RESAMPLES``, fewer for more than 1,000 examples.
    """
    R, S, N = correct.shape
    rng = np.random.default_rng(seed)
    B = max(FEWEST_RESAMPLES, min(RESAMPLES, MOST_DRAWS // N))
    drawn = max(S - 1, 1)
    seeds = rng.multinomial(drawn, np.full(S, 1 / S), size=B) / drawn  # [B, S]
    runs = correct.reshape(R * S, N).T.astype(np.float32)
    found = np.empty((B, R))
    chunk = max(1, CHUNK // N)
    for start in range(0, B, chunk):
        part = seeds[start : start + chunk]
        draws = rng.integers(0, N, (len(part), N)) + N * np.arange(len(part))[:, None]
        times = np.bincount(draws.ravel(), minlength=draws.size).reshape(draws.shape)
        right = times.astype(np.float32) @ runs  # whole numbers up to N, exact in float32
        found[start : start + chunk] = np.einsum("brs,bs->br", right.reshape(-1, R, S), part) / N
    return found


def percentile_interval(values: np.ndarray, share: float = SHARE) -> tuple[float, float]:
    """The middle ``share`` of resampled values ``float[B]``."""
    tail = 50 * (1 - share)
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)


def two_level_interval(correct: np.ndarray, share: float = SHARE) -> tuple[float, float]:
    """Interval of the accuracy of one row over seeds and over examples: ``correct: bool[S, N]``."""
    return percentile_interval(resampled_accuracies(correct[None])[:, 0], share)


def bootstrap_p(differences: np.ndarray) -> float:
    """Two-sided p value of "no difference" from resampled differences ``float[B]``.

    Twice the share on the far side of 0, including 0 itself: the level at which the percentile
    interval just touches 0.  At least ``2 / (B + 1)``, since the sample itself counts as one.
    """
    B = len(differences)
    tail = min((differences <= 1e-12).sum(), (differences >= -1e-12).sum())
    return float(min(1.0, 2 * (tail + 1) / (B + 1)))


def mcnemar(first: np.ndarray, second: np.ndarray) -> float:
    """Exact two-sided p value of McNemar's test of ``bool[N]`` and ``bool[N]``, one run each.

    Under "no difference", each gets right half of the examples that just one of them gets right:
    a binomial test with 1/2.

    This is a test of two trained models.  Pooled over the seeds, the pairs are not independent, as
    an example is counted once per seed; and it does not cover what another seed would give.  So
    a comparison tests each seed and reports the median, and decides by the bootstrap.
    """
    b, c = int((first & ~second).sum()), int((second & ~first).sum())
    n, k = b + c, min(b, c)
    if b == c:
        return 1.0
    log_term = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2)
    tail = term = 1.0  # of P(X = k), going down
    while k and term > 1e-17:
        term *= k / (n - k + 1)
        tail, k = tail + term, k - 1
    return min(1.0, 2 * math.exp(log_term) * tail)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) adjusted p values: those at most ``LEVEL`` are significant together."""
    p = np.asarray(p_values, float)
    order = np.argsort(p, kind="stable")
    adjusted = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    found = np.empty(len(p))
    found[order] = np.minimum(adjusted, 1)
    return found.tolist()


def compare_rows(correct: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The intervals of rows, and the paired differences from the best of them.

    The best has the highest accuracy; of equal rows it is the first.  It was chosen for
    this on the same examples, and Holm's correction over the rows compared with it does not account
    for the choice.  So treat a row that is only just significantly worse with caution.

    Args:
      correct: ``{row: bool[S, N]}``; the same seeds and examples in all of them.

    Returns:
      ``{"best", "level", "resamples", "seeds", "examples", "rows": {row: {"accuracy", "interval",
      "difference", "difference_interval", "p", "p_holm", "mcnemar", "mcnemar_by_seed",
      "bold"}}}``: a difference is the best minus the row, and ``bold`` the best and the rows that
      do not differ from it significantly.  The best itself has no difference and no p.
    """
    labels, stacked = list(correct), np.stack(list(correct.values()))
    resampled = resampled_accuracies(stacked)
    accuracy = stacked.mean((1, 2))
    best = int(accuracy.argmax())
    rows: dict[str, dict[str, Any]] = {}
    for i, label in enumerate(labels):
        rows[label] = {
            "accuracy": float(accuracy[i]),
            "interval": percentile_interval(resampled[:, i]),
            "bold": True,
        }
        if i != best:
            differences = resampled[:, best] - resampled[:, i]
            by_seed = list(map(mcnemar, stacked[best], stacked[i]))
            rows[label] |= {
                "difference": float(accuracy[best] - accuracy[i]),
                "difference_interval": percentile_interval(differences),
                "p": bootstrap_p(differences),
                "mcnemar": float(np.median(by_seed)),
                "mcnemar_by_seed": by_seed,
            }
    others = [label for label in labels if label != labels[best]]
    for label, p in zip(others, holm([rows[label]["p"] for label in others]), strict=True):
        rows[label] |= {"p_holm": p, "bold": p > LEVEL}
    return {
        "best": labels[best],
        "level": LEVEL,
        "resamples": len(resampled),
        "seeds": stacked.shape[1],
        "examples": stacked.shape[2],
        "rows": rows,
    }


def of_runs(folders: Mapping[str, Sequence[str | pathlib.Path]]) -> dict[str, Any]:
    """``compare_rows`` of finished runs; rows that cannot be paired are named in ``without``.

    Those are rows whose runs have no ``predictions.npz`` (from an earlier version, or one modality
    at a time), or whose seeds or test labels differ from those of the first row with predictions.

    Args:
      folders: ``{row: its runs}``, one per seed; the same seeds in the same order.

    Returns:
      As ``compare_rows``, and ``"without": {row: reason}``; ``"rows"`` is empty and ``"best"`` None
      if no row can be used.
    """
    without: dict[str, str] = {}
    rows: dict[str, Row] = {}
    for row, paths in folders.items():
        try:
            rows[row] = _read_row([Workdir(path) for path in paths])
        except UserError as error:
            without[row] = str(error)
    return of_classes(rows, without)


def of_classes(
    rows: Mapping[str, Row], without: Mapping[str, str] = MappingProxyType({})
) -> dict[str, Any]:
    """As ``of_runs``, from what the runs of each row predict: ``[(seed, classes), ...]``.

    ``without``: ``{row: reason}`` of rows that are known not to be comparable.
    """
    without = dict(without)
    found: dict[str, np.ndarray] = {}
    first: tuple[list[int], np.ndarray] | None = None
    for row, runs in rows.items():
        seeds, label = [seed for seed, _ in runs], runs[0][1].label
        if not all(np.array_equal(label, classes.label) for _, classes in runs):
            without[row] = "its runs have different test labels"
            continue
        correct = np.stack([classes.fused == classes.label for _, classes in runs])
        first = first or (seeds, label)
        if seeds != first[0]:
            without[row] = f"seeds {seeds}, not {first[0]}"
        elif not np.array_equal(label, first[1]):
            without[row] = "other test labels"
        else:
            found[row] = correct
    if not found:
        return {"best": None, "level": LEVEL, "rows": {}, "without": without}
    return {**compare_rows(found), "without": without}


def _read_row(runs: Sequence[Workdir]) -> Row:
    """What the runs of a row predict.

    Raises:
      UserError: a run is not finished or lacks its predictions.
    """
    found = []
    for run in runs:
        result, classes = run.result(), read_classes(run.predictions)
        if result is None or classes is None:
            raise UserError(NO_PREDICTIONS)
        found.append((result["seed"], classes))
    if not found:
        raise UserError("it has no runs")
    return found
