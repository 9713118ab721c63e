"""The digits through perceptrons, six epochs: every path of the trainer in seconds."""

from mla_jax.config import fields


def get_config(argument=None):
    """``method=``, ``modalities=``, ``fidelity=``, ``path=`` (another digits file)."""
    chosen = fields.parse_arguments(
        argument, method="mla", fidelity="paper", modalities=("audio", "text"), path=""
    )
    config = fields.base_config()
    config.dataset.path = chosen.path
    config.modalities = chosen.modalities
    config.method = fields.method_block(chosen.method, chosen.fidelity)
    if "blocks" in config.method:
        config.method.blocks = 2  # the five of MMIN compile for long
    config.encoders = {
        "image": {"name": "mlp", "hidden": 16},
        "audio": {"name": "mlp", "hidden": 16},
        "text": {"name": "ngram_bag", "vocabulary": 1024},
    }
    config.feature_dim = 16
    config.compute_dtype = "float32"
    config.epochs = 6
    config.optimizer.learning_rate = 5e-2
    config.optimizer.decay_every = 4
    config.selection = "validation"
    config.evaluation.batch_size = 64
    config.log_every_steps = 0  # tests count the lines
    return config
