"""What the numbers of a configuration may be."""

import math
import re
from typing import Any

from ml_collections import ConfigDict, config_dict

from mla_jax.data.missing import FILLS, RULES
from mla_jax.data.workers import AUTO
from mla_jax.encoders.spread import BATCH_NORMS, GRADIENT_SUMS
from mla_jax.errors import UserError, check_choice

MOST_EPOCHS = 1_000_000
"""A run lists its epochs before it starts."""

LARGEST = 2**31 - 1
LIMITS = {
    "seed": (0, LARGEST),
    "dataset.split_seed": (0, LARGEST),
    "dataset.crop": (0, LARGEST),
    "dataset.noise": (0, math.inf),
    "feature_dim": (1, 65536),
    "optimizer.learning_rate": (0, math.inf),
    "optimizer.momentum": (0, 1),
    "optimizer.beta1": (0, 1),
    "optimizer.clip_norm": (0, math.inf),
    "missing.train": (0, 1),
    "missing.test": (0, 1),
    "missing.seed": (0, LARGEST),
    "optimizer.weight_decay": (0, math.inf),
    "optimizer.decay_every": (0, LARGEST),
    "optimizer.decay_rate": (0, math.inf),
    "optimizer.warmup_epochs": (0, LARGEST),
    "batch_norm_devices": (0, LARGEST),
    "modality_devices": (1, LARGEST),
    "batch_size": (1, LARGEST),
    "epochs": (1, MOST_EPOCHS),
    "evaluation.batch_size": (1, LARGEST),
    "evaluation.every_epochs": (1, LARGEST),
    "telemetry.every_steps": (0, LARGEST),
    "telemetry.examples": (1, LARGEST),
    "checkpoint.every_epochs": (0, LARGEST),
    "checkpoint.every_steps": (0, LARGEST),
    "checkpoint.keep": (1, LARGEST),
    "loader.threads": (1, 256),
    "loader.prefetch": (1, 1024),
    "log_every_steps": (0, LARGEST),
    "check_loss_every": (1, LARGEST),
}
"""The smallest and the largest value of every field of ``base_config`` that is a number."""

WORKERS = (0, 64)
"""Of ``loader.workers``, where it is a number and not ``auto``."""


def require_range(field: str, value: float, low: float, high: float) -> None:
    if not math.isfinite(value):
        raise UserError(f"{field}={value} must be a finite number")
    if not low <= value <= high:
        end = f" and at most {high}" if value > high else ""
        raise UserError(f"{field} must be at least {low}{end}, not {value}")


def any_type(default: Any) -> Any:
    """A field of several types, for which a function here says what it may be."""
    return config_dict.FieldReference(default, field_type=object)


def check_workers(workers: int | str) -> None:
    """Raises ``UserError`` unless ``loader.workers`` is a number of processes or ``auto``."""
    if workers == AUTO:
        return
    if not isinstance(workers, int) or isinstance(workers, bool):
        raise UserError(f"loader.workers must be auto or a whole number, not {workers!r}")
    require_range("loader.workers", workers, *WORKERS)


def check_missing(missing: ConfigDict) -> None:
    """Raises ``UserError`` at a rule without a rate, or at a rate without a rule."""
    check_choice("missing.rule", missing.rule, RULES)
    check_choice("missing.fill", missing.fill, FILLS)
    rates = f"missing.train={missing.train:g} and missing.test={missing.test:g}"
    if missing.rule == "none" and (missing.train or missing.test):
        raise UserError(
            f"{rates} need a rule: set --config.missing.rule to one of {', '.join(RULES[1:])}"
        )
    if missing.masks and missing.rule != "none":
        raise UserError(
            f"missing.masks and missing.rule={missing.rule} both say what is missing: set only "
            "one of them"
        )
    if missing.rule == "six" and (missing.train or missing.test):
        raise UserError(f"missing.rule=six has no rates: leave out {rates}")
    if missing.rule == "bernoulli" and max(missing.train, missing.test) == 1:
        raise UserError("missing.rule=bernoulli needs rates below 1: nothing would be left")


def profiled_batches(text: str) -> tuple[int, int, bool]:
    """First batch, last batch and whether all processes trace; ``(0, 0, False)`` of nothing.

    Raises:
      UserError: it is not ``FROM:TO`` or ``FROM:TO:all``.
    """
    if not text:
        return 0, 0, False
    match = re.fullmatch(r"(\d+):(\d+)(:all)?", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise UserError(
            f"profile={text} must be FROM:TO, two numbers of batches from 1 with the smaller one "
            "first, as in --profile=100:110, or FROM:TO:all for a trace of every process"
        )
    return int(match[1]), int(match[2]), bool(match[3])


def resolve_batch_norm(config: ConfigDict, devices: int) -> None:
    """Sets ``batch_norm_devices``, or raises ``UserError`` where it does not suit the batch."""
    check_choice("batch_norm", config.batch_norm, BATCH_NORMS)
    check_choice("gradient_sum_dtype", config.gradient_sum_dtype, GRADIENT_SUMS)
    given = config.batch_norm_devices
    if config.batch_norm == "global":
        if given:
            raise UserError(
                f"batch_norm_devices={given} is for statistics of each device: set "
                "batch_norm=device as well, or leave it out"
            )
        return
    config.batch_norm_devices = given or max(1, devices // config.modality_devices)
    if config.batch_size % config.batch_norm_devices:
        raise UserError(
            f"batch_size={config.batch_size} does not divide among "
            f"batch_norm_devices={config.batch_norm_devices}: choose another batch size"
        )
