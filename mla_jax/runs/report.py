"""What a person reads: lines on the terminal, ``report.md`` and its plots."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import FrozenConfigDict

from mla_jax.config import fields
from mla_jax.datasets import Dataset
from mla_jax.methods.base import Stage
from mla_jax.runs.metrics import read_lines
from mla_jax.runs.nulls import number


def run_header(config: FrozenConfigDict, dataset: Dataset) -> str:
    """One line: what is trained on what."""
    shapes = ", ".join(
        f"{m} {'x'.join(map(str, shape))}" for m, shape in dataset.splits["train"].shapes.items()
    )
    sizes = ", ".join(f"{split.examples} {name}" for name, split in dataset.splits.items())
    return (
        f"{config.method.name} ({config.method.fidelity}) on {dataset.name}: {shapes}; "
        f"{sizes} examples of {dataset.classes} classes; protocol {config.protocol}"
    )


def parameter_table(params: Mapping[str, Mapping[str, Any]]) -> str:
    """One line: how many parameters each encoder and each head has."""
    counts = {
        f"{name} {group}": sum(leaf.size for leaf in jax.tree.leaves(tree))
        for group, trees in params.items()
        for name, tree in trees.items()
    }
    parts = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    return f"parameters: {parts}; {sum(counts.values()):,} in all"


def epoch_line(line: Mapping[str, Any], epochs: int) -> str:
    """One line per epoch: losses, then the accuracies of each split that was evaluated."""
    losses = [
        f"{name.removesuffix('/loss')} {number(value):.3f}"
        for name, value in line["train"].items()
        if name.endswith("/loss")
    ]
    parts = [f"epoch {line['epoch']:>3}/{epochs}", "loss " + ", ".join(losses)]
    parts += [
        f"{split} {accuracies(line[split])}" for split in ("validation", "test") if split in line
    ]
    return " | ".join(parts)


def accuracies(figures: Mapping[str, Any]) -> str:
    """``fused 0.971, image 0.955, ...`` from the figures of one split."""
    return ", ".join(f"{name} {number(figures[name]):.4f}" for name in figures["macro_f1"])


def figures_table(figures: Mapping[str, Any]) -> str:
    """Accuracy and macro-F1 of one split as aligned lines."""
    rows = [f"  {'':12}{'accuracy':>10}{'macro-F1':>10}"]
    rows += [
        f"  {name:12}{number(figures[name]):10.4f}{number(f1):10.4f}"
        for name, f1 in figures["macro_f1"].items()
    ]
    return "\n".join(rows)


def result_table(result: Mapping[str, Any]) -> str:
    """The result of a run as aligned lines."""
    test = result["test"]
    selection, train = result["selection"], result["train"]
    how = {
        "last": "the last epoch",
        "validation": f"epoch {selection['epoch']}, chosen on validation",
        "best_test": f"epoch {selection['epoch']}, CHOSEN ON THE TEST SET (protocol paper)",
    }[selection["rule"]]
    rows = [
        f"{result['method']} ({result['fidelity']}) on {result['dataset']}, seed {result['seed']}: "
        f"{test['examples']} test examples, {how}",
        figures_table(test),
    ]
    rows.append(
        f"  {train['epochs']} epochs, {train['steps']} steps in {train['seconds']:.1f} s "
        f"({rate(train['examples_per_second'])}) + {train['compile_seconds']:.1f} s "
        f"compiling + {train['evaluate_seconds']:.1f} s evaluating"
    )
    return "\n".join(rows)


def rate(examples_per_second: float) -> str:
    """``10,200 examples/s``, ``0.25 examples/s``; 0 is what earlier versions made of very few."""
    if not examples_per_second:
        return "below 0.05 examples/s"
    digits = ",.0f" if examples_per_second >= 10 else ".2g"
    return f"{examples_per_second:{digits}} examples/s"


def compiling_line(stage: Stage) -> str:
    """One line: how many programs are compiled now, and which."""
    names = [phase.name for phase in stage.phases]
    return f"compiling {len(names)} program{'s' * (len(names) > 1)} ({', '.join(names)}) ..."


def closing_lines(path: pathlib.Path, result: Mapping[str, Any]) -> str:
    """The result of a run, and where its files are."""
    files = ("result.json", "report.md", "curves.png", "confusion.png")
    found = ", ".join(name for name in files if (path / name).exists())
    return f"{result_table(result)}\n  {path}: {found}"


def write_report(
    path: pathlib.Path,
    result: Mapping[str, Any],
    identity: Mapping[str, Any],
    confusion: Mapping[str, Sequence],
) -> None:
    """Writes ``report.md``, ``confusion.json`` and the plots into a run's directory.

    ``confusion``: counts of the test split, ``{"fused" or modality: [C, C]}``, label by row.
    """
    (path / "confusion.json").write_text(json.dumps(confusion) + "\n")
    lines = [line for line in read_lines(path / "metrics.jsonl") if "test" in line]
    if lines:  # unless somebody removed the metrics
        plot_curves(path / "curves.png", lines, result["selection"]["epoch"])
    plot_confusion(path / "confusion.png", confusion)
    test = result["test"]
    rows = [
        (name, f"{number(test[name]):.4f}", f"{number(f1):.4f}")
        for name, f1 in test["macro_f1"].items()
    ]
    settings = fields.flatten(identity["config"])
    text = [
        f"# {result['method']} on {result['dataset']}",
        result_table(result).splitlines()[0] + ".",
        markdown_table(("modality", "test accuracy", "macro-F1"), rows),
        "![accuracy by epoch](curves.png)",
        "![confusion counts](confusion.png)",
        "## How",
        f"`mla_jax` {result['versions']['mla_jax']} (commit `{result['commit'] or 'unknown'}`), "
        f"jax {result['versions']['jax']}, Python {result['versions']['python']}, "
        f"{result['device']}; data `{identity['data']}`.",
        result_table(result).splitlines()[-1].strip() + ".",
        markdown_table(("field", "value"), [(k, f"`{v}`") for k, v in settings.items()]),
    ]
    (path / "report.md").write_text("\n\n".join(text) + "\n")


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are right-aligned."""
    lines = [header, [":--", *["--:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def figure(width: float, height: float, columns: int = 1, left: float = 0.6):
    """A Matplotlib figure that needs no display: ``(figure, axes [columns])``, sizes in inches.

    Margins are set, since a computed layout takes as long as the rest of the drawing.
    """
    from matplotlib.figure import Figure  # 0.5 s to import, needed only at the end

    canvas = Figure(figsize=(width, height), dpi=120)
    axes = canvas.subplots(1, columns, squeeze=False)[0]
    canvas.subplots_adjust(
        left=left / width, right=1 - 0.1 / width, bottom=0.5 / height, top=1 - 0.35 / height,
        wspace=0.6 * columns / width,
    )  # fmt: skip
    return canvas, axes


def plot_curves(path: pathlib.Path, lines: Sequence[Mapping[str, Any]], chosen: int) -> None:
    """Accuracy of each modality and of the fusion against the epoch, a panel a split."""
    splits = [split for split in ("validation", "test") if split in lines[0]]
    canvas, axes = figure(5 * len(splits), 3.6, len(splits))
    for ax, split in zip(axes, splits, strict=True):
        for name in lines[0][split]["macro_f1"]:
            values = [number(line[split][name]) for line in lines]
            style = {"color": "black", "lw": 2} if name == "fused" else {"lw": 1.3}
            ax.plot([line["epoch"] for line in lines], values, label=name, marker=".", **style)
        ax.axvline(chosen, color="0.7", lw=1, ls=":")
        ax.set(title=split, xlabel="epoch", ylabel="accuracy", ylim=(0, 1.02))
        ax.grid(alpha=0.3)
    axes[-1].legend()
    canvas.savefig(path)


def plot_confusion(path: pathlib.Path, confusion: Mapping[str, Sequence]) -> None:
    """Confusion counts of the test split: label down, prediction across, a panel a modality."""
    canvas, axes = figure(3.2 * len(confusion), 3.4, len(confusion))
    for ax, (name, counts) in zip(axes, confusion.items(), strict=True):
        ax.imshow(np.asarray(counts), cmap="Blues")
        ax.set(title=name, xlabel="predicted", ylabel="label")
    canvas.savefig(path)
