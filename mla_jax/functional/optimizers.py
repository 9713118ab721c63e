"""Optimisers with PyTorch's order of operations, and learning rates computed from the epoch.

A transform here gives a direction; the learning rate is applied last, ``p - lr(info) * u``, as
``torch.optim`` does: decay is added to the gradient, momentum accumulates the sum.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mla_jax.errors import check_choice


class StepInfo(NamedTuple):
    """The position in training.  Learning rates and MLA's alpha depend only on this: the shared
    head is stepped M times per batch, so an optimiser's own count would be too high.

    >>> mla_jax.optimizers.StepInfo(epoch=2, batch_index=5, batches_per_epoch=26)
    StepInfo(epoch=2, batch_index=5, batches_per_epoch=26)
    """

    epoch: Any
    """Epoch within the stage, from 0."""
    batch_index: Any
    """Batch within the epoch, from 0."""
    batches_per_epoch: Any


class Optimizer(NamedTuple):
    """A direction and a learning rate; one ``opt_state`` per encoder and one per head.

    >>> rate = lambda info: 0.1 / (1 + info.epoch)
    >>> optimizer = mla_jax.optimizers.Optimizer(optax.trace(0.9), rate)
    >>> params, gradients = jnp.array([1.0, 2.0]), jnp.array([1.0, 0.0])
    >>> state, info = optimizer.init(params), mla_jax.optimizers.StepInfo(0, 0, 26)
    >>> params, state = optimizer.step(gradients, state, params, info)
    >>> params
    Array([0.9, 2. ], dtype=float32)
    >>> params, state = optimizer.step(gradients, state, params, info)  # momentum: 1.9 as far
    >>> params
    Array([0.71, 2.  ], dtype=float32)
    """

    transform: optax.GradientTransformationExtraArgs
    learning_rate: Callable[[StepInfo], jax.Array]

    def init(self, params: Any) -> Any:
        """The optimiser state of one encoder or one head."""
        return self.transform.init(params)

    def step(
        self,
        gradients: Any,
        opt_state: Any,
        params: Any,
        info: StepInfo,
        where: jax.Array | None = None,
        **extra: Any,
    ) -> tuple[Any, Any]:
        """One update: ``(params, opt_state)``.  ``extra`` goes to the transform (projection).

        ``where: bool[]`` False leaves parameters and state as they are: a zero gradient would not,
        because of momentum and decay.
        """
        updates, new_state = self.transform.update(gradients, opt_state, params, **extra)
        rate = self.learning_rate(info)
        new_params = jax.tree.map(lambda p, u: p - rate * u, params, updates)
        if where is None:
            return new_params, new_state
        new, old = (new_params, new_state), (params, opt_state)
        return jax.tree.map(lambda n, o: jnp.where(where, n, o), new, old)

    def after(self, transform: optax.GradientTransformation) -> "Optimizer":
        """The same optimiser, with ``transform`` applied to the gradients first."""
        chained = optax.chain(transform, self.transform)
        return Optimizer(optax.with_extra_args_support(chained), self.learning_rate)

    def scaled(self, factor: float) -> "Optimizer":
        """The same optimiser with ``factor`` times the learning rate."""
        return Optimizer(self.transform, lambda info: factor * self.learning_rate(info))


def create_optimizer(config: Any, epochs: int) -> Optimizer:
    """Builds the optimiser of ``config.optimizer``; ``epochs`` is the length of the run.

    >>> config = mla_jax.load_config("configs/digits.py").optimizer
    >>> config.name, config.learning_rate, config.momentum, config.schedule
    ('sgd', 0.05, 0.9, 'step')
    >>> optimizer = mla_jax.optimizers.create_optimizer(config, epochs=15)
    >>> info = mla_jax.optimizers.StepInfo(epoch=0, batch_index=0, batches_per_epoch=26)
    >>> round(float(optimizer.learning_rate(info)), 4)
    0.05
    """
    check_choice("optimizer.name", config.name, TRANSFORMS)
    transform = TRANSFORMS[config.name](config)
    if config.clip_norm:
        transform = optax.chain(clip_by_norm(config.clip_norm), transform)
    rate = learning_rate_schedule(config, epochs)
    return Optimizer(optax.with_extra_args_support(transform), rate)


def clip_by_norm(largest: float) -> optax.GradientTransformation:
    """``torch.nn.utils.clip_grad_norm_``: scales by ``largest / (norm + 1e-6)`` if that is below 1.

    ``optax.clip_by_global_norm`` lacks the 1e-6: after three steps of Adam parameters differ by
    1e-9.

    >>> tx, gradients = mla_jax.optimizers.clip_by_norm(1.0), jnp.array([3.0, 4.0])
    >>> tx.update(gradients, tx.init(gradients))[0]  # its norm was 5
    Array([0.6, 0.8], dtype=float32)
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        norm = jnp.sqrt(sum(jnp.square(u).sum() for u in jax.tree.leaves(updates)))
        scale = jnp.minimum(largest / (norm + 1e-6), 1)
        return jax.tree.map(lambda u: u * scale.astype(u.dtype), updates), state

    return optax.GradientTransformation(optax.init_empty_state, update)


def _sgd(config: Any) -> optax.GradientTransformation:
    """``torch.optim.SGD``: weight decay first, then the momentum buffer, no dampening."""
    momentum = (
        optax.trace(config.momentum, config.nesterov) if config.momentum else optax.identity()
    )
    return optax.chain(optax.add_decayed_weights(config.weight_decay), momentum)


def _adam(config: Any) -> optax.GradientTransformation:
    """``torch.optim.Adam``: the decay is part of the gradient."""
    return optax.chain(
        optax.add_decayed_weights(config.weight_decay), optax.scale_by_adam(b1=config.beta1)
    )


def _adamw(config: Any) -> optax.GradientTransformation:
    """``torch.optim.AdamW``: the decay is separate from the gradient."""
    return optax.chain(
        optax.scale_by_adam(b1=config.beta1), optax.add_decayed_weights(config.weight_decay)
    )


TRANSFORMS = {"sgd": _sgd, "adam": _adam, "adamw": _adamw}
SCHEDULES = ("constant", "step", "cosine", "linear")


def depends_on_length(config: Any) -> str:
    """Why the learning rate of an epoch depends on the number of epochs; empty if it does not.

    >>> config = mla_jax.load_config("configs/digits.py").optimizer
    >>> mla_jax.optimizers.depends_on_length(config)
    'optimizer.decay_every=0 lowers the learning rate at 70 % of the epochs'
    """
    if config.schedule in ("cosine", "linear"):
        return f"optimizer.schedule={config.schedule} ends with the last epoch"
    if config.schedule == "step" and not config.decay_every:
        return "optimizer.decay_every=0 lowers the learning rate at 70 % of the epochs"
    return ""


def learning_rate_schedule(config: Any, epochs: int) -> Callable[[StepInfo], jax.Array]:
    """``constant``, ``step`` (``torch.optim.lr_scheduler.StepLR``, per epoch), ``cosine``, or
    ``linear``: constant for the first fifth of the epochs, then down to 0 after the last one, per
    epoch, as GCNet trains its baselines.

    During ``config.warmup_epochs`` the rate first rises linearly, batch by batch.

    >>> config = mla_jax.load_config("configs/digits.py").optimizer
    >>> config.schedule, config.learning_rate, config.decay_every = "step", 0.1, 10
    >>> rate = mla_jax.optimizers.learning_rate_schedule(config, epochs=15)
    >>> info = mla_jax.optimizers.StepInfo(epoch=9, batch_index=0, batches_per_epoch=26)
    >>> round(float(rate(info)), 3), round(float(rate(info._replace(epoch=10))), 3)
    (0.1, 0.01)
    """
    check_choice("optimizer.schedule", config.schedule, SCHEDULES)
    decay_every = config.decay_every or max(1, round(0.7 * epochs))
    constant = epochs // 5

    def rate(info: StepInfo) -> jax.Array:
        epoch = jnp.asarray(info.epoch, float)
        elapsed = epoch + jnp.asarray(info.batch_index, float) / info.batches_per_epoch
        value = jnp.asarray(config.learning_rate, float)
        if config.schedule == "step":
            value = value * config.decay_rate ** jnp.floor(epoch / decay_every)
        elif config.schedule == "cosine":
            value = value * 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(elapsed / epochs, 1)))
        elif config.schedule == "linear":
            past = jnp.maximum(epoch + 1 - constant, 0)
            value = value * jnp.maximum(1 - past / (epochs - constant + 1), 0)
        if config.warmup_epochs:
            reached = elapsed + 1 / info.batches_per_epoch  # the first batch must not have rate 0
            value = value * jnp.minimum(reached / config.warmup_epochs, 1)
        return value

    return rate
