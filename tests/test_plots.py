"""The pictures by their facts: what is named, what the axes hold, and that nothing overlaps."""

import itertools
import operator
import warnings

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from mla_jax.compare import table
from mla_jax.runs import plots, report

pytestmark = pytest.mark.usefixtures("drawing")
WORDS = ("playing", "the saxophone", "on a unicycle", "with $ugar and $pice", "badly")


def names_of(classes: int) -> list[str]:
    """Class names, each of another length, the longest some fifty letters."""
    return [" ".join([str(i), *WORDS[: i % 6]]) for i in range(classes)]


def boxes_of(canvas, axis) -> list:
    """The boxes of an axis's tick labels in pixels, as Matplotlib would draw them."""
    FigureCanvasAgg(canvas)
    axis.get_tightbbox(canvas.canvas.get_renderer())  # puts the labels in their places
    low, high = sorted(axis.get_view_interval())
    labels = zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True)
    return [label.get_window_extent() for at, label in labels if low <= at <= high]


def check_ticks(canvas, ax) -> None:
    """The tick labels of either axis neither overlap nor leave the picture."""
    for axis, low, high in ((ax.xaxis, "x0", "x1"), (ax.yaxis, "y0", "y1")):
        boxes = sorted(boxes_of(canvas, axis), key=operator.attrgetter(low))
        assert len(boxes) > 1
        for one, other in itertools.pairwise(boxes):
            assert getattr(one, high) <= getattr(other, low)
        for box in boxes:
            assert box.x0 >= 0 and box.y0 >= 0
            assert box.x1 <= canvas.bbox.width and box.y1 <= canvas.bbox.height


def check_spread(limits, values) -> None:
    """The axis holds the values, and they take at least half of it."""
    low, high = sorted(limits)
    assert low <= min(values) and max(values) <= high
    assert max(values) - min(values) >= (high - low) / 2


@pytest.mark.parametrize(
    ("classes", "panels"), [(2, 2), (3, 4), (10, 3), (31, 3), (101, 1), (309, 1), (801, 1)]
)
def test_confusion(classes, panels):
    rng = np.random.default_rng(classes)
    counts = {f"modality {i}": rng.integers(0, 3, (classes, classes)) for i in range(panels)}
    counts["modality 0"][1] = 0
    names = names_of(classes)
    canvas = plots.confusion(counts, names)
    *axes, bar = canvas.axes
    assert [ax.get_title() for ax in axes] == list(counts)
    for ax in axes:
        for axis in (ax.xaxis, ax.yaxis):
            ticks = axis.get_ticklocs()
            assert all(tick == int(tick) for tick in ticks)
            assert [label.get_text() for label in axis.get_ticklabels()] == [
                names[int(tick)] for tick in ticks
            ]
            assert len(ticks) == classes if classes < 400 else 200 < len(ticks) <= 400
        if classes < 400:
            check_ticks(canvas, ax)
    for one, other in itertools.pairwise(axes):  # the names of one stay out of the other
        left = min(box.x0 for box in boxes_of(canvas, other.yaxis))
        assert left >= one.get_window_extent().x1

    table = counts["modality 0"]
    shown = axes[0].images[0].get_array()
    assert shown.mask[1].all() and not shown.mask[0].any()
    np.testing.assert_allclose(shown[0], table[0] / table[0].sum())
    assert bar.get_ylim() == (0, 1) and axes[0].images[0].get_clim() == (0, 1)
    assert bar.get_window_extent().x0 >= axes[-1].get_window_extent().x1


def test_letters_that_the_font_lacks(tmp_path):
    names = ["苹果派", "नमस्ते", "two\nlines"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        canvas = plots.confusion({"fused": np.eye(3)}, names)
        plots.save(canvas, tmp_path / "confusion.png")
    labels = [label.get_text() for label in canvas.axes[0].get_yticklabels()]
    assert labels == [*names[:2], "two lines"]


def lines_of(epochs: int, every: int = 1) -> list[dict]:
    """Lines of metrics.jsonl in two stages; modality b is in no example."""
    found = []
    for epoch in range(1, epochs + 1):
        first = {"a/loss": 1 / epoch, "b/loss": 2 / epoch, "a/accuracy": 7.0}
        line = {"epoch": epoch, "train": first if epoch <= epochs / 2 else {"fused/loss": 0.3}}
        if epoch % every == 0 or epoch == epochs:
            f1 = {"fused": 0, "a": 0, "b": 0}
            figures = {"macro_f1": f1, "fused": 0.983 - 0.036 / epoch, "a": 0.95, "b": None}
            line |= {"validation": figures, "test": figures}
        found.append(line)
    return found


@pytest.mark.parametrize(("epochs", "every"), [(2, 1), (5, 2), (15, 1), (100, 10)])
def test_curves(epochs, every):
    lines = lines_of(epochs, every)
    canvas = plots.curves(lines, epochs)
    assert [ax.get_title() for ax in canvas.axes] == ["train", "validation", "test"]
    drawn = {line.get_label(): line for line in canvas.axes[0].lines}
    for name in ("a", "b", "fused"):
        values = [line["train"].get(f"{name}/loss", np.nan) for line in lines]
        np.testing.assert_array_equal(drawn[name].get_ydata(), values)
        np.testing.assert_array_equal(drawn[name].get_xdata(), np.arange(1, epochs + 1))
    drawn = {line.get_label(): line for line in canvas.axes[2].lines}
    scored = [line["epoch"] for line in lines if "test" in line]
    np.testing.assert_array_equal(drawn["fused"].get_xdata(), scored)
    assert np.isnan(drawn["b"].get_ydata()).all()
    colours = [
        [line.get_color() for line in ax.lines if line.get_label() == "a"] for ax in canvas.axes
    ]
    assert colours[0] == colours[1] == colours[2]
    for ax in canvas.axes:
        check_ticks(canvas, ax)
        assert all(tick == int(tick) for tick in ax.get_xticks())
        check_spread(ax.get_xlim(), [1, epochs] if ax is canvas.axes[0] else [*scored, epochs])
    check_spread(canvas.axes[0].get_ylim(), [0.3, 2])
    if len(scored) > 1:
        check_spread(canvas.axes[2].get_ylim(), [0.95, *drawn["fused"].get_ydata()])
    for one, other in itertools.pairwise(canvas.axes):
        box = other.yaxis.get_tightbbox(canvas.canvas.get_renderer())
        assert box.x0 > one.get_window_extent().x1


def row_of(label: str, **values: list[float]) -> dict:
    return {
        "label": label, "switches": {}, "alone": label == "unimodal", "fidelity": "paper",
        "test": values, "mean": {name: float(np.mean(v)) for name, v in values.items()},
        "interval": {name: table.bootstrap_interval(v) for name, v in values.items()},
    }  # fmt: skip


@pytest.mark.parametrize("worst", [0.947, 0.5])
def test_comparison(worst):
    label = "mla:zero_grad_drift=true+fusion=fixed"
    rows = [
        row_of("unimodal", a=[0.96, 0.97]),
        row_of("mla", fused=[0.982, 0.984], a=[0.95, 0.951]),
        row_of(label, fused=[0.947, 0.947], a=[0.9471, 0.9472]),
        row_of("concat", fused=[worst, worst], a=[0.9473, 0.9474]),
    ]
    canvas = table.plot(rows, ["fused", "a"])
    fused, a = canvas.axes
    assert [text.get_text() for text in fused.get_yticklabels()] == ["mla", label, "concat"]
    check_spread(fused.get_xlim(), [worst, 0.984])
    check_spread(a.get_xlim(), [0.9471, 0.97])
    boxes = [boxes_of(canvas, ax.xaxis) for ax in canvas.axes]
    for one, other in itertools.pairwise(sorted(itertools.chain(*boxes), key=lambda box: box.x0)):
        assert one.x1 <= other.x0  # also from one panel to the next
    assert min(box.x0 for box in boxes_of(canvas, fused.yaxis)) >= 0
    pixels = [fused.transData.transform((value, 0))[0] for value in (0.947, 0.983)]
    assert pixels[1] - pixels[0] >= 12  # two marks of 6 points
    assert all("e" not in text.get_text() for text in a.get_xticklabels())


def test_a_figure_that_no_row_has_a_number_for():
    rows = [row_of("mla", fused=[0.9], a=[np.nan]), row_of("concat", fused=[0.8], a=[np.nan])]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        canvas = table.plot(rows, ["fused", "a"])
    check_ticks(canvas, canvas.axes[0])


def parsed(section: str) -> list[list[str]]:
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.split(" | ")] for line in lines]


def test_the_classes_in_a_table():
    counts = {"fused": [[6, 2, 0], [1, 3, 0], [0, 0, 0]], "a": [[4, 0, 0], [0, 0, 0], [0, 0, 0]]}
    header, _, *rows = parsed(report.classes_section(counts, ["one|two", "three", "none"]))
    assert header == ["| class", "test examples", "fused F1", "fused recall", "a recall |"]
    assert rows == [
        [r"| one\|two", "8", "0.8000", "0.7500", "1.0000 |"],
        ["| three", "4", "0.6667", "0.7500", "– |"],
        ["| none", "0", "–", "–", "– |"],
    ]


def test_the_best_and_the_worst_of_many_classes():
    counts = np.diag(np.arange(1, 41))
    counts[:, 0] += 40 - np.arange(1, 41)  # class i has 40 examples, of which i + 1 are recognised
    counts[5] = 0  # but for this one
    names = [f"class {i}" for i in range(40)]
    section = report.classes_section({"fused": counts.tolist()}, names)
    assert "1 of the 40 classes have no test examples" in section
    _, _, *rows = parsed(section)
    best, worst = rows[:10], rows[12:]
    assert [r[0] for r in best] == [f"| class {i}" for i in range(39, 29, -1)]
    assert [r[0] for r in worst] == [f"| class {i}" for i in (1, 0, 2, 3, 4, 6, 7, 8, 9, 10)]
    assert best[0][1:] == ["40", "1.0000", "1.0000 |"]
    assert worst[-1][1:] == ["40", f"{22 / 51:.4f}", f"{11 / 40:.4f} |"]
