"""How methods represent the modalities: figures and a picture of their test features.

``docs/representation.md`` has the formulas and their sources, ``representation_figures.py`` the
code.  A run is measured once: ``representation.json`` in its folder keeps its figures.
"""

import hashlib
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mla_jax.compare import kept as kept_figures
from mla_jax.compare.representation_figures import figures, principal_map
from mla_jax.errors import UserError
from mla_jax.runs import plots, report
from mla_jax.runs.nulls import number
from mla_jax.runs.representation import compute_of, features
from mla_jax.runs.run import open_run

PLOT = "representation.png"
PLOTS = (PLOT,)
FILE = "representation.json"
FORMAT = 1
"""The file's version; a run with another version is measured again."""
SHOWN = ("concat", "late_fusion", "mla", "dimml")
"""The methods in the picture, by the first row of each; the first four rows if there is none."""
MARKERS = "o^sDvP*X"
MOST_NAMED = 20
"""With more classes than this, the picture has no legend of the colours."""

Figures = Mapping[str, Any]
"""A tree of figures; its leaves over several runs are ``{"seeds": [...], "mean": number}``."""


def of_rows(rows: Sequence[Mapping[str, Any]], workdir: pathlib.Path) -> dict[str, Any]:
    """The figures of each row, by label; draws ``representation.png`` of the first seed.

    ``{"rows": {label: figures over the seeds}, "without": {label: why there are none}}``.

    Args:
      rows: each with ``label``, ``method``, ``alone`` and ``runs``, folders relative to
        ``workdir``.
      workdir: the comparison's.
    """
    found, without, maps = {}, {}, []
    for row in rows:
        label, paths = row["label"], [workdir / path for path in row["runs"]]
        try:
            if row["alone"]:
                raise UserError("it trains one modality at a time")
            measured = measure(label, paths)
        except UserError as error:  # only this row: the others have figures
            without[label] = str(error)
            continue
        found[label] = over_seeds([one["figures"] for one in measured])
        maps.append((label, row["method"], measured[0]["map"]))
    if maps:
        plots.save(plot(shown(maps)), workdir / PLOT)
    return {"rows": found, "without": without}


def measure(label: str, paths: Sequence[pathlib.Path]) -> list[dict[str, Any]]:
    """The content of ``representation.json`` for each run of a row; measures runs without one.

    The runs differ only in the seed, so one program and one data set serve them all.

    Raises:
      UserError: a run cannot be used, or its method has no features.
    """
    found = {i: one for i, path in enumerate(paths) if (one := kept(path))}
    todo = [i for i in range(len(paths)) if i not in found]
    if not todo:
        return list(found.values())
    if jax.process_count() > 1:
        raise UserError("features are measured by one process: repeat the command in one process")
    print(f"features of {label}: {', '.join(paths[i].name for i in todo)}", flush=True)
    first = open_run(paths[todo[0]], say=lambda line: None, devices=jax.local_devices()[:1])
    compute, test = compute_of(first.program.method), first.dataset().splits["test"]
    for i in todo:
        run = open_run(paths[i], say=lambda line: None, devices=jax.local_devices()[:1])
        run.use(first.program)
        seen = features(run, test, compute=compute)
        names = list(seen.predictions.class_names)
        shown = {**principal_map(seen), "class_names": names}
        content = {"figures": figures(seen, run.modalities), "map": shown}
        found[i] = kept_figures.write(paths[i] / FILE, key(paths[i]), content)
    return [found[i] for i in range(len(paths))]


def key(path: pathlib.Path) -> str:
    """What the figures depend on: the run's configuration and result, and the file's version."""
    digest = hashlib.sha256(str(FORMAT).encode())
    for name in ("config.json", "result.json"):
        digest.update((path / name).read_bytes())
    return digest.hexdigest()


def kept(path: pathlib.Path) -> dict[str, Any] | None:
    """What was measured on a run before; None if nothing was, or its result has changed."""
    try:
        content = kept_figures.read(path / FILE, key(path))
    except OSError:  # no run
        return None
    return content if content and {"figures", "map"} <= content.keys() else None


def over_seeds(runs: Sequence[Any]) -> Any:
    """The figures of one row's runs as one tree: see ``Figures``."""
    if isinstance(runs[0], Mapping):
        return {name: over_seeds([run[name] for run in runs]) for name in runs[0]}
    values = list(map(number, runs))
    return {"seeds": values, "mean": mean(values)}


def mean(values: Sequence[float]) -> float:
    """The mean of the finite values; NaN if there are none."""
    known = [value for value in values if math.isfinite(value)]
    return float(np.mean(known)) if known else math.nan


# ---- What comparison.md says --------------------------------------------------------------------


def sections(found: Mapping[str, Any]) -> list[str]:
    """What ``comparison.md`` says of it, as Markdown."""
    text = ["## Representation"]
    rows = found["rows"]
    if rows:
        text += [
            "Features of the test split, mean ± standard deviation over the seeds "
            "(docs/representation.md has the formulas). Means over all pairs of modalities: `gap`, "
            "the distance between the centroids of normalised features; `overlap`, Jaccard's share "
            "of the dimensions that are effective in both, and that of random sets of these sizes. "
            "Where the method weighs modalities, over the test examples of which some modality is "
            "right and some is wrong: how often the one that weighs most is right, beside always "
            "taking the same best one, and a random one.",
            report.markdown_table(*of_pairs(rows)),
            "Of each modality: accuracy of the nearest class mean of its features, and of its own "
            "logits; the share of its dimensions that are effective; its mean share of the weights "
            "where it is right and where it is wrong, and the AUROC of that share as a sign that "
            "it is right (0.5: none).",
            report.markdown_table(*of_modalities(rows)),
            f"![]({PLOT})",
        ]
    text += [f"`{label}` is left out: {why}." for label, why in found["without"].items()]
    return text


def of_pairs(rows: Mapping[str, Figures]) -> tuple[list[str], list[list[str]]]:
    """Header and lines: one line per row, with means over the pairs of modalities."""
    header = ["row", "gap", "overlap", "overlap by chance"]
    header += ["most weighted is right", "always the best", "by chance"]
    return header, [
        [
            label,
            *(cell(over_pairs(found, name)) for name in ("gap", "overlap", "overlap_by_chance")),
            *(cell(found["weights"].get(name)) for name in ("right", "best", "by_chance")),
        ]
        for label, found in rows.items()
    ]


def over_pairs(found: Figures, name: str) -> Figures | None:
    """The mean of a figure over the pairs, by seed; None with one modality."""
    pairs = [pair[name]["seeds"] for pair in found["pairs"].values()]
    return {"seeds": list(map(mean, zip(*pairs, strict=True)))} if pairs else None


def of_modalities(rows: Mapping[str, Figures]) -> tuple[list[str], list[list[str]]]:
    """Header and lines: one line per row and modality."""
    columns = {
        "nearest_mean": "nearest mean",
        "accuracy": "own logits",
        "effective": "effective",
        "weight_right": "weight where right",
        "weight_wrong": "where wrong",
        "auroc": "AUROC",
    }
    return ["row", "modality", *columns.values()], [
        [label, m, *(cell(of.get(name)) for name in columns)]
        for label, found in rows.items()
        for m, of in found["modalities"].items()
    ]


def cell(figure: Figures | None) -> str:
    """``0.731 ± 0.012``; a dash where there is no figure."""
    values = [v for v in figure["seeds"] if math.isfinite(v)] if figure else []
    if not values:
        return "–"
    text = f"{np.mean(values):.3f}"
    return f"{text} ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else text


# ---- The picture --------------------------------------------------------------------------------

Panel = tuple[str, Mapping[str, Any]]
"""A title, and ``principal_map`` with the ``class_names``."""


def shown(maps: Sequence[tuple[str, str, Mapping[str, Any]]]) -> list[Panel]:
    """The panels, of ``(label, method, map)`` of all rows."""
    first = {method: (label, one) for label, method, one in reversed(maps)}
    return [first[method] for method in SHOWN if method in first] or [
        (label, one) for label, _, one in maps[: len(SHOWN)]
    ]


def plot(panels: Sequence[Panel]):
    """The panels' features on principal components; the colour is the class and the marker the
    modality."""
    import matplotlib
    from matplotlib.lines import Line2D

    modalities, names = list(panels[0][1]["points"]), panels[0][1]["class_names"]
    marker = {m: MARKERS[i % len(MARKERS)] for i, m in enumerate(modalities)}
    few = len(names) <= MOST_NAMED
    palette = matplotlib.colormaps["tab10" if len(names) <= 10 else "tab20" if few else "turbo"]

    def colour(c: int) -> Any:
        return palette(c if few else c / (len(names) - 1))

    side = 0.6 + plots.longest(list(map(short, [*modalities, *names])), 8)  # inches, of the legend
    width = 3.8 * len(panels) + side
    canvas, axes = plots.figure(width, 3.8, len(panels), left=0.85, gap=0.85)
    canvas.subplots_adjust(right=1 - side / width)
    for ax, (title, one) in zip(axes, panels, strict=True):
        for m, points in one["points"].items():
            x, y = np.array(points).reshape(len(points), -1)[:, [0, -1]].T
            colours = list(map(colour, one["label"][m]))
            ax.scatter(x, y, s=12, c=colours, marker=marker[m], alpha=0.7, lw=0)
        shares = one["explained"]
        ax.set(title=title, xlabel=f"component 1 ({100 * shares[0]:.0f} %)")
        ax.set_ylabel(f"component 2 ({100 * shares[-1]:.0f} %)")
        ax.title.set_fontsize("medium")
        ax.grid(alpha=0.3)
    keys = [
        Line2D([], [], ls="", marker=marker[m], color="0.4", label=short(m)) for m in modalities
    ]
    if few:
        keys += [
            Line2D([], [], ls="", marker="s", color=colour(c), label=short(name))
            for c, name in enumerate(names)
        ]
    canvas.legend(handles=keys, loc="center right", fontsize=8, frameon=False)
    return canvas


def short(name: str) -> str:
    """A name on one line, cut to 24 letters, with its dollar signs escaped."""
    return " ".join(name.split())[:24].replace("$", r"\$")
