"""What the published TensorFlow graphs of CPM-Nets and TATE, and the references here, run on."""

import zlib

import numpy as np

from mla_jax.parity import formula
from mla_jax.parity.missing import PATTERNS

TRAIN, TEST, LATENT, DIMS, CLASSES = 9, 5, 4, (7, 5, 6), 3
RATES, TRADE_OFF, EPOCHS, TEST_EPOCHS = (1e-3, 1e-2), 10.0, 3, 2

BATCH, LENGTHS, INPUTS, WIDTH = 6, {"v": 4, "a": 5, "t": 3}, {"v": 709, "a": 33, "t": 768}, 300
FLAGS = (-1, 0, 1, 2, 0, -1)
"""What is missing of each example: nothing, v, a or t."""


def cpm():
    """``{x0, x1, x2 [N, d], present [N, 3], labels [TRAIN], train, test [n, K], w0, b0, ...}``."""
    total = TRAIN + TEST
    found = {f"x{v}": formula.uniform((total, d), v) * 2 for v, d in enumerate(DIMS)}
    found["present"] = np.array([PATTERNS[3 * i % 7] for i in range(total)], float)
    found["labels"] = np.arange(TRAIN) % CLASSES
    found["train"] = formula.uniform((TRAIN, LATENT), 5)
    found["test"] = formula.uniform((TEST, LATENT), 6)
    for v, d in enumerate(DIMS):
        found[f"w{v}"] = formula.uniform((LATENT, d), 10 + v) / 2
        found[f"b{v}"] = formula.uniform((d,), 20 + v) / 8
    return found


def tate_inputs():
    """``{v, a, t [B, T, input], guide [B, 12, 304], labels [B]}``; zeros are missing or padding."""
    found = {n: formula.uniform((BATCH, LENGTHS[n], INPUTS[n]), i) for i, n in enumerate(LENGTHS)}
    for example, flag in enumerate(FLAGS):
        if flag >= 0:
            found["vat"[flag]][example] = 0
    found["v"][0, 3:] = 0
    steps = sum(LENGTHS.values())
    found["guide"] = formula.uniform((BATCH, steps, WIDTH + 4), 7) * 2
    return found | {"labels": np.arange(BATCH) % 4}


def tate_weights(shapes):
    """By formula, the deviation ``1 / sqrt(fan_in)``; scales about 1, biases small."""

    def fill(name, shape):
        values = formula.uniform(shape, zlib.crc32(name.encode()) % 1_000_003)
        if name.endswith("scale"):
            return 1 + values / 4
        return values / 8 if name.endswith("bias") else values * np.sqrt(3 / shape[0])

    return {name: fill(name, shape) for name, shape in shapes.items()}


def tate_shapes():
    """``{name of tate_reference: shape}``."""
    found = {f"project/{n}": (dim, WIDTH) for n, dim in INPUTS.items()}
    for name in ("v", "a", "t", "encoder", "decoder"):
        w, p = WIDTH + 4 * (name in ("encoder", "decoder")), f"block/{name}/"
        found |= {p + n: (w, w) for n in ("query", "key", "value")}
        found |= {p + f"{norm}/{n}": (w,) for norm in ("norm1", "norm2") for n in ("scale", "bias")}
        found |= {p + "inner/kernel": (w, 4 * w), p + "inner/bias": (4 * w,)}
        found |= {p + "outer/kernel": (4 * w, w), p + "outer/bias": (w,)}
    found |= {f"common/{n}": (WIDTH, WIDTH // 2) for n in ("va", "vt", "ta")}
    w = WIDTH + 4
    found |= {"pool/score": (w, 1), "pool/gate": (w, w), "pool/value": (w, w)}
    return found | {"reduce": (w, WIDTH), "head/kernel": (WIDTH, 4), "head/bias": (1, 4)}
