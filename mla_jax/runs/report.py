"""Output for people: lines on the terminal, ``report.md`` and its plots."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import FrozenConfigDict

from mla_jax.config import fields
from mla_jax.data.example_checks import remarks
from mla_jax.datasets import Dataset
from mla_jax.methods.base import Stage
from mla_jax.runs import plots, telemetry_plot
from mla_jax.runs.metrics import read_lines
from mla_jax.runs.nulls import number
from mla_jax.telemetry import measurements

TABLED_CLASSES, EXTREME_CLASSES = 20, 10
"""How many classes ``report.md`` lists at most; with more, how many of the best and the worst."""


def run_header(config: FrozenConfigDict, dataset: Dataset) -> str:
    """One line about the method and the data, and one for every remark about the data."""
    shapes = ", ".join(
        f"{m} {'x'.join(map(str, shape))}" for m, shape in dataset.splits["train"].shapes.items()
    )
    sizes = ", ".join(f"{split.examples} {name}" for name, split in dataset.splits.items())
    line = (
        f"{config.method.name} ({config.method.fidelity}) on {dataset.name}: {shapes}; "
        f"{sizes} examples of {dataset.classes} classes; protocol {config.protocol}"
    )
    return "\n".join([line, *remarks(dataset)])


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
    parts = [f"epoch {line['epoch']:>3}/{epochs}"]
    if losses:  # a stage with a closed-form solution has none
        parts.append("loss " + ", ".join(losses))
    for split in ("validation", "test"):
        if split in line:
            parts.append(f"{split} {accuracies(line[split])}")
            parts += [f"{split}: {remark}" for remark in not_finite(line[split])]
    return " | ".join(parts)


def not_finite(figures: Mapping[str, Any]) -> list[str]:
    """A remark for every modality with logits that are not finite, and for the fusion."""
    return [
        f"{number} of {figures['examples']} examples have '{name}' logits that are NaN or infinite"
        for name, number in figures.get("not_finite", {}).items()
    ]


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
    return "\n".join(rows + [f"  {remark}" for remark in not_finite(figures)])


def subsets_table(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """The figures of every subset of the modalities as aligned lines."""
    names = {name: name for name in figures} | {"incomplete": "all but the whole, pooled"}
    width = max(len(names[name]) for name in figures)
    rows = [f"  {'':{width}}{'accuracy':>10}{'macro-F1':>10}{'examples':>10}"]
    rows += [
        f"  {names[name]:{width}}{number(found['accuracy']):10.4f}{number(found['macro_f1']):10.4f}"
        f"{found['examples']:10,}"
        for name, found in figures.items()
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
    """``10,200 examples/s``, ``0.25 examples/s``; earlier versions rounded small rates to 0."""
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
    class_names: Sequence[str],
    notes: Sequence[str] = (),
) -> None:
    """Writes ``report.md``, ``confusion.json`` and the plots into a run's directory.

    ``confusion``: counts of the test split, ``{"fused" or modality: [C, C]}``, label by row.
    ``notes``: remarks about the data.
    """
    (path / "confusion.json").write_text(json.dumps(confusion) + "\n", encoding="utf-8")
    everything = read_lines(path / "metrics.jsonl")
    lines = [line for line in everything if "event" not in line]
    telemetry = []
    if measurements(everything):
        plots.save(telemetry_plot.plot(everything), path / telemetry_plot.FILE)
        telemetry = [f"![telemetry by epoch]({telemetry_plot.FILE})"]
    if any("test" in line for line in lines):  # unless the metrics were deleted
        plots.save(plots.curves(lines, result["selection"]["epoch"]), path / "curves.png")
    plots.save(plots.confusion(confusion, class_names), path / "confusion.png")
    test = result["test"]
    rows = [
        (name, share(test[name]), share(f1), f"{np.sum(confusion[name]):,}")
        for name, f1 in test["macro_f1"].items()
    ]
    settings = fields.flatten(identity["config"])
    text = [
        f"# {result['method']} on {result['dataset']}",
        result_table(result).splitlines()[0] + ".",
        markdown_table(("modality", "test accuracy", "macro-F1", "examples"), rows),
        "A modality's figures are over the test examples that have it.",
        *[f"{note}." for note in (*notes, *not_finite(test))],
        "![losses and accuracies by epoch](curves.png)",
        "![confusion matrices](confusion.png)",
        *telemetry,
        *missing_section(result),
        "## Classes",
        classes_section(confusion, class_names),
        "## How",
        f"`mla_jax` {result['versions']['mla_jax']} (commit `{result['commit'] or 'unknown'}`), "
        f"jax {result['versions']['jax']}, Python {result['versions']['python']}, "
        f"{result['device']}; data `{identity['data']}`.",
        result_table(result).splitlines()[-1].strip() + ".",
        markdown_table(("field", "value"), [(k, f"`{v}`") for k, v in settings.items()]),
    ]
    (path / "report.md").write_text("\n\n".join(text) + "\n", encoding="utf-8")


def missing_section(result: Mapping[str, Any]) -> list[str]:
    """What was missing, and the accuracy for every subset of the modalities, as Markdown."""
    if "missing" not in result:
        return []
    facts = result["missing"]
    rates = ", ".join(f"{split} {rate:.3f}" for split, rate in facts["true_rate"].items())
    rule = f"masks of `{facts['masks']}`" if facts["masks"] else f"rule `{facts['rule']}`"
    text = ["## Missing modalities", f"By {rule}. True rates: {rates}."]
    if subsets := result.get("subsets"):
        rows = [
            (name, share(f["accuracy"]), share(f["macro_f1"]), f"{f['examples']:,}")
            for name, f in subsets.items()
        ]
        about = "Test examples that have all of a subset, predicted as if they had no others; "
        about += "`incomplete` pools all subsets but the whole."
        text += [about, markdown_table(("given", "accuracy", "macro-F1", "examples"), rows)]
    return text


def share(value: float | None) -> str:
    """``0.9710``; a dash for a figure over no examples."""
    return "–" if np.isnan(number(value)) else f"{value:.4f}"


def classes_section(confusion: Mapping[str, Sequence], class_names: Sequence[str]) -> str:
    """The recall of each class, fused and per modality, and its fused F1, as Markdown.

    Up to ``TABLED_CLASSES`` classes are all in a table; of more, the best and worst ten by F1.
    """
    tables = {name: np.asarray(counts) for name, counts in confusion.items()}
    fused = tables["fused"]
    examples, predicted, hits = fused.sum(1), fused.sum(0), np.diagonal(fused)
    f1 = 2 * hits / np.maximum(examples + predicted, 1)

    def row(i: int) -> tuple[str, ...]:
        recalls = [t[i, i] / t[i].sum() if t[i].any() else np.nan for t in tables.values()]
        score = f1[i] if examples[i] + predicted[i] else np.nan
        return class_names[i], f"{examples[i]:,}", share(score), *map(share, recalls)

    header = ("class", "test examples", "fused F1", *(f"{name} recall" for name in tables))
    about = "Recall: the share of the class's examples that are recognised."
    if len(class_names) <= TABLED_CLASSES:
        return f"{about}\n\n" + markdown_table(header, list(map(row, range(len(class_names)))))
    seen = np.flatnonzero(examples)
    order = seen[np.argsort(-f1[seen], kind="stable")].tolist()
    if absent := len(class_names) - len(seen):
        about += f" {absent} of the {len(class_names)} classes have no test examples."
    return "\n\n".join(
        [
            f"The best and the worst {EXTREME_CLASSES} of {len(class_names)} by fused F1. {about}",
            "Best:",
            markdown_table(header, list(map(row, order[:EXTREME_CLASSES]))),
            "Worst, from the bottom:",
            markdown_table(header, list(map(row, order[: -EXTREME_CLASSES - 1 : -1]))),
        ]
    )


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], align: str = "--:") -> str:
    """A Markdown table; all columns but the first have the alignment ``align``, to the right.

    A cell is made one line, and a ``|`` in it is escaped.
    """
    lines = [header, [":--", *[align] * (len(header) - 1)], *rows]
    lines = [[" ".join(cell.split()).replace("|", r"\|") for cell in line] for line in lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
