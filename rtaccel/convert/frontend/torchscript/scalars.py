"""TorchScript's functions of numbers, strings, lists and dicts, by Python's own, which keep sizes that are symbols."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rtaccel.convert.frontend.torchscript.numbers import HeldNumber, materialized

_SYMBOLS = (torch.SymInt, torch.SymFloat)


def _power(a: Any, b: Any) -> Any:
    return math.pow(a, b) if isinstance(a, float) or isinstance(b, float) else a**b


def _round(a: Any) -> Any:
    return a if isinstance(a, (int, *_SYMBOLS)) else round(a)


NUMBERS: dict[str, Callable[..., Any]] = {
    "aten::add": operator.add,
    "aten::add_": operator.iadd,
    "aten::sub": operator.sub,
    "aten::mul": operator.mul,
    "aten::div": operator.truediv,
    "aten::floordiv": operator.floordiv,
    "aten::remainder": operator.mod,
    "aten::neg": operator.neg,
    "aten::pow": _power,
    "aten::lt": operator.lt,
    "aten::le": operator.le,
    "aten::gt": operator.gt,
    "aten::ge": operator.ge,
    "aten::eq": operator.eq,
    "aten::ne": operator.ne,
    "aten::__and__": operator.and_,
    "aten::__or__": operator.or_,
    "aten::__xor__": operator.xor,
    "aten::__lshift__": operator.lshift,
    "aten::__rshift__": operator.rshift,
    "aten::floor": math.floor,
    "aten::ceil": math.ceil,
    "aten::round": _round,
    "aten::sqrt": math.sqrt,
    "aten::log": math.log,
    "aten::exp": math.exp,
    "aten::sort": lambda given, reverse=False: given.sort(reverse=reverse),
    "aten::sorted": lambda given, reverse=False: sorted(given, reverse=reverse),
    "aten::sum": sum,
    "aten::any": any,
    "aten::all": all,
    "prim::abs": abs,
    "aten::abs": abs,
    "prim::min": min,
    "prim::max": max,
}
"""Where no argument of the node's schema is a tensor."""


def _length(value: Any) -> Any:
    return materialized(value).shape[0] if isinstance(value, (Tensor, HeldNumber)) else len(value)


def _number(value: Any) -> Any:
    """Of a tensor with one element; `item` may give a symbol."""
    return value.value if isinstance(value, HeldNumber) else value.item() if isinstance(value, Tensor) else value


def _int(value: Any) -> Any:
    value = _number(value)
    if isinstance(value, torch.SymFloat):
        return torch.sym_int(value)
    return value if isinstance(value, torch.SymInt) else int(value)


def _float(value: Any) -> Any:
    value = _number(value)
    if isinstance(value, torch.SymInt):
        return torch.sym_float(value)
    return value if isinstance(value, torch.SymFloat) else float(value)


def _bool(value: Any) -> Any:
    if isinstance(value, HeldNumber):
        value = value.value
    return value if isinstance(value, torch.SymBool) else bool(value)


def _not(value: Any) -> Any:
    return torch.sym_not(value) if isinstance(value, torch.SymBool) else not value


def _slice(given: Any, start: int | None = None, end: int | None = None, step: int = 1) -> Any:
    return given[start:end:step]


def _tensor(data: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """`torch.tensor` of numbers: filled, as sizes may be symbols."""
    data = materialized(data)
    if isinstance(data, Tensor):
        return data.detach().clone().to(dtype=dtype or data.dtype, device=device or data.device)
    if not isinstance(data, (list, tuple)):
        return torch.full((), data, dtype=dtype, device=device)
    if any(isinstance(part, _SYMBOLS) for part in data):
        return torch.stack([torch.full((), part, dtype=dtype, device=device) for part in data])
    return torch.tensor(data, dtype=dtype, device=device)


def _as_tensor(data: Any, dtype: Any = None, device: Any = None) -> Tensor:
    data = materialized(data)
    if isinstance(data, Tensor):
        return data.to(dtype=dtype or data.dtype, device=device or data.device)
    return _tensor(data, dtype, device)


def _set_item(given: Any, key: Any, value: Any) -> Any:
    given[key] = value
    return given


def _append(given: list[Any], value: Any) -> list[Any]:
    given.append(value)
    return given


def _unwrapped(value: Any) -> Any:
    if value is None:
        raise torch.jit.Error("Unwrapping null optional")
    return value


def _delete(given: Any, key: Any) -> None:
    del given[key]


def _range_length(low: Any, high: Any, step: Any) -> Any:
    if step > 0:
        return (high - low + step - 1) // step if low < high else 0
    return (low - high - step - 1) // -step if low > high else 0


def _dictionary(pairs: Any = ()) -> dict[Any, Any]:
    return dict(pairs)


VALUES: dict[str, Callable[..., Any]] = {
    "aten::len": _length,
    "aten::size": lambda x, dim=None: list(materialized(x).shape) if dim is None else materialized(x).size(dim),
    "prim::shape": lambda x: list(materialized(x).shape),
    "aten::dim": lambda x: materialized(x).dim(),
    "aten::numel": lambda x: materialized(x).numel(),
    "prim::numel": lambda x: materialized(x).numel(),
    "aten::Int": _int,
    "aten::IntImplicit": _int,
    "aten::Float": _float,
    "aten::FloatImplicit": _float,
    "aten::Bool": _bool,
    "aten::ScalarImplicit": _number,
    "aten::item": _number,
    "prim::ImplicitTensorToNum": _number,
    "aten::__not__": _not,
    "aten::__is__": operator.is_,
    "aten::__isnot__": operator.is_not,
    "aten::__contains__": operator.contains,
    "aten::__getitem__": operator.getitem,
    "aten::_set_item": _set_item,
    "aten::append": _append,
    "aten::extend": lambda given, more: given.extend(more),
    "aten::insert": lambda given, at, value: given.insert(at, value),
    "aten::pop": lambda given, *at: given.pop(*at),
    "aten::remove": lambda given, value: given.remove(value),
    "aten::reverse": lambda given: given.reverse(),
    "aten::clear": lambda given: given.clear(),
    "aten::list": list,
    "aten::dict": _dictionary,
    "aten::keys": list,
    "aten::values": lambda given: list(given.values()),
    "aten::items": lambda given: list(given.items()),
    "aten::get": lambda given, key, default=None: given.get(key, default),
    "aten::setdefault": lambda given, key, default: given.setdefault(key, default),
    "aten::update": lambda given, more: given.update(more),
    "aten::Delete": _delete,
    "aten::_unwrap_optional": _unwrapped,
    "aten::tensor": _tensor,
    "aten::as_tensor": _as_tensor,
    "aten::__range_length": _range_length,
    "aten::__derive_index": lambda index, start, step: start + index * step,
    "aten::wait": lambda value: value,
    "aten::format": lambda text, *values: text.format(*values),
    "aten::str": str,
    "aten::warn": lambda *values: None,
    "aten::is_floating_point": lambda x: materialized(x).is_floating_point(),
}
"""Whatever the arguments are."""

_OF_LISTS: dict[str, Callable[..., Any]] = {"aten::slice": _slice, "aten::copy": lambda given: given.copy()}


def function_for(name: str, on_tensors: bool) -> Callable[..., Any] | None:
    """The function of Python for a node with a schema; None where the operator itself is called."""
    if name in _OF_LISTS:
        return None if on_tensors else _OF_LISTS[name]
    if name in VALUES:
        return VALUES[name]
    return None if on_tensors else NUMBERS.get(name)
