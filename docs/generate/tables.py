"""Tables of the site's reference, from the code: fields, switches, encoders, published figures."""

import functools
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from mla_jax import encoders, methods
from mla_jax.compare import published
from mla_jax.compare.studies import table1
from mla_jax.config import fields, limits, meanings, recipes
from mla_jax.encoders.spread import BATCH_NORMS, GRADIENT_SUMS
from mla_jax.functional.heads import INITIALIZATIONS
from mla_jax.functional.optimizers import SCHEDULES, TRANSFORMS
from mla_jax.runs import report

table = functools.partial(report.markdown_table, align=":--")

CHOICES: dict[str, Sequence[str]] = {
    "protocol": fields.PROTOCOLS,
    "selection": fields.SELECTIONS,
    "compute_dtype": fields.COMPUTE_DTYPES,
    "absent": fields.ABSENT,
    "head_init": ("auto", *INITIALIZATIONS),
    "missing.rule": limits.RULES,
    "missing.fill": limits.FILLS,
    "batch_norm": BATCH_NORMS,
    "gradient_sum_dtype": GRADIENT_SUMS,
    "optimizer.name": tuple(TRANSFORMS),
    "optimizer.schedule": SCHEDULES,
    "loader.workers": ("auto", "{} to {}".format(*limits.WORKERS)),
}
"""What a field that is a name may be."""
TYPES = {"drop_last": "bool", "loader.workers": "int or str"}
"""Of the fields whose default does not say it."""
NOT_OF_ENCODERS = ("parent", "name", "dtype", "axis_name", "compiled_for", "feature_dim")
"""Parameters of a module that no configuration sets for one encoder."""


def shown(value: Any) -> str:
    """A default as code."""
    if value is None:
        return "unset"
    return f"`{value}`" if str(value) else "empty"


def allowed(choices: Sequence[Any] | None, bounds: Sequence[float] | None) -> str:
    """The values that a field or switch takes, as far as the code bounds them."""
    if choices:
        return ", ".join(f"`{choice}`" for choice in choices)
    if not bounds:
        return ""
    low, high = (f"{bound:,}" if isinstance(bound, int) else f"{bound:g}" for bound in bounds)
    unbounded = bounds[1] in (float("inf"), limits.LARGEST)
    return f"{low} or more" if unbounded else f"{low} to {high}"


def configuration_fields() -> str:
    """Every field of ``base_config`` but those of encoders and methods, a table per group."""
    known = fields.flatten(fields.base_config().to_dict())
    groups: dict[str, list[list[str]]] = {"": []}
    for name, default in known.items():
        group = name.rpartition(".")[0]
        if name.partition(".")[0] in fields.OPEN_GROUPS:
            continue
        kind = TYPES.get(name, type(default).__name__)
        values = allowed(CHOICES.get(name), limits.LIMITS.get(name))
        row = [f"`{name}`", kind, shown(default), values, meanings.FIELDS[name]]
        groups.setdefault(group, []).append(row)
    header = ("field", "type", "default", "values", "meaning")
    sections = []
    for group, rows in groups.items():
        title = f"`{group}`" if group else "The run"
        sections.append(f"### {title}\n\n{table(header, rows)}")
    return "\n\n".join(sections)


def arguments() -> str:
    """The arguments that the files of ``configs/`` share."""
    rows = [
        [f"`{name}`", shown(default), meaning]
        for name, (default, meaning) in recipes.ARGUMENTS.items()
    ]
    return table(("argument", "default", "meaning"), rows)


def switches(name: str) -> str:
    """The switches of a method: type, default under each fidelity, values, meaning."""
    module = methods.get(name)
    presets = {key: fields.flatten(preset) for key, preset in module.FIDELITY.items()}
    paper = presets.pop("paper")
    own = {key: preset for key, preset in presets.items() if preset}
    if not paper:
        return "It has no switches."
    rows = []
    for switch, default in paper.items():
        values = allowed(module.CHOICES.get(switch), getattr(module, "LIMITS", {}).get(switch))
        kind, meaning = type(default).__name__, meanings.SWITCHES[name][switch]
        cells = [
            f"`{switch}`",
            kind,
            shown(default),
            _under_others(switch, paper, own),
            values,
            meaning,
        ]
        rows.append(cells if own else [*cells[:3], *cells[4:]])
    others = ("under other fidelities",) if own else ()
    note = "".join(f"\n\n`{key}` has the values of `paper`." for key in presets.keys() - own)
    test_time = methods.test_time(name)
    if test_time:
        listed = " and ".join(f"`{switch}`" for switch in test_time)
        act = "acts" if len(test_time) == 1 else "act"
        note += f"\n\n{listed} {act} at test time alone."
    return table(("switch", "type", "`paper`", *others, "values", "meaning"), rows) + note


def _under_others(
    switch: str, paper: Mapping[str, Any], presets: Mapping[str, Mapping[str, Any]]
) -> str:
    """The values of a switch under other fidelities, where they are not that of ``paper``."""
    by_value: dict[str, list[str]] = {}
    for key, preset in presets.items():
        if preset.get(switch, paper[switch]) != paper[switch]:
            by_value.setdefault(shown(preset[switch]), []).append(f"`{key}`")
    if len(presets) > 1 and [len(presets)] == [len(keys) for keys in by_value.values()]:
        return f"{next(iter(by_value))} under all"
    return "; ".join(f"{value} under {', '.join(keys)}" for value, keys in by_value.items())


def encoder_fields() -> str:
    """Every encoder with its fields."""
    sections = []
    for name, module in encoders.REGISTRY.items():
        rows = []
        for field, parameter in inspect.signature(module).parameters.items():
            if field in NOT_OF_ENCODERS:
                continue
            row = [f"`{field}`", shown(parameter.default), meanings.ENCODER_FIELDS[field]]
            rows.append(row)
        about = inspect.cleandoc(module.__doc__).partition("\n\n")[0].replace("\n", " ")
        about = about.replace("``", "`")
        body = table(("field", "default", "meaning"), rows) if rows else "It has no fields."
        sections.append(f"### `{name}`\n\n{about}\n\n{body}")
    return "\n\n".join(sections)


def published_figures(name: str) -> str:
    """The rows of the MLA paper's Tables 1 and 2 for a method; one sentence where it has none."""
    parts = []
    of_method: dict[str, Mapping[str, float]] = {
        dataset: rows[name] for dataset, rows in table1.STUDY.published.items() if name in rows
    }
    if of_method:
        modalities = sorted({m for row in of_method.values() for m in row} - {"fused"})
        names = ["fused", *modalities]
        rows = [
            [f"`{dataset}`", *(f"{row[m]:.2f}" if m in row else "" for m in names)]
            for dataset, row in of_method.items()
        ]
        parts.append(f"MLA paper, Table 1, accuracy in %:\n\n{table(('data set', *names), rows)}")
    row = published.IEMOCAP.get(name)
    if row:
        header = ("rate of missing modalities", *(f"{rate:g}" for rate in row.figures))
        cells = ["IEMOCAP", *(f"{figure:.2f}" for figure in row.figures.values())]
        parts.append(f"MLA paper, Table 2, in % ({row.origin}):\n\n{table(header, [cells])}")
    return "\n\n".join(parts) or "The MLA paper has no figures for it."
