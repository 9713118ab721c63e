"""Comparisons as ``mla_jax.compare`` writes them, without training, and what a page holds."""

import html
import json
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from mla_jax.compare import table
from mla_jax.compare.variants import Variant

HOSTILE = "</script><img src=x onerror=\"document.title='broken'\"><!--data-->&amp; '$x' \\u003c"
"""A class name that would break the page if it were not escaped."""
DOCUMENTED = pathlib.Path(__file__).parents[1] / "docs" / "comparison-json.md"


def result(fused: float, modalities: Sequence[str], parameters: int) -> dict[str, Any]:
    """What ``result.json`` has for the table."""
    figures = {"fused": fused} | {m: fused / (2 + i) for i, m in enumerate(modalities)}
    times = {"seconds": 10 * fused, "evaluate_seconds": 1.0, "compile_seconds": 2.0}
    return {
        "dataset": "digits",
        "protocol": "strict",
        "fidelity": "paper",
        "device": "1 x cpu",
        "commit": "abc1234",
        "parameters": parameters,
        "versions": {"mla_jax": "0.1.0", "jax": "0.10.2", "python": "3.11.7"},
        "selection": {"rule": "last", "epoch": 3},
        "test": {**figures, "examples": 950, "macro_f1": figures},
        "train": {
            **times,
            "examples_per_second": 1000 * fused,
            "stages": {"joint": 3},
            "flops": 3e9,
        },
    }


def write_run(
    folder: pathlib.Path,
    seed: int,
    names: Sequence[str],
    classes: Sequence[str],
    epochs: int,
    **config,
) -> None:
    """The files of a run that the page reads, ``names`` being ``fused`` and the modalities."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    lines = [{"step": 1, "epoch": 1, "event": "something"}]
    for epoch in range(1, epochs + 1):
        line = {"step": epoch, "epoch": epoch, "stage": "joint"}
        line["train"] = {f"{name}/loss": rng.random() / epoch for name in names[1:]}
        for split in ("validation", "test"):
            figures = {name: rng.random() for name in names}
            line[split] = {**figures, "macro_f1": figures, "examples": 950}
        lines.append(line)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)
    counts = {name: rng.integers(0, 3, (len(classes), len(classes))).tolist() for name in names}
    settings = {"seed": seed, "epochs": epochs, "modalities": list(names[1:]), "method": config}
    identity = {"config": settings, "data": "x"}
    files = {"confusion": counts, "data": {"class_names": list(classes)}, "config": identity}
    files["result"] = {"selection": {"rule": "last", "epoch": epochs}}
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))


def build(
    workdir: pathlib.Path,
    fused: Sequence[float],
    seeds: Sequence[int] = (0, 1),
    modalities: Sequence[str] = ("image", "audio"),
    classes: Sequence[str] = ("zero", "one", HOSTILE),
    epochs: int = 3,
) -> dict[str, Any]:
    """``unimodal`` and a row of MLA for each fused accuracy, with the files of their runs."""
    variants = [Variant("unimodal", "unimodal", {})]
    variants += [
        Variant(f"mla:projection.alpha={i}", "mla", {"projection.alpha": float(i)})
        for i in range(len(fused))
    ]
    results, folders = [], {}
    for variant, value in zip(variants, [0.5, *fused], strict=True):
        runs = []
        for seed in seeds:
            parts = modalities if variant.method == "unimodal" else [None]
            for part in parts:
                names = ["fused", part] if part else ["fused", *modalities]
                folder = variant.folder + (f"-{part}" if part else "")
                path = workdir / folder / f"seed{seed}"
                folders.setdefault(variant.label, []).append(f"{folder}/seed{seed}")
                config = {"name": variant.method, **variant.switches}
                write_run(path, seed, names, classes, epochs, **config)
            size = int(9000 + 40_000 * value)
            runs.append([result(value, [p] if p else modalities, size) for p in parts])
        results.append((variant, runs))
    rows = [table.summarize_row(v, runs) | {"runs": folders[v.label]} for v, runs in results]
    rng = np.random.default_rng(0)
    (workdir / "comparison.png").write_bytes(b"\x89PNG" + rng.bytes(150_000))
    command = "python -m mla_jax.compare --config='<b>.py' && true"
    return {
        "command": command,
        "date": "2026-11-27",
        "seeds": list(seeds),
        "rows": table.ranked(rows),
        "about": table.about(results[0][1][0][0], 3),
    }


def embedded(page: str) -> dict[str, Any]:
    """The data of a page's runs."""
    text = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1]
    return json.loads(text)


def labels(page: str) -> list[str]:
    """Those of the first table's rows, as they are written."""
    body = page.partition("<tbody>")[2].partition("</tbody>")[0]
    found = re.findall(r'<th scope="row"><button type="button">(.*?)</button>', body)
    return list(map(html.unescape, found))


def undocumented(content: Any, names: Sequence[str]) -> set[str]:
    """The keys of comparison.json that its documentation lacks; ``names``: those that vary."""
    text = DOCUMENTED.read_text(encoding="utf-8")
    found = set()
    for key, value in content.items() if isinstance(content, dict) else ():
        if key not in names and f"`{key}`" not in text:
            found.add(key)
        found |= undocumented(value, names)
    for value in content if isinstance(content, list) else ():
        found |= undocumented(value, names)
    return found
