"""Numbers that a traced graph keeps in tensors: sizes above all, which would be lost if they became tensors."""

from __future__ import annotations

import math
import operator
import struct
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_WHOLE = (int, torch.SymInt)


class HeldNumber:
    """A number that the graph says is a tensor without dimensions. It becomes one where an operator needs a tensor.

    tensor: it, where the graph has it as a constant.
    """

    def __init__(self, value: Any, dtype: torch.dtype, tensor: Tensor | None = None) -> None:
        self.value, self.dtype, self.tensor = value, dtype, tensor

    def as_tensor(self) -> Tensor:
        return self.tensor if self.tensor is not None else torch.full((), self.value, dtype=self.dtype)


def held(value: Any) -> HeldNumber:
    """What `prim::NumToTensor` gives."""
    if isinstance(value, (bool, torch.SymBool)):
        return HeldNumber(value, torch.bool)
    return HeldNumber(value, torch.int64 if isinstance(value, _WHOLE) else torch.float64)


def held_constant(tensor: Tensor) -> Any:
    """A constant of a graph: a number where it is one."""
    if tensor.dim() or tensor.device.type != "cpu" or tensor.dtype not in _KEPT:
        return None
    return tensor.item()


_KEPT = (torch.int64, torch.float32, torch.float64)


def materialized(value: Any) -> Any:
    """The value with tensors for numbers that stand for them."""
    if isinstance(value, HeldNumber):
        return value.as_tensor()
    if type(value) in (list, tuple):
        parts = [materialized(part) for part in value]
        return value if all(a is b for a, b in zip(parts, value)) else type(value)(parts)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(materialized(part) for part in value))
    if type(value) is dict:
        return {key: materialized(part) for key, part in value.items()}
    return value


def computed(name: str, values: list[Any]) -> HeldNumber | None:
    """The call on numbers alone; None where it is none of these, or has a tensor."""
    rule = _RULES.get(name)
    if rule is None or not isinstance(values[0], HeldNumber):
        return None
    operands = [v for v in values if isinstance(v, HeldNumber)]
    if any(isinstance(v, Tensor) for v in values):
        return None
    plain = [v.value if isinstance(v, HeldNumber) else v for v in values]
    result = rule(*plain)
    if result is None:
        return None
    if isinstance(result, _WHOLE) and not isinstance(result, bool):
        if all(v.dtype == torch.int64 for v in operands):
            return HeldNumber(result, torch.int64)
        result = float(result)
    floats = [v.dtype for v in operands if v.dtype.is_floating_point]
    dtype = torch.float64 if torch.float64 in floats else torch.float32 if floats else torch.get_default_dtype()
    return HeldNumber(_rounded(float(result), dtype), dtype)


def _rounded(value: float, dtype: torch.dtype) -> float:
    return float(struct.unpack("f", struct.pack("f", value))[0]) if dtype == torch.float32 else value


def _scaled(combine: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    return lambda a, b, alpha=1: combine(a, b if alpha == 1 else alpha * b)


def _div(a: Any, b: Any, rounding: str | None = None) -> Any:
    if rounding == "floor":
        return operator.floordiv(a, b)
    if rounding == "trunc":
        if isinstance(a, _WHOLE) and isinstance(b, _WHOLE) and a >= 0 and b > 0:
            return a // b
        return math.trunc(a / b)
    return float(a) / float(b)


_RULES: dict[str, Callable[..., Any]] = {
    "aten::add": _scaled(operator.add),
    "aten::sub": _scaled(operator.sub),
    "aten::rsub": _scaled(lambda a, b: b - a),
    "aten::mul": operator.mul,
    "aten::div": _div,
    "aten::floor_divide": operator.floordiv,
    "aten::remainder": operator.mod,
    "aten::neg": operator.neg,
    "aten::floor": lambda a: a if isinstance(a, _WHOLE) else float(math.floor(a)),
    "aten::ceil": lambda a: a if isinstance(a, _WHOLE) else float(math.ceil(a)),
    "aten::detach": lambda a: a,
    "aten::clone": lambda a, memory_format=None: a,
    "aten::contiguous": lambda a, memory_format=None: a,
}


def cast(value: HeldNumber, dtype: torch.dtype) -> HeldNumber | None:
    """`to(dtype)` of a number."""
    if dtype == torch.int64:
        return HeldNumber(value.value if isinstance(value.value, _WHOLE) else int(value.value), dtype)
    if dtype in (torch.float32, torch.float64):
        return HeldNumber(_rounded(float(value.value), dtype), dtype)
    return None
