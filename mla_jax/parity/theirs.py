"""Runs the reference's own training and evaluation and records every quantity on the way.

Recording is done with PyTorch's hooks, from outside.  All quantities leave as numpy arrays under
our names and in our axis order: ``{"row of the table/detail": array}``.
"""

import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from mla_jax.convert import known_layouts, layouts
from mla_jax.convert.names import TO_FLAX, TO_TORCH, Row, Tensors
from mla_jax.parity import recursion, toy
from mla_jax.parity.cases import MODALITIES, Case, Mode, comparable, formula_tensors
from mla_jax.parity.reference import Reference, arguments, quiet
from mla_jax.state import Batch

AV_ALPHA = 0.55  # main.py:968, quirk Q11


class Adapter(NamedTuple):
    """A classifier of the reference, or one with its interface, and its name map."""

    model: Any
    rows: list[Row]

    def tensors(self) -> Tensors:
        """All parameters and running statistics, in our names and axis order."""
        return self.ours(dict(self.model.state_dict()))

    def ours(self, named: dict[str, Any]) -> Tensors:
        """The tensors among ``named`` that the map knows, in our names and axis order."""
        named = {n.replace("fc_out.module.", "fc_out."): t for n, t in named.items()}
        return {
            row.flax: TO_FLAX[row.kind](named[row.torch].detach().numpy()).copy()
            for row in self.rows
            if row.flax is not None and row.torch in named
        }

    def load(self, torch: Any, tensors: Tensors) -> None:
        """Puts tensors in our names into the model."""
        named = {
            row.torch: torch.tensor(np.ascontiguousarray(TO_TORCH[row.kind](tensors[row.flax])))
            for row in self.rows
            if row.flax is not None
        }
        self.model.load_state_dict(named, strict=False)


def av_classifier(
    reference: Reference,
    seed: int = 0,
    few_ties: bool = False,
    heads: Mapping[str, str] = MappingProxyType({"shared": "fusion_module.fc_out"}),
    **options: Any,
) -> Adapter:
    """The reference's two-ResNet classifier, with its own initialisation (``main.py:718-719``).

    ``heads``: our names of the heads that ``options`` give it, and its own.
    """
    reference.utils.setup_seed(seed)
    model = reference.basic_model.AVClassifier(arguments(**options))
    model.apply(reference.utils.weight_init)
    named = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    manifest = {
        "backbones": dict.fromkeys(MODALITIES, "resnet18"),
        "towers": dict(zip(MODALITIES, known_layouts.TOWERS, strict=True)),
        "heads": heads,
    }
    adapter = Adapter(model, layouts.rows_of(named, manifest))
    adapter.load(reference.torch, comparable(adapter.tensors(), few_ties))
    return adapter


def toy_classifier(reference: Reference, case: Case) -> Adapter:
    """The narrow classifier, with weights by formula."""
    adapter = Adapter(toy.classifier(reference.torch, case), toy.rows(case))
    adapter.load(reference.torch, formula_tensors(case))
    return adapter


def train(reference: Reference, adapter: Adapter, case: Case, mode: Mode, dtype: Any) -> Tensors:
    """One epoch of the reference's training function over ``case.batches`` batches."""
    torch = reference.torch
    model, head = adapter.model, adapter.model.fusion_module.fc_out
    optimizer = torch.optim.SGD(
        model.parameters(), lr=case.learning_rate, momentum=0.9, weight_decay=1e-4
    )
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 70, 0.1)
    if mode.drift:
        optimizer.zero_grad = functools.partial(optimizer.zero_grad, set_to_none=False)
    found: Tensors = {}
    steps = {"taken": 0}

    def head_parameters() -> Any:
        return ((f"fusion_module.fc_out.{n}", p) for n, p in head.named_parameters())

    def place() -> tuple[int, str]:
        batch, position = divmod(steps["taken"], len(MODALITIES))
        return batch + 1, MODALITIES[position]

    def after_module(module: Any, inputs: Any, output: Any) -> None:
        batch, m = place()
        if isinstance(module, torch.nn.CrossEntropyLoss):
            when = "loss" if batch == 1 else "loss, later batches"
            found[f"{when}/batch {batch} {m}"] = to_numpy(output)
        elif batch == 1 and module is head:
            found[f"logits/{m}"] = to_numpy(output)
        elif batch == 1 and module is wrapped:
            for name, z in zip(MODALITIES, output, strict=True):
                found[f"features, training/{name}"] = to_numpy(z)

    def before_step(*_: Any) -> None:
        batch, m = place()
        if batch > 1:
            return
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        gradients = adapter.ours(gradients)
        for name in ("kernel", "bias"):
            gradient = gradients[f"params/head/shared/{name}"]
            found[f"gradient of the head, projected/{m} {name}"] = gradient
        for name in case.named:
            value = gradients[f"params/encoder/{m}/{name}"]
            found[f"gradient of {m} {name}/{m}"] = value

    def after_step(*_: Any) -> None:
        batch, m = place()
        steps["taken"] += 1
        now = adapter.tensors()
        for name in ("kernel", "bias"):
            key = f"head after each sub-step/batch {batch} {m} {name}"
            found[key] = now[f"params/head/shared/{name}"]
        if m == MODALITIES[-1]:
            found.update(by_collection(now, batch))
        if steps["taken"] == case.batches * len(MODALITIES):
            momentum = {
                n: optimizer.state[p]["momentum_buffer"] for n, p in model.named_parameters()
            }
            for name, value in adapter.ours(momentum).items():
                found[f"momentum after {batch}/{name}"] = value

    wrapped = Wrapper.around(torch, model)
    if mode.plugin == "first_drop":
        model.fusion_module.fc_out = Wrapper.around(torch, head)
    plugin = _plugin(reference, mode, case.encoders.feature_dim)
    unrecorded = plugin.before_update

    def recorded(*inputs: Any) -> None:
        batch, m = place()
        if batch == 1:
            gradients = adapter.ours({n: p.grad for n, p in head_parameters()})
            for name in ("kernel", "bias"):
                gradient = gradients[f"params/head/shared/{name}"]
                found[f"gradient of the head/{m} {name}"] = gradient
        unrecorded(*inputs)
        found[f"projection matrix in training/batch {batch} {m}"] = _matrix(plugin)

    plugin.before_update = recorded
    optimizer.register_step_pre_hook(before_step)
    optimizer.register_step_post_hook(after_step)
    hook = torch.nn.modules.module.register_module_forward_hook(after_module)
    batches = [packet(torch, case.batch(i, dtype=dtype)) for i in range(case.batches)]
    try:
        with quiet():
            reference.main.train_epoch(
                arguments(), 0, wrapped, torch.device("cpu"), batches, optimizer, scheduler,
                gs_plugin=plugin, gs_flag=True, av_alpha=AV_ALPHA,
            )  # fmt: skip
    finally:
        hook.remove()
        model.fusion_module.fc_out = head
    return found


def evaluate(reference: Reference, adapter: Adapter, case: Case, mode: Mode, dtype: Any) -> Tensors:
    """The reference's evaluation over a ragged test set, under both of its fusion rules."""
    torch = reference.torch
    wrapped = Wrapper.around(torch, adapter.model)
    loader = [packet(torch, batch) for batch in case.test_batches(dtype)]
    found: Tensors = {}
    for rule in ("fixed", "dynamic"):
        seen: dict[str, list[np.ndarray]] = {"softmax": [], **{m: [] for m in MODALITIES}}

        def after_module(module: Any, inputs: Any, output: Any, seen: Any = seen) -> None:
            if isinstance(module, torch.nn.Softmax):  # of fused, visual, audio logits
                seen["softmax"].append(to_numpy(inputs[0]))
            elif module is wrapped:
                for name, z in zip(MODALITIES, output, strict=True):
                    seen[name].append(to_numpy(z))

        hook = torch.nn.modules.module.register_module_forward_hook(after_module)
        options = arguments(dynamic=rule == "dynamic")
        try:
            with quiet():
                scores = reference.main.valid(
                    options, wrapped, torch.device("cpu"), loader, gs_flag=True, av_alpha=AV_ALPHA
                )
        finally:
            hook.remove()
        fused = np.concatenate(seen["softmax"][0::3])
        unimodal = np.stack(
            [np.concatenate(seen["softmax"][2::3]), np.concatenate(seen["softmax"][1::3])]
        )
        scores = np.array(scores)
        if rule == "dynamic" and mode.plugin == "paper":  # the reference has no code for it
            fused = recursion.fuse(unimodal.astype(np.float64))
            label = np.concatenate([np.asarray(p[2]) for p in loader])
            scores[0] = np.mean(fused.argmax(-1) == label)
        found |= {
            f"fused logits, {rule} fusion/all": fused,
            f"predictions/{rule} fusion": fused.argmax(-1),
            f"accuracy on a ragged test set/{rule} fusion": scores,
        }
        for i, m in enumerate(MODALITIES):
            found[f"features, evaluation/{m}"] = np.concatenate(seen[m])
            found[f"predictions/{m}"] = unimodal[i].argmax(-1)
    return found


def projection_updates(
    reference: Reference, mode: Mode, gradients: np.ndarray, features: np.ndarray, per_epoch: int
) -> Tensors:
    """The plugin by itself, called once for each of ``gradients: [N, C, D]``."""
    torch = reference.torch
    head = torch.nn.Linear(gradients.shape[-1], gradients.shape[1])
    called = Wrapper.around(torch, head) if mode.plugin == "first_drop" else head
    plugin = _plugin(reference, mode, gradients.shape[-1])
    found: Tensors = {}
    for n, (G, Z) in enumerate(zip(gradients, features, strict=True)):
        head.weight.grad = torch.tensor(G)
        batch = n // len(MODALITIES) % per_epoch
        plugin.before_update(called, torch.tensor(Z), batch, per_epoch, plugin.exp_count)
        plugin.exp_count += 1
        found[f"projection matrix, 20 updates/{n + 1}"] = _matrix(plugin)
        found[f"projected gradient, 20 updates/{n + 1}"] = to_numpy(head.weight.grad).T
    return found


def step_lr(reference: Reference, learning_rate: float, epochs: int) -> np.ndarray:
    """The learning rate in each epoch, from the scheduler the reference uses (``main.py:760``)."""
    torch = reference.torch
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=learning_rate)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 70, 0.1)
    rates = []
    for _ in range(epochs):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return np.array(rates)


def packet(torch: Any, batch: Batch) -> tuple[Any, ...]:
    """A batch as the reference's loader yields it: spectrogram, images, label, index.

    With text: tokens, their padding mask, images, spectrogram with its channel, label, index.
    """
    inputs = dict(batch["inputs"])
    if inputs["visual"].ndim > 2:  # [B, (T,) H, W, C] -> [B, C, (T,) H, W]
        inputs = {m: np.moveaxis(x, -1, 1) for m, x in inputs.items()}
        if len(inputs) == 2:  # no channel on spectrograms
            inputs["audio"] = inputs["audio"][:, 0]
    targets = (batch["label"].astype(np.int64), batch["index"][:, None])
    tensors = (inputs["audio"], inputs["visual"], *targets)
    if "text" in inputs:
        mask = np.zeros_like(inputs["text"])
        tensors = (inputs["text"], mask, inputs["visual"], inputs["audio"], *targets)
    return tuple(torch.tensor(np.ascontiguousarray(value)) for value in tensors)


def by_collection(tensors: Tensors, batch: int) -> Tensors:
    """Tensors under the names of their rows in the table."""
    rows = {"params": f"parameters after {batch}", "batch_stats": f"batch statistics after {batch}"}
    return {f"{rows[name.split('/', 1)[0]]}/{name}": value for name, value in tensors.items()}


class Wrapper:
    """A module under the attribute ``module``, as ``DataParallel`` would hold it."""

    @staticmethod
    def around(torch: Any, model: Any) -> Any:
        class Wrapper(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.module = model

            def forward(self, *inputs: Any) -> Any:
                return self.module(*inputs)

        return Wrapper()


class _PaperPlugin:
    """``recursion`` in the place of the reference's plugin, called as its loop calls that one."""

    def __init__(self, width: int):
        self.Pl = np.eye(width)
        self.exp_count = 0

    def before_update(self, head: Any, features: Any, batch: int, batches: int, count: int) -> None:
        del count
        (weight,) = [p for name, p in head.named_parameters() if name.endswith("weight")]
        gradient = weight.grad.detach().numpy().astype(np.float64)
        projected = recursion.project(gradient, self.Pl)
        weight.grad.copy_(weight.grad.new_tensor(projected))
        mean = features.detach().numpy().astype(np.float64).mean(0)
        self.Pl = recursion.update(self.Pl, mean, 0.1 ** (1 + batch / batches))


def _plugin(reference: Reference, mode: Mode, width: int) -> Any:
    if mode.plugin == "paper":
        return _PaperPlugin(width)
    plugin = reference.utils.GSPlugin()
    if width != len(plugin.Pl):  # 512 is written into the plugin (Q32)
        plugin.Pl = reference.torch.eye(width).type(plugin.Pl.type())
    return plugin


def _matrix(plugin: Any) -> np.ndarray:
    P = plugin.Pl
    return P.copy() if isinstance(P, np.ndarray) else to_numpy(P)


def to_numpy(tensor: Any) -> np.ndarray:
    return tensor.detach().numpy().copy()
