"""Methods over several data sets: ranks, Friedman's test and the critical-difference diagram.

After Demsar 2006, "Statistical comparisons of classifiers over multiple data sets", Journal of
Machine Learning Research 7.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mla_jax.errors import UserError
from mla_jax.runs import plots

FEWEST_DATASETS = 3
LEVEL = 0.05


class Ranks(NamedTuple):
    """``k`` methods on ``N`` data sets."""

    mean: dict[str, float]
    """``{method: mean rank}``, 1 is the best; tied methods share the mean of their ranks."""
    datasets: int
    statistic: float
    """Friedman's, with ``k - 1`` degrees of freedom; not corrected for ties, as in Demsar."""
    f_statistic: float
    """Iman and Davenport's, with ``k - 1`` and ``(k - 1) (N - 1)`` degrees of freedom."""
    p: float
    """Of ``f_statistic``; the null hypothesis is that all methods are equal."""
    critical_difference: float
    """Nemenyi's: mean ranks that differ by more differ significantly."""


def friedman(scores: Mapping[str, Sequence[float]], level: float = LEVEL) -> Ranks:
    """Ranks methods on each data set and tests whether they differ.

    Args:
      scores: ``{method: one figure per data set}``, higher is better; one order of data sets.
      level: the significance level of the critical difference.

    Raises:
      UserError: fewer than three data sets or two methods, lists of different lengths, or a
        figure that is not finite.
    """
    from scipy.stats import f, rankdata, studentized_range  # 0.5 s to import

    lengths = {len(values) for values in scores.values()}
    if len(scores) < 2 or len(lengths) != 1 or min(lengths) < FEWEST_DATASETS:
        raise UserError(
            f"ranks need two methods or more, each on the same {FEWEST_DATASETS} data sets or "
            f"more, not { {name: len(values) for name, values in scores.items()} }"
        )
    table = np.array(list(scores.values()), float).T  # [N, k]
    if not np.isfinite(table).all():
        raise UserError("ranks need a finite figure for every method on every data set")
    N, k = table.shape
    mean = rankdata(-table, axis=1).mean(0)
    statistic = 12 * N / (k * (k + 1)) * (float(mean @ mean) - k * (k + 1) ** 2 / 4)
    statistic = max(0.0, statistic)
    rest = N * (k - 1) - statistic
    f_statistic = (N - 1) * statistic / rest if rest > 1e-9 else math.inf
    q = float(studentized_range.ppf(1 - level, k, np.inf)) / math.sqrt(2)
    return Ranks(
        dict(zip(scores, mean.tolist(), strict=True)),
        N,
        statistic,
        f_statistic,
        float(f.sf(f_statistic, k - 1, (k - 1) * (N - 1))),
        q * math.sqrt(k * (k + 1) / (6 * N)),
    )


def cliques(ranks: Ranks) -> list[list[str]]:
    """The largest groups of two or more methods that do not differ, best first; may overlap."""
    names = sorted(ranks.mean, key=ranks.mean.__getitem__)
    found: list[list[str]] = []
    for first in range(len(names)):
        group = [
            name
            for name in names[first:]
            if ranks.mean[name] - ranks.mean[names[first]] <= ranks.critical_difference
        ]
        if len(group) > 1 and not (found and group[-1] == found[-1][-1]):
            found.append(group)
    return found


def critical_difference(ranks: Ranks) -> Any:
    """A figure with Demsar's diagram: mean ranks on a line, bars over methods that do not differ.

    The names of the better half are on the left, the others on the right; ``CD`` is to scale.
    """
    names = sorted(ranks.mean, key=ranks.mean.__getitem__)
    k, groups = len(names), cliques(ranks)
    half = (k + 1) // 2
    margin = 0.3 + plots.longest([f"{name} 1.00" for name in names], 10)  # inches
    height = 1.3 + 0.12 * len(groups) + 0.26 * half
    canvas, (ax,) = plots.figure(2 * margin + 5, height, left=margin)
    canvas.subplots_adjust(right=1 - margin / (2 * margin + 5), bottom=0.02, top=0.98)
    ax.axis("off")
    bars = 0.12 * len(groups) + 0.2  # inches below the axis
    ax.set(xlim=(1, k), ylim=(-bars - 0.26 * half, height - bars - 0.26 * half))
    ax.plot((1, k), (0, 0), "k", lw=1)
    for place in range(1, k + 1):
        ax.plot((place, place), (0, 0.08), "k", lw=1)
        ax.text(place, 0.12, str(place), ha="center", va="bottom")
    ax.plot((1, 1 + min(ranks.critical_difference, k - 1)), (0.5, 0.5), "k", lw=2)
    ax.text(1, 0.56, f"CD = {ranks.critical_difference:.2f}", va="bottom")
    for i, group in enumerate(groups):
        low, high = ranks.mean[group[0]], ranks.mean[group[-1]]
        y = -0.14 - 0.12 * i
        ax.plot((low - 0.04, high + 0.04), (y, y), "C0", lw=4, solid_capstyle="butt")
    for i, name in enumerate(names):
        left = i < half
        y = -bars - 0.26 * ((i if left else k - 1 - i) + 0.5) + 0.1
        edge = 1 if left else k
        ax.plot((ranks.mean[name], ranks.mean[name], edge), (0, y, y), "k", lw=0.8)
        ax.annotate(
            f"{name} {ranks.mean[name]:.2f}" if left else f"{ranks.mean[name]:.2f} {name}",
            (edge, y), (-3 if left else 3, 0), textcoords="offset points",
            ha="right" if left else "left", va="center",
        )  # fmt: skip
    return canvas
