"""The text of an expression: one instruction a line, evaluated in plain torch, or bounded in its error.

An instruction is a name and its operands: "mul x0 t1", "where c0 t2 0.5", "leaky_relu t0 0.1". x0, x1, ...: inputs of the
stage. c0, c1, ...: its constant tensors. t0, t1, ...: results of earlier instructions. Anything else is a number. The last
instruction gives the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rtaccel.core.errors import FormatError
from rtaccel.kernels._common import activations
from rtaccel.kernels._expression.functions import FUNCTIONS, call, operands_of

Operand = "tuple[str, int] | float"
"""("x", 0), ("c", 0) or ("t", 0), or a number."""


@dataclass(frozen=True)
class Instruction:
    """operands: of the function. parameter: of an activation function, 0 for one without."""

    name: str
    operands: tuple[tuple[str, int] | float, ...]
    parameter: float = 0.0

    def __str__(self) -> str:
        words = [self.name, *(o if isinstance(o, str) else text_of(o) for o in self.operands)]
        return " ".join([*words, repr(self.parameter)] if self.parameter else words)


def text_of(operand: tuple[str, int] | float) -> str:
    return repr(float(operand)) if isinstance(operand, (int, float)) else f"{operand[0]}{operand[1]}"


def parse(program: Sequence[str], inputs: int, constants: int) -> list[Instruction]:
    """Raises FormatError for a program that is none."""
    limits = {"x": inputs, "c": constants}
    found: list[Instruction] = []
    for line in program:
        name, *words = line.split()
        count = operands_of(name)
        if count is None:
            raise FormatError(
                "expression", f"the function {name!r}", "one that there is", "See kernels/_expression/functions.py."
            )
        limits["t"] = len(found)
        operands = tuple(_operand(word, limits, line) for word in words[:count])
        rest = words[count:]
        if len(operands) != count or len(rest) > (name in activations.ROWS):
            raise FormatError("expression", repr(line), f"{count} operands of {name}", "Correct the program.")
        found.append(Instruction(name, operands, float(rest[0]) if rest else 0.0))
    if not found:
        raise FormatError("expression", "an empty program", "one instruction or more", "Use 'copy x0' for a copy.")
    return found


def _operand(word: str, limits: dict[str, int], line: str) -> tuple[str, int] | float:
    if word[:1] in limits and word[1:].isdigit():
        if int(word[1:]) >= limits[word[0]]:
            raise FormatError(
                "expression", repr(line), f"{word[0]}0 up to {limits[word[0]] - 1}", "Correct the program."
            )
        return word[0], int(word[1:])
    try:
        return float(word)
    except ValueError:
        raise FormatError(
            "expression", f"{word!r} in {line!r}", "a number or an operand", "Correct the program."
        ) from None


def evaluate(instructions: Sequence[Instruction], given: dict[str, Sequence[Tensor]]) -> Tensor:
    """given: tensors of "x" and "c", which broadcast, in one dtype, as the result. In float64 each result is rounded to float32,
    so that one which is too large there is infinite here too."""
    first = next(t for tensors in given.values() for t in tensors)
    done: list[Tensor] = []
    for step in instructions:
        operands = [_tensor(o, given, done, first) for o in step.operands]
        y = operands[0] if step.name == "copy" else call(step.name, operands, step.parameter)
        done.append(y.float().double() if y.dtype == torch.float64 else y)
    return done[-1]


def _tensor(
    operand: tuple[str, int] | float, given: dict[str, Sequence[Tensor]], done: list[Tensor], like: Tensor
) -> Tensor:
    if isinstance(operand, float):
        return torch.tensor(operand, dtype=like.dtype, device=like.device)
    return done[operand[1]] if operand[0] == "t" else given[operand[0]][operand[1]]


def error_bound(instructions: Sequence[Instruction], given: dict[str, Sequence[Tensor]]) -> Tensor:
    """How far a float32 evaluation may be from the exact one (given in float64), element by element.

    Each result carries its error: what the function makes of operands that are off, at the corners of their ranges, and the
    error of one evaluation. Where a comparison may fall to either side, both sides are within the bound.
    """
    eps = torch.finfo(torch.float32).eps
    first = next(t for tensors in given.values() for t in tensors)
    done: list[Tensor] = []
    errors: list[Tensor] = []
    for step in instructions:
        operands = [_tensor(o, given, done, first) for o in step.operands]
        off = [errors[o[1]] if isinstance(o, tuple) and o[0] == "t" else torch.zeros_like(first) for o in step.operands]
        if step.name == "copy":
            done.append(operands[0])
            errors.append(off[0])
            continue
        y = call(step.name, operands, step.parameter).float().double()
        worst = torch.zeros_like(y)
        for corner in range(1, 3 ** len(operands)):
            shifts = [(corner // 3**i) % 3 - 1 for i in range(len(operands))]
            moved = [o if s == 0 else o + s * e for o, s, e in zip(operands, shifts, off)]
            difference = (call(step.name, moved, step.parameter) - y).abs()
            worst = torch.maximum(worst, torch.where(difference.isnan(), torch.zeros_like(y), difference))
        if step.name in FUNCTIONS:
            own = eps * (FUNCTIONS[step.name].ulps * y.abs() + FUNCTIONS[step.name].absolute)
        else:
            own = activations.error(step.name, operands[0]) + eps * y.abs()
        done.append(y)
        errors.append(worst + torch.where(own.isfinite(), own, torch.zeros_like(own)) + 2e-38)
    return errors[-1]
