"""Runs the published AE, CRA, MMIN and IF-MMIN: forward, losses, backward and three Adam steps.

``gcnet_ae``, ``gcnet_cra`` and ``gcnet_mmin`` are GCNet's (``baseline-mmin/models``), ``mmin`` is
upstream's and ``if_mmin`` IF-MMIN's.  Options come from the clone's own parser, training is its
``optimize_parameters`` and evaluation its ``test``.  Names of what each returns:

    inputs/<A|V|L|label|present>   the batch; present [B, 3] in the order A, V, L
    initial/<net>/<parameter>      before training, in PyTorch's names and layouts
    forward/<tensor>               the model's own tensors in the first step, before any update
    loss/<term>                    of the first step: weighted but for AE and CRA, where only their
                                   ``loss`` is; total, step 1 to 3
    gradient/<net>/<parameter>     of the first step, before clipping
    gradient norm/<net>            the same, as clipping measures it
    trained/<net>/<parameter>      after three steps on the one batch
    evaluation/logits              of the trained model, float[B, classes]
    optimizer/<setting>            of Adam; clip/<net>: the largest norm
    rates/                         the learning rate in each epoch
    initialization/<net>/<param>   least and largest value where every normal draw is 1: deviations

A first stage has the same under the prefix ``teacher ``.  Dropout is off throughout.
"""

import argparse
import contextlib
import inspect
import json
import os
import pathlib
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any
from unittest import mock

import numpy as np

from mla_jax.parity import missing
from mla_jax.parity.formula import Tensors
from mla_jax.parity.missing import CHANNELS, FRAMES, STEPS, UTTERANCES, Sizes
from mla_jax.parity.theirs.classifiers import wrapped
from mla_jax.parity.theirs.clones import Clone, quiet
from mla_jax.parity.theirs.published import unit_draws
from mla_jax.parity.theirs.recording import to_numpy

COMMANDS: dict[str, dict[str, Any]] = {
    "gcnet_ae": {"AE_layers": "16,12", "mse_weight": 0.2, "lr": 1e-3},
    "gcnet_cra": {"AE_layers": "16,12", "n_blocks": 2, "mse_weight": 0.8, "lr": 1e-3},
    "gcnet_mmin": {"mse_weight": 4.0, "cycle_weight": 2.0, "lr": 1e-3},
    "gcnet_teacher": {"beta1": 0.9, "init_type": "kaiming", "lr": 1e-3, "dropout_rate": 0.3},
    "mmin": {"mse_weight": 4.0, "cycle_weight": 2.0, "niter": 30, "niter_decay": 30},
    "mmin_teacher": {"beta1": 0.9, "niter": 10, "niter_decay": 10, "dropout_rate": 0.3},
    "if_mmin": {"mse_weight": 1.0, "invariant_weight": 100.0, "niter": 20, "niter_decay": 20},
    "if_mmin_teacher": {"beta1": 0.9, "niter": 10, "niter_decay": 10, "dropout_rate": 0.3},
}
"""What the published commands say (GCNet's README, ``scripts/CAP_*.sh``); sizes are ours."""

FROM_TEACHER = ("A", "L", "V", "invariant")
"""The networks that the second stage initialises from the first."""


def gcnet_ae(clone: Clone, dtype: Any = np.float64) -> Tensors:
    """GCNet's AE, ``mmin_AE_model.py``: one stage."""
    return _one_stage(clone, "gcnet_ae", clone.ae, UTTERANCES, dtype)


def gcnet_cra(clone: Clone, dtype: Any = np.float64) -> Tensors:
    """GCNet's CRA, ``mmin_CRA_model.py``: one stage."""
    return _one_stage(clone, "gcnet_cra", clone.cra, UTTERANCES, dtype)


def gcnet_mmin(clone: Clone, dtype: Any = np.float64) -> Tensors:
    """GCNet's MMIN, ``utt_fusion_model.py`` and ``mmin_model.py``."""
    return _two_stages(clone, "gcnet_mmin", "gcnet_teacher", clone.mmin, UTTERANCES, dtype)


def mmin(clone: Clone, dtype: Any = np.float64) -> Tensors:
    """Upstream's MMIN: encoders of frames and tokens."""
    return _two_stages(clone, "mmin", "mmin_teacher", clone.mmin, FRAMES, dtype)


def if_mmin(clone: Clone, dtype: Any = np.float64) -> Tensors:
    """IF-MMIN, ``utt_shared_model.py`` and ``IFMMIN_model.py``.

    The weight 100 is the published script's, which names it by an option that is not there.
    """
    return _two_stages(clone, "if_mmin", "if_mmin_teacher", clone.if_mmin, FRAMES, dtype)


def _one_stage(clone: Clone, name: str, module: Any, sizes: Sizes, dtype: Any) -> Tensors:
    with _folder() as folder, _on_the_cpu(clone):
        build = _builder(clone, module, clone.missing_data, name, sizes, folder)
        return _deviations(clone, build) | _train(clone, build()[0], sizes, dtype, seed=1)


def _two_stages(
    clone: Clone, name: str, teacher: str, module: Any, sizes: Sizes, dtype: Any
) -> Tensors:
    """The teacher on complete data, then what is initialised from it and imitates it."""
    with _folder() as folder, _on_the_cpu(clone), _narrow(clone):
        build = _builder(clone, clone.teacher, clone.complete_data, teacher, sizes, folder)
        first = _deviations(clone, build)
        model, options = build()
        first |= _train(clone, model, sizes, dtype, seed=11)
        with quiet():
            model.save_networks(1)
        settings = {n: v for n, v in vars(options).items() if v != float("inf")}
        (folder / teacher / "train_opt.conf").write_text(json.dumps(settings), encoding="utf-8")
        build = _builder(
            clone, module, clone.missing_data, name, sizes, folder, pretrained_path=folder / teacher
        )
        second = _deviations(clone, build)
        second |= _train(clone, build(as_on_gpus=True)[0], sizes, dtype, seed=21)
    return {f"teacher {n}": value for n, value in first.items()} | second


def _builder(
    clone: Clone, module: Any, data: Any, name: str, sizes: Sizes, folder: pathlib.Path, **more: Any
) -> Any:
    """``build(as_on_gpus=False) -> (model, options)``, set up as the published script does it."""
    kind, dataset = _own_class(module), _own_class(data)
    words = {
        "name": name, "checkpoints_dir": folder, "cvNo": 1, "dropout_rate": 0.5,
        "cls_layers": ",".join(map(str, sizes.hidden)), "output_dim": sizes.classes,
        "AE_layers": ",".join(map(str, sizes.autoencoder)), "n_blocks": sizes.blocks,
        "dataset_mode": "iemocapfour_miss", "modality": "AVL", "run_idx": 1, **COMMANDS[name],
        **more,
    }  # fmt: skip
    for letter, dim in sizes.inputs.items():
        words[f"input_dim_{letter.lower()}"] = dim
        words[f"embd_size_{letter.lower()}"] = sizes.embedding
    parser = argparse.ArgumentParser()
    reader = getattr(clone.options, "TrainOptions", None) or clone.options.Options
    reader().initialize(parser)
    kind.modify_commandline_options(parser, True)
    dataset.modify_commandline_options(parser, True)
    known = {option.dest for option in parser._actions}
    options = parser.parse_args([f"--{n}={v}" for n, v in words.items() if n in known])
    options.isTrain, options.gpu_ids = True, []
    (folder / name).mkdir(exist_ok=True)
    tools = clone.base_model.tools
    init_net = tools.init_net

    def build(as_on_gpus: bool = False) -> tuple[Any, Any]:
        def with_module(*inputs: Any) -> Any:
            return wrapped(clone.torch, init_net(*inputs))

        with quiet(), mock.patch.object(tools, "init_net", with_module if as_on_gpus else init_net):
            model = kind(options)
            model.setup(options)
        return model, options

    return build


def _deviations(clone: Clone, build: Any) -> Tensors:
    """The published initialisation, where every normal draw is one deviation.

    Without what a second stage takes from its teacher, and LSTMs, which keep PyTorch's own.
    """
    with (
        unit_draws(clone.torch),
        mock.patch.object(clone.base_model.BaseModel, "post_process", lambda model: None),
    ):
        model, _ = build(as_on_gpus=True)
    return {
        f"initialization/{name}": np.array([x.min(), x.max()])
        for name, x in _tensors(model).items()
        if ".rnn." not in f".{name.split('/')[1]}"
    }


def _train(clone: Clone, model: Any, sizes: Sizes, dtype: Any, seed: int) -> Tensors:
    torch = clone.torch
    for module in [part for net in _nets(model).values() for part in net.modules()]:
        if isinstance(module, torch.nn.Dropout):
            module.eval()
    own = missing.weights({n: x.shape for n, x in _tensors(model).items()}, seed)
    taken = FROM_TEACHER if hasattr(model, "pretrained_encoder") else ()
    with torch.no_grad():
        for name, net in _nets(model).items():
            for part, parameter in net.named_parameters():
                if name not in taken:
                    parameter.copy_(torch.tensor(own[f"{name}/{part}"]))
    batch = sizes.batch(seed, dtype)
    found = {f"inputs/{name}": value for name, value in batch.items()}
    found |= {f"initial/{name}": value for name, value in _tensors(model).items()}
    model.set_input(_packet(torch, batch))
    for step in range(1, STEPS + 1):
        with quiet(), _watching(clone, model, found, step):
            model.optimize_parameters(1)
    found |= {f"trained/{name}": value for name, value in _tensors(model).items()}
    adam = model.optimizer.param_groups[0]
    for name in ("lr", "eps", "weight_decay"):
        found[f"optimizer/{name}"] = np.array(adam[name])
    found["optimizer/betas"] = np.array(adam["betas"])
    return found | _evaluate(torch, model, batch) | {"rates/": _rates(model)}


@contextlib.contextmanager
def _watching(clone: Clone, model: Any, found: Tensors, step: int) -> Iterator[None]:
    """Records a step: everything of the first, of later ones the loss."""
    torch = clone.torch
    backward, clip = torch.Tensor.backward, torch.nn.utils.clip_grad_norm_
    owners = {id(p): name for name, net in _nets(model).items() for p in net.parameters()}

    def recorded(loss: Any, *inputs: Any, **options: Any) -> None:
        found[f"loss/total, step {step}"] = to_numpy(loss)
        backward(loss, *inputs, **options)
        if step > 1:
            return
        for name, value in vars(model).items():
            if isinstance(value, torch.Tensor):
                kind = "loss" if name.startswith("loss") else "forward"
                found[f"{kind}/{name.removeprefix('loss_')}"] = to_numpy(value)
        for name, net in _nets(model).items():
            for part, parameter in net.named_parameters():
                if parameter.grad is not None:
                    found[f"gradient/{name}/{part}"] = to_numpy(parameter.grad)

    def clipped(parameters: Any, largest: float) -> Any:
        parameters = list(parameters)
        norm = clip(parameters, largest)
        if step == 1:
            name = owners[id(parameters[0])]
            found[f"gradient norm/{name}"], found[f"clip/{name}"] = (
                to_numpy(norm),
                np.array(largest),
            )
        return norm

    with (
        mock.patch.object(torch.Tensor, "backward", recorded),
        mock.patch.object(torch.nn.utils, "clip_grad_norm_", clipped),
    ):
        yield


def _evaluate(torch: Any, model: Any, batch: Tensors) -> Tensors:
    """Upstream's test data comes masked, GCNet's model masks it itself."""
    model.eval()
    masked = dict(batch)
    for i, letter in enumerate(missing.LETTERS):
        if batch[letter].ndim > 2 and hasattr(model, "pretrained_encoder"):
            masked[letter] = batch[letter] * batch["present"][:, i, None, None]
    with quiet():
        model.set_input(_packet(torch, masked))
        model.test()
    return {"evaluation/logits": to_numpy(model.logits)}


def _rates(model: Any) -> np.ndarray:
    found = []
    for _ in range(model.opt.niter + model.opt.niter_decay):
        found.append(model.optimizer.param_groups[0]["lr"])
        with quiet():
            model.update_learning_rate(mock.Mock())
    return np.array(found)


def _packet(torch: Any, batch: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """A batch as the published loaders yield it."""
    found = {f"{letter}_feat": torch.tensor(batch[letter]) for letter in missing.LETTERS}
    found["label"] = torch.tensor(batch["label"]).long()
    return found | {"missing_index": torch.tensor(batch["present"])}


def _nets(model: Any) -> dict[str, Any]:
    """``{published name: network}``, out of the wrapping."""
    nets = {name: getattr(model, f"net{name}") for name in model.model_names}
    return {
        name: net.module if type(net).__name__ == "Module" else net for name, net in nets.items()
    }


def _tensors(model: Any) -> Tensors:
    return {
        f"{name}/{part}": to_numpy(parameter)
        for name, net in _nets(model).items()
        for part, parameter in net.named_parameters()
    }


def _own_class(module: Any) -> Any:
    """The one class that a module defines."""
    (found,) = (
        value
        for value in vars(module).values()
        if isinstance(value, type) and value.__module__ == module.__name__
    )
    return found


@contextlib.contextmanager
def _on_the_cpu(clone: Clone) -> Iterator[None]:
    """The teacher stays where it is: the published loader moves it to a GPU."""
    with mock.patch.object(clone.base_model.BaseModel, "cuda", lambda model: None):
        yield


@contextlib.contextmanager
def _narrow(clone: Clone) -> Iterator[None]:
    """The text's convolutions have few channels: their number is a default that no option sets."""
    if not hasattr(clone.teacher, "TextCNN"):
        yield
        return
    build = clone.teacher.TextCNN.__init__
    names = inspect.getfullargspec(build).args[-len(build.__defaults__) :]
    defaults = {**dict(zip(names, build.__defaults__, strict=True)), "out_channels": CHANNELS}
    with mock.patch.object(build, "__defaults__", tuple(defaults.values())):
        yield


@contextlib.contextmanager
def _folder() -> Iterator[pathlib.Path]:
    """Where the models leave their files, as the current one: it goes away again."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        os.makedirs("logs")
        yield pathlib.Path(folder)
