"""Trains several methods with several seeds in one process and puts them in one honest table.

    python -m mla_jax.compare --config=configs/digits.py \\
        --methods=unimodal,concat,late_fusion,mla --seeds=0,1,2

Every method gets the same data, encoders, optimiser, epochs and protocol.  ``unimodal`` trains
each modality alone.  Writes comparison.md, comparison.png and comparison.json into --workdir, and
each run beside them; runs that are finished are not repeated.
"""

import datetime
import json
import pathlib
import shlex
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from mla_jax import command_line, configuration, distributed, methods, report, train
from mla_jax.datasets import load_dataset
from mla_jax.errors import UserError


def main() -> None:
    """The comparison of the command line."""
    F = flags.FLAGS
    workdir = pathlib.Path(F.workdir or f"runs/{command_line.config_name()}-compare")
    names = list(methods.REGISTRY) if F.methods == ["all"] else F.methods
    for name in names:
        methods.get(name)
    try:
        seeds = [int(seed) for seed in F.seeds]
    except ValueError as error:
        raise UserError(f"--seeds={','.join(F.seeds)} must be integers, as in 0,1,2") from error
    if len(set(seeds)) != len(seeds) or not seeds:
        raise UserError(f"--seeds={','.join(F.seeds)} must be different integers")
    results = [compare_method(name, seeds, workdir) for name in dict.fromkeys(names)]
    if distributed.is_main():
        comparison = {
            "command": shlex.join(["python", "-m", "mla_jax.compare", *sys.argv[1:]]),
            "date": datetime.date.today().isoformat(),
            "seeds": seeds,
            "rows": [
                summarize_method(name, runs) for name, runs in zip(names, results, strict=True)
            ],
            "about": about(results[0][0][0]),
        }
        print("\n" + write_comparison(workdir, comparison))


def compare_method(name: str, seeds: Sequence[int], workdir: pathlib.Path) -> list[list[dict]]:
    """The results of one method: ``[seed][part]``, one part but for ``unimodal``."""
    config = method_config(name)
    if name == "unimodal":
        parts = [(f"{name}-{m}", method_config(name, modalities=m)) for m in config.modalities]
    else:
        parts = [(name, config)]
    results: list[list[dict]] = [[] for _ in seeds]
    for part, config in parts:
        dataset = load_dataset(config.dataset, tuple(config.modalities))
        program = train.build_program(configuration.resolve(config), dataset)
        for row, seed in zip(results, seeds, strict=True):
            config.seed = seed
            path = workdir / part / f"seed{seed}"
            result = train.run(config, path, program, say=lambda line: None)
            row.append(result)
            if distributed.is_main():
                figures, train_seconds = report.accuracies(result["test"]), seconds(result)
                print(f"{part} seed {seed}: test {figures}; {train_seconds:.1f} s", flush=True)
    return results


def method_config(name: str, **arguments: str) -> ConfigDict:
    """The configuration of the command line, for another method.

    ``--config.method.x`` applies to the methods that have a switch x.
    """
    filename = command_line.config_filename()
    bare = command_line.load_config(filename, {"method": name, **arguments})
    known = configuration.flatten(bare.to_dict())
    overrides = {
        field: value
        for field, value in command_line.config_overrides().items()
        if field in known or not field.startswith("method.")
    }
    config = command_line.load_config(filename, {"method": name, **arguments}, overrides)
    config.checkpoint.every_epochs = 0  # these runs are short: only their end is kept
    return config


def seconds(result: dict[str, Any]) -> float:
    """Seconds a run took, compilation, evaluation and checkpoint included."""
    train_figures = result["train"]
    return sum(value for key, value in train_figures.items() if key.endswith("seconds"))


def summarize_method(name: str, runs: Sequence[Sequence[dict]]) -> dict[str, Any]:
    """One row: per figure the values over the seeds; ``fused`` is absent for ``unimodal``."""
    values: dict[str, list[float]] = {}
    for parts in runs:
        for result in parts:
            for figure in result["test"]["macro_f1"]:
                if figure != "fused" or name != "unimodal":
                    values.setdefault(figure, []).append(result["test"][figure])
    return {
        "method": name,
        "fidelity": runs[0][0]["fidelity"],
        "test": values,
        "seconds": [sum(map(seconds, parts)) for parts in runs],
    }


def about(result: dict[str, Any]) -> dict[str, Any]:
    """What all runs of a comparison share."""
    shared = ("dataset", "protocol", "selection", "versions", "device", "commit")
    examples = {"examples": result["test"]["examples"], "epochs": result["train"]["epochs"]}
    return {key: result[key] for key in shared} | examples


def mean_std(values: Sequence[float], form: str = ".3f") -> str:
    """``0.971 ± 0.005``: mean and sample standard deviation; the mean alone for one value."""
    mean = format(np.mean(values), form)
    return f"{mean} ± {np.std(values, ddof=1):{form}}" if len(values) > 1 else mean


def write_comparison(path: pathlib.Path, comparison: dict[str, Any]) -> str:
    """Writes the table, the plot and the numbers; returns the table as it goes to the terminal."""
    rows = comparison["rows"]
    modalities = list(dict.fromkeys(f for row in rows for f in row["test"] if f != "fused"))
    figures = ["fused", *modalities]
    cells = [
        [row["method"] + ("" if row["fidelity"] == "paper" else f" ({row['fidelity']})")]
        + [mean_std(row["test"][f]) if f in row["test"] else "–" for f in figures]
        + [mean_std(row["seconds"], ".1f")]
        for row in rows
    ]
    header = ["method", *figures, "seconds"]
    facts, seeds = comparison["about"], comparison["seeds"]
    selection = facts["selection"]["rule"].replace("last", "last epoch")
    caption = (
        f"Test accuracy on {facts['dataset']} ({facts['examples']} examples), "
        f"{facts['epochs']} epochs, {selection}, protocol {facts['protocol']}; mean ± standard "
        f"deviation over seeds {', '.join(map(str, seeds))}. Seconds a run include compilation."
    )
    origin = (
        f"`{comparison['command']}` on {comparison['date']}, {facts['device']}, "
        f"mla_jax {facts['versions']['mla_jax']} ({facts['commit'] or 'no commit'}), "
        f"jax {facts['versions']['jax']}, Python {facts['versions']['python']}."
    )
    table = report.markdown_table(header, cells)
    text = [f"# Methods on {facts['dataset']}", caption, table, "![](comparison.png)", origin]
    (path / "comparison.md").write_text("\n\n".join(text) + "\n")
    (path / "comparison.json").write_text(json.dumps(comparison, indent=1) + "\n")
    plot_comparison(path / "comparison.png", rows, figures)
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    lines = [
        "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip()
        for line in (header, ["-" * w for w in widths], *cells)
    ]
    written = f"written: {path / 'comparison.md'}, comparison.png, comparison.json"
    return "\n".join([*lines, "", caption, written])


def plot_comparison(path: pathlib.Path, rows: Sequence[dict], figures: Sequence[str]) -> None:
    """Bars of accuracy by modality; a dashed line where the modality gets trained alone."""
    canvas, axes = report.figure(3.2 * len(figures), 3.8, len(figures))
    alone = next((row["test"] for row in rows if row["method"] == "unimodal"), {})
    for ax, figure in zip(axes, figures, strict=True):
        shown = [row for row in rows if figure in row["test"]]
        means = [np.mean(row["test"][figure]) for row in shown]
        errors = [
            np.std(row["test"][figure], ddof=min(1, len(row["test"][figure]) - 1)) for row in shown
        ]
        bars = ax.bar([row["method"] for row in shown], means, yerr=errors, capsize=3, color="C0")
        ax.bar_label(bars, [f"{mean:.3f}" for mean in means], label_type="center", color="white")
        if figure in alone:
            ax.axhline(np.mean(alone[figure]), color="C1", ls="--", lw=1.5, label="trained alone")
            ax.legend(loc="lower right", fontsize="small")
        ax.set(title=figure, ylim=(0, 1.05))
        ax.tick_params(axis="x", rotation=25)
    axes[0].set_ylabel("test accuracy")
    canvas.savefig(path)


if __name__ == "__main__":
    command_line.define_flags()
    flags.DEFINE_list("methods", ["unimodal", "concat", "late_fusion", "mla"], "methods, or 'all'")
    flags.DEFINE_list("seeds", ["0", "1", "2"], "seeds, one run of every method each")
    command_line.run_command(main)
