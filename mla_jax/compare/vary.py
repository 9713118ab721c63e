"""``--vary=FIELD=a,b``: the rows of a comparison at several values of a configuration field."""

from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from mla_jax import methods
from mla_jax.compare.variants import TAKES, Variant, parse_value
from mla_jax.config import command_line, fields, files
from mla_jax.errors import UserError, check_choice

FORM = "FIELD=a,b,c"
ONE_TABLE = "all rows of a table share it: set --config.{} and make one table per value"
NOT_VARIED = {
    "seed": "give the seeds with --seeds",
    "method.name": "give the methods with --methods",
    **{
        field: ONE_TABLE.format(field)
        for field in ("protocol", "selection", "dataset.name", "dataset.path", "dataset.data_dir",
                      "dataset.stage_dir", "dataset.variant", "dataset.split", "dataset.split_seed")
    },
}  # fmt: skip
"""Fields that ``--vary`` does not take, and what to do instead.  Rows of one table are tested on
the same examples, and their epoch is chosen by the same rule."""


def parse_vary(texts: Sequence[str]) -> dict[str, list[str]]:
    """``{field: values as typed}`` of the ``--vary`` options.

    Raises:
      UserError: an option of the wrong form, without a value, or for a field that is set elsewhere.
    """
    found: dict[str, list[str]] = {}
    for text in texts:
        field, equals, values = text.partition("=")
        if not equals or not field:
            raise UserError(f"--vary={text}: write it as --vary={FORM}")
        if not values:
            raise UserError(f"--vary={text} has no value: write it as --vary={FORM}")
        if field in NOT_VARIED:
            raise UserError(f"--vary={text} is not possible: {NOT_VARIED[field]}")
        if field in found:
            raise UserError(f"--vary names '{field}' twice: give all its values in one list")
        if field in command_line.config_overrides():
            raise UserError(f"--config.{field} and --vary={text} both set '{field}': use one")
        found[field] = values.split(",")
    return found


def grid(variants: Sequence[Variant], texts: Sequence[str]) -> list[Variant]:
    """The rows at every combination of the values of ``--vary``; ``variants`` if it is empty.

    A switch ``method.x`` varies the methods that have it; the others keep one row.

    Raises:
      UserError: as ``parse_vary``, or an unknown field, or a value of the wrong type.

    >>> grid(variants, ["optimizer.learning_rate=0.1,0.2"])[0].label         # doctest: +SKIP
    'mla, optimizer.learning_rate=0.1'
    """
    for field, values in parse_vary(texts).items():
        configs = {v.method: _config_of(v.method) for v in variants}
        known = {name for config in configs.values() for name in fields.flatten(config.to_dict())}
        if any(name.startswith(f"{field}.") for name in known):
            raise UserError(f"configuration field '{field}' is a group: vary one of its fields")
        check_choice("configuration field", field, known)
        rows = []
        for variant in variants:
            rows += _at_each(variant, configs[variant.method], field, values)
        variants = rows
    return list(variants)


def _config_of(method: str) -> ConfigDict:
    arguments = {"method": method, "fidelity": "paper"}
    return files.load_config(command_line.config_filename(), arguments=arguments)


def _at_each(
    variant: Variant, config: ConfigDict, field: str, values: Sequence[str]
) -> list[Variant]:
    """One row per value of a field; the row itself if its method has no such switch."""
    group, _, switch = field.partition(".")
    of_method = group == "method"
    switches = {
        "fidelity": "paper",
        **fields.flatten(methods.get(variant.method).FIDELITY["paper"]),
    }
    if of_method and switch not in switches:
        return [variant]
    if of_method and switch in variant.switches:
        raise UserError(
            f"'{variant.label}' of --methods and --vary={field} both set '{switch}': use one"
        )
    default = switches[switch] if of_method else _default(config, field)
    if type(default) not in (*TAKES, bool, str):
        raise UserError(f"'{field}' is a {type(default).__name__}, which --vary cannot write")
    found: dict[Any, Variant] = {}
    for text in values:
        value = parse_value(field, text, default)
        if value in found:
            raise UserError(f"--vary={field}={','.join(values)} names {text} twice: once is enough")
        label = f"{variant.label}, {field}={text}"
        if of_method:
            switched = {**variant.switches, switch: value}
            found[value] = variant._replace(label=label, switches=switched)
        else:
            found[value] = variant._replace(label=label, fields={**variant.fields, field: value})
    return list(found.values())


def _default(config: ConfigDict, field: str) -> Any:
    """The value of a field; the default of its type if the field has no value yet."""
    *groups, name = field.split(".")
    for group in groups:
        config = config[group]
    return config.get_type(name)() if config[name] is None else config[name]
