"""M3AE and CAV-MAE in plain PyTorch functions, and the numbers that they give.

    python tests/transformer_reference.py

rewrites ``fixtures/encoders/transformers.npz`` in float64 (PyTorch needed).  Weights and inputs are
by formula, under the names of the published checkpoints; nothing here uses the code it checks.
"""

import pathlib
import zlib

import numpy as np
import safetensors.numpy

from mla_jax.parity import formula

FIXTURE = pathlib.Path(__file__).parent / "fixtures" / "encoders" / "transformers.npz"
HEADS, WIDTH, DEPTH, VOCABULARY = 4, 64, 2, 50
IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
CC12M = ([0.5762, 0.5503, 0.5213], [0.3207, 0.3169, 0.3307])

PRETRAINING = {"epsilon": 1e-6, "gelu": "tanh"}
RELEASED = {"epsilon": 1e-5, "gelu": "none"}
TEXT = {"pretraining": {**PRETRAINING, "pool": "valid"}, "released": {**RELEASED, "pool": "all"}}
IMAGE = {
    "pretraining": {**PRETRAINING, "statistics": CC12M, "order": "hwc", "pool": "all"},
    "released": {**RELEASED, "statistics": IMAGENET, "order": "chw", "pool": "all"},
}

# case: (encoder, its fields in ours, arguments of the function below).
CASES = {
    "text/pretraining": ("m3ae_text", {"convention": "pretraining"}, TEXT["pretraining"]),
    "text/released": (
        "m3ae_text",
        {"convention": "released"},
        TEXT["released"] | {"attend_empty": True},
    ),
    "text/attended": (
        "m3ae_text",
        {"empty_text": "attended"},
        TEXT["pretraining"] | {"attend_empty": True},
    ),
    "text/all": ("m3ae_text", {"pool": "all_tokens"}, TEXT["pretraining"] | {"pool": "all"}),
    "text/cls": ("m3ae_text", {"pool": "cls"}, TEXT["pretraining"] | {"pool": "cls"}),
    "image/pretraining": ("m3ae_image", {"convention": "pretraining"}, IMAGE["pretraining"]),
    "image/released": ("m3ae_image", {"convention": "released"}, IMAGE["released"]),
    "image/patch_order": (
        "m3ae_image",
        {"convention": "released", "patch_order": "row_column_channel"},
        IMAGE["released"] | {"order": "hwc"},
    ),
    "image/cls": ("m3ae_image", {"pool": "cls"}, IMAGE["pretraining"] | {"pool": "cls"}),
    # Where 1e-5 and 1e-6 can hardly be told apart, 0.1 tells whether epsilon arrives at all.
    "image/epsilon": ("m3ae_image", {"epsilon": 0.1}, IMAGE["pretraining"] | {"epsilon": 0.1}),
    "text/epsilon": ("m3ae_text", {"epsilon": 0.1}, TEXT["pretraining"] | {"epsilon": 0.1}),
    "audio/pretraining": ("cavmae_audio", {}, {"normalize": True}),
    "audio/released": ("cavmae_audio", {"convention": "released"}, {"normalize": False}),
    "visual/pretraining": ("cavmae_visual", {}, {}),
}
GRADIENTS = {  # case: the tensor of whose gradient the fixture keeps a part
    "text/pretraining": "encoder.blocks.0.attention.qkv_linear.bias",
    "image/released": "encoder.blocks.1.transformer_mlp.fc1.bias",
    "audio/pretraining": "modality_a",
    "visual/pretraining": "blocks_u.0.norm1_v.weight",
}


def inputs(encoder, size=1):
    """Two or three examples for an encoder."""
    if encoder == "m3ae_text":
        ids = formula.labels(21 * size, VOCABULARY - 1, 5).reshape(3, 7 * size) + 1
        ids[0, 4:] = ids[2] = 0  # one is padded, one is missing
        return ids.astype(np.int32)
    if encoder == "cavmae_audio":
        return (5 * formula.uniform((2, 64 * size, 32 * size), 6) - 5).astype(np.float32)
    side = 48 if encoder == "m3ae_image" else 32
    return ((formula.uniform((2, side * size, side * size, 3), 7) + 1) * 127).astype(np.uint8)


def m3ae_shapes(width=WIDTH, depth=DEPTH, vocabulary=VOCABULARY):
    """Names and shapes of an M3AE in PyTorch."""
    shapes = {
        "cls_token": (1, 1, width),
        "encoder_image_type_embedding": (1, 1, width),
        "encoder_text_type_embedding": (1, 1, width),
        "text_embedding.weight": (vocabulary, width),
        "image_embedding.weight": (width, 768),
        "image_embedding.bias": (width,),
    }
    names = ("layer_norm1", "layer_norm2", "attention.qkv_linear", "attention.fc")
    names = (*names, "transformer_mlp.fc1", "transformer_mlp.fc2")
    for i in range(depth):
        shapes |= block_shapes(f"encoder.blocks.{i}.", names, width)
    return shapes | norm_shapes("encoder.layer_norm", width)


def cavmae_shapes(width=WIDTH, depth=DEPTH, tokens=(8, 4)):
    """Names and shapes of CAV-MAE for fine-tuning, with its unified norm and its classifier."""
    shapes = {}
    for letter, channels, count in (("a", 1, tokens[0]), ("v", 3, tokens[1])):
        shapes |= {
            f"patch_embed_{letter}.proj.weight": (width, channels, 16, 16),
            f"patch_embed_{letter}.proj.bias": (width,),
            f"pos_embed_{letter}": (1, count, width),
            f"modality_{letter}": (1, 1, width),
        }
        shapes |= norm_shapes(f"norm_{letter}", width)
    names = ("norm1", "norm2", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    blocks = [f"blocks_{letter}.{i}." for letter in "av" for i in range(depth - 1)]
    for block in (*blocks, "blocks_u.0."):
        shapes |= block_shapes(block, names, width)
        for norm in ("norm1_a", "norm1_v", "norm2_a", "norm2_v"):
            shapes |= norm_shapes(block + norm, width)
    return shapes | norm_shapes("norm", width) | {"mlp_head.1.weight": (6, width)}


def block_shapes(prefix, names, width):
    norm1, norm2, qkv, projection, fc1, fc2 = (prefix + name for name in names)
    shapes = norm_shapes(norm1, width) | norm_shapes(norm2, width)
    linears = ((qkv, 3, 1), (projection, 1, 1), (fc1, 4, 1), (fc2, 1, 4))
    for name, out, into in linears:
        shapes |= {f"{name}.weight": (out * width, into * width), f"{name}.bias": (out * width,)}
    return shapes


def norm_shapes(name, width):
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def weights(shapes, seed=0):
    """Tensors in float32 by formula, none of them neutral and none a constant."""

    def fill(name, shape):
        values = formula.uniform(shape, seed + zlib.crc32(name.encode()) % 1_000_003)
        if len(shape) > 1 and "embed" not in name:
            values *= np.sqrt(3 / np.prod(shape[1:]))
        elif len(shape) == 1 and name.endswith("weight"):
            values = 1 + values / 4
        else:
            values /= 4
        return values.astype(np.float32)

    return {name: fill(name, shape) for name, shape in shapes.items()}


def state_dict(encoder, **sizes):
    """The whole checkpoint that holds an encoder."""
    shapes = m3ae_shapes(**sizes) if encoder.startswith("m3ae") else cavmae_shapes(**sizes)
    return weights(shapes)


def save(path, tensors):
    """Writes a safetensors file and returns its path as text."""
    safetensors.numpy.save_file(tensors, path)
    return str(path)


def prefixed(prefix, tensors):
    return {prefix + name: value for name, value in tensors.items()}


def same_bits(a, b):
    return a.keys() == b.keys() and all(a[n].tobytes() == b[n].tobytes() for n in a)


def forward(encoder, state, x, heads, depth, **arguments):
    """Features of one encoder; ``state`` and ``x`` are torch tensors of one floating type."""
    if encoder.startswith("m3ae"):
        return m3ae(encoder.removeprefix("m3ae_"), state, x, heads, depth, **arguments)
    letter = {"cavmae_audio": "a", "cavmae_visual": "v"}[encoder]
    return cavmae(letter, state, x, heads, depth, **arguments)


def m3ae(
    part, state, x, heads, depth, epsilon, gelu, pool, order="", statistics=None, attend_empty=False
):
    import torch

    kind, width = state["cls_token"].dtype, state["cls_token"].shape[-1]
    if part == "text":
        hidden = (x == 0).to(kind)  # 1 where a key must not be attended to
        if attend_empty:
            hidden[(x == 0).all(1)] = 0
        position = codes(np.arange(x.shape[1]), width, np.float32)
        x = state["text_embedding.weight"][x.long()]
    else:
        x = normalized(x, kind, statistics)
        n, h, w, _ = x.shape
        x = x.reshape(n, h // 16, 16, w // 16, 16, 3)
        x = x.permute(*((0, 1, 3, 2, 4, 5) if order == "hwc" else (0, 1, 3, 5, 2, 4)))
        x = x.reshape(n, h * w // 256, 768)
        x = x @ state["image_embedding.weight"].T + state["image_embedding.bias"]
        hidden = torch.zeros(x.shape[:2], dtype=kind)
        position = grid(h // 16, w // 16, width, np.float32)
    x = x + torch.tensor(position).to(kind) + state[f"encoder_{part}_type_embedding"]
    x = torch.cat([state["cls_token"].expand(len(x), 1, width), x], 1)
    hidden = torch.cat([torch.zeros(len(x), 1, dtype=kind), hidden], 1)
    names = ("layer_norm1", "layer_norm2", "attention.qkv_linear", "attention.fc")
    names = (*names, "transformer_mlp.fc1", "transformer_mlp.fc2")
    for i in range(depth):
        x = block(state, f"encoder.blocks.{i}.", names, x, hidden, heads, epsilon, gelu)
    x = norm(state, "encoder.layer_norm", x, epsilon)
    if pool == "cls":
        return x[:, 0]
    if pool == "all":
        return x.mean(1)
    return torch.stack([row[h == 0].mean(0) for row, h in zip(x, hidden, strict=True)])


def cavmae(letter, state, x, heads, depth, normalize=False):
    import torch

    kind = state["pos_embed_a"].dtype
    if letter == "a":
        x = (x.to(kind) + 5.081) / 4.4849 if normalize else x.to(kind)
        x = x.transpose(1, 2)[:, None]
    else:
        x = normalized(x, kind, IMAGENET).permute(0, 3, 1, 2)
    patch = f"patch_embed_{letter}.proj"
    x = torch.nn.functional.conv2d(x, state[f"{patch}.weight"], state[f"{patch}.bias"], stride=16)
    x = x.flatten(2).transpose(1, 2) + state[f"pos_embed_{letter}"] + state[f"modality_{letter}"]
    names = ("norm1", "norm2", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    own = (f"norm1_{letter}", f"norm2_{letter}", *names[2:])
    for i in range(depth - 1):
        x = block(state, f"blocks_{letter}.{i}.", names, x, None, heads, 1e-5, "none")
    x = block(state, "blocks_u.0.", own, x, None, heads, 1e-5, "none")
    return norm(state, f"norm_{letter}", x, 1e-5).mean(1)


def block(state, prefix, names, x, hidden, heads, epsilon, gelu):
    import torch

    norm1, norm2, qkv, projection, fc1, fc2 = (prefix + name for name in names)

    def linear(name, y):
        return y @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    n, t, d = x.shape
    q, k, v = linear(qkv, norm(state, norm1, x, epsilon)).chunk(3, dim=-1)
    q, k, v = (y.reshape(n, t, heads, d // heads).transpose(1, 2) for y in (q, k, v))
    scores = q @ k.transpose(2, 3) / (d // heads) ** 0.5
    if hidden is not None:
        scores = torch.where(hidden[:, None, None] > 0, torch.full_like(scores, -1e7), scores)
    y = (scores.softmax(-1) @ v).transpose(1, 2).reshape(n, t, d)
    x = x + linear(projection, y)
    y = linear(fc1, norm(state, norm2, x, epsilon))
    return x + linear(fc2, torch.nn.functional.gelu(y, approximate=gelu))


def norm(state, name, x, epsilon):
    import torch

    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    return torch.nn.functional.layer_norm(x, x.shape[-1:], weight, bias, epsilon)


def normalized(x, kind, statistics):
    import torch

    mean, deviation = (torch.tensor(v, dtype=kind) for v in statistics)
    return (x.to(kind) / 255 - mean) / deviation


def codes(position, width, kind):
    frequency = np.array(10000, kind) ** (-np.arange(0, width, 2, dtype=kind) / kind(width))
    angle = np.outer(position.astype(kind), frequency)
    return np.hstack([np.sin(angle), np.cos(angle)])


def grid(rows, columns, width, kind):
    across = codes(np.tile(np.arange(columns), rows), width // 2, kind)
    down = codes(np.repeat(np.arange(rows), columns), width // 2, kind)
    return np.hstack([across, down])


def compute():
    """``{case: features float64[B, D], case/gradient: ...}`` of every case."""
    import torch

    found = {}
    for case, (encoder, _, arguments) in CASES.items():
        state = {
            name: torch.tensor(value, dtype=torch.float64, requires_grad=True)
            for name, value in state_dict(encoder).items()
        }
        x = torch.tensor(inputs(encoder))
        features = forward(encoder, state, x, HEADS, DEPTH, **arguments)
        found[case] = features.detach().numpy()
        if case in GRADIENTS:
            (features**2).sum().backward()
            found[f"{case}/gradient"] = state[GRADIENTS[case]].grad.numpy()
    return found


M3AE, CAVMAE = weights(m3ae_shapes()), weights(cavmae_shapes())

if __name__ == "__main__":
    FIXTURE.parent.mkdir(exist_ok=True)
    np.savez_compressed(FIXTURE, **compute())
    print(f"{FIXTURE.name}: {FIXTURE.stat().st_size} bytes")
