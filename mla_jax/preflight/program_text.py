"""Reads a program compiled by XLA: collectives, branches, loops, products, donated arguments.

The text is that of ``jax.stages.Compiled.as_text()``: one instruction per line, in computations.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

COLLECTIVES = (
    "all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute",
    "collective-broadcast", "ragged-all-to-all",
)  # fmt: skip
BITS = re.compile(r"[a-z]+(\d+)")
ARRAY = re.compile(r"(\w+)\[([\d,<=]*)\](\{[^{}]*\})?")
SPACE = re.compile(r"S\(\d+\)")
"""In a layout: the array is not in the main memory; on a TPU it is mostly on the chip."""
CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
FREE = (
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "custom-call", "iota",
    "after-all", "partition-id", "replica-id", "while", "conditional", "call",
)  # fmt: skip
"""Instructions that move no data themselves."""
COMMENT = re.compile(r"/\*.*?\*/")
NAMED = re.compile(r"\s*(?:ROOT )?%?([\w.\-]+) = ")
OPCODE = re.compile(r"\s*([a-z][\w\-]*)\(")
HEADING = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{")
CALLED = re.compile(
    r"(?:calls|body|condition|to_apply|branch_computations|true_computation|false_computation|"
    r"called_computations)=(\{[^}]*\}|%?[\w.\-]+)"
)
OPERAND = re.compile(r"%([\w.\-]+)")
OP_NAME = re.compile(r'op_name="([^"]*)"')
PRECISION = re.compile(r"operand_precision=\{(\w+)")
LABELS = re.compile(r"dim_labels=(\w+)_(\w+)->(\w+)")
DILATION = re.compile(r"lhs_dilate=([\dx]+)")
CONTRACTING = re.compile(r"lhs_contracting_dims=\{([\d,]*)\}")
CHANNEL = re.compile(r"channel_id=(\d+)")
ALIAS = re.compile(r"\{[\d, ]*\}: \((\d+), \{[\d, ]*\}")


class Array(NamedTuple):
    dtype: str
    """XLA's name: ``bf16``, ``f32``, ``pred``."""
    shape: tuple[int, ...]
    in_memory: bool = True
    """Whether it is in the main memory (HBM)."""

    @property
    def bytes(self) -> int:
        """Without the padding of a layout; 0 for values that are not arrays, as tokens."""
        return math.prod(self.shape) * bits(self.dtype) // 8


class Collective(NamedTuple):
    """One collective operation."""

    kind: str
    bytes: int
    """Bytes of its results on one device."""
    where: str
    """The source operation that it belongs to."""


class Product(NamedTuple):
    """One convolution or matrix product; TPU programs write both as convolutions."""

    dtype: str
    """The wider type of its operands."""
    precision: str
    """``default``, ``high`` or ``highest``: the requested precision of float32 operands."""
    flops: float
    """Operations of one execution, counting padding as work."""
    where: str

    @property
    def compute(self) -> str:
        """``bf16``, ``f32``, ``f32 (highest)``: a TPU multiplies the second as the first."""
        return f"{self.dtype} ({self.precision})" if self.precision != "default" else self.dtype


class Work(NamedTuple):
    """The work of the instructions of a program's entry, each counted once."""

    memory_bytes: int
    """Bytes between the chip and its main memory, without the collectives.  XLA's own count, of all
    operands and results, also includes data that stays on the chip."""
    cycles: int
    """Cycles by the TPU compiler's cost model, without the collectives; 0 if there is none."""


class ProgramText(NamedTuple):
    """What was read from a program."""

    collectives: tuple[Collective, ...]
    conditionals: int
    loops: int
    loops_with_products: int
    """Loops whose body, or a computation that it calls, has a convolution or matrix product."""
    products: tuple[Product, ...]
    parameters: tuple[Array, ...]
    donated: frozenset[int]
    """The numbers of the parameters whose memory is reused for a result."""
    work: Work

    @property
    def donated_bytes(self) -> int:
        return sum(self.parameters[number].bytes for number in self.donated)


class Instruction(NamedTuple):
    name: str
    results: tuple[Array, ...]
    opcode: str
    line: str
    """The rest of the line, from the operands on."""


def bits(dtype: str) -> int:
    """Bits of one value; 0 for tokens and other things without a size."""
    if dtype == "pred":
        return 8
    found = BITS.match(dtype)
    return int(found[1]) if found else 0


def read(text: str) -> ProgramText:
    """Reads a compiled program."""
    lines = COMMENT.sub("", text).splitlines()
    computations: dict[str, list[Instruction]] = {}
    entry, inside = "", ""
    for line in lines:
        if heading := HEADING.match(line):
            inside = heading[2]
            computations[inside] = []
            entry = inside if heading[1] else entry
        elif inside and (instruction := _instruction(line)):
            computations[inside].append(instruction)
    everything = [i for found in computations.values() for i in found]
    products = {name: list(_products(found)) for name, found in computations.items()}
    loops = [i for i in everything if i.opcode == "while"]
    heavy = [i for i in loops if any(products[name] for name in _reached(i, computations))]
    return ProgramText(
        tuple(_collectives(computations, entry)),
        sum(i.opcode == "conditional" for i in everything),
        len(loops),
        len(heavy),
        tuple(product for found in products.values() for product in found),
        _parameters(computations.get(entry, ())),
        frozenset(map(int, ALIAS.findall(_aliases(lines[0] if lines else "")))),
        _work(computations.get(entry, ())),
    )


def _instruction(line: str) -> Instruction | None:
    """``%name = TYPE opcode(operands), attributes``; None for other lines."""
    named = NAMED.match(line)
    if not named:
        return None
    start = named.end()
    end = start
    if line[start : start + 1] == "(":  # several results
        end = _closing(line, start) + 1
    else:
        found = ARRAY.match(line, start)
        end = found.end() if found else start
    opcode = OPCODE.match(line, end)
    if not opcode:
        return None
    return Instruction(named[1], arrays(line[start:end]), opcode[1], line[opcode.end() - 1 :])


def _closing(text: str, start: int) -> int:
    """The position of the bracket that closes the one at ``start``."""
    depth = 0
    for place in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if not depth:
            return place
    return len(text) - 1


def arrays(text: str) -> tuple[Array, ...]:
    """The arrays of a type, as in ``(f32[2,3]{1,0}, s32[])``."""
    return tuple(
        Array(
            dtype,
            tuple(int(size.lstrip("<=")) for size in shape.split(",") if size),
            not SPACE.search(layout),
        )
        for dtype, shape, layout in ARRAY.findall(text)
    )


def _collectives(
    computations: Mapping[str, Sequence[Instruction]], entry: str
) -> Iterator[Collective]:
    """The collectives of the entry, then of other computations, each channel once.

    If a collective overlaps with other computations, the TPU compiler repeats it in
    every fusion that it overlaps with.
    """
    seen = set()
    for name in sorted(computations, key=lambda name: name != entry):
        for instruction in computations[name]:
            kind = instruction.opcode.removesuffix("-start")
            if kind not in COLLECTIVES:
                continue
            channel = CHANNEL.search(instruction.line)
            copied = channel and name != entry and (kind, channel[1]) in seen
            if channel:
                seen.add((kind, channel[1]))
            if copied:
                continue
            results = instruction.results
            if instruction.opcode.endswith("-start") and kind != "all-reduce":
                results = results[len(results) // 2 :]  # inputs come before outputs
            yield Collective(kind, sum(array.bytes for array in results), _where(instruction))


def _products(instructions: Sequence[Instruction]) -> Iterator[Product]:
    types = {i.name: i.results for i in instructions}
    for instruction in instructions:
        if instruction.opcode not in ("convolution", "dot"):
            continue
        operands = _operands(instruction, types)
        if len(operands) < 2:
            continue
        precision = PRECISION.search(instruction.line)
        widest = max(operands[:2], key=lambda array: bits(array.dtype))
        count = _convolution_flops if instruction.opcode == "convolution" else _dot_flops
        yield Product(
            widest.dtype,
            precision[1] if precision else "default",
            count(instruction, operands),
            _where(instruction),
        )


def _operands(instruction: Instruction, types: Mapping[str, tuple[Array, ...]]) -> list[Array]:
    """The operands: written in the line, or found at the instructions that make them."""
    inside = instruction.line[: _closing(instruction.line, 0)]
    written = arrays(inside)
    if written:
        return list(written)
    return [array for name in OPERAND.findall(inside) for array in types.get(name, ())[:1]]


def _convolution_flops(instruction: Instruction, operands: Sequence[Array]) -> float:
    """Two per output value and value of the kernel that goes into it.

    A batch of matrix products is written as a convolution whose input is dilated along the batch,
    and a gradient through a stride as one whose input is dilated too: operations on the zeros in
    between do not count.
    """
    output, kernel = math.prod(instruction.results[0].shape), math.prod(operands[1].shape)
    labels = LABELS.search(instruction.line)
    if not labels or not kernel:
        return 0.0
    per_output = kernel / operands[1].shape[labels[2].index("o")]
    dilation = DILATION.search(instruction.line)
    zeros = math.prod(map(int, dilation[1].split("x"))) if dilation else 1
    return 2.0 * output * per_output / zeros


def _dot_flops(instruction: Instruction, operands: Sequence[Array]) -> float:
    found = CONTRACTING.search(instruction.line)
    axes = [int(axis) for axis in found[1].split(",") if axis] if found else []
    contracted = math.prod(operands[0].shape[axis] for axis in axes)
    return 2.0 * math.prod(instruction.results[0].shape) * contracted


def _work(instructions: Sequence[Instruction]) -> Work:
    types = {i.name: i.results for i in instructions}
    moved = cycles = 0
    for instruction in instructions:
        opcode = instruction.opcode
        collective = opcode.removesuffix("-start").removesuffix("-done") in COLLECTIVES
        if opcode in FREE or collective or opcode.endswith("-done"):
            continue
        found = CYCLES.search(instruction.line)
        cycles += int(found[1]) if found else 0
        if opcode.endswith("-start"):  # a copy, or a slice of one: source and destination
            ends = instruction.results[:2]
            moved += min(a.bytes for a in ends) * sum(a.in_memory for a in ends) if ends else 0
            continue
        touched = [*instruction.results, *_operands(instruction, types)]
        moved += sum(array.bytes for array in touched if array.in_memory)
    return Work(moved, cycles)


def _where(instruction: Instruction) -> str:
    found = OP_NAME.search(instruction.line)
    return found[1] if found else ""


def _reached(
    instruction: Instruction, computations: Mapping[str, Sequence[Instruction]]
) -> set[str]:
    """The computations that an instruction calls, and that these call."""
    found, waiting = set(), [instruction]
    while waiting:
        for names in CALLED.findall(waiting.pop().line):
            for name in re.findall(r"[\w.\-]+", names):
                if name in computations and name not in found:
                    found.add(name)
                    waiting += computations[name]
    return found


def _parameters(instructions: Iterable[Instruction]) -> tuple[Array, ...]:
    """The arguments of a program, in their order."""
    numbered = {
        int(i.line[1 : _closing(i.line, 0)]): i.results[0]
        for i in instructions
        if i.opcode == "parameter" and i.results
    }
    return tuple(numbered[number] for number in sorted(numbered))


def _aliases(first_line: str) -> str:
    """The part of the program's first line about results in the memory of arguments."""
    _, found, rest = first_line.partition("input_output_alias={")
    if not found:
        return ""
    depth = 1
    for place, letter in enumerate(rest):
        depth += {"{": 1, "}": -1}.get(letter, 0)
        if not depth:
            return rest[:place]
    return rest
