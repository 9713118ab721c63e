"""What each quirk is worth on the embedded digits: one command, one table, in docs/fidelity.md.

    python -m mla_jax.parity.digits --document=docs/fidelity.md

Trains every variant below with three seeds by ``configs/digits.py``; a few minutes on two cores.
"""

import argparse
import pathlib
import runpy
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mla_jax import train
from mla_jax.config import fields
from mla_jax.errors import UserError

HEADING = "## Measured on digits"
SEEDS = (0, 1, 2)

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "`paper`": ("paper", {}),
    "`paper`, projection never": ("paper", {"projection.enabled": False}),
    "`paper`, projection added": ("paper", {"projection.apply": "add"}),
    "`released`": ("released", {}),
    "`released`, no drift (PyTorch >= 2)": ("released", {"zero_grad_drift": False}),
    "`released`, fixed 0.55 / 0.45 fusion": ("released", {"fusion": "fixed"}),
    "`released`, per-example fusion": ("released", {"fusion": "entropy"}),
    "`first_drop` (multiply)": ("first_drop", {}),
    "`first_drop`, added as in BalanceMM": (
        "first_drop",
        {"projection.apply": "add", "fusion": "entropy", "zero_grad_drift": False},
    ),
}
"""``{row: (fidelity, switches set alone)}``."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains, prints the table, and puts it under its heading in a document."""
    parser = argparse.ArgumentParser(prog="python -m mla_jax.parity.digits", description=__doc__)
    parser.add_argument("--config", default="configs/digits.py")
    parser.add_argument("--workdir", default="runs/fidelity", help="runs finished here are reused")
    parser.add_argument("--document", default="", help="replace the section in this file")
    parser.add_argument("--epochs", type=int, default=0, help="0: those of the configuration")
    chosen = parser.parse_args(arguments)
    try:
        rows = {
            name: measure(chosen.config, chosen.epochs, fidelity, switches, chosen.workdir, name)
            for name, (fidelity, switches) in VARIANTS.items()
        }
        text = table(rows)
        print(text)
        if chosen.document:
            document = pathlib.Path(chosen.document)
            document.write_text(replace_section(document.read_text(), text))
    except UserError as error:
        print(f"mla_jax.parity.digits: {error}", file=sys.stderr)
        return 2
    return 0


def measure(
    source: str,
    epochs: int,
    fidelity: str,
    switches: Mapping[str, Any],
    workdir: str,
    name: str,
    say: Callable[[str], None] = lambda line: None,
) -> list[dict[str, float]]:
    """The test accuracies of one variant, a dictionary a seed."""
    argument = f"method=mla,fidelity={fidelity}" + (f",epochs={epochs}" if epochs else "")
    folder = "".join(c if c.isalnum() else "-" for c in name).strip("-")
    found = []
    for seed in SEEDS:
        config = runpy.run_path(source)["get_config"](argument)
        fields.override(config, {f"method.{k}": v for k, v in switches.items()})
        config.seed = seed
        result = train.train(config, pathlib.Path(workdir) / folder / f"seed{seed}", say=say)
        scores = {m: result["test"][m] for m in result["modalities"]}
        found.append({"fused": result["test"]["fused"], **scores})
        print(f"{name}, seed {seed}: fused {found[-1]['fused']:.3f}", file=sys.stderr)
    return found


def table(rows: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Markdown: mean ± sample standard deviation over the seeds, in percent."""
    names = list(next(iter(rows.values()))[0])
    lines = ["| variant | " + " | ".join(names) + " |", "|" + "---|" * (len(names) + 1)]
    for row, runs in rows.items():
        cells = []
        for name in names:
            values = 100 * np.array([run[name] for run in runs])
            cells.append(f"{values.mean():.1f} ± {values.std(ddof=1):.1f}")
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def replace_section(document: str, text: str) -> str:
    """``document`` with the table under ``HEADING`` replaced.

    Raises:
      UserError: there is no such heading.
    """
    before, heading, after = document.partition(HEADING + "\n")
    if not heading:
        raise UserError(f"the document has no heading '{HEADING}'")
    kept = [line for line in after.split("\n") if not line.startswith("|")]  # the old table goes
    rest = "\n".join(kept).strip("\n")
    return f"{before}{heading}\n{text}\n\n{rest}\n" if rest else f"{before}{heading}\n{text}\n"


if __name__ == "__main__":
    sys.exit(main())
