"""The bytes a launch moves, from the TTIR of its kernel: every load and store of every program, with its addresses and masks.

Indices and masks are computed as the kernel computes them, on whole tiles of numpy, for each program of the grid; numbers that
come from memory, and what is made of them, stay unknown, but for those of tensors that are given. Of each argument

    read      bytes that programs ask for, each byte once a program: what goes from L2 to the multiprocessors
    touched   bytes that are asked for at all: what must come from DRAM, or go there, at least once

A branch on an unknown number is taken as well as not taken, a mask of unknown numbers lets everything pass, and a loop that
ends when memory says so runs once: a bound from above. An address that is made of unknown numbers (a gather) counts as whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.triton_checks.ttir.parser import Block, Function, Operation, bytes_of

Array = NDArray[Any]


class Unknown:
    """A number that only the card knows."""


UNKNOWN = Unknown()


@dataclass
class Pointer:
    argument: str
    offset: Any  # an array of int64, or UNKNOWN


class Moved:
    """Of one argument. size: bytes of a number. read, touched: as above, in bytes."""

    def __init__(self, size: float) -> None:
        self.size = size
        self.read = self.touched = 0.0
        self._last = np.zeros(0, np.int32)  # number of memory -> the program that asked for it last, from 1
        self._order = np.zeros(0, np.int32)

    def add(self, offset: Array, program: int) -> None:
        """Numbers of memory that a program asks for; those it has had are not counted again."""
        if offset.size == 0:
            return
        if int(offset.max()) >= self._last.size:
            more = 2 * int(offset.max()) + 1 - self._last.size
            self._last, self._order = (np.concatenate([a, np.zeros(more, np.int32)]) for a in (self._last, self._order))
        flat = offset.ravel()
        place = np.arange(flat.size, dtype=np.int32)
        self._order[flat] = place
        once = flat[self._order[flat] == place]
        before = self._last[once]
        self.read += np.count_nonzero(before != program) * self.size
        self.touched += np.count_nonzero(before == 0) * self.size
        self._last[once] = program

    def gather(self, count: int) -> None:
        self.read += count * self.size
        self.touched += count * self.size


ARITHMETIC: dict[str, Callable[..., Any]] = {
    "addi": np.add, "subi": np.subtract, "muli": np.multiply, "andi": np.bitwise_and, "ori": np.bitwise_or,
    "xori": np.bitwise_xor, "maxsi": np.maximum, "minsi": np.minimum, "shli": np.left_shift, "shrsi": np.right_shift,
    "shrui": np.right_shift, "divsi": lambda a, b: np.trunc(a / b).astype(np.int64), "remsi": np.fmod,
    "divui": np.floor_divide, "remui": np.remainder,
}  # fmt: skip
COMPARE: dict[str, Callable[..., Any]] = {
    "eq": np.equal, "ne": np.not_equal, "slt": np.less, "sle": np.less_equal, "sgt": np.greater,
    "sge": np.greater_equal, "ult": np.less, "ule": np.less_equal, "ugt": np.greater, "uge": np.greater_equal,
}  # fmt: skip


class Traffic:
    """Runs a kernel for programs of a grid; `moved` is what it did, by argument."""

    def __init__(
        self,
        function: Function,
        grid: tuple[int, int, int],
        scalars: dict[str, Any],
        memory: Mapping[str, Array] | None = None,
    ) -> None:
        self.function, self.grid, self.number, self.memory = function, grid, 0, memory or {}
        self.fixed: dict[int, Any] = {}
        self.moved: dict[str, Moved] = {}
        self.start: dict[str, Any] = {}
        for name, kind in function.parameters.items():
            plain = name.removeprefix("%")
            if kind.element.startswith("!tt.ptr"):
                self.start[name] = Pointer(plain, np.int64(0))
                self.moved[plain] = Moved(bytes_of(kind.pointee))
            else:
                value = scalars.get(plain)
                self.start[name] = np.int64(value) if isinstance(value, int) and kind.bits else UNKNOWN

    def run(self) -> dict[str, Moved]:
        for z in range(self.grid[2]):
            for y in range(self.grid[1]):
                for x in range(self.grid[0]):
                    self.of, self.program, self.number = dict(self.start), (x, y, z), self.number + 1
                    self.block(self.function.body)
        return self.moved

    def block(self, block: Block) -> list[Any]:
        yielded: list[Any] = []
        for op in block.operations:
            if op.name in ("scf.yield", "scf.condition"):
                yielded = [self.of.get(name, UNKNOWN) for name in op.operands]
            elif op.name == "scf.for":
                self.loop(op)
            elif op.name == "scf.while":
                self.while_loop(op)
            elif op.name == "scf.if":
                self.branch(op)
            else:
                value = self.value(op)
                for name in op.results:
                    self.of[name] = value
        return yielded

    def give(self, names: list[str], values: list[Any]) -> None:
        for name, value in zip(names, values):
            self.of[name] = value

    def loop(self, op: Operation) -> None:
        low, high, step = (self.of.get(n, UNKNOWN) for n in op.operands[:3])
        current = [self.of.get(n, UNKNOWN) for n in op.operands[3:]]
        body = op.regions[0]
        unknown = isinstance(low, Unknown) or isinstance(high, Unknown) or isinstance(step, Unknown)
        for at in [UNKNOWN] if unknown else range(int(low), int(high), int(step)):  # type: ignore[arg-type]
            self.of[body.arguments[0]] = at if unknown else np.int64(at)
            self.give(body.arguments[1:], current)
            current = self.block(body)
        self.give(op.results, current)

    def while_loop(self, op: Operation) -> None:
        test, body = op.regions
        self.give(test.arguments, [self.of.get(n, UNKNOWN) for n in op.operands])
        passed = self.block(test)[1:]
        self.give(body.arguments, passed)
        self.block(body)
        self.give(op.results, [UNKNOWN] * len(op.results))

    def branch(self, op: Operation) -> None:
        condition = self.of.get(op.operands[0], UNKNOWN)
        if isinstance(condition, Unknown):
            results = [self.block(region) for region in op.regions]
            self.give(op.results, [UNKNOWN] * len(op.results) if results else [])
        elif bool(condition):
            self.give(op.results, self.block(op.regions[0]))
        elif len(op.regions) > 1:
            self.give(op.results, self.block(op.regions[1]))

    def value(self, op: Operation) -> Any:
        if op.name in ("arith.constant", "tt.make_range"):  # the same for every program and step
            if id(op) not in self.fixed:
                self.fixed[id(op)] = self.single(op)
            return self.fixed[id(op)]
        if op.type.element[0] in "fb" and op.name.startswith(("arith.", "math.")):
            return UNKNOWN  # floats: nothing that indexes
        return self.single(op)

    def single(self, op: Operation) -> Any:
        name, operands = op.name, [self.of.get(n, UNKNOWN) for n in op.operands]
        if name in ("tt.load", "tt.store", "tt.atomic_rmw"):
            mask_at = {"tt.load": 1, "tt.store": 2, "tt.atomic_rmw": 2}[name]
            mask = operands[mask_at] if len(operands) > mask_at else np.bool_(True)
            self.move(operands[0], mask, op)
            return self.given(operands[0], mask) if name == "tt.load" else UNKNOWN
        if name == "tt.reduce" and not isinstance(operands[0], Unknown) and _is_maximum(op):
            return np.max(operands[0], axis=int(re.search(r"axis = (\d+)", op.text)[1]))  # type: ignore[index]
        if name == "arith.constant":
            return _constant(op)
        if name == "tt.get_program_id":
            return np.int64(self.program[_axis(op.text)])
        if name == "tt.get_num_programs":
            return np.int64(self.grid[_axis(op.text)])
        if name == "tt.make_range":
            return np.arange(*(int(re.search(rf"{w} = (\d+)", op.text)[1]) for w in ("start", "end")))  # type: ignore[index]
        if name == "tt.addptr":
            pointer, offset = operands
            lost = isinstance(offset, Unknown) or isinstance(pointer.offset, Unknown)
            return Pointer(pointer.argument, UNKNOWN if lost else pointer.offset + offset)
        if name in ("tt.splat", "tt.broadcast", "tt.expand_dims", "tt.reshape", "tt.trans"):
            inner = operands[0]
            if isinstance(inner, Pointer):
                return Pointer(inner.argument, _shaped(op, inner.offset))
            return _shaped(op, inner)
        if any(isinstance(o, (Unknown, Pointer)) for o in operands):
            # A mask that is in part unknown lets pass what its known part does.
            known = [o for o in operands if not isinstance(o, (Unknown, Pointer))]
            return known[0] if name == "arith.andi" and op.type.element == "i1" and known else UNKNOWN
        kind = name.removeprefix("arith.")
        if kind in ARITHMETIC:
            return ARITHMETIC[kind](*operands)
        if kind == "cmpi":
            return COMPARE[op.text.split()[1].rstrip(",")](*operands)
        if kind in ("extsi", "trunci", "index_cast"):
            return operands[0]
        if kind == "extui":
            return np.asarray(operands[0]).astype(np.int64)
        if kind == "select":
            return np.where(*operands)
        return UNKNOWN

    def given(self, pointer: Any, mask: Any) -> Any:
        """The numbers of a tensor that is given, 0 where the mask is not set."""
        if pointer.argument not in self.memory or isinstance(pointer.offset, Unknown) or isinstance(mask, Unknown):
            return UNKNOWN
        numbers = self.memory[pointer.argument]
        offset, there = np.broadcast_arrays(np.asarray(pointer.offset), mask)
        return np.where(there, numbers[np.where(there, offset, 0)], 0).astype(np.int64)

    def move(self, pointer: Any, mask: Any, op: Operation) -> None:
        moved = self.moved[pointer.argument]
        if isinstance(pointer.offset, Unknown):
            shape = op.type.shape
            passes = np.count_nonzero(mask) if not isinstance(mask, Unknown) else 1
            whole = np.size(mask) == 1 or isinstance(mask, Unknown)
            count = int(np.prod(shape)) if whole and passes else passes
            moved.gather(count)
            return
        offset = np.asarray(pointer.offset)
        if not isinstance(mask, Unknown):
            offset, mask = np.broadcast_arrays(offset, mask)
            offset = offset[mask]
        moved.add(offset, self.number)


def _is_maximum(op: Operation) -> bool:
    return any(inner.name == "arith.maxsi" for region in op.regions for inner in region.operations)


def _axis(text: str) -> int:
    return "xyz".index(re.search(r"\b([xyz])\b", text)[1])  # type: ignore[index]


def _constant(op: Operation) -> Any:
    word = re.search(r"arith\.constant (?:dense<)?([^>:\s]+)", op.text)[1]  # type: ignore[index]
    if word in ("true", "false"):
        value: Any = np.bool_(word == "true")
    elif op.type.bits:
        value = np.int64(int(word, 0))
    else:
        return UNKNOWN
    return np.broadcast_to(value, op.type.shape) if op.type.shape else value


def _shaped(op: Operation, value: Any) -> Any:
    if isinstance(value, Unknown):
        return value
    if op.name == "tt.expand_dims":
        return np.expand_dims(value, int(re.search(r"axis = (\d+)", op.text)[1]))  # type: ignore[index]
    if op.name == "tt.reshape":
        return np.reshape(value, op.type.shape)
    if op.name == "tt.trans":
        order = re.search(r"order = array<i32: ([\d, ]+)>", op.text)[1]  # type: ignore[index]
        return np.transpose(value, tuple(map(int, order.split(","))))
    return np.broadcast_to(value, op.type.shape)
