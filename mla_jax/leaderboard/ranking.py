"""Methods over several data sets: ranks from artefacts, and the critical-difference diagram."""

from collections.abc import Mapping, Sequence

import numpy as np

from mla_jax.compare import ranks
from mla_jax.errors import UserError, check_choice
from mla_jax.leaderboard import board
from mla_jax.leaderboard.artefacts import Artefact
from mla_jax.runs import report


def of_artefacts(artefacts: Mapping[str, Artefact], names: Sequence[str]) -> ranks.Ranks:
    """The ranks of the methods that all named artefacts have, by their mean fused accuracy.

    Raises:
      UserError: an unknown name, one that is not a table of methods, two of the same data, or fewer
        data sets or methods than ranks need.
    """
    scores = []
    of_data: dict[tuple[str, ...], str] = {}
    for name in names:
        check_choice("artefact of results/", name, artefacts)
        artefact = artefacts[name]
        if artefact["kind"] != "comparison" or "missing" in artefact:
            raise UserError(f"{name} is not a table of methods with one accuracy each: name others")
        data = board.key(artefact)[:2]
        if other := of_data.get(data):
            raise UserError(
                f"{name} and {other} are of the same data ({data[0]}: {data[1]}), and ranks are "
                "over different data sets: leave out one"
            )
        of_data[data] = name
        rows = [row for row in artefact["rows"] if not row["alone"]]
        scores.append({row["label"]: float(np.mean(row["test"]["fused"])) for row in rows})
    if len(scores) < ranks.FEWEST_DATASETS:
        raise UserError(f"ranks need {ranks.FEWEST_DATASETS} data sets or more, not {len(scores)}")
    shared = [label for label in scores[0] if all(label in found for found in scores)]
    if len(shared) < 2:
        raise UserError(f"{', '.join(names)} share fewer than two methods: name other files")
    return ranks.friedman({label: [found[label] for found in scores] for label in shared})


def text(found: ranks.Ranks) -> str:
    """The printed text: mean ranks, best first, and the result of the test."""
    names = sorted(found.mean, key=found.mean.__getitem__)
    table = report.markdown_table(
        ("method", "mean rank"), [(name, f"{found.mean[name]:.2f}") for name in names]
    )
    groups = "; ".join(", ".join(group) for group in ranks.cliques(found)) or "none"
    return (
        f"{table}\n\nMean ranks over {found.datasets} data sets, 1 is the best. Friedman's test, "
        f"as corrected by Iman and Davenport: F = {found.f_statistic:.2f}, p = {found.p:.3g}. "
        f"Nemenyi's critical difference at 5 %: {found.critical_difference:.2f}. Groups that it "
        f"does not tell apart: {groups}."
    )
