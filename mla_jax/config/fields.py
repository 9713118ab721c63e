"""The configuration: its fields, its arguments, and the checks that turn it into a fixed one."""

import copy
import json
import math
from collections.abc import Mapping
from typing import Any

import jax
from ml_collections import ConfigDict, FrozenConfigDict, config_dict

from mla_jax import datasets, methods
from mla_jax.errors import UserError, check_choice
from mla_jax.functional.optimizers import depends_on_length

PROTOCOLS = ("strict", "paper")
SELECTIONS = ("auto", "validation", "last", "best_test")
COMPUTE_DTYPES = ("auto", "float32", "bfloat16")

NOT_COMPARED = ("check_loss_every", "checkpoint", "dataset.data_dir", "loader", "log_every_steps")
"""Fields that may differ between the two halves of a resumed run: no number depends on them."""


def base_config() -> ConfigDict:
    """Every field with its type and default; a file in ``configs/`` changes what it must."""
    return ConfigDict(
        {
            "seed": 0,
            "dataset": dataset_block("digits"),
            "modalities": ("image", "audio"),
            "encoders": ConfigDict(),  # per modality: name and fields, see mla_jax/encoders
            "feature_dim": 64,  # D, shared by all encoders
            "compute_dtype": "auto",  # float32 on CPU, bfloat16 on TPU and GPU
            "method": method_block("mla"),
            "init_from": "",  # checkpoints to start from, raw or converted, a,b: mla_jax/convert
            "optimizer": ConfigDict(
                {
                    "name": "sgd",  # sgd, adam, adamw, each as torch.optim does it
                    "learning_rate": 1e-3,
                    "momentum": 0.9,
                    "nesterov": False,
                    "weight_decay": 1e-4,  # on every parameter, as the reference does
                    "schedule": "step",  # constant, step, cosine
                    "decay_every": 70,  # epochs between steps of schedule=step; 0: 70 % of epochs
                    "decay_rate": 0.1,
                    "warmup_epochs": 0,
                }
            ),
            "batch_size": 64,  # examples a batch over all devices
            "epochs": 100,
            "protocol": "strict",  # strict: never select on test.  paper: best test epoch
            "selection": "auto",  # auto, validation, last, best_test
            "evaluation": ConfigDict({"batch_size": 64, "every_epochs": 1}),
            "checkpoint": ConfigDict({"every_epochs": 1, "every_steps": 0, "keep": 2}),
            # Processes that load batches (0: threads of this one do); threads and waiting batches
            # in each.  The batches are the same whatever the numbers.
            "loader": ConfigDict({"workers": 0, "threads": 1, "prefetch": 4}),
            "check_loss_every": 50,  # batches between looks at the loss (is it finite?)
        }
    )


def dataset_block(name: str) -> ConfigDict:
    """``config.dataset``; every string may stay empty, which takes the data set's default."""
    return ConfigDict(
        {
            "name": name,
            "path": "",  # digits: another copy of the file; arrays: the folder of arrays
            "data_dir": "data",  # where python -m mla_jax.prepare wrote
            "variant": "",  # of the data set, or the name given to prepare
            "recipe": "",  # how sound is represented: mla_jax/data/audio.py
            "split": "auto",  # a name of the data set's splits; auto: the protocol's
            "split_seed": 0,  # of the splits that are drawn
            "crop": 0,  # side of the square that encoders see of pictures; 0: the data set's own
            "synthetic": False,  # same shapes and classes, nothing real
            "synthetic_sizes": (512, 128, 128),  # train, validation, test
        }
    )


def method_block(name: str, fidelity: str = "paper") -> ConfigDict:
    """``config.method``: the switches of one method, unset unless the user sets them.

    An unset switch (None) takes the value that ``fidelity`` gives it, in ``resolve``.
    """
    module = methods.get(name)

    def unset(value: Any) -> Any:
        if isinstance(value, Mapping):
            return ConfigDict({key: unset(inner) for key, inner in value.items()})
        return config_dict.placeholder(type(value))

    block = ConfigDict({"name": name, "fidelity": fidelity})
    for key, value in module.FIDELITY["paper"].items():
        block[key] = unset(value)
    return block


def parse_arguments(text: str | None, **defaults: Any) -> ConfigDict:
    """Reads the part after the colon of ``--config=file.py:name=value,name=value``.

    Values take the type of their default; a ``tuple`` is written ``image+audio``.

    Raises:
      UserError: an unknown name, or a value of another type.
    """
    arguments = ConfigDict(defaults)
    for item in filter(None, (text or "").split(",")):
        name, equals, value = item.partition("=")
        check_choice("argument of the configuration", name, defaults)
        kind = type(defaults[name])
        if not equals and kind is not bool:
            raise UserError(f"argument '{name}' of the configuration needs a value: {name}=...")
        try:
            if kind is tuple:
                arguments[name] = tuple(value.split("+"))
            elif kind is bool:
                arguments[name] = {"": True, "true": True, "false": False}[value.lower()]
            else:
                arguments[name] = kind(value)
        except (KeyError, ValueError) as error:
            raise UserError(
                f"argument '{name}' of the configuration takes {kind.__name__}, not '{value}'"
            ) from error
    return arguments


def resolve(config: ConfigDict) -> FrozenConfigDict:
    """Checks a configuration and fills in the switches that ``method.fidelity`` stands for.

    Raises:
      UserError: a value that no part of the program would accept.
    """
    config = ConfigDict(copy.deepcopy(config.to_dict()))
    names = [config.modalities] if isinstance(config.modalities, str) else config.modalities
    config.modalities = tuple(m for name in names for m in str(name).replace("+", ",").split(","))
    check_choice("protocol", config.protocol, PROTOCOLS)
    check_choice("selection", config.selection, SELECTIONS)
    check_choice("compute_dtype", config.compute_dtype, COMPUTE_DTYPES)
    for field in ("batch_size", "epochs", "feature_dim", "check_loss_every"):
        _require_positive(field, config[field])
    _require_positive("evaluation.batch_size", config.evaluation.batch_size)
    _require_positive("evaluation.every_epochs", config.evaluation.every_epochs)
    _require_positive("checkpoint.keep", config.checkpoint.keep)
    _require_range("loader.workers", config.loader.workers, 0, 64)
    _require_positive("loader.threads", config.loader.threads)
    _require_positive("loader.prefetch", config.loader.prefetch)
    for field in ("seed", "dataset.split_seed", "dataset.crop"):
        _require_range(field, flatten(config.to_dict())[field], 0, 2**31 - 1)
    check_choice("dataset.name", config.dataset.name, datasets.REGISTRY)
    if config.dataset.split == "auto":
        config.dataset.split = datasets.default_split(config.dataset.name, config.protocol)
    optimizer = config.optimizer
    _require_range("optimizer.learning_rate", optimizer.learning_rate, 0, math.inf)
    _require_range("optimizer.momentum", optimizer.momentum, 0, 1)
    _require_range("optimizer.weight_decay", optimizer.weight_decay, 0, math.inf)
    _require_range("optimizer.decay_every", optimizer.decay_every, 0, math.inf)
    _require_range("optimizer.decay_rate", optimizer.decay_rate, 0, math.inf)
    _require_range("optimizer.warmup_epochs", optimizer.warmup_epochs, 0, math.inf)
    if config.compute_dtype == "auto":  # bfloat16 gains nothing on CPU, and loses much
        on_cpu = jax.default_backend() == "cpu"
        config.compute_dtype = "float32" if on_cpu else "bfloat16"
    if len(set(config.modalities)) != len(config.modalities):
        raise UserError(f"modalities name one twice: {'+'.join(config.modalities)}")
    for name in config.modalities:
        if name in datasets.RESERVED_NAMES:
            raise UserError(f"no modality may be called '{name}', a name of results: rename it")
    if config.selection == "best_test" and config.protocol != "paper":
        raise UserError(
            "selection=best_test chooses the epoch on the test set: set protocol=paper as well, "
            "which labels the result so, or select on validation or last"
        )
    config.method = ConfigDict(resolve_switches(config.method.to_dict()))
    return FrozenConfigDict(config)


def resolve_switches(block: Mapping[str, Any]) -> dict[str, Any]:
    """``config.method`` with every unset switch at its fidelity's value, and all values checked."""
    if not isinstance(block, Mapping):
        raise UserError(f"config.method is a group of switches: choose one with :method={block}")
    name, fidelity = block["name"], block["fidelity"]
    module = methods.get(name)
    check_choice(f"fidelity of method '{name}'", fidelity, module.FIDELITY)
    preset = _merge(module.FIDELITY["paper"], module.FIDELITY[fidelity])
    chosen = {k: v for k, v in flatten(block).items() if v is not None}
    known = flatten(preset)
    for field, value in chosen.items():
        if field in ("name", "fidelity"):
            continue
        check_choice(f"switch of method '{name}'", field, known)
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"method.{field}={value} must be a finite number")
        known[field] = value
    for field, allowed in module.CHOICES.items():
        check_choice(f"value of method.{field}", known[field], allowed)
    return {"name": name, "fidelity": fidelity, **_unflatten(known)}


def override(config: ConfigDict, overrides: Mapping[str, Any]) -> None:
    """Applies ``{"optimizer.learning_rate": 0.02}``; fields that ``config`` lacks are an error."""
    known = flatten(config.to_dict())
    for field, value in overrides.items():
        check_choice("configuration field", field, known)
        with config.unlocked():
            config.update_from_flattened_dict({field: value})


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"a": {"b": 1}}`` as ``{"a.b": 1}``."""
    flat = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        flat.update(flatten(value, path + ".") if isinstance(value, Mapping) else {path: value})
    return flat


def to_json(config: ConfigDict | FrozenConfigDict) -> dict[str, Any]:
    """The configuration as plain JSON values: what ``config.json`` holds."""
    return json.loads(json.dumps(config.to_dict()))


def differing_fields(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """The fields on which two ``to_json`` configurations differ, as ``name: saved -> current``."""
    a, b = flatten(saved), flatten(current)
    names = sorted(a.keys() | b.keys())
    if a.get("method.name") != b.get("method.name"):  # their switches cannot be compared
        names = [n for n in names if n == "method.name" or not n.startswith("method.")]
    return [
        f"{name}: {a.get(name)} -> {b.get(name)}"
        for name in names
        if a.get(name) != b.get(name) and not name.startswith(NOT_COMPARED)
    ]


def extension_problem(saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Why the epochs of ``saved`` are not the first ones of the longer run ``wanted``, if so.

    Both are ``to_json`` configurations that differ in ``epochs`` only.
    """
    schedule = depends_on_length(ConfigDict(wanted["optimizer"]))
    if schedule:
        return schedule
    reason = getattr(methods.get(wanted["method"]["name"]), "DEPENDS_ON_EPOCHS", "")
    if reason:
        return reason
    every = wanted["evaluation"]["every_epochs"]
    if saved["epochs"] % every and wanted["selection"] != "last":
        return (
            f"epoch {saved['epochs']} was evaluated as its last one, which "
            f"evaluation.every_epochs={every} would skip, and may have been selected"
        )
    return ""


def _require_positive(field: str, value: int) -> None:
    if value < 1:
        raise UserError(f"{field} must be at least 1, not {value}")


def _require_range(field: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        end = f"and at most {high}" if math.isfinite(high) else ""
        raise UserError(f"{field} must be at least {low} {end}".rstrip() + f", not {value}")


def _merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        merged[key] = _merge(base[key], value) if isinstance(value, Mapping) else value
    return merged


def _unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, leaf = path.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return tree
