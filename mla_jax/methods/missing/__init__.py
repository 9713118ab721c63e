"""Methods about missing modalities, a room of their own; ``methods.REGISTRY`` has them all."""
