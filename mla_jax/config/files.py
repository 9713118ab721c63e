"""Configuration files: where they are, and how they are loaded."""

import importlib.machinery
import importlib.util
import os
import pathlib
import sys
import traceback
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from mla_jax.config import fields
from mla_jax.errors import UserError

FOLDER = "configs"


def load_config(
    filename: str | os.PathLike[str],
    overrides: Mapping[str, Any] | None = None,
    arguments: Mapping[str, str] | None = None,
) -> ConfigDict:
    """The configuration of ``FILE`` or ``FILE:name=value,...``, as ``--config=`` takes it.

    Args:
      filename: of a file in ``configs/``, or of your own file; see ``find``.
      overrides: fields to set, ``{"optimizer.learning_rate": 0.02}``.
      arguments: further arguments, as after the colon: ``{"method": "concat"}``.

    Raises:
      UserError: there is no such file, it is not a configuration file, or a field is unknown.

    >>> config = mla_jax.load_config("configs/digits.py:method=concat", {"epochs": 5})
    >>> config.method.name, config.epochs, config.optimizer.learning_rate
    ('concat', 5, 0.05)
    """
    name, colon, text = os.fspath(filename).partition(":")
    path = find(name)
    loader = importlib.machinery.SourceFileLoader("mla_jax_config", str(path))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None  # because a loader was given
    module = importlib.util.module_from_spec(spec)
    sys.modules[loader.name] = module  # dataclasses in the file look their module up
    try:
        code = loader.get_code(loader.name)
    except (SyntaxError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a configuration file: not Python ({error})") from error
    except OSError as error:
        raise UserError(f"cannot read the configuration file {path}: {error.strerror}") from error
    items = {item.partition("=")[0]: item for item in filter(None, text.split(","))}
    items |= {name: f"{name}={value}" for name, value in (arguments or {}).items()}
    argument = ",".join(items.values())
    try:
        exec(code or "", module.__dict__)
        if not callable(getattr(module, "get_config", None)):
            raise UserError(f"{path} is not a configuration file: it has no function get_config")
        config = module.get_config(argument) if argument or colon else module.get_config()
    except UserError:
        raise
    except Exception as error:  # a user's file may raise anything
        raise UserError(f"{_line_of(error, path)} fails ({_sentence(error)}): fix it") from error
    if not isinstance(config, ConfigDict):
        raise UserError(
            f"get_config of {path} returns {type(config).__name__}: it must return the ConfigDict "
            "that it made with fields.base_config()"
        )
    fields.override(config, overrides or {})
    return config


def _line_of(error: Exception, path: pathlib.Path) -> str:
    """The last line of a configuration file that an error went through, as ``FILE, line 3``."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    return f"{path}, line {lines[-1]}" if lines else str(path)


def _sentence(error: Exception) -> str:
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def find(name: str) -> pathlib.Path:
    """The path of a configuration file.

    A path that exists is taken as it is.  Otherwise ``configs/NAME.py`` is the package's own file
    of that name, so that ``configs/digits.py`` works wherever mla_jax is installed.

    Raises:
      UserError: there is no such file.
    """
    if not name:
        raise UserError(
            "no configuration file is named: give --config=FILE, for example "
            "--config=configs/digits.py"
        )
    path = pathlib.Path(name)
    if os.path.isfile(path):
        return path
    packaged = packaged_folder()
    if path.parent == pathlib.Path(FOLDER) and os.path.isfile(packaged / path.name):
        return packaged / path.name
    where = path.parent if os.path.isdir(path.parent) else packaged
    there = ", ".join(sorted(p.name for p in where.glob("*.py"))) or "no Python files"
    raise UserError(f"there is no configuration file {path} (in {where}: {there})")


def packaged_folder() -> pathlib.Path:
    """The folder of the package's own configuration files.

    It is ``mla_jax/configs`` in an installed package and ``configs`` in a clone.
    """
    package = pathlib.Path(__file__).parents[1]
    installed = package / FOLDER
    return installed if installed.is_dir() else package.parent / FOLDER
