"""The plots of a run: losses and accuracies by epoch, and the confusion matrices."""

import contextlib
import io
import pathlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mla_jax import storage
from mla_jax.runs.nulls import number

MOST_NAMED = 400
"""With more classes than this, only every second, third, ... class is named beside a matrix."""


def figure(width: float, height: float, columns: int = 1, left: float = 0.6, gap: float = 0.5):
    """A Matplotlib figure that needs no display: ``(figure, axes [columns])``, sizes in inches.

    Margins are fixed, because a computed layout takes as long as the rest of the drawing.
    """
    from matplotlib.figure import Figure  # 0.5 s to import, needed only at the end

    canvas = Figure(figsize=(width, height), dpi=120)
    axes = canvas.subplots(1, columns, squeeze=False)[0]
    panel = (width - left - 0.1 - gap * (columns - 1)) / columns
    canvas.subplots_adjust(
        left=left / width, right=1 - 0.1 / width, bottom=0.5 / height, top=1 - 0.35 / height,
        wspace=gap / panel,
    )  # fmt: skip
    return canvas, axes


def set_ticks(axis: Any, most: int, integer: bool = False) -> None:
    """Limits an ``Axis`` to ``most`` intervals between ticks, with plain numbers as labels.

    Matplotlib's own choice puts more ticks than a narrow panel can label, and writes close values
    as small differences from an offset.
    """
    from matplotlib.ticker import MaxNLocator, ScalarFormatter

    axis.set_major_locator(MaxNLocator(most, steps=(1, 2, 2.5, 5, 10), integer=integer))
    axis.set_major_formatter(ScalarFormatter(useOffset=False))


def curves(lines: Sequence[Mapping[str, Any]], chosen: int):
    """A figure with the training losses and the accuracies of each split, by epoch.

    Args:
      lines: those of ``metrics.jsonl``, one per epoch; at least one has accuracies.
      chosen: the epoch of the result; a dotted line marks it.
    """
    scored = [line for line in lines if "test" in line]
    splits = [split for split in ("validation", "test") if split in scored[0]]
    losses = {name: None for line in lines for name in line["train"] if name.endswith("/loss")}
    phases = [name.removesuffix("/loss") for name in losses]
    scores = list(scored[0]["test"]["macro_f1"])
    colours = dict.fromkeys([*scores, *phases])  # a modality has the same colour in all panels
    for i, name in enumerate(name for name in colours if name != "fused"):
        colours[name] = f"C{i}"
    colours["fused"] = "black"

    canvas, axes = figure(5 * (1 + len(splits)), 3.6, 1 + len(splits), left=0.8, gap=0.85)
    for name in phases:
        told = [(line["epoch"], line["train"].get(f"{name}/loss", np.nan)) for line in lines]
        epochs = [epoch for epoch, _ in told]
        values = [number(value) for _, value in told]
        axes[0].plot(epochs, values, label=name, marker=".", color=colours[name])
    axes[0].set(title="train", ylabel="loss")
    for ax, split in zip(axes[1:], splits, strict=True):
        for name in scores:
            values = [number(line[split][name]) for line in scored]
            epochs = [line["epoch"] for line in scored]
            ax.plot(epochs, values, label=name, marker=".", color=colours[name])
        ax.set(title=split, ylabel="accuracy")
    for ax in axes:
        ax.axvline(chosen, color="0.7", lw=1, ls=":")
        ax.set_xlabel("epoch")
        set_ticks(ax.xaxis, 8, integer=True)
        set_ticks(ax.yaxis, 6)
        ax.grid(alpha=0.3)
        if ax.lines[:-1]:  # more than the line of the chosen epoch: closed forms have no losses
            ax.legend(loc="upper right" if ax is axes[0] else "lower right")  # "best" is slow
    return canvas


def confusion(counts: Mapping[str, Sequence], class_names: Sequence[str]):
    """A figure with confusion matrices, one panel per modality: label down, prediction across.

    The colour is the share of the label's examples, so that rare classes show too, on a scale
    of square roots, so that one mistake in a hundred is visible.  The row of a label without
    examples is grey.

    Args:
      counts: ``{"fused" or modality: int[C, C]}``, label by row.
      class_names: the names of the C classes.
    """
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    classes = len(class_names)
    named = range(0, classes, -(-classes // MOST_NAMED))
    labels = [" ".join(class_names[i].split()) for i in named]
    size, pitch = (8, 0.15) if classes <= 50 else (4.5, 0.085)  # points, inches
    side = max(2.2, pitch * len(named))
    margin = 0.45 + longest(labels, size)
    panel, width = margin + side, (margin + side + 0.1) * len(counts) + 0.7
    height = panel + 0.35
    canvas = Figure(figsize=(width, height), dpi=120)
    for i, (name, counted) in enumerate(counts.items()):
        left = i * (panel + 0.1) + margin
        ax = canvas.add_axes((left / width, margin / height, side / width, side / height))
        table = np.asarray(counted, float)
        total = table.sum(1, keepdims=True)
        shares = np.divide(table, total, out=np.full_like(table, np.nan), where=total > 0)
        ax.set_facecolor("0.9")
        image = ax.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 1))
        ax.set_title(name, fontsize="medium")
        ax.set_xlabel("predicted", fontsize=8)
        ax.set_ylabel("label", fontsize=8)
        ax.set_xticks(named, labels, fontsize=size, rotation=90, parse_math=False)
        ax.set_yticks(named, labels, fontsize=size, parse_math=False)
        ax.tick_params(length=2, pad=2)
    bar = canvas.add_axes((1 - 0.6 / width, margin / height, 0.12 / width, side / height))
    canvas.colorbar(image, cax=bar).ax.tick_params(labelsize=8)
    bar.set_title("share", fontsize=8)
    return canvas


def longest(texts: Sequence[str], size: float) -> float:
    """The width in inches of the widest of some texts, at a font size in points."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(size=size)
    measure = text_to_path.get_text_width_height_descent
    with boxes_for_unknown_letters():
        return max(measure(text, font, False)[0] for text in texts) / 72


def save(canvas: Any, path: pathlib.Path) -> None:
    """Writes a figure; characters that Matplotlib's font lacks, such as Chinese, become boxes."""
    with boxes_for_unknown_letters():
        if not storage.in_bucket(path):
            canvas.savefig(path)
            return
        content = io.BytesIO()
        canvas.savefig(content, format=path.suffix.removeprefix("."))
    storage.put(path, content.getvalue())


@contextlib.contextmanager
def boxes_for_unknown_letters() -> Iterator[None]:
    """Turns off Matplotlib's warning for each such character: ``report.md`` has the full names."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph .* missing from|Matplotlib currently does not")
        yield
