"""Loads a PyTorch reference from the user's clone, unmodified, and makes it run on a CPU.

Everything is done from outside and undone afterwards; ``Clone.workarounds`` lists what was done.
No code of a reference is part of this package.
"""

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import io
import os
import pathlib
import sys
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple
from unittest import mock

from mla_jax.convert.files import import_torch
from mla_jax.errors import UserError

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
    "torch.utils.tensorboard",
)
"""What the references import for their data sets, transformers and logs; not run here."""


class Repository(NamedTuple):
    """One reference: ``modules`` are ``{attribute of Clone: module}``."""

    name: str
    required: tuple[str, ...]
    modules: Mapping[str, str]
    folders: tuple[str, ...] = ("",)
    """The folders from which it imports its modules."""
    packages: tuple[str, ...] = ("models", "utils", "dataset", "loss")
    """Folders that are packages but have no ``__init__.py``."""
    stubs: tuple[str, ...] = OPTIONAL_IMPORTS
    needs: tuple[str, ...] = ("einops",)
    """Its imports that this package does not install."""
    workarounds: tuple[str, ...] = ()


BOTH = ("models/backbone.py", "models/basic_model.py", "models/fusion_modules.py", "utils/utils.py")
REPOSITORIES = {
    "reference": Repository(
        "Cecile-hi/Multimodal-Learning-with-Alternating-Unimodal-Adaptation",
        ("main.py", *BOTH, "models/cav_mae.py", "models/m3ae.py", "dataset/dataset.py"),
        {
            "main": "main",
            "basic_model": "models.basic_model",
            "cav_mae": "models.cav_mae",
            "m3ae": "models.m3ae",
            "utils": "utils.utils",
        },
    ),
    "dimml": Repository(
        "fanyunfeng-bit/DI-MML",
        (
            "main_CFT.py",
            "main_CFT_stage2.py",
            *BOTH,
            "loss/contrast_loss.py",
            "dataset/CramedDataset.py",
        ),
        {"stage1": "main_CFT", "stage2": "main_CFT_stage2"},
    ),
}
"""``{flag of the command: repository}``."""

MMIN = {
    "base_model": "models.base_model",
    "autoencoder": "models.networks.autoencoder",
    "mmin": "models.mmin_model",
    "teacher": "models.utt_fusion_model",
    "complete_data": "data.multimodal_dataset",
    "missing_data": "data.multimodal_miss_dataset",
    "options": "opts.get_opts",
}
GCNET = {
    "complete_data": "data.iemocapfour_multimodal_dataset",
    "missing_data": "data.iemocapfour_miss_dataset",
    "options": "opts.train_opts",
    "ae": "models.mmin_AE_model",
    "cra": "models.mmin_CRA_model",
    "cca_script": "cca",
    "dcca_script": "dcca",
    "dccae_script": "dccae",
}
IF_MMIN = {
    "teacher": "models.utt_shared_model",
    "if_mmin": "models.IFMMIN_model",
    "if_autoencoder": "models.networks.autoencoder_2",
    "functions": "models.utils.functions",
}
NO_DATA = ("h5py", "cv2", "apex", "matplotlib", "torchvision")
WITHOUT = (
    "replaced h5py, opencv, apex and matplotlib, the GPU to which the teacher is moved, and "
    "torch.symeig, which PyTorch no longer has",
    "built its models with the options of its own parser, wrapped them as DataParallel would, and "
    "turned dropout off",
)
MISSING_REPOSITORIES = {
    "gcnet": Repository(
        "zeroQiaoba/GCNet",
        ("baseline-mmin/models/mmin_CRA_model.py", "baseline-cca/dccae.py", "config.py"),
        MMIN | GCNET,
        folders=("baseline-mmin", "baseline-cca", ""),
        packages=(),
        stubs=NO_DATA,
        needs=("sklearn",),
        workarounds=WITHOUT,
    ),
    "mmin": Repository(
        "AIM3-RUC/MMIN, branch master",
        ("models/mmin_model.py", "opts/get_opts.py"),
        MMIN,
        packages=("opts",),
        stubs=NO_DATA,
        needs=(),
        workarounds=WITHOUT,
    ),
    "if_mmin": Repository(
        "ZhuoYulang/IF-MMIN",
        ("models/IFMMIN_model.py", "models/utt_shared_model.py", "opts/get_opts.py"),
        MMIN | IF_MMIN,
        packages=("opts",),
        stubs=NO_DATA,
        needs=(),
        workarounds=WITHOUT,
    ),
}
"""The references of methods for missing modalities (``theirs/missing``)."""


class Clone(types.SimpleNamespace):
    """``torch``, the modules of a reference, ready to run on a CPU, and ``workarounds``."""


def check(path: str | pathlib.Path, flag: str) -> tuple[Repository, pathlib.Path]:
    """The repository of a flag and its clone; raises ``UserError`` where a file is not there."""
    repository = (REPOSITORIES | MISSING_REPOSITORIES)[flag]
    root = pathlib.Path(path).expanduser().resolve()
    for name in repository.required:
        if not (root / name).is_file():
            raise UserError(
                f"{root / name} not found: --{flag} should be a clone of {repository.name}"
            )
    return repository, root


@contextlib.contextmanager
def loaded(
    flag: str, path: str | pathlib.Path, float64: bool = False, on_cpu: bool = True
) -> Iterator[Clone]:
    """The reference at ``path``; ``float64`` makes it compute in double precision.

    Without ``on_cpu`` it uses a GPU as published.

    Raises:
      UserError: PyTorch is not installed, or a file of the reference is not there.
    """
    repository, root = check(path, flag)
    torch = import_torch("the parity tool")
    for name in repository.needs:  # the MLA repository cuts pictures with einops
        if not importlib.util.find_spec(name):
            known = {"sklearn": "scikit-learn"}.get(name, name)
            raise UserError(f"the parity tool needs {known}: pip install {known}")
    with _clean_imports(root, repository), quiet():
        modules = {n: importlib.import_module(name) for n, name in repository.modules.items()}
    workarounds = [
        "replaced imports that it does not use here: " + ", ".join(OPTIONAL_IMPORTS),
        "ran its main without data up to the training, and then its functions one by one",
        "replaced torch.cuda.FloatTensor in its plugin by a CPU type, and let Tensor.cuda() in its "
        "history do nothing",
    ]
    if float64:
        workarounds.append("made Tensor.float() return double precision")
    if flag == "dimml":
        workarounds = ["DI-MML: the same, with its two training files"]
    if repository.workarounds:
        workarounds = [f"{repository.name}: {text}" for text in repository.workarounds]
    with _on_cpu(torch, float64) if on_cpu else contextlib.nullcontext():
        yield Clone(torch=torch, workarounds=workarounds, **modules)


def with_constants(function: Callable[..., Any], constants: dict[Any, Any]) -> Callable[..., Any]:
    """A copy of ``function`` with some constants in its body replaced.

    It is for a device or a width that is hard-coded in the reference.
    """
    code = function.__code__
    known = tuple(constants.get(c, c) if isinstance(c, str | int) else c for c in code.co_consts)
    if missing := set(constants) - {c for c in code.co_consts if isinstance(c, str | int)}:
        raise ValueError(f"{function.__name__} holds no constant {missing}")
    copied = types.FunctionType(code.replace(co_consts=known), function.__globals__)
    copied.__defaults__ = function.__defaults__
    return copied


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppresses the reference's output and PyTorch's warnings."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _clean_imports(root: pathlib.Path, repository: Repository) -> Iterator[None]:
    """Makes the top-level names (``main``, ``models``, ``utils``) import the reference's files."""
    own = {name.split(".")[0] for name in repository.modules.values()}
    own |= {"models", "utils", "dataset", "loss", "util", "config", "opts", "data"}
    folders = [str(root / folder) for folder in repository.folders]
    hidden = {n: sys.modules.pop(n) for n in list(sys.modules) if n.split(".")[0] in own}
    before = set(sys.modules)
    for name in repository.packages:  # any installed package of the name would win
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = [str(root / name)]
    try:
        with (
            mock.patch.dict(os.environ),
            mock.patch.object(sys, "path", [*folders, *sys.path]),
            mock.patch.object(sys, "meta_path", [_StubFinder(repository), *sys.meta_path]),
            mock.patch.object(sys, "dont_write_bytecode", True),  # leaves the clone as it was
        ):
            yield
    finally:
        for name in list(sys.modules):
            stub = isinstance(sys.modules[name], _Stub)
            if name.split(".")[0] in own or (name not in before and stub):
                del sys.modules[name]
        sys.modules.update(hidden)


class _Stub(types.ModuleType):
    """A module whose every attribute is an empty class."""

    __path__: Any = ()

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class _StubFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, repository: Repository):
        self.stubs = repository.stubs

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if any(name == known or name.startswith(f"{known}.") for known in self.stubs):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: Any) -> types.ModuleType:
        return _Stub(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


@contextlib.contextmanager
def _on_cpu(torch: Any, float64: bool) -> Iterator[None]:
    """The plugin asks for a CUDA tensor type, QMF's history calls ``.cuda()``; training and
    evaluation call ``.float()``."""
    tensor_type = torch.DoubleTensor if float64 else torch.FloatTensor
    to_float = torch.Tensor.double if float64 else torch.Tensor.float
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64 if float64 else torch.float32)
    try:
        with (
            mock.patch.object(torch.cuda, "FloatTensor", tensor_type),
            mock.patch.object(torch.Tensor, "float", to_float),
            mock.patch.object(torch.Tensor, "cuda", lambda tensor: tensor),
        ):
            yield
    finally:
        torch.set_default_dtype(default)
