"""Loads the PyTorch reference from the user's clone, unmodified, and makes it run on a CPU.

Everything is done from outside and undone afterwards; ``Reference.workarounds`` says what was.
No code of the reference is part of this package.
"""

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import io
import os
import pathlib
import sys
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from mla_jax.convert.files import import_torch
from mla_jax.errors import UserError

REQUIRED = (
    "main.py",
    "models/backbone.py",
    "models/basic_model.py",
    "models/fusion_modules.py",
    "models/cav_mae.py",
    "models/m3ae.py",
    "utils/utils.py",
    "dataset/dataset.py",
)
DIMML_REQUIRED = (
    "main_CFT.py",
    "main_CFT_stage2.py",
    "loss/contrast_loss.py",
    "models/backbone.py",
    "models/basic_model.py",
    "models/fusion_modules.py",
    "utils/utils.py",
    "dataset/CramedDataset.py",
)
OPTIONAL_IMPORTS = (
    "PIL",
    "cv2",
    "librosa",
    "utils.gtransforms",
    "torchvision",
    "torchaudio",
    "timm",
    "sklearn",
    "transformers",
    "einops",
    "torch.utils.tensorboard",
)
"""What the references import for their data sets, transformers and logs; not run here."""

CLASSES = 6  # of CREMA-D, the one data set that its two-ResNet classifier accepts (Q16)


class Reference(NamedTuple):
    """The reference's modules, ready to run on a CPU."""

    torch: Any
    main: types.ModuleType
    basic_model: types.ModuleType
    utils: types.ModuleType
    workarounds: list[str]


class DetachedReference(NamedTuple):
    """The modules of the DI-MML repository."""

    torch: Any
    stage1: types.ModuleType
    stage2: types.ModuleType
    workarounds: list[str]


@contextlib.contextmanager
def loaded(path: str | pathlib.Path, float64: bool = False) -> Iterator[Reference]:
    """The reference at ``path``; ``float64`` makes all it computes double precision.

    Raises:
      UserError: PyTorch is not installed, or a file of the reference is not there.
    """
    repository = "Cecile-hi/Multimodal-Learning-with-Alternating-Unimodal-Adaptation"
    root = _clone(path, REQUIRED, f"--reference should be a clone of {repository}")
    torch = import_torch("the parity tool")
    workarounds: list[str] = []
    with _clean_imports(root, workarounds):
        names = ("main", "models.basic_model", "utils.utils")
        modules = [importlib.import_module(name) for name in names]
    workarounds.append("called its classes and functions without its command line")
    with _on_cpu(torch, float64, workarounds):
        yield Reference(torch, *modules, workarounds)


@contextlib.contextmanager
def loaded_dimml(path: str | pathlib.Path, float64: bool = False) -> Iterator[DetachedReference]:
    """The DI-MML repository at ``path``, as ``loaded``."""
    root = _clone(path, DIMML_REQUIRED, "--dimml should be a clone of fanyunfeng-bit/DI-MML")
    torch = import_torch("the parity tool")
    with _clean_imports(root, []):
        modules = [importlib.import_module(name) for name in ("main_CFT", "main_CFT_stage2")]
    with _on_cpu(torch, float64, []):
        yield DetachedReference(torch, *modules, ["DI-MML: the same, with its two training files"])


def with_constants(function: Callable[..., Any], constants: dict[Any, Any]) -> Callable[..., Any]:
    """A copy of ``function`` in whose body other constants stand for those given.

    For a device or a width that the reference has written into its code.
    """
    code = function.__code__
    known = tuple(constants.get(c, c) if isinstance(c, str | int) else c for c in code.co_consts)
    if missing := set(constants) - {c for c in code.co_consts if isinstance(c, str | int)}:
        raise ValueError(f"{function.__name__} holds no constant {missing}")
    return types.FunctionType(code.replace(co_consts=known), function.__globals__)


def _clone(path: str | pathlib.Path, required: Sequence[str], remedy: str) -> pathlib.Path:
    root = pathlib.Path(path).expanduser().resolve()
    for name in required:
        if not (root / name).is_file():
            raise UserError(f"{root / name} not found: {remedy}")
    return root


def arguments(**changes: Any) -> types.SimpleNamespace:
    """The options that the two-ResNet classifier, training and evaluation read."""
    chosen = {
        "dataset": "CREMAD",
        "fusion_method": "concat",
        "modulation": "Normal",
        "lorb": "base",
        "gs_flag": True,
        "modal3": False,
        "clip": False,
        "dynamic": False,
        "alpha": 0.3,
        "modulation_starts": 0,
        "modulation_ends": 50,
    }
    return types.SimpleNamespace(**(chosen | changes))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drops what the reference prints, and what PyTorch warns of in it."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _clean_imports(root: pathlib.Path, workarounds: list[str]) -> Iterator[None]:
    """Lets the reference's top-level names (``main``, ``models``, ``utils``) mean its own files."""
    own = ("main", "models", "utils", "dataset", "loss", "main_CFT", "main_CFT_stage2")
    hidden = {n: sys.modules.pop(n) for n in list(sys.modules) if n.split(".")[0] in own}
    before, environment = set(sys.modules), dict(os.environ)
    finder = _StubFinder()
    sys.meta_path.insert(0, finder)
    sys.path.insert(0, str(root))
    keep, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # leaves the clone as it was
    for name in own[1:5]:  # most have no __init__.py: any installed package would win
        package = types.ModuleType(name)
        package.__path__ = [str(root / name)]
        sys.modules[name] = package
    try:
        workarounds.append(
            "stood in for imports it does not use here: " + ", ".join(OPTIONAL_IMPORTS)
        )
        yield
    finally:
        sys.dont_write_bytecode = keep
        sys.path.remove(str(root))
        sys.meta_path.remove(finder)
        for name in list(sys.modules):
            stub = isinstance(sys.modules[name], _Stub)
            if name.split(".")[0] in own or (name not in before and stub):
                del sys.modules[name]
        sys.modules.update(hidden)
        os.environ.clear()
        os.environ.update(environment)


class _Stub(types.ModuleType):
    """A module whose every attribute is an empty class."""

    __path__: tuple[str, ...] = ()

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class _StubFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if any(name == known or name.startswith(f"{known}.") for known in OPTIONAL_IMPORTS):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: Any) -> types.ModuleType:
        return _Stub(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


@contextlib.contextmanager
def _on_cpu(torch: Any, float64: bool, workarounds: list[str]) -> Iterator[None]:
    """The plugin asks for a CUDA tensor type, QMF's history calls ``.cuda()``; training and
    evaluation call ``.float()``."""
    dtype = torch.float64 if float64 else torch.float32
    cuda_type, to_float, to_cuda, default = (
        torch.cuda.FloatTensor,
        torch.Tensor.float,
        torch.Tensor.cuda,
        torch.get_default_dtype(),
    )
    torch.cuda.FloatTensor = torch.DoubleTensor if float64 else torch.FloatTensor
    torch.Tensor.cuda = lambda tensor: tensor
    workarounds.append(
        "replaced torch.cuda.FloatTensor, in its plugin, by a CPU type, and Tensor.cuda(), in its "
        "history, by nothing"
    )
    if float64:
        torch.Tensor.float = torch.Tensor.double
        workarounds.append("made Tensor.float() mean double precision")
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.cuda.FloatTensor, torch.Tensor.float = cuda_type, to_float
        torch.Tensor.cuda = to_cuda
        torch.set_default_dtype(default)
