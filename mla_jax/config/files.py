"""Configuration files: finding them, beside the user or inside the package, and calling them."""

import importlib.machinery
import importlib.util
import pathlib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from mla_jax.config import fields
from mla_jax.errors import UserError

PACKAGED = "mla_jax.configs"


def load_config(
    filename: str,
    overrides: Mapping[str, Any] | None = None,
    arguments: Mapping[str, str] | None = None,
) -> ConfigDict:
    """The configuration of ``FILE`` or ``FILE:name=value,...``, as ``--config=`` takes it.

    Args:
      filename: of ``configs/``, or of your own; see ``find``.
      overrides: fields to set, ``{"optimizer.learning_rate": 0.02}``.
      arguments: more of what may stand after the colon, ``{"method": "concat"}``.

    Raises:
      UserError: there is no such file, it has no ``get_config``, or an unknown field.

    >>> load_config("configs/digits.py:method=concat", {"epochs": 5}).epochs
    5
    """
    name, _, text = filename.partition(":")
    path = find(name)
    loader = importlib.machinery.SourceFileLoader("mla_jax_config", str(path))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    try:
        loader.exec_module(module)
    except (SyntaxError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a configuration file: not Python ({error})") from error
    if not hasattr(module, "get_config"):
        raise UserError(f"{path} is not a configuration file: it has no function get_config")
    items = dict(item.partition("=")[::2] for item in filter(None, text.split(",")))
    items.update(arguments or {})
    config = module.get_config(",".join(f"{k}={v}" if v else k for k, v in items.items()))
    fields.override(config, overrides or {})
    return config


def find(name: str) -> pathlib.Path:
    """The path of a configuration file: as given, else the package's own file of that name.

    So ``configs/digits.py`` is found where mla_jax was installed without its repository.

    Raises:
      UserError: there is neither.
    """
    path = pathlib.Path(name)
    if path.is_file():
        return path
    folder = packaged_folder()
    if folder and len(path.parts) <= 2 and path.parent.name in ("", "configs"):
        packaged = folder / path.name
        if packaged.is_file():
            return packaged
    where = path.parent if path.parent.is_dir() else folder or path.parent
    there = ", ".join(sorted(p.name for p in where.glob("*.py"))) or "nothing"
    raise UserError(f"there is no configuration file {path} (in {where}: {there})")


def packaged_folder() -> pathlib.Path | None:
    """Where the package's own configuration files are; None where it has none.

    In an installed package they are ``mla_jax/configs``, in the repository ``configs``.
    """
    spec = importlib.util.find_spec(PACKAGED)
    places = list(spec.submodule_search_locations or ()) if spec else []
    places.append(pathlib.Path(__file__).parents[2] / "configs")
    return next((p for p in map(pathlib.Path, places) if (p / "digits.py").is_file()), None)
