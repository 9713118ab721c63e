"""The plot of a run's telemetry: accuracies, gradients, and the projection of the head."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mla_jax.runs import plots
from mla_jax.runs.nulls import number
from mla_jax.telemetry import EVENT, measurements

FILE = "telemetry.png"
SPECTRUM = ("largest", "mean", "smallest")
MOST_PAIRS = 3
"""With more pairs of modalities than this, the mean of their cosines is drawn."""

Lines = Sequence[Mapping[str, Any]]


def plot(lines: Lines):
    """A figure of the measurements of a run by epoch, one panel per kind.

    On the probe batch, in one colour per modality: its accuracy, OGM's ratio, the norm of its
    encoder's gradient; then the cosines between the heads' gradients of two modalities (dashed:
    after the projection), and the eigenvalues of P.  Without a projection, the last is left out.

    Args:
      lines: those of ``metrics.jsonl``; at least one has telemetry.
    """
    found = measurements(lines)
    ends = [line for line in lines if "event" not in line] or found  # ends of epochs, if known
    steps_per_epoch = ends[0]["step"] / ends[0]["epoch"]
    x = [line["step"] / steps_per_epoch for line in found]
    told = [line[EVENT] for line in found]
    modalities = list(told[0]["loss"])
    colours = {m: f"C{i}" for i, m in enumerate(modalities)}
    projected = all("projection" in one for one in told)
    canvas, axes = plots.figure(4.2 * (4 + projected), 3.4, 4 + projected, left=0.7, gap=0.8)
    accuracy, ratio, norms, cosine = axes[:4]

    def draw(ax, values, label, colour, style="-"):
        numbers = [number(value) for value in values]
        ax.plot(x, numbers, style, color=colour, label=label, lw=1.2)

    for m, colour in colours.items():
        draw(accuracy, [one["accuracy"][m] for one in told], m, colour)
        if told[0]["discrepancy_ratio"]:
            draw(ratio, [one["discrepancy_ratio"][m] for one in told], m, colour)
        draw(norms, [one["gradient_norm"][m]["encoder"] for one in told], m, colour)
    for kind, style, ending in (
        ("head_cosine", "-", ""),
        ("head_cosine_projected", "--", ", projected"),
    ):
        if not all(kind in one for one in told):
            continue
        pairs = list(told[0][kind])
        if len(pairs) > MOST_PAIRS:
            means = [np.mean([number(value) for value in one[kind].values()]) for one in told]
            draw(cosine, means, f"mean of {len(pairs)} pairs{ending}", "C0", style)
            continue
        for i, pair in enumerate(pairs):
            draw(cosine, [one[kind][pair] for one in told], f"{pair}{ending}", f"C{i}", style)
    accuracy.set_title("accuracy on the probe batch", fontsize="medium")
    ratio.set_title("discrepancy ratio (OGM)", fontsize="medium")
    norms.set_title("norm of the encoder's gradient", fontsize="medium")
    cosine.set_title("cosine of the head's gradients", fontsize="medium")
    if projected:
        for i, name in enumerate(SPECTRUM):
            values = [number(one["projection"][name]) for one in told]
            draw(axes[4], np.maximum(values, 1e-12), name, f"C{i}")
        axes[4].set_yscale("log")
        axes[4].set_title("eigenvalues of the projection P", fontsize="medium")
    norms.set_yscale("log")
    for ax in axes:
        ax.set_xlabel("epoch")
        plots.set_ticks(ax.xaxis, 8, integer=True)
        ax.grid(alpha=0.3)
    accuracy.legend(fontsize=7, loc="lower right")
    for ax in axes[3:]:
        if ax.lines:
            ax.legend(fontsize=7, loc="upper right")
    return canvas
