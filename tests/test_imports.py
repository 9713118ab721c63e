"""The size of the house, and what importing it must never bring along."""

import ast
import os
import pathlib
import pkgutil
import subprocess
import sys

import pytest

import mla_jax

PACKAGE = pathlib.Path(mla_jax.__file__).parent
ROOT = PACKAGE.parent
FOREIGN = ("tensorflow", "torch", "torchvision", "jaxlib.tensorflow", "sklearn")
BUILD = "mla_jax.datasets.digits.build"  # needs the extra "digits" and runs once in a lifetime
MODULES = [
    module.name
    for module in pkgutil.walk_packages([str(PACKAGE)], "mla_jax.")
    if module.name != BUILD and not module.name.endswith("__main__")
]
FILES = sorted(
    path for folder in ("mla_jax", "configs", "tests") for path in (ROOT / folder).rglob("*.py")
)


def imported_by(modules) -> list[str]:
    """The foreign packages in ``sys.modules`` after a new process has imported ``modules``."""
    lines = ["import importlib, sys", f"for m in {list(modules)}: importlib.import_module(m)"]
    lines.append(f"print([m for m in {FOREIGN} if m in sys.modules])")
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return eval(done.stdout.splitlines()[-1])


def test_importing_everything_brings_neither_tensorflow_nor_torch():
    assert len(MODULES) > 20
    assert imported_by(MODULES) == []


@pytest.mark.parametrize("module", [False, True])
def test_importing_the_package_alone_does_not_start_jax_nor_change_the_process(module, tmp_path):
    """Also where it is imported by the package whose module Python was told to run by ``-m``."""
    lines = ["import gc, sys", "before = gc.get_threshold()", "import mla_jax"]
    lines.append("print('jax' in sys.modules, gc.get_threshold() == before)")
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "__init__.py").write_text("\n".join(lines))
    (tmp_path / "theirs" / "main.py").write_text("")
    done = subprocess.run(
        [sys.executable, *(["-m", "theirs.main"] if module else ["-c", "import theirs"])],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["False", "True"]


def test_preparing_data_does_not_start_jax():
    done = subprocess.run(
        [sys.executable, "-c", "import mla_jax.prepare.work, sys; print('jax' in sys.modules)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_file_length(path):
    most = {PACKAGE / "main.py": 70, PACKAGE / "train.py": 350}.get(path, 400)
    assert len(path.read_text().splitlines()) <= most


def test_no_file_is_named_after_nothing():
    names = {path.name for path in FILES}
    assert not names & {"utils.py", "helpers.py", "misc.py", "common.py"}
    assert {"main.py", "train.py", "mla.py"} <= names


def without_encoding(path: pathlib.Path) -> list[int]:
    """The lines that read or write text and do not say how it is encoded."""
    found = []
    for call in ast.walk(ast.parse(path.read_bytes())):
        if not isinstance(call, ast.Call) or any(k.arg == "encoding" for k in call.keywords):
            continue
        method = getattr(call.func, "attr", "")
        modes = [a.value for a in call.args if isinstance(a, ast.Constant)]
        opens = getattr(call.func, "id", "") == "open"
        opens = opens or (method == "open" and bool(modes or not call.args))  # not Image.open(path)
        if method in ("read_text", "write_text") or (opens and not any("b" in m for m in modes)):
            found.append(call.lineno)
    return found


def test_text_files_are_opened_with_an_encoding():
    """Else it depends on the machine, and classes with an accent may not be read."""
    found = {path.name: without_encoding(path) for path in PACKAGE.rglob("*.py")}
    assert {name: lines for name, lines in found.items() if lines} == {}
