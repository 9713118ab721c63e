"""Speed, as ratios measured side by side in one run: ``python -m mla_jax.benchmark``."""
