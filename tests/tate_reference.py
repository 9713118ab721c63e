"""TATE's forward pass and losses in plain numpy, from the equations and the published graph.

The published code (Zeng, Liu, Zhou, SIGIR 2022, ``iemocap/network.py`` and ``module.py``) is for
TensorFlow 1.  Here any width d, even, and any lengths; without dropout.  Parameters by name, with
w = d before the tag is appended and w = d + 4 after it:

    project/<v|a|t>                  [input, d], no bias
    block/<v|a|t|encoder|decoder>/   query, key, value [w, w], no bias; norm1/scale, norm1/bias;
                                     inner/kernel [w, 4w], inner/bias, outer/kernel, outer/bias;
                                     norm2/scale, norm2/bias
    common/<va|vt|ta>                [d, d / 2]
    pool/score [w, 1], pool/gate [w, w], pool/value [w, w]
    reduce [w, d], head/kernel [d, C], head/bias [1, C]
"""

import numpy as np

MASKED = -(2.0**32) + 1
SMALL = 1e-7
"""Probabilities are clipped to [SMALL, 1] inside the divergences, as Keras does."""

TAGS = {"complete": (1, 0, 0, 0), "v": (0, 1, 0, 0), "a": (0, 0, 1, 0), "t": (0, 0, 0, 1)}
"""By what is missing.  As released every example has the last one, whatever is missing."""


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def layer_norm(x, scale, bias, epsilon=1e-8):
    """Steps of zeros stay zeros before scale and bias."""
    variance = x.var(-1, keepdims=True)
    return scale * (x - x.mean(-1, keepdims=True)) / np.sqrt(variance + epsilon) + bias


def attention(p, x, heads=4):
    """Self-attention [B, T, w] without output projection.

    A step whose key is all zeros is not attended to, one whose query is all zeros attends to
    nothing.  Where every key is zero, the weights are uniform before the queries' mask.
    """
    batch, time, width = x.shape
    query, key, value = (  # [B, H, T, w / H]
        (x @ p[name]).reshape(batch, time, heads, width // heads).transpose(0, 2, 1, 3)
        for name in ("query", "key", "value")
    )
    scores = query @ key.transpose(0, 1, 3, 2) / np.sqrt(width // heads)
    seen = np.abs(key).sum(-1)[:, :, None, :] > 0
    asking = np.abs(query).sum(-1)[..., None] > 0
    mixed = (softmax(np.where(seen, scores, MASKED)) * asking) @ value
    return mixed.transpose(0, 2, 1, 3).reshape(batch, time, width)


def block(parameters, name, x):
    """Attention and feed-forward, each with residual and layer normalisation after it."""
    prefix = f"block/{name}/"
    p = {n.removeprefix(prefix): v for n, v in parameters.items() if n.startswith(prefix)}
    x = layer_norm(attention(p, x) + x, p["norm1/scale"], p["norm1/bias"])
    inner = np.maximum(x @ p["inner/kernel"] + p["inner/bias"], 0)
    x = inner @ p["outer/kernel"] + p["outer/bias"] + x
    return layer_norm(x, p["norm2/scale"], p["norm2/bias"])


def gated_pool(p, x):
    """[B, T, w] -> [B, w]: softmax over time of ``((x U) * sigmoid(x M)) r``; padding counts."""
    scores = ((x @ p["pool/value"]) * sigmoid(x @ p["pool/gate"])) @ p["pool/score"]
    return (softmax(scores[..., 0])[:, None, :] @ x)[:, 0]


def symmetric_divergence(x, y):
    """KL both ways of softmaxes over the features, mean over time, sum over the batch."""
    p, q = (np.clip(softmax(z), SMALL, 1) for z in (x, y))
    return ((p * np.log(p / q)).sum(-1) + (q * np.log(q / p)).sum(-1)).mean(-1).sum()


def forward(p, v, a, t, tags):
    """``{X, E, D, pooled, logits}``.

    Args:
      p: parameters; v, a, t: [B, T, input], zeros where missing; tags: [B, 4].
    """
    encoded = {n: block(p, n, x @ p[f"project/{n}"]) for n, x in (("v", v), ("a", a), ("t", t))}
    pairs = {"v": ("va", "vt"), "a": ("va", "ta"), "t": ("vt", "ta")}
    common = [
        np.concatenate([encoded[n] @ p[f"common/{pair}"] for pair in pairs[n]], -1) for n in "vat"
    ]
    joined = np.concatenate(common, 1)
    repeated = np.broadcast_to(np.asarray(tags, float)[:, None], (*joined.shape[:2], 4))
    tagged = np.concatenate([joined, repeated], -1)
    encoder = block(p, "encoder", tagged)
    pooled = gated_pool(p, encoder)
    logits = pooled @ p["reduce"] @ p["head/kernel"] + p["head/bias"]
    decoder = block(p, "decoder", encoder)
    return {"X": tagged, "E": encoder, "D": decoder, "pooled": pooled, "logits": logits}


def losses(p, found, guide, labels):
    """The terms unweighted, and ``total`` with the weights of the IEMOCAP file (0.1 each).

    ``guide`` [B, T, w]: the encoder's output of the model trained on complete data.
    """
    log_p = np.log(softmax(found["logits"]))
    terms = {
        "cross_entropy": -log_p[np.arange(len(labels)), labels].sum(),
        "forward": symmetric_divergence(found["E"], guide),
        "backward": symmetric_divergence(found["D"], found["X"]),
        "tag": np.abs(found["X"][:, 1, -4:] - sigmoid(found["pooled"][:, -4:])).mean(),
        "decay": 1e-4 / 2 * ((p["head/kernel"] ** 2).sum() + (p["head/bias"] ** 2).sum()),
    }
    guided = sum(terms[name] for name in ("forward", "backward", "tag", "decay"))
    return terms | {"total": terms["cross_entropy"] + 0.1 * guided}
