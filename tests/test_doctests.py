"""Every public name has an example in its docstring, and every example is true.

Examples take ``import jax, mla_jax, optax``, ``jax.numpy as jnp`` and ``numpy as np``.  Arrays
are printed with three digits.  Those of a run use ``runs/mfeat``, which that of ``train`` makes.
"""

import doctest
import importlib
import inspect
import pkgutil
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mla_jax
from mla_jax import functional

FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
NAMES = {"jax": jax, "jnp": jnp, "mla_jax": mla_jax, "np": np, "optax": optax}
OF_A_RUN = ("Predictions", "Representation", "Run", "features", "open_run")
"""Their examples open what that of ``train`` has trained."""


def public() -> dict[str, object]:
    """Functions and classes by name: of the front door, and of the modules in ``functional``."""
    front_door = {f"mla_jax.{name}": getattr(mla_jax, name) for name in mla_jax.__all__}
    found = {n: v for n, v in front_door.items() if not isinstance(v, str | types.ModuleType)}
    found["mla_jax.train"] = mla_jax.train.train  # a module that can be called
    for module in pkgutil.iter_modules(functional.__path__):
        home = importlib.import_module(f"mla_jax.functional.{module.name}")
        for name, value in vars(home).items():
            mine = getattr(value, "__module__", "") == home.__name__
            shown = inspect.isfunction(value) or inspect.isclass(value)
            if mine and shown and not name.startswith("_"):
                found[f"{module.name}.{name}"] = value
    return found


PUBLIC = public()


def examples_of(name: str) -> doctest.DocTest:
    text = inspect.getdoc(PUBLIC[name]) or ""
    return doctest.DocTestParser().get_doctest(text, dict(NAMES), name, None, None)


def check(name: str) -> None:
    """Runs the examples of a name; the report of the first that fails is the message."""
    told: list[str] = []
    runner = doctest.DocTestRunner(verbose=False, optionflags=FLAGS)
    with np.printoptions(precision=3, suppress=True):
        runner.run(examples_of(name), out=told.append)
    assert runner.failures == 0, "".join(told)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder in which the example of ``train`` has run."""
    folder = tmp_path_factory.mktemp("examples")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        check("mla_jax.train")
    return folder


@pytest.mark.parametrize("name", PUBLIC)
def test_examples(name, request, monkeypatch):
    shown = [e for e in examples_of(name).examples if doctest.SKIP not in e.options]
    assert shown, f"{name} has no example: add one to its docstring"
    if name.rpartition(".")[2] in OF_A_RUN or name == "mla_jax.train":
        monkeypatch.chdir(request.getfixturevalue("trained"))
    if name != "mla_jax.train":  # that one has run
        check(name)
