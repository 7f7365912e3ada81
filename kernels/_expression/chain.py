"""From an expression to a chain over one accumulator: load, apply, store aside where a result is wanted again.

A binary function finds one operand in the accumulator and the other in memory. Of two computed operands the one that is
deeper is made first and stored aside, so that few stores are needed (the order of Sethi and Ullman).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rtaccel.core.errors import UnsupportedProblem
from rtaccel.kernels._expression.functions import FUNCTIONS
from rtaccel.kernels._expression.program import Instruction

MAX_STORED = 24
"""Results that can lie aside at a time."""

LEAVES = ("x", "c")


@dataclass(frozen=True)
class Link:
    """name: "load", "store" or a function. a, b: places of operands, as `Chain` numbers them; -1 for none."""

    name: str
    a: int = -1
    b: int = -1
    parameter: float = 0.0


@dataclass
class Chain:
    """Places: inputs, then constants, then numbers, then what is stored aside."""

    inputs: int
    constants: int
    numbers: list[float] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    stored: int = 0


def schedule(instructions: Sequence[Instruction], inputs: int, constants: int) -> Chain:
    """Raises UnsupportedProblem for an expression that wants too many results aside."""
    return _Scheduler(instructions, inputs, constants).run()


class _Scheduler:
    def __init__(self, instructions: Sequence[Instruction], inputs: int, constants: int) -> None:
        self._code = list(instructions)
        self._uses = [0] * len(self._code)
        self._depth: list[int] = []
        for step in self._code:
            inner = [o[1] for o in step.operands if isinstance(o, tuple) and o[0] == "t"]
            for i in inner:
                self._uses[i] += 1
            self._depth.append(1 + max((self._depth[i] for i in inner), default=0))
        self._chain = Chain(inputs, constants)
        self._aside: dict[int, int] = {}
        self._free: list[int] = []
        # By their text: 0.0 and -0.0 are equal, and a NaN equals nothing.
        numbers = {repr(o): o for step in self._code for o in step.operands if isinstance(o, float)}
        self._chain.numbers = [numbers[text] for text in sorted(numbers)]
        self._number = {text: i for i, text in enumerate(sorted(numbers))}

    def run(self) -> Chain:
        self._compute(len(self._code) - 1)
        return self._chain

    def _emit(self, name: str, a: int = -1, b: int = -1, parameter: float = 0.0) -> None:
        if name == "load" and self._chain.links[-1:] == [Link("store", a)]:
            return  # it is in the accumulator still
        self._chain.links.append(Link(name, a, b, parameter))

    def _place(self, operand: tuple[str, int] | float) -> int | None:
        """Where an operand lies in memory; None for a result that is not stored."""
        chain = self._chain
        if isinstance(operand, float):
            return chain.inputs + chain.constants + self._number[repr(operand)]
        kind, index = operand
        if kind == "t":
            slot = self._aside.get(index)
            return None if slot is None else chain.inputs + chain.constants + len(chain.numbers) + slot
        return index if kind == "x" else chain.inputs + index

    def _read(self, operand: tuple[str, int] | float) -> int:
        """The place of an operand that lies in memory, which is used once more now."""
        place = self._place(operand)
        assert place is not None
        if isinstance(operand, tuple) and operand[0] == "t":
            self._uses[operand[1]] -= 1
            if self._uses[operand[1]] == 0:
                self._free.append(self._aside.pop(operand[1]))
        return place

    def _store(self, index: int) -> None:
        slot = self._free.pop() if self._free else self._chain.stored
        self._chain.stored = max(self._chain.stored, slot + 1)
        if slot >= MAX_STORED:
            raise UnsupportedProblem("expression", f"{slot + 1} results aside", f"{MAX_STORED}", "Cut the expression.")
        self._aside[index] = slot
        self._emit("store", self._place(("t", index)) or 0)

    def _compute(self, index: int) -> None:
        """Brings a result into the accumulator, and aside where it is read more than once."""
        step = self._code[index]
        if step.name == "copy":
            self._bring(step.operands[0])
        else:
            self._apply(step)
        if self._uses[index] > 1:
            self._store(index)

    def _bring(self, operand: tuple[str, int] | float) -> None:
        if self._place(operand) is not None:
            self._emit("load", self._read(operand))
            return
        assert isinstance(operand, tuple)
        self._compute(operand[1])
        if self._uses[operand[1]] > 1:  # it is in the accumulator, and stays aside for the others
            self._uses[operand[1]] -= 1

    def _apply(self, step: Instruction) -> None:
        name, operands = step.name, list(step.operands)
        swapped = FUNCTIONS[name].swapped if name in FUNCTIONS else None
        # The accumulator takes the first operand, or the second where the function can be turned round.
        if len(operands) == 2 and swapped is not None and self._weight(operands[1]) > self._weight(operands[0]):
            name, operands = swapped, operands[::-1]
        for other in sorted(operands[1:], key=self._weight, reverse=True):
            if self._place(other) is None:
                assert isinstance(other, tuple)
                self._compute(other[1])
                if self._place(other) is None:
                    self._store(other[1])
        self._bring(operands[0])
        places = [self._read(o) for o in operands[1:]]
        self._emit(name, *places, parameter=step.parameter)

    def _weight(self, operand: tuple[str, int] | float) -> int:
        return 0 if self._place(operand) is not None else self._depth[operand[1]]  # type: ignore[index]
