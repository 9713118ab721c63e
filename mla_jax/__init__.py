"""Balanced multimodal learning in JAX: MLA, the methods it is compared with, and its numerics."""

__version__ = "0.1.0"
