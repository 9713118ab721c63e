"""The settings that the references' scripts choose before training, taken from running them.

The ``main`` of each runs as from its command, but without data and training: the options, the
model with its initialisation, the optimiser and the scheduler are then the clone's, and no such
value is repeated in this package.
"""

import ast
import contextlib
import os
import pathlib
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

from mla_jax.errors import UserError
from mla_jax.parity.theirs.clones import Clone, quiet


class Published(NamedTuple):
    """The arguments that a script passes to its training function."""

    options: Any
    """Its parsed command line."""
    models: tuple[Any, ...]
    optimizer: Any
    rates: np.ndarray
    """The learning rate in each epoch."""
    evaluation: Mapping[str, Any] = {}
    """The keyword arguments of its evaluation."""
    splits: tuple[int, ...] = ()
    """DI-MML: the epochs before which dimensions are chosen."""

    def optimizer_of(self, parameters: Any, learning_rate: float) -> Any:
        """An optimiser of the same kind and settings, at another rate, for other parameters."""
        settings = {**self.optimizer.defaults, "lr": learning_rate}
        return type(self.optimizer)(parameters, **settings)


class _TrainingReachedError(Exception):
    """Ends a script where its training would begin."""


def mla(clone: Clone, own_model: bool, options: Mapping[str, Any]) -> Published:
    """What ``main.py`` trains at these ``options`` of its command line.

    Without ``own_model`` a cheap stand-in replaces the model.
    """
    seen: list[Any] = []

    def train_epoch(*inputs: Any, **_: Any) -> tuple[float, ...]:
        seen[:] = inputs
        return (0.0,) * (4 if inputs[0].modal3 else 3)

    def valid(*_: Any, **keywords: Any) -> None:
        seen.append(keywords)
        raise _TrainingReachedError

    nn, main = clone.torch.nn, clone.main
    instead: dict[str, Any] = {
        "train_epoch": train_epoch,
        "valid": valid,
        "SummaryWriter": lambda path: None,
        "DataLoader": lambda data, **_: mock.MagicMock(dataset=data),  # theirs would start workers
        **{name: _no_data for name in vars(main) if name.endswith("Dataset")},
    }
    if not own_model:
        instead |= {n: _stand_in(clone) for n in vars(main) if n.endswith("Classifier")}
    with (
        mock.patch.multiple(main, **instead),
        mock.patch.object(nn.Module, "to", lambda model, device: model),
        mock.patch.object(nn.Module, "cuda", lambda model: model),
        mock.patch.object(nn, "DataParallel", lambda model, device_ids: model),
        _command({**options, "gpu_ids": "0"}, "ckpt_path", "tensorboard_path") as folder,
        contextlib.suppress(_TrainingReachedError),
    ):
        (folder / options["dataset"]).mkdir()
        as_script(main)
    args, _, model, _, _, optimizer, scheduler, evaluation = _handed(seen, 8, main)
    return Published(args, (model,), optimizer, _rates(optimizer, scheduler, args), evaluation)


def stage1(clone: Clone, own_model: bool) -> Published:
    """What DI-MML's ``main_CFT.py`` trains, and when it chooses dimensions."""
    seen: list[tuple[Any, ...]] = []
    splits: list[int] = []

    def train_epoch(*inputs: Any) -> tuple[float, ...]:
        seen.append(inputs)
        return (0.0,) * 4

    def get_indices(*_: Any) -> tuple[list[int], list[int]]:
        splits.append(len(seen))
        return [], []

    instead: dict[str, Any] = {
        "CramedDataset": _no_data,
        "train_epoch": train_epoch,
        "valid": lambda *_: (0.0, 0.0),
        "get_indices": get_indices,
    }
    if not own_model:
        instead |= {name: _stand_in(clone) for name in ("AClassifier", "VClassifier")}
    with (
        mock.patch.multiple(clone.stage1, **instead),
        mock.patch.object(clone.torch, "save", lambda *_: None),
        _command({"dataset": "CREMAD", "no_cuda": True}, "ckpt_path", "logs_path"),
    ):
        as_script(clone.stage1)
    args, _, *models, _, _, optimizer, scheduler = _handed(seen and seen[0][:9], 9, clone.stage1)
    rates = _rates(optimizer, scheduler, args)[: len(seen)]
    return Published(args, tuple(models), optimizer, rates, splits=tuple(splits))


def stage2(clone: Clone, fused: Any) -> Published:
    """What DI-MML's ``main_CFT_stage2.py`` trains: the head ``fused``, which it initialises."""
    seen: list[Any] = []
    nn = clone.torch.nn

    def train_epoch(*inputs: Any) -> None:
        seen[:] = inputs
        raise _TrainingReachedError

    def parts(**modules: Any) -> Callable[[Any], Any]:
        return lambda options: nn.ModuleDict(modules)

    unimodal = parts(net=nn.Identity(), classifier=nn.Identity())
    instead: dict[str, Any] = {
        "CramedDataset": _no_data,
        "AClassifier": unimodal,
        "VClassifier": unimodal,
        "AVClassifier": parts(fusion_module=fused),
        "train_combine_classifier_epoch": train_epoch,
    }
    paths = {"load_path": "a/b/c/d.pt", "load_path_other": "a/b/c/e.pt"}
    with (
        mock.patch.multiple(clone.stage2, **instead),
        mock.patch.object(clone.torch, "load", lambda path: {"model": {}}),
        _command({"dataset": "CREMAD", "no_cuda": True, **paths}, "ckpt_path", "logs_path"),
        contextlib.suppress(_TrainingReachedError),
    ):
        as_script(clone.stage2)
    args, *_, optimizer, scheduler = _handed(seen, 11, clone.stage2)
    return Published(args, (fused,), optimizer, _rates(optimizer, scheduler, args))


@contextlib.contextmanager
def unit_draws(torch: Any) -> Iterator[None]:
    """Makes every normal draw 1, so that a tensor's values are its deviation."""

    def normal_(tensor: Any, mean: float = 0, std: float = 1, **_: Any) -> Any:
        return tensor.data.fill_(mean + std)

    with mock.patch.object(torch.Tensor, "normal_", normal_):
        yield


def as_script(module: Any) -> None:
    """Runs what a module does when it is the command.

    Raises:
      UserError: it does nothing, so its command cannot be reproduced.
    """
    tree = ast.parse(pathlib.Path(module.__file__).read_text(encoding="utf-8"))
    guards = [node for node in tree.body if isinstance(node, ast.If)]
    body = [part for node in guards if "__main__" in ast.unparse(node.test) for part in node.body]
    if not body:
        raise UserError(f"{module.__file__} does nothing as a command: it has no __main__ part")
    exec(compile(ast.Module(body, []), module.__file__, "exec"), vars(module))


def _handed(seen: Sequence[Any], count: int, module: Any) -> Sequence[Any]:
    """What the training function got by position, and MLA's evaluation by keyword."""
    if len(seen) != count:
        raise UserError(
            f"{module.__file__} does not train as the published one: expected {count} values "
            f"where its training begins, not {len(seen)}"
        )
    return seen


def _rates(optimizer: Any, scheduler: Any, options: Any) -> np.ndarray:
    found = []
    for _ in range(options.epochs):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()  # on no gradient: nothing
        scheduler.step()
    return np.array(found)


def _no_data(options: Any, mode: str) -> list[int]:
    del options, mode
    return [0]


def _stand_in(clone: Clone) -> Callable[[Any], Any]:
    """A class of models with one weight."""
    return lambda options: clone.torch.nn.Linear(1, 1)


@contextlib.contextmanager
def _command(options: Mapping[str, Any], *folders: str) -> Iterator[pathlib.Path]:
    """Sets ``sys.argv`` to the training command, with a temporary folder for its ``folders``."""
    with (
        tempfile.TemporaryDirectory() as folder,
        quiet(),
        mock.patch.dict(os.environ),  # the scripts set one
    ):
        given = {**options, "train": True, **dict.fromkeys(folders, folder)}
        words = [f"--{n}" if v is True else f"--{n}={v}" for n, v in given.items()]
        with mock.patch.object(sys, "argv", ["", *words]):
            yield pathlib.Path(folder)
