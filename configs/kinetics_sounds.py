"""Kinetics-Sounds: 31 sounds that can be seen, audio and video, two ResNet-18 from scratch."""

from mla_jax import experiment


def get_config(argument: str | None = None):
    """``argument``: see ``experiment.arguments``, and ``recipe=``, ``variant=``."""
    chosen = experiment.arguments(
        argument, modalities=("audio", "video"), recipe="kaldi_fbank", variant="ks31"
    )
    config = experiment.start("kinetics_sounds", chosen)
    config.encoders = {"audio": {"name": "resnet18"}, "video": {"name": "resnet18"}}
    config.feature_dim = 512
    config.batch_size = 64
    config.epochs = 100
    local = {"audio": {"name": "mlp", "hidden": 16}, "video": {"name": "mlp", "hidden": 16}}
    return experiment.finish(config, chosen, local)
