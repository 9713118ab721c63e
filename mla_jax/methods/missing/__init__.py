"""Methods about missing modalities; ``methods.REGISTRY`` has them all."""
