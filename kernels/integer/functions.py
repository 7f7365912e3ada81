"""The functions of whole numbers: what each means in plain torch, on int64 tensors. A truth value is 1 or 0.

Sums, differences and products wrap around at 64 bits, as torch's do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def _truth(test: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *operands: test(*operands).long()


def _divided(mode: str) -> Callable[..., Tensor]:
    return lambda a, b: torch.div(a, b, rounding_mode=mode)


FUNCTIONS: dict[str, tuple[int, Callable[..., Tensor]]] = {
    "copy": (1, lambda a: a), "neg": (1, torch.neg), "abs": (1, torch.abs), "sign": (1, torch.sign),
    "bitwise_not": (1, torch.bitwise_not), "logical_not": (1, _truth(torch.logical_not)),
    "truth": (1, _truth(lambda a: a != 0)), "wrap32": (1, lambda a: a.to(torch.int32).long()),
    "add": (2, torch.add), "sub": (2, torch.sub), "mul": (2, torch.mul),
    "floor_divide": (2, _divided("floor")), "trunc_divide": (2, _divided("trunc")),
    "remainder": (2, torch.remainder), "fmod": (2, torch.fmod),
    "minimum": (2, torch.minimum), "maximum": (2, torch.maximum),
    "lt": (2, _truth(torch.lt)), "le": (2, _truth(torch.le)), "gt": (2, _truth(torch.gt)),
    "ge": (2, _truth(torch.ge)), "eq": (2, _truth(torch.eq)), "ne": (2, _truth(torch.ne)),
    "bitwise_and": (2, torch.bitwise_and), "bitwise_or": (2, torch.bitwise_or), "bitwise_xor": (2, torch.bitwise_xor),
    "logical_and": (2, _truth(torch.logical_and)), "logical_or": (2, _truth(torch.logical_or)),
    "logical_xor": (2, _truth(torch.logical_xor)),
    "where": (3, lambda condition, yes, no: torch.where(condition != 0, yes, no)),
}  # fmt: skip
"""name -> (operands, the function)"""

DIVIDING = ("floor_divide", "trunc_divide", "remainder", "fmod")

LOWEST = -(1 << 63)


def whole(x: Tensor) -> Tensor:
    """As int64: float32 rounded toward zero; NaN and what int64 does not hold is its lowest number."""
    if not x.is_floating_point():
        return x.long()
    inside = (x >= -(2.0**63)) & (x < 2.0**63)
    numbers = torch.where(inside, x, torch.zeros_like(x)).long()
    return torch.where(inside, numbers, torch.full_like(numbers, LOWEST))


def evaluate(program: list[tuple[str, list[str]]], given: dict[str, list[Tensor]]) -> Tensor:
    """given: int64 tensors of "x" and "c", which broadcast."""
    done: list[Tensor] = []
    first = next(t for tensors in given.values() for t in tensors)

    def operand(word: str) -> Any:
        if word[0] == "t":
            return done[int(word[1:])]
        if word[0] in given:
            return given[word[0]][int(word[1:])]
        return torch.tensor(int(word), dtype=torch.int64, device=first.device)

    for name, words in program:
        done.append(FUNCTIONS[name][1](*map(operand, words)))
    return done[-1]
