"""From the files people have to the records that training reads: ``python -m mla_jax.prepare``."""
