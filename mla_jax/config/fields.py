"""The fields of a configuration, its arguments, and the checks that resolve it."""

import copy
import json
import math
from collections.abc import Mapping
from typing import Any

import jax
from ml_collections import ConfigDict, FrozenConfigDict, config_dict

from mla_jax import datasets, methods
from mla_jax.config import limits
from mla_jax.config.limits import LIMITS, require_range
from mla_jax.errors import UserError, check_choice
from mla_jax.functional.heads import INITIALIZATIONS
from mla_jax.functional.optimizers import depends_on_length

PROTOCOLS = ("strict", "paper")
SELECTIONS = ("auto", "validation", "last", "best_test")
COMPUTE_DTYPES = ("auto", "float32", "bfloat16")
ABSENT = ("auto", "skip", "zeros")

WITH_PYTORCH_HEADS = ("cavmae_audio", "cavmae_visual", "features", "m3ae_image", "m3ae_text")
"""The encoders whose classifiers the MLA code leaves as PyTorch initialises them; it calls its
``weight_init`` on the ResNet classifier only (``main.py:718``)."""

OPEN_GROUPS = {"encoders", "method"}
"""Groups whose fields depend on the modalities and on the method."""

NOT_COMPARED = (
    "check_loss_every", "checkpoint", "dataset.data_dir", "dataset.stage_dir", "loader",
    "log_every_steps", "missing.masks", "modality_devices", "profile", "telemetry",
)  # fmt: skip
"""Fields that a resumed run may change, because no result depends on them, but for rounding."""


def base_config() -> ConfigDict:
    """Every field with its type and default.  A file in ``configs/`` changes what it needs."""
    return ConfigDict(
        {
            "seed": 0,
            "dataset": dataset_block("digits"),
            "modalities": ("image", "audio"),
            "encoders": ConfigDict(),  # per modality: name and fields, see mla_jax/encoders
            "feature_dim": 64,  # D, shared by all encoders
            # How linear layers on features start: see mla_jax/functional/heads.py.  auto: xavier
            # under fidelity=paper; else as published: torch for the classifiers of transformers and
            # stored features, xavier_untruncated for the others.
            "head_init": "auto",
            "compute_dtype": "auto",  # float32 on CPU, bfloat16 on TPU and GPU
            "method": method_block("mla"),
            "init_from": "",  # checkpoints to start from, raw or converted, as a,b
            "optimizer": ConfigDict(
                {
                    "name": "sgd",  # sgd, adam, adamw, as in torch.optim
                    "learning_rate": 1e-3,
                    "momentum": 0.9,  # sgd
                    "nesterov": False,  # sgd
                    "beta1": 0.9,  # adam, adamw
                    "clip_norm": 0.0,  # of the gradient of each encoder and head; 0: not clipped
                    "weight_decay": 1e-4,  # on every parameter, as in the reference
                    # constant, step, cosine, linear (to 0, after the first 20 % of the epochs)
                    "schedule": "step",
                    "decay_every": 70,  # epochs per step of schedule=step; 0: 70 % of epochs
                    "decay_rate": 0.1,
                    "warmup_epochs": 0,
                }
            ),
            "batch_size": 64,  # examples per batch, over all devices
            # Statistics of batch normalisation in training: global, of the whole batch; device, of
            # each device's part of it, as in DataParallel, and of how many devices (0: of the run).
            "batch_norm": "global",
            "batch_norm_devices": 0,
            # The type in which the devices' gradients are summed: compute, as computed, or float32.
            "gradient_sum_dtype": "compute",
            # How many devices share the encoders of many alike modalities between them.
            "modality_devices": 1,
            # Unset: leave out the last, partial batch of an epoch under fidelity=paper only.  The
            # published code trains on it.
            "drop_last": config_dict.placeholder(bool),
            # What methods make of a missing modality: skip it, or take it for an input of zeros
            # (as the published code does).  auto: skip under fidelity=paper and for the methods
            # that are about missing modalities, else zeros.
            "absent": "auto",
            # Masks that hide modalities of the examples: see mla_jax/data/missing.py.
            "missing": ConfigDict(
                {
                    "rule": "none",  # none, rate, bernoulli, six, fraction
                    "train": 0.0,  # rate in the training split
                    "test": 0.0,  # rate in the test and the validation split
                    "seed": 0,  # of the masks; they do not depend on config.seed
                    "fill": "zero",  # what stands for a missing input: zero, train_mean
                    "masks": "",  # an .npz file with the masks, in the place of a rule
                }
            ),
            "epochs": 100,
            "protocol": "strict",  # strict: never select on test.  paper: best test epoch
            "selection": "auto",  # auto, validation, last, best_test
            "evaluation": ConfigDict({"batch_size": 64, "every_epochs": 1}),
            # What a run measures of its imbalance: mla_jax/telemetry.  every_steps: batches from
            # one measurement to the next, 0: none; examples: of the probe batch.
            "telemetry": ConfigDict({"every_steps": 0, "examples": 256}),
            "checkpoint": ConfigDict({"every_epochs": 1, "every_steps": 0, "keep": 2}),
            # The number of processes that load batches (0: this process does; auto: as suits the
            # data and the cores), and for each of them the number of threads and of batches held
            # ready.  The batches do not depend on these numbers.
            "loader": ConfigDict({"workers": limits.any_type("auto"), "threads": 1, "prefetch": 4}),
            "check_loss_every": 50,  # batches per check that the loss is finite
            "log_every_steps": 50,  # batches per line about loss and speed; 0: none
            # FROM:TO: a jax.profiler trace of these batches, counted from 1; FROM:TO:all: of every
            # process, not of the first alone.
            "profile": "",
        }
    )


def dataset_block(name: str) -> ConfigDict:
    """``config.dataset``.  An empty string stands for the data set's default."""
    return ConfigDict(
        {
            "name": name,
            "path": "",  # digits: another copy of its file; arrays: the folder of the arrays
            "data_dir": "data",  # where python -m mla_jax.prepare wrote; also gs://BUCKET/FOLDER
            "stage_dir": "",  # where data of a bucket is copied to; empty: the temporary folder
            "variant": "",  # a variant of the data set, or the name given to prepare
            "recipe": "",  # how sound is represented: mla_jax/data/audio.py
            "split": "auto",  # the name of a split; auto: the one of the protocol
            "split_seed": 0,  # for splits that are drawn at random
            "crop": 0,  # side of the square cut from pictures, in pixels; 0: the data set's own
            "noise": 0.0,  # deviation of one fixed pattern added to pictures within [0, 1]
            "synthetic": False,  # generated data of the same shapes and classes
            "synthetic_sizes": (512, 128, 128),  # train, validation, test
        }
    )


def method_block(name: str, fidelity: str = "paper") -> ConfigDict:
    """``config.method``: the switches of one method, all unset (None).

    ``resolve`` gives every switch that is still unset the value that ``fidelity`` stands for.
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

    A value has the type of its default, or of its empty placeholder.  A ``tuple`` is written
    ``image+audio``, and a flag that is True is written as its name alone.

    Raises:
      UserError: an unknown name, or a value of another type.
    """
    arguments = ConfigDict(defaults)
    for item in filter(None, (text or "").split(",")):
        name, equals, value = item.partition("=")
        check_choice("argument of the configuration", name, defaults)
        kind = arguments.get_type(name)
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


def resolve(config: ConfigDict, devices: int = 0) -> FrozenConfigDict:
    """Checks a configuration for so many devices (0: all there are), and fills in what follows:
    its split, compute type and the method's switches, among others.

    Raises:
      UserError: a value is not valid.
    """
    if not isinstance(config, ConfigDict):
        raise UserError(
            f"a configuration is needed, not {type(config).__name__}: mla_jax.load_config makes "
            "one of a file"
        )
    config = ConfigDict(copy.deepcopy(config.to_dict()))
    _check_names(config)
    names = [config.modalities] if isinstance(config.modalities, str) else config.modalities
    config.modalities = tuple(m for name in names for m in str(name).replace("+", ",").split(","))
    check_choice("protocol", config.protocol, PROTOCOLS)
    check_choice("selection", config.selection, SELECTIONS)
    check_choice("compute_dtype", config.compute_dtype, COMPUTE_DTYPES)
    for field, value in flatten(config.to_dict()).items():
        if field in LIMITS:
            require_range(field, value, *LIMITS[field])
    limits.check_workers(config.loader.workers)
    warmup = config.optimizer.warmup_epochs
    if warmup > config.epochs:
        raise UserError(
            f"optimizer.warmup_epochs={warmup} is more than epochs={config.epochs}, so the "
            "learning rate would never be reached: lower it, or train for longer"
        )
    check_choice("dataset.name", config.dataset.name, datasets.REGISTRY)
    if config.dataset.split == "auto":
        config.dataset.split = datasets.default_split(config.dataset.name, config.protocol)
    if config.compute_dtype == "auto":  # bfloat16 is slower on a CPU
        on_cpu = jax.default_backend() == "cpu"
        config.compute_dtype = "float32" if on_cpu else "bfloat16"
    if not config.modalities:
        raise UserError("config.modalities is empty: name at least one modality")
    if "" in config.modalities:
        raise UserError(
            f"modalities={'+'.join(config.modalities)} has an empty name: write them as in a+b"
        )
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
    paper = config.method.fidelity == "paper"
    if config.drop_last is None:
        config.drop_last = paper
    check_choice("absent", config.absent, ABSENT)
    if config.absent == "auto":
        skip = paper or methods.handles_missing(config.method.name)
        config.absent = "skip" if skip else "zeros"
    limits.check_missing(config.missing)
    limits.profiled_batches(config.profile)
    limits.resolve_batch_norm(config, devices or jax.device_count())
    check_choice("head_init", config.head_init, ("auto", *INITIALIZATIONS))
    if config.head_init == "auto":
        groups = [e for e in config.encoders.values() if isinstance(e, ConfigDict)]
        with_torch = any(e.get("name") in WITH_PYTORCH_HEADS for e in groups)
        published = "torch" if with_torch else "xavier_untruncated"
        config.head_init = "xavier" if paper else published
    return FrozenConfigDict(config)


def _check_names(config: ConfigDict) -> None:
    """Raises ``UserError`` at a field that only a configuration file can have made up.

    Those of the encoders and of the method are checked where these are made.
    """
    known = flatten(base_config().to_dict()).keys() | OPEN_GROUPS
    for field in flatten(config.to_dict()):
        group = field.partition(".")[0]
        check_choice("configuration field", group if group in OPEN_GROUPS else field, known)


def resolve_switches(block: Mapping[str, Any]) -> dict[str, Any]:
    """``config.method`` checked, with every unset switch at the value of its fidelity."""
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
    for field, bounds in getattr(module, "LIMITS", {}).items():
        require_range(f"method.{field}", known[field], *bounds)
    for field, allowed in module.CHOICES.items():
        check_choice(f"value of method.{field}", known[field], allowed)
    return {"name": name, "fidelity": fidelity, **_unflatten(known)}


def override(config: ConfigDict, overrides: Mapping[str, Any]) -> None:
    """Sets fields, as in ``{"optimizer.learning_rate": 0.02}``.

    Raises:
      UserError: ``config`` has no such field, or the field is of another type.
    """
    known = flatten(config.to_dict())
    for field, value in overrides.items():
        check_choice("configuration field", field, known)
        try:
            with config.unlocked():
                config.update_from_flattened_dict({field: value})
        except (TypeError, ValueError) as error:
            kind = type(known[field]).__name__
            raise UserError(f"configuration field '{field}' takes {kind}, not {value!r}") from error


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"a": {"b": 1}}`` as ``{"a.b": 1}``."""
    flat = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        flat.update(flatten(value, path + ".") if isinstance(value, Mapping) else {path: value})
    return flat


def to_json(config: ConfigDict | FrozenConfigDict) -> dict[str, Any]:
    """The configuration as plain JSON values, as ``config.json`` holds them."""
    return json.loads(json.dumps(config.to_dict()))


def completed(saved: Mapping[str, Any]) -> dict[str, Any]:
    """A saved ``to_json`` configuration with the defaults of the fields it was too old to have.

    Raises:
      UserError: a field is of another type.
    """
    defaults = to_json(base_config())
    # Before there was a choice:
    defaults |= {"drop_last": True, "absent": "skip", "head_init": "xavier"}
    # A switch that a method gets later on leaves ``paper`` as it was.
    module = methods.REGISTRY.get(saved["method"]["name"])
    defaults["method"] = json.loads(json.dumps(module.FIDELITY["paper"])) if module else {}
    merged = _merge(defaults, saved)
    values = flatten(merged)
    for field, default in flatten(defaults).items():
        kinds: Any = (int, float) if isinstance(default, float) else type(default)
        kinds = (int, str) if field == "loader.workers" else kinds
        if not isinstance(values.get(field), kinds):
            raise UserError(
                f"the saved configuration has {field}={values.get(field)}, which must be like "
                f"{default}: it was changed or is damaged"
            )
    return merged


def differing_fields(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """The fields on which two ``to_json`` configurations differ, as ``name: saved -> current``."""
    a, b = flatten(saved), flatten(current)
    names = sorted(a.keys() | b.keys())
    if a.get("method.name") != b.get("method.name"):  # and so different switches
        names = [n for n in names if n == "method.name" or not n.startswith("method.")]
    return [
        f"{name}: {a.get(name)} -> {b.get(name)}"
        for name in names
        if a.get(name) != b.get(name) and not name.startswith(NOT_COMPARED)
    ]


def extension_problem(saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Why a run of ``saved`` cannot be extended to the epochs of ``wanted``; empty if it can.

    It can if its epochs are the same as the first ones of the longer run.  Both are ``to_json``
    configurations that differ in ``epochs`` only.
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


def _merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        nested = isinstance(value, Mapping) and isinstance(base.get(key), Mapping)
        merged[key] = _merge(base[key], value) if nested else value
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
