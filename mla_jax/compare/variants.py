"""The rows of a comparison (methods and variants of them), and the runs that a row needs."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from absl import flags
from ml_collections import ConfigDict

from mla_jax import methods
from mla_jax.compare.published import TABLE2
from mla_jax.config import command_line, fields, files
from mla_jax.datasets import load_dataset
from mla_jax.errors import UserError, check_choice
from mla_jax.program import Program, build_program, masked
from mla_jax.runs.selection import Selector

FORM = "NAME:field=value+field=value"
TAKES = {int: "an integer", float: "a number", tuple: "values separated by slashes (0.5/0.5)"}
LONGEST = 80
"""How many characters of a folder's name are readable; a hash follows them."""


class Variant(NamedTuple):
    """A row of the comparison: a method, and the switches that this row sets itself."""

    label: str
    """The entry of ``--methods``, as typed."""
    method: str
    switches: dict[str, Any]
    """``{"fidelity": "released", "projection.enabled": False}``; empty for a plain method."""
    fields: Mapping[str, Any] = MappingProxyType({})
    """Fields of the configuration, other than the method's, that ``--vary`` sets:
    ``{"optimizer.learning_rate": 0.1}``."""
    defaults: Mapping[str, Any] = MappingProxyType({})
    """Fields that a study sets for all rows, unless the command line does."""

    @property
    def folder(self) -> str:
        """The folder of its runs: the method's name, or the variant in characters safe for a path.

        Equal variants share one folder, however they were typed.  The hash separates all others.
        """
        if not self.switches and not self.fields:
            return self.method
        text = f"{self.method}:{_settings(self.switches)}"
        if self.fields:
            text += f",{_settings(self.fields)}"
        readable = re.sub("[^A-Za-z0-9._]+", "-", text)[:LONGEST].strip("-.")
        return f"{readable}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _settings(values: Mapping[str, Any]) -> str:
    return "+".join(f"{field}={value}" for field, value in sorted(values.items()))


class Part(NamedTuple):
    """The runs of a row, or of one modality if the method trains one modality at a time."""

    folder: str
    config: ConfigDict
    program: Program
    fingerprint: str
    """The fingerprint of the data set."""
    selection: str = ""
    """The rule that chooses the epoch (``runs/selection.py``)."""


def parse_variants(entries: Sequence[str]) -> list[Variant]:
    """The rows of ``--methods``, without duplicates.

    ``all`` is every method that is not about missing modalities, ``table2`` the methods of Table 2
    of the MLA paper.

    Raises:
      UserError: ``--methods`` is empty, or an entry is misspelt.
    """
    found: dict[str, Variant] = {}
    for entry in entries:
        for name in group(entry):
            variant = parse_variant(name)
            found.setdefault(variant.folder, variant)
    if not found:
        raise UserError("--methods is empty: give methods, for example concat,mla, or 'all'")
    return list(found.values())


def group(entry: str) -> Sequence[str]:
    """The methods of a group such as ``all``; any other entry is returned as it is."""
    if entry == "all":
        return [name for name in methods.REGISTRY if not methods.handles_missing(name)]
    return TABLE2 if entry == "table2" else [entry]


def parse_variant(entry: str) -> Variant:
    """Reads ``NAME`` or ``NAME:field=value+field=value``.

    Raises:
      UserError: an unknown method or switch, a value of the wrong type, or the wrong form.

    >>> parse_variant("mla:projection.enabled=false+fusion=fixed").switches
    {'projection.enabled': False, 'fusion': 'fixed'}
    """
    name, colon, settings = entry.partition(":")
    defaults = {"fidelity": "paper", **fields.flatten(methods.get(name).FIDELITY["paper"])}
    switches: dict[str, Any] = {}
    for setting in settings.split("+") if colon else ():
        field, equals, text = setting.partition("=")
        if not equals:
            raise UserError(f"--methods has '{entry}': write a variant as {FORM}")
        check_choice(f"switch of method '{name}'", field, defaults)
        if field in switches:
            raise UserError(f"--methods has '{entry}', which sets '{field}' twice: set it once")
        switches[field] = parse_value(f"method.{field}", text, defaults[field])
    return Variant(entry, name, switches)


def parse_value(field: str, text: str, default: Any) -> Any:
    """``text`` in the type of the field's default; a tuple is written ``0.5/0.5``.

    The elements of a tuple whose default is empty are taken for numbers.

    Raises:
      UserError: the text is not a value of this type.
    """
    kind = type(default)
    if kind is bool:
        check_choice(f"value of {field}", text.lower(), ("true", "false"))
        return text.lower() == "true"
    try:
        if kind is tuple:
            element = type(default[0]) if default else float
            return tuple(map(element, text.split("/") if text else ()))
        return kind(text)
    except ValueError as error:
        raise UserError(f"{field} takes {TAKES[kind]}, not '{text}'") from error


def parts_of(variant: Variant) -> list[Part]:
    """One part, or one per modality (``methods.trains_one_modality``); nothing is compiled yet.

    Raises:
      UserError: the configuration or the data cannot be used.
    """
    configs = {variant.folder: config_of(variant)}
    if methods.trains_one_modality(variant.method):
        modalities = fields.resolve(configs[variant.folder]).modalities
        configs = {f"{variant.folder}-{m}": config_of(variant, modalities=m) for m in modalities}
    parts = []
    for folder, config in configs.items():
        resolved = fields.resolve(config)
        dataset = masked(resolved, load_dataset(resolved.dataset, resolved.modalities))
        rule = Selector(resolved, dataset.spec()).rule
        program = build_program(resolved, dataset)
        parts.append(Part(folder, config, program, dataset.fingerprint, rule))
    return parts


def config_of(variant: Variant, **arguments: str) -> ConfigDict:
    """The configuration of the command line, for the method of a row.

    ``--config.method.x`` applies to the methods that have a switch x, and a fidelity to those that
    have it; the others stay at ``paper``.  What the variant itself sets takes precedence over both.
    """
    filename = command_line.config_filename()
    chosen = {"method": variant.method, "fidelity": "paper", **arguments}
    bare = files.load_config(filename, arguments=chosen)
    known = fields.flatten(bare.to_dict())
    overrides = {
        field: value
        for field, value in command_line.config_overrides().items()
        if (field in known or not field.startswith("method.")) and field not in arguments
    }
    fidelity = overrides.pop("method.fidelity", flags.FLAGS.config.method.fidelity)
    if fidelity in methods.get(variant.method).FIDELITY:
        overrides["method.fidelity"] = fidelity
    overrides |= {f"method.{field}": value for field, value in variant.switches.items()}
    overrides |= {f: value for f, value in variant.fields.items() if f not in arguments}
    overrides.setdefault("checkpoint.every_epochs", 0)  # short runs: keep only the last checkpoint
    overrides = {**variant.defaults, **overrides}
    return files.load_config(filename, overrides, chosen)
