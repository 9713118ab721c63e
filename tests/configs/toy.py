"""A method of one's own: registered by the configuration that uses it."""

from mla_jax import methods
from mla_jax.config import fields
from tests import toy_method
from tests.configs import tiny


def get_config(argument=None):
    """``fidelity=``."""
    chosen = fields.parse_arguments(argument, fidelity="paper")
    methods.register("toy", toy_method)
    config = tiny.get_config()
    config.method = fields.method_block("toy", chosen.fidelity)
    config.epochs = 2
    return config
