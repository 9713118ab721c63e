"""What is compiled: a method on the inputs of its data set, its optimiser and its evaluation."""

import collections
import functools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict

from mla_jax import distributed
from mla_jax.backend import compiling
from mla_jax.data.dataset import ArraySplit, Dataset, DataSpec, Transform
from mla_jax.data.missing import mask_dataset
from mla_jax.data.pipeline import Loader
from mla_jax.data.streams import Stream
from mla_jax.data.transform import create_transform, draw_name
from mla_jax.dispatch import Dispatch
from mla_jax.encoders import Encoders, create_encoders, many
from mla_jax.encoders.spread import Spread
from mla_jax.errors import UserError
from mla_jax.evaluate import Evaluator
from mla_jax.functional.optimizers import Optimizer, create_optimizer
from mla_jax.methods import Method, Task, create_method, sees_hidden, trains_encoders
from mla_jax.methods.base import Phase, Solo, Stage
from mla_jax.state import Batch, TrainState


class Program(NamedTuple):
    """What is compiled: it depends on the configuration but not on the seed."""

    encoders: Encoders
    method: Method
    optimizer: Optimizer
    dispatches: dict[str, Dispatch]
    """``{stage name: its phases}``."""
    evaluator: Evaluator
    placement: distributed.DataParallel


def masked(config: FrozenConfigDict, dataset: Dataset, masks: str = "") -> Dataset:
    """The data set under ``config.missing``, as the method of a resolved configuration needs it.

    ``masks``: another copy of the file ``config.missing.masks``.

    Raises:
      UserError: masks that do not suit it (``data/missing.py``).
    """
    missing = ConfigDict({**config.missing.to_dict(), **({"masks": masks} if masks else {})})
    return mask_dataset(dataset, missing, sees_hidden(config.method.name))


def build_program(
    config: FrozenConfigDict,
    data: Dataset | DataSpec,
    devices: Sequence[jax.Device] | None = None,
    compiled_for: str = "",
) -> Program:
    """The method of a resolved configuration, on all devices or on the ones given.

    ``data`` is the data set, or what a run has recorded of it (``data.json``): enough to predict.
    ``compiled_for``: the platform that encoders are written for, if not that of the devices.
    """
    placement = distributed.data_parallel(config.batch_size, devices, config.modality_devices)
    in_float32 = config.gradient_sum_dtype == "float32"
    mesh: Any = placement.sharded.mesh  # of devices, never an abstract one
    spread = Spread(mesh, config.batch_norm_devices, in_float32, compiled_for)
    dtype = jnp.dtype(config.compute_dtype)
    encoders = create_encoders(
        config.encoders, config.modalities, config.feature_dim, dtype, spread
    )
    encoders = encoders._replace(complete=_always_complete(config, data))
    optimizer = create_optimizer(config.optimizer, config.epochs)
    task = Task(data.classes, config.epochs, data.training_examples, config.head_init)
    method = create_method(config.method, encoders, optimizer, task)
    if config.modality_devices > 1:
        require_together(config.method.name, method)
    if method.features is None and trains_encoders(config.method.name):
        method = method._replace(features=functools.partial(_features, encoders))
    streams = encoders.fitted(data.streams)
    transform = create_transform(streams, data.modalities)
    fill = {m: np.asarray(value, np.float32) for m, value in data.fill.items()}
    method = with_preparation(method, transform, config.absent, fill, streams)
    if config.compute_dtype == "float32":
        method = in_full_precision(method)
    platform = placement.sharded.mesh.devices.flat[0].platform
    options = compiling.options_for(encoders, platform)
    dispatches = {s.name: Dispatch(s.phases, options) for s in method.stages}
    evaluator = Evaluator(method, devices, Loader(**config.loader))
    return Program(encoders, method, optimizer, dispatches, evaluator, placement)


def require_together(name: str, method: Method) -> None:
    """Raises ``UserError`` unless all phases take alike encoders together."""
    if all(stage.phases and all(p.alike for p in stage.phases) for stage in method.stages):
        return
    schedule = ""
    if name == "mla":
        schedule = "set --config.method.schedule=fused (in a comparison, mla:schedule=fused), or "
    raise UserError(
        f"modality_devices is for methods that hold alike encoders together, which {name} does "
        f"not: {schedule}set --config.modality_devices=1"
    )


def _features(encoders: Encoders, variables: dict[str, Any], batch: Batch) -> dict[str, jax.Array]:
    """``Method.features`` of a method whose heads get what the encoders make of each modality."""
    params = variables["params"]["encoder"]
    found, _ = encoders.features(params, variables["batch_stats"], batch, train=False)
    return dict(found)


def _always_complete(config: FrozenConfigDict, data: Dataset | DataSpec) -> bool:
    """Whether no training batch lacks a modality or is padded; False where that is not known."""
    full = config.drop_last or data.training_examples % config.batch_size == 0
    return full and isinstance(data, Dataset) and bool(data.splits["train"].present.all())


def check_vocabularies(encoders: Encoders, dataset: Dataset) -> None:
    """Raises ``UserError`` if an encoder of tokens does not know an id, which it would make NaN.

    Looks at all examples in memory, and at the first ones of what lies on disk.
    """
    for modality, module in encoders.modules.items():
        vocabulary = getattr(module, "vocabulary", 0)
        for part, split in dataset.splits.items() if vocabulary else ():
            if isinstance(split, ArraySplit):
                ids = split.inputs[modality]
            else:
                ids = split.fetch(np.arange(min(8, split.examples)))["inputs"][modality]
            largest = int(np.max(ids))
            if ids.dtype.kind in "iu" and largest >= vocabulary:
                raise UserError(
                    f"'{modality}' of the {part} split holds the token id {largest}, and its "
                    f"encoder knows 0 to {vocabulary - 1}: set "
                    f"--config.encoders.{modality}.vocabulary={largest + 1} or more"
                )


def training_flops(program: Program, batches_per_epoch: int) -> float | None:
    """Floating-point operations of all gradient steps of a run, on all devices.

    None where a stage was not compiled here (a run that was resumed after it had ended), or where
    the backend does not count.  What a stage does without gradient steps, as an SVM, is left out.
    """
    found = 0.0
    for stage in program.method.stages:
        flops = program.dispatches[stage.name].flops if stage.phases else 0.0
        if flops is None:
            return None
        found += flops * stage.epochs * batches_per_epoch
    return found * program.placement.sharded.mesh.size


def initial_state(program: Program, dataset: Dataset, seed: int) -> TrainState:
    """A fresh state, on every device.

    Each process computes it there; ``device_put`` would compare every array across processes.
    """
    sample = dataset.splits["train"].fetch(np.arange(1))
    # It runs once: on a CPU, where compiling takes longest, the later optimisations do not pay.
    unoptimised = jax.config.values["jax_disable_most_optimizations"]
    hurry = jax.default_backend() == "cpu" and not unoptimised
    options = {"xla_backend_optimization_level": 1} if hurry else None
    rng, encoders = jax.random.key(seed), program.encoders
    kinds = collections.Counter(encoders.kind(m) for m in encoders.modalities)
    if max(kinds.values()) < many.MANY:
        return initialization(program, options)(rng, sample)
    start = many.packed(
        program.method.init,
        encoders.modalities,
        out_shardings=program.placement.replicated,
        compiler_options=options,
    )
    return start(rng, sample)


def initialization(
    program: Program, compiler_options: dict[str, Any] | None = None
) -> jax.stages.Wrapped:
    """``(rng, batch of one example) -> state`` on every device, jitted."""
    return jax.jit(
        program.method.init,
        out_shardings=program.placement.replicated,
        compiler_options=compiler_options,
    )


def with_preparation(
    method: Method,
    transform: Transform | None,
    absent: str = "skip",
    fill: Mapping[str, np.ndarray] = MappingProxyType({}),
    streams: Mapping[str, Stream] | None = None,
) -> Method:
    """``method`` on batches that are prepared on the device, wherever it takes one.

    ``transform(batch, train)`` takes the place of ``batch["inputs"]``: augmented in every phase; in
    evaluation mode in ``init``, in ``predict`` and where ``on_epoch`` reduces over the training
    examples.  Then the inputs of missing modalities become zeros, or what ``fill`` has for the
    modality, whatever the data set put there, NaN among it.  ``batch["whole"]`` has the inputs and
    the ``present`` of the data itself, where masks hide some of it.  What a phase does not read
    costs nothing: XLA drops its preparation.

    Under ``absent="zeros"`` methods do not learn which modalities are missing: they train on the
    zeros and fuse what they make of them, as the released MLA code does (quirk Q21).

    ``streams``: those that ``transform`` was made of.  A ``Solo`` (``methods/base.py``) whose
    transform nothing is known of is dropped: it may be another one for every modality.
    """

    def seen(present: jax.Array) -> jax.Array:
        everything = jnp.broadcast_to(present.any(1, keepdims=True), present.shape)
        return everything if absent == "zeros" else present

    def prepared(batch: Batch, train: bool) -> Batch:
        columns = batch.get("columns")

        def chosen(rows: jax.Array) -> jax.Array:
            """The columns that a ``Solo`` asks for, else all of them."""
            if columns is None:
                return rows
            one_by_one = [jax.lax.dynamic_slice_in_dim(rows, c, 1, 1) for c in columns]
            return jnp.concatenate(one_by_one, axis=1)

        by_column: Batch = {k: chosen(batch[k]) for k in ("present", "aspect") if k in batch}
        loaded = transform({**batch, **by_column}, train) if transform else batch["inputs"]

        def of_those(present: jax.Array) -> dict[str, Any]:
            """The inputs that are ``present: bool[B, M]``, and the fill in the place of others."""
            names = [m for m in method.modalities if m in loaded]
            columns, groups = chosen(present), [[m] for m in names]
            if len(names) < many.MANY or train:
                there = {m: columns[:, i] for i, m in enumerate(names)}
            else:  # XLA puts rows together again for nothing
                there = dict(zip(names, columns.T, strict=True))
                groups = many.alike(names, lambda m: m if m in fill else "", loaded)
            inputs: dict[str, Any] = {}
            for group in groups:
                filled = functools.partial(_filled, fill=fill.get(group[0], 0))
                inputs |= many.by_name(filled, group, there, loaded)
            return {"inputs": inputs, "present": chosen(seen(present))}

        shown = of_those(jnp.asarray(batch["present"]))
        masked = "available" in batch
        whole = of_those(jnp.asarray(batch["available"])) if masked else shown
        return {**batch, **shown, "whole": whole}

    def after(function: Callable, position: int, train: bool) -> Callable:
        """``function`` with the batch that is its argument number ``position`` prepared."""

        @functools.wraps(function)
        def composed(*arguments: Any) -> Any:
            batch = prepared(arguments[position], train)
            return function(*arguments[:position], batch, *arguments[position + 1 :])

        return composed

    def of_seen(function: Callable) -> Callable:
        """``fuse`` or ``weigh`` on what the method gets to know of ``present``."""
        if absent != "zeros":
            return function
        return lambda prediction, present, state: function(prediction, seen(present), state)

    def solo(original: Solo) -> Solo:
        m = original.modality
        filled, stream, name = fill.get(m), (streams or {}).get(m), None
        if stream is not None:
            stream, name = stream._replace(shared_draw=""), draw_name(m, stream)
        of_fill = None if filled is None else (filled.shape, filled.tobytes())
        kind = (original.kind, repr(stream), of_fill)  # repr: fields of a stream may be lists
        return original._replace(kind=kind, draw_name=name)

    known = transform is None or streams is not None
    method = _with_each_solo(method, solo if known else None)
    wrapped = _with_each_function(method, after)
    weigh = method.weigh and of_seen(method.weigh)
    return wrapped._replace(fuse=of_seen(method.fuse), weigh=weigh)


def _filled(there: jax.Array, x: jax.Array, fill: Any) -> jax.Array:
    """The rows of ``x: [B, ...]`` that are ``there: bool[B]``; in the place of others ``fill``."""
    return jnp.where(there.reshape((-1,) + (1,) * (x.ndim - 1)), x, fill)


def in_full_precision(method: Method) -> Method:
    """``method`` with products of float32 matrices in float32 on every backend.

    By default a TPU multiplies them as bfloat16 and a GPU as TF32.
    """

    def after(function: Callable, position: int, train: bool) -> Callable:
        del position, train

        @functools.wraps(function)
        def composed(*arguments: Any) -> Any:
            with jax.default_matmul_precision("highest"):
                return function(*arguments)

        return composed

    return _with_each_function(method, after)


def _with_each_solo(method: Method, change: Callable[[Solo], Solo] | None) -> Method:
    """``method`` with every ``Solo`` of its phases changed, or without any."""

    def changed(phase: Phase) -> Phase:
        return phase._replace(solos=tuple(map(change, phase.solos)) if change else ())

    stages = (s._replace(phases=tuple(map(changed, s.phases))) for s in method.stages)
    return method._replace(stages=tuple(stages))


def _with_each_function(method: Method, after: Callable[[Callable, int, bool], Callable]) -> Method:
    """``method`` with ``after(function, position of its batch, train)`` for each function that
    takes a batch."""
    # One result per function: what was compiled for it is found again in the next epoch.
    evaluating = functools.cache(lambda accumulate: after(accumulate, 2, False))

    def on_epoch(original: Callable, state: Any, epoch: int, reduce_training: Callable) -> Any:
        def reduce_changed(accumulate: Callable, *rest: Any) -> Any:
            return reduce_training(evaluating(accumulate), *rest)

        return original(state, epoch, reduce_changed)

    def stage(original: Stage) -> Stage:
        def changed(phase: Phase) -> Phase:
            parts = tuple(map(changed, phase.parts))
            solos = tuple(s._replace(update=after(s.update, 1, True)) for s in phase.solos)
            alike = phase.alike and after(phase.alike, 1, True)
            return Phase(phase.name, after(phase.update, 1, True), parts, solos, alike)

        changes: dict[str, Any] = {"phases": tuple(map(changed, original.phases))}
        if original.on_epoch:
            changes["on_epoch"] = functools.partial(on_epoch, original.on_epoch)
        return original._replace(**changes)

    return method._replace(
        init=after(method.init, 1, False),
        stages=tuple(map(stage, method.stages)),
        predict=after(method.predict, 1, False),
        features=method.features and after(method.features, 1, False),
    )
