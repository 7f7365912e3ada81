"""Whether the indices of a kernel are right where a tensor has more than 2^31 numbers: intervals of every integer in its TTIR.

Each integer gets the interval of the numbers it can be, with program ids within the grid, scalars as the launch has them and
loop counters within their bounds. An operation whose exact result can leave its own width marks that result as wrapped; so is
what is made of it, unless a mask of bits makes it whole again. A wrapped number that offsets a pointer is a fault: the
kernel would read elsewhere. As intervals hold for all programs and steps at once, no fault is a proof for that launch.

Numbers that come from memory are any of their width; those of TABLES from 0 on, which the formats see to before a kernel runs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from tests.triton_checks.ttir.parser import Block, Function, Operation

TABLES = ("columns_ptr", "starts_ptr")
"""Arguments of indices of sparse weights."""

ROUNDS = 3
"""Passes over a loop before what still grows is taken to be any number of its width."""


@dataclass(frozen=True)
class Range:
    low: int
    high: int
    wrapped: bool = False

    def joined(self, other: Range) -> Range:
        return Range(min(self.low, other.low), max(self.high, other.high), self.wrapped or other.wrapped)


def _whole(bits: int) -> Range:
    return Range(-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if bits > 1 else Range(0, 1)


class _Ranges:
    def __init__(self, function: Function, grid: tuple[int, int, int], scalars: dict[str, Any]) -> None:
        self.grid, self.faults = grid, dict[str, None]()
        self.of: dict[str, Range | None] = {}  # None: a pointer, a float, or nothing that indexes
        self.argument = {name: name.removeprefix("%") for name in function.parameters}  # of pointers
        for name, kind in function.parameters.items():
            given = scalars.get(name.removeprefix("%"))
            self.of[name] = (
                (Range(given, given) if isinstance(given, int) else _whole(kind.bits)) if kind.bits else None
            )
        self.block(function.body)

    def get(self, name: str) -> Range | None:
        return self.of.get(name)

    def block(self, block: Block) -> list[Range | None]:
        """Runs it; what its last operation yields."""
        yielded: list[Range | None] = []
        for op in block.operations:
            if op.name in ("scf.yield", "scf.condition", "tt.reduce.return"):
                yielded = [self.get(name) for name in op.operands]
            elif op.name == "scf.for":
                self.loop(op, op.regions[0], op.operands[3:], self.counter(op))
            elif op.name == "scf.while":
                self.while_loop(op)
            elif op.name == "scf.if":
                branches = [self.block(region) for region in op.regions]
                self.give(op.results, [_join(op.type.bits, *values) for values in zip(*branches)])
            else:
                self.single(op)
        return yielded

    def counter(self, op: Operation) -> Range | None:
        low, high, step = (self.get(name) for name in op.operands[:3])
        if low is None or high is None or step is None:
            return None
        return Range(low.low, max(high.high - 1, low.low), low.wrapped or high.wrapped)

    def loop(self, op: Operation, body: Block, initial: list[str], counter: Range | None) -> None:
        names = body.arguments[1:]
        current = [self.get(name) for name in initial]
        for round_ in range(ROUNDS + 1):
            self.of[body.arguments[0]] = counter
            self.give(names, current)
            after = [_join(64, a, b) for a, b in zip(current, self.block(body))]
            if after == current:
                break
            current = [_widened(a) for a in after] if round_ == ROUNDS - 1 else after
        self.give(op.results, current)

    def while_loop(self, op: Operation) -> None:
        test, body = op.regions
        current = [self.get(name) for name in op.operands]
        for round_ in range(ROUNDS + 1):
            self.give(test.arguments, current)
            passed = self.block(test)[1:]  # the first is the condition
            self.give(body.arguments, passed)
            after = [_join(64, a, b) for a, b in zip(current, self.block(body))]
            if after == current:
                break
            current = [_widened(a) for a in after] if round_ == ROUNDS - 1 else after
        self.give(op.results, passed)

    def give(self, names: list[str], values: list[Range | None]) -> None:
        for name, value in zip(names, values):
            self.of[name] = value

    def single(self, op: Operation) -> None:
        if op.name == "tt.addptr":
            offset = self.get(op.operands[1])
            if offset is None or offset.wrapped:
                self.faults[op.text] = None
        if op.operands and op.operands[0] in self.argument and op.name.startswith("tt."):
            for name in op.results:
                self.argument[name] = self.argument[op.operands[0]]
        if op.regions:  # a reduction: a largest number may be the length of a loop, nothing else indexes
            for region in op.regions:
                for name in region.arguments:
                    self.of[name] = None
        bits = op.type.bits
        for name in op.results:
            self.of[name] = self.value(op, bits) if bits else None

    def value(self, op: Operation, bits: int) -> Range:
        name, operands = op.name, [self.get(n) for n in op.operands]
        if name == "arith.constant":
            return _constant(op.text, bits)
        if name == "tt.get_program_id":
            return Range(0, self.grid[_axis(op.text)] - 1)
        if name == "tt.get_num_programs":
            return Range(*[self.grid[_axis(op.text)]] * 2)
        if name == "tt.make_range":
            end, start = (int(re.search(rf"{w} = (\d+)", op.text)[1]) for w in ("end", "start"))  # type: ignore[index]
            return Range(start, end - 1)
        if name in ("tt.load", "tt.atomic_rmw", "tt.atomic_cas"):
            whole = _whole(bits)
            return Range(0, whole.high) if self.argument.get(op.operands[0]) in TABLES else whole
        if name == "tt.reduce" and operands[0] is not None and _is_maximum(op):
            return operands[0]
        known = [o for o in operands if o is not None]
        if len(known) < len(operands) or not known:
            return _whole(bits)
        return _fit(name, known, bits)


def _is_maximum(op: Operation) -> bool:
    return any(inner.name == "arith.maxsi" for region in op.regions for inner in region.operations)


def _axis(text: str) -> int:
    return "xyz".index(re.search(r"\b([xyz])\b", text)[1])  # type: ignore[index]


def _constant(text: str, bits: int) -> Range:
    word = re.search(r"arith\.constant (?:dense<)?([^>:\s]+)", text)[1]  # type: ignore[index]
    if word in ("true", "false"):
        return Range(0, int(word == "true"))
    try:
        return Range(int(word, 0), int(word, 0))
    except ValueError:
        return _whole(bits)


def _join(bits: int, *values: Range | None) -> Range | None:
    joined = values[0]
    for value in values[1:]:
        joined = joined.joined(value) if joined is not None and value is not None else None
    return joined


def _widened(value: Range | None) -> Range | None:
    """What grew in a loop until it was looked at: any number of 32 bits, and beyond, as far as anybody can tell."""
    if value is None or value.low == value.high:
        return value
    return Range(min(value.low, -(1 << 31)), max(value.high, (1 << 31) - 1), value.wrapped)


def _fit(name: str, given: list[Range], bits: int) -> Range:
    """The exact interval of an operation on intervals; wrapped where it leaves the width."""
    wrapped = any(g.wrapped for g in given)
    a, b = given[0], given[min(1, len(given) - 1)]
    corners: list[int] = []
    if name == "arith.addi":
        corners = [a.low + b.low, a.high + b.high]
    elif name == "arith.subi":
        corners = [a.low - b.high, a.high - b.low]
    elif name == "arith.muli":
        corners = [x * y for x in (a.low, a.high) for y in (b.low, b.high)]
    elif name == "arith.shli" and 0 <= b.low <= b.high < 64:
        corners = [x << y for x in (a.low, a.high) for y in (b.low, b.high)]
    elif name in ("arith.divsi", "arith.divui", "arith.floordivsi") and b.low > 0:
        corners = [int(x / y) if abs(x) < 1 << 50 else x // y for x in (a.low, a.high) for y in (b.low, b.high)]
    elif name in ("arith.remsi", "arith.remui") and b.low > 0:
        corners = [0 if a.low >= 0 else 1 - b.high, min(b.high - 1, max(a.high, 0))]
    elif name == "arith.andi" and (a.low == a.high >= 0 or b.low == b.high >= 0):
        masks = [v.high for v in (a, b) if v.low == v.high >= 0]
        return Range(0, min(masks))  # whatever the other was: its low bits are right modulo 2^bits
    elif name in ("arith.shrsi", "arith.shrui") and a.low >= 0 and b.low >= 0:
        corners = [a.low >> b.high, a.high >> b.low]
    elif name in ("arith.maxsi", "arith.minsi"):
        pick = max if name == "arith.maxsi" else min
        corners = [pick(a.low, b.low), pick(a.high, b.high)]
    elif name == "arith.select":
        chosen = given[-2:]
        return Range(min(c.low for c in chosen), max(c.high for c in chosen), any(c.wrapped for c in chosen))
    elif name in PASSED:
        corners = [a.low, a.high]
    elif name == "arith.cmpi":
        return Range(0, 1)
    else:
        return Range(*_ends(bits), wrapped)
    whole = _whole(bits)
    low, high = min(corners), max(corners)
    if bits > 1 and (low < whole.low or high > whole.high):
        return Range(*_ends(bits), True)
    return Range(low, high, wrapped)


def _ends(bits: int) -> tuple[int, int]:
    whole = _whole(bits)
    return whole.low, whole.high


PASSED = frozenset((
    "arith.extsi", "arith.extui", "arith.trunci", "tt.splat", "tt.broadcast", "tt.expand_dims", "tt.reshape", "tt.trans",
    "tt.bitcast", "arith.index_cast", "tt.unsplat",
))  # fmt: skip
"""Operations whose numbers are those of their operand (a narrower width is looked at as any other result)."""


def faults(function: Function, grid: tuple[int, int, int], scalars: dict[str, Any]) -> list[str]:
    """One line for every pointer that is offset by an index which may have wrapped; empty is the proof. A grid that CUDA
    does not launch is a fault too."""
    over = [f"{n} programs along {axis}" for n, axis, most in zip(grid, "xyz", GRID_LIMITS) if n > most]
    return [f"a grid of {', '.join(over)}, which CUDA does not launch"] * bool(over) + [
        f"an index that may wrap: {text}" for text in _Ranges(function, grid, scalars).faults
    ]


GRID_LIMITS = (2**31 - 1, 65535, 65535)
"""Of CUDA, for all compute capabilities."""
