"""A small network on two devices as ``torch.nn.DataParallel`` trains it, in plain PyTorch.

    PYTHONPATH=. python tests/data_parallel_reference.py

rewrites ``fixtures/encoders/data_parallel.npz`` in float64 (PyTorch needed, no GPU).  Weights and
inputs are by formula.  ``DataParallel`` itself wants GPUs, so this does what it does: every replica
gets the same parameters and its part of the batch, outputs are joined before the loss, and the
buffers of the first replica are the module's own, those of the others are thrown away.
"""

import pathlib

import numpy as np

from mla_jax.parity import formula

FIXTURE = pathlib.Path(__file__).parent / "fixtures" / "encoders" / "data_parallel.npz"
CHANNELS, WIDTHS = 3, (8, 12, 16)
BATCH, DEVICES, CLASSES, SEED = 8, 2, 5, 4


def batch():
    """Inputs ``float32[8, 16, 16, 3]``, of which the halves differ, and labels."""
    inputs = formula.uniform((BATCH, 16, 16, CHANNELS), 1)
    inputs[BATCH // 2 :] = 2 * inputs[BATCH // 2 :] + 0.5
    return inputs.astype(np.float32), formula.labels(BATCH, CLASSES, 2)


def head():
    """The kernel of the classifier, ``float32[16, 5]``; it is not trained."""
    return formula.uniform((WIDTHS[-1], CLASSES), 3).astype(np.float32)


def main():
    import torch
    from torch import nn

    torch.set_default_dtype(torch.float64)
    layers = []
    for before, width in zip((CHANNELS, *WIDTHS), WIDTHS, strict=False):
        layers += [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)]
        layers += [nn.ReLU(), nn.MaxPool2d(2)]
    module = nn.Sequential(*layers[:-1])

    def ours(name):
        """The name of a tensor in ours: of layer i, 4 i is the convolution and 4 i + 1 its norm."""
        position, leaf = name.split(".")
        layer, norm = divmod(int(position), 4)
        kinds = {"running_mean": "mean", "running_var": "var", "bias": "bias"}
        kind = kinds.get(leaf, "scale" if norm else "kernel")
        group = "batch_stats" if leaf.startswith("running") else "params"
        return f"{group}/{'BatchNorm' if norm else 'Conv'}_{layer}/{kind}"

    def as_ours(tensor):
        found = tensor.detach().numpy()
        return found.transpose(2, 3, 1, 0) if found.ndim == 4 else found

    named = {n: t for n, t in module.state_dict().items() if t.is_floating_point()}
    shapes = {ours(name): as_ours(tensor).shape for name, tensor in named.items()}
    weights = formula.tensors(shapes, SEED)
    with torch.no_grad():
        for name, tensor in named.items():
            value = weights[ours(name)]
            tensor.copy_(torch.tensor(value.transpose(3, 2, 0, 1) if value.ndim == 4 else value))

    inputs, labels = batch()
    inputs = torch.tensor(inputs.transpose(0, 3, 1, 2), dtype=torch.float64)
    parameters, outputs = dict(module.named_parameters()), []
    for device, part in enumerate(inputs.chunk(DEVICES)):
        buffers = dict(module.named_buffers())
        if device:
            buffers = {name: value.clone() for name, value in buffers.items()}
        outputs.append(torch.func.functional_call(module, (parameters, buffers), (part,)))
    features = torch.cat(outputs).mean((2, 3))
    logits = features @ torch.tensor(head(), dtype=torch.float64)
    loss = nn.functional.cross_entropy(logits, torch.tensor(labels, dtype=torch.int64))
    loss.backward()

    found = {"features": features.detach().numpy(), "loss": np.array(loss.item())}
    for name, parameter in parameters.items():
        found[f"gradient/{ours(name)}"] = as_ours(parameter.grad)
    for name, value in module.state_dict().items():
        if "running" in name:
            found[ours(name)] = as_ours(value)
    np.savez_compressed(FIXTURE, **{n: v.astype(np.float32) for n, v in found.items()})
    print(f"{FIXTURE}: {len(found)} quantities, {FIXTURE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
