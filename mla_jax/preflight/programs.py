"""Compiles a run's programs, for devices that need not exist, and counts their work."""

import functools
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import FrozenConfigDict

from mla_jax.data import pipeline
from mla_jax.data.dataset import Dataset
from mla_jax.functional.optimizers import StepInfo
from mla_jax.methods.base import Phase
from mla_jax.preflight.program_text import Collective, Product, ProgramText, bits, read
from mla_jax.program import Program, initialization

EVALUATION, INITIALIZATION = "evaluation", "initialisation"
SIZES = re.compile(r"\b([\d.]+)([KMG]) of ([\d.]+)([KMG])|"
                   r"\(([\d.]+)([KMG])\) exceeds available \w+ \(([\d.]+)([KMG])\)")  # fmt: skip
UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}


class Shapes(NamedTuple):
    """The inputs of a run's programs, as shapes with shardings."""

    state: Any
    batch: Any
    evaluation_state: Any
    evaluation_batch: Any
    rng: Any
    sample: Any
    """One example, for the initialisation."""

    @property
    def state_bytes(self) -> int:
        return size_of(self.state)

    @property
    def example_bytes(self) -> int:
        """Bytes of one example of a training batch, as sent by the host."""
        leaves = jax.tree.leaves(self.batch)
        return sum(_bytes(leaf) // leaf.shape[0] for leaf in leaves)


class Compiled(NamedTuple):
    """One program, and XLA's figures for it, per device."""

    stage: str
    """Empty for the evaluation and the initialisation."""
    name: str
    compile_seconds: float
    flops: float = 0.0
    bytes: float = 0.0
    """Bytes accessed: the operands and results of all operations."""
    peak: int = 0
    """Bytes of memory: arguments, results, temporaries (shared ones once), the program, and what it
    does not take of the state."""
    problem: str = ""
    """XLA's message if the program does not fit; then there are no other figures."""
    needed: int | None = None
    """Bytes that did not fit, if XLA gives them."""
    text: ProgramText | None = None
    runs: int = 1
    """How often a batch runs it; the other figures are those of once."""
    beside: int = 0
    """Bytes of the state that it does not take."""
    taken: int = 0
    """Bytes of what it takes of the state, on one device."""

    @property
    def label(self) -> str:
        often = f" ({self.runs} times per batch)" if self.runs > 1 else ""
        return (f"{self.stage}/{self.name}" if self.stage else self.name) + often

    def collectives(self) -> dict[str, tuple[int, int]]:
        """``{kind: (number, bytes of all)}``."""
        found = self.text.collectives if self.text else ()
        count = Counter(collective.kind for collective in found)
        return {
            kind: (number, sum(c.bytes for c in found if c.kind == kind))
            for kind, number in count.items()
        }


def shapes_of(program: Program, dataset: Dataset, config: FrozenConfigDict) -> Shapes:
    """The shapes of a run's programs; reads one training example."""
    split, placement = dataset.splits["train"], program.placement
    devices = placement.sharded.mesh.size
    one = pipeline.TrainingBatch(split, 1, config.seed, 0, 1)(0)
    sample = split.fetch(np.arange(1))
    rng = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(program.method.init, rng, sample)

    def shaped(tree: Any, lead: tuple[int, ...], sharding: Any = None) -> Any:
        def one_of(x: Any) -> jax.ShapeDtypeStruct:
            rest = x.shape[1:] if lead else x.shape
            return jax.ShapeDtypeStruct((*lead, *rest), x.dtype, sharding=sharding)

        return jax.tree.map(one_of, tree)

    evaluated = {key: value for key, value in one.items() if key != "draw"}
    return Shapes(
        shaped(state, (), placement.replicated),
        shaped(one, (config.batch_size,), placement.sharded),
        shaped(state, ()),
        shaped(evaluated, (devices, config.evaluation.batch_size)),
        rng,
        sample,
    )


def compile_all(
    program: Program, shapes: Shapes, say: Callable[[str], None] = lambda line: None
) -> list[Compiled]:
    """The programs of all stages, the evaluation and the initialisation, one after the other.

    A program that several phases of a stage share is compiled once, and named after the first.
    """
    info = StepInfo(*[jax.ShapeDtypeStruct((), np.int32)] * 3)
    plan: list[tuple[str, Callable[[], Compiled]]] = []
    for stage in program.method.stages:
        planned = program.dispatches[stage.name].plan(shapes.state, shapes.batch, info)
        for one in sorted(planned, key=lambda one: one.phase):
            name = _name(stage.phases[one.phase], one.modality)
            compiling = functools.partial(
                compile_one,
                stage.name,
                name,
                one.lower,
                runs=one.runs,
                beside=shapes.state_bytes - size_of(one.state),
                taken=sum(map(_bytes_here, jax.tree.leaves(one.state))),
                uncounted=one.uncounted,
            )
            plan.append((name, compiling))
    evaluator, states = program.evaluator, (shapes.evaluation_state, shapes.evaluation_batch)
    init = initialization(program)
    for name, lower in (
        (EVALUATION, lambda: evaluator.lower(*states)),
        (INITIALIZATION, lambda: init.lower(shapes.rng, shapes.sample)),
    ):
        plan.append((name, functools.partial(compile_one, "", name, lower)))
    found = []
    for number, (name, compiled_now) in enumerate(plan, 1):
        say(f"compiling {name} ({number} of {len(plan)}) ...")
        found.append(compiled_now())
    return found


def _name(phase: Phase, modality: str) -> str:
    """The phase's, and the modality where the program is for another one's part in the phase."""
    mine = not modality or modality == phase.solos[0].modality
    return phase.name if mine else f"{phase.name}, {modality}"


def compile_one(
    stage: str,
    name: str,
    lower: Callable[[], Any],
    runs: int = 1,
    beside: int = 0,
    taken: int = 0,
    uncounted: Callable[[], Mapping[str, float]] = dict,
) -> Compiled:
    """Compiles one program; one that does not fit is a result, not an error.

    ``runs``, ``beside`` and ``taken``: as in ``Compiled``; ``uncounted``: as in ``Planned``.
    """
    started = time.perf_counter()
    try:
        compiled = lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        problem = str(error).strip().partition("\n")[0].removeprefix("RESOURCE_EXHAUSTED: ")
        spent = time.perf_counter() - started
        needed = needed_bytes(str(error))
        return Compiled(stage, name, spent, problem=problem, needed=needed, runs=runs)
    spent = time.perf_counter() - started
    memory, cost, loops = compiled.memory_analysis(), compiled.cost_analysis() or {}, uncounted()
    peak = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.generated_code_size_in_bytes
        + beside
    )
    return Compiled(
        stage,
        name,
        spent,
        float(cost.get("flops", 0.0)) + loops.get("flops", 0.0),
        float(cost.get("bytes accessed", 0.0)) + loops.get("bytes accessed", 0.0),
        int(peak),
        text=read(compiled.as_text()),
        runs=runs,
        beside=beside,
        taken=taken,
    )


def needed_bytes(sentence: str) -> int | None:
    """The bytes that a program needs, from XLA's message that it does not fit."""
    found = SIZES.search(sentence)
    if not found:
        return None
    number, unit = (found[1], found[2]) if found[1] else (found[5], found[6])
    return int(float(number) * UNITS[unit])


def donated_share(compiled: Compiled) -> float:
    """The share, of what the program takes of the state, that is updated in place."""
    assert compiled.text is not None  # it compiled
    return min(1.0, compiled.text.donated_bytes / compiled.taken) if compiled.taken else 1.0


def of_encoders(text: ProgramText, names: tuple[str, ...]) -> tuple[list[Product], list[Product]]:
    """The products of the encoders (modules called one of ``names``), and the others."""
    mine = re.compile(rf"(?:^|[/(])(?:{'|'.join(map(re.escape, names))})[/)]")
    inside = [product for product in text.products if mine.search(product.where)]
    return inside, [product for product in text.products if not mine.search(product.where)]


def encoder_names(program: Program) -> tuple[str, ...]:
    """Flax's names of the encoders' operations: their class names."""
    return tuple({type(module).__name__ for module in program.encoders.modules.values()})


def dtypes(products: list[Product]) -> Mapping[str, tuple[int, float]]:
    """``{dtype: (number, share of the operations)}`` of products, the largest share first."""
    whole = sum(product.flops for product in products) or 1.0
    kinds = {product.compute for product in products}
    found = {
        kind: (
            sum(product.compute == kind for product in products),
            sum(product.flops for product in products if product.compute == kind) / whole,
        )
        for kind in kinds
    }
    return dict(sorted(found.items(), key=lambda item: -item[1][1]))


def places(found: Iterable[Collective | Product]) -> dict[str, int]:
    """``{operation: number}``, the most frequent first; layers that differ in a number are merged.

    An operation is named by the last parts of its path, as ``BatchNorm_*/reduce_sum``.
    """
    ends = ("/".join(one.where.split("/")[-2:]) for one in found)
    return dict(Counter(re.sub(r"_\d+", "_*", end) for end in ends).most_common())


def in_full_precision(products: Iterable[Product]) -> list[Product]:
    """The products that a TPU computes in float32: by default it rounds float32 inputs to bfloat16.

    So the gradients of attention's scores, which are float32, cost no more than bfloat16.
    """
    return [p for p in products if bits(p.dtype) > 16 and p.precision != "default"]


def size_of(state: Any) -> int:
    """The bytes of a state, of which there are but the shapes."""
    return sum(_bytes(leaf) for leaf in jax.tree.leaves(state))


def _bytes_here(leaf: Any) -> int:
    """Bytes on one device."""
    shape = leaf.sharding.shard_shape(leaf.shape) if leaf.sharding else leaf.shape
    return int(np.prod(shape)) * leaf.dtype.itemsize


def _bytes(leaf: Any) -> int:
    return int(np.prod(leaf.shape)) * leaf.dtype.itemsize
