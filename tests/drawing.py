"""Runs without their plots, whose drawing takes a quarter of the time of a small run."""

import pathlib

from mla_jax.runs import plots

FUNCTIONS = {name: getattr(plots, name) for name in ("curves", "confusion", "save")}
"""What draws, as the package has it."""


def leave_out() -> None:
    """From now on the plots of runs are empty files; those of comparisons are drawn."""
    plots.curves = plots.confusion = lambda *arguments: None
    plots.save = _save_if_drawn


def restore() -> None:
    """Plots are drawn again."""
    for name, function in FUNCTIONS.items():
        setattr(plots, name, function)


def _save_if_drawn(figure, path: pathlib.Path) -> None:
    if figure is None:
        path.write_bytes(b"")
    else:
        FUNCTIONS["save"](figure, path)
