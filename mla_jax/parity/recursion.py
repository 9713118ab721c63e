"""The paper's projection and fusion once more, independently: float64 numpy, row vectors.

Of these two the released code holds no version that computes the paper's equations, so they are
checked against a second implementation that shares no line and no convention with the first: here
the gradient is ``[C, D]``, as PyTorch stores it, and P acts from the right.
"""

import numpy as np


def project(gradient: np.ndarray, P: np.ndarray) -> np.ndarray:
    """Equation 2: the head's gradient ``[C, D]`` on what P has left of the feature space."""
    return gradient @ P


def update(P: np.ndarray, mean: np.ndarray, alpha: float) -> np.ndarray:
    """Equation 3: P after a step on features with mean ``[D]``."""
    q = (P @ mean) / (alpha + mean @ P @ mean)
    return P - np.outer(q, mean @ P)


def fuse(logits: np.ndarray) -> np.ndarray:
    """Section 3.3 for ``logits: [M, B, C]``: each example weighs modalities by certainty."""
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    entropy = -(p * np.log(p)).sum(-1)
    weights = np.exp(entropy.max(0) - entropy)
    weights /= weights.sum(0)
    return (weights[..., None] * logits).sum(0)
