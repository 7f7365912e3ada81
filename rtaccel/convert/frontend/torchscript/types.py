"""Types of TorchScript: what a value is, how a tuple with names is made, which arguments are dtypes."""

from __future__ import annotations

from collections import namedtuple
from enum import Enum
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from rtaccel.convert.frontend.torchscript.numbers import HeldNumber

DTYPES: tuple[torch.dtype | None, ...] = (
    torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16, torch.float32, torch.float64,
    torch.complex32, torch.complex64, torch.complex128, torch.bool, torch.qint8, torch.quint8, torch.qint32, torch.bfloat16,
)  # fmt: skip
"""By the numbers that TorchScript has for them, which files keep. Newer ones are not read."""

LAYOUTS = (torch.strided,)
MEMORY_FORMATS = (
    torch.contiguous_format, torch.preserve_format, torch.channels_last, torch.channels_last_3d,
)  # fmt: skip
_ENUMERATED: dict[str, tuple[Any, ...]] = {
    "ScalarType": DTYPES, "Layout": LAYOUTS, "MemoryFormat": MEMORY_FORMATS,
}  # fmt: skip

_KINDS: dict[str, Any] = {
    "TensorType": (Tensor, HeldNumber),
    "IntType": (int, torch.SymInt),
    "FloatType": (float, torch.SymFloat),
    "BoolType": (bool, torch.SymBool),
    "ComplexType": complex,
    "StringType": str,
    "DeviceObjType": torch.device,
    "NumberType": (int, float, complex, torch.SymInt, torch.SymFloat),
    "EnumType": Enum,
}


def enumerated(real_type: Any) -> tuple[Any, ...] | None:
    """What the number in such an argument of an operator stands for; None for an argument of another kind."""
    name = str(real_type)
    for kind, values in _ENUMERATED.items():
        if name in (kind, f"Optional[{kind}]"):
            return values
    return None


def number_of(value: Any) -> Any:
    """A dtype or layout as TorchScript's number."""
    for values in _ENUMERATED.values():
        if value in values:
            return values.index(value)
    return value


def is_a(value: Any, kind: Any) -> bool:
    """`isinstance` of TorchScript."""
    name = kind.kind()
    if name == "AnyType":
        return True
    if name == "NoneType":
        return value is None
    if name == "OptionalType":
        return value is None or is_a(value, kind.getElementType())
    if name == "UnionType":
        return any(is_a(value, one) for one in kind.containedTypes())
    if name in ("ListType", "AnyListType"):
        return isinstance(value, list) and (name == "AnyListType" or all(is_a(v, kind.getElementType()) for v in value))
    if name in ("TupleType", "AnyTupleType"):
        if not isinstance(value, tuple) or name == "AnyTupleType":
            return isinstance(value, tuple)
        parts = kind.containedTypes()
        return len(parts) == len(value) and all(is_a(v, part) for v, part in zip(value, parts))
    if name == "DictType":
        keys, values = kind.getKeyType(), kind.getValueType()
        return isinstance(value, dict) and all(is_a(k, keys) and is_a(v, values) for k, v in value.items())
    if name in ("ClassType", "InterfaceType"):
        return isinstance(value, nn.Module) or getattr(value, "kind", None) == kind.str()
    if isinstance(value, bool) and name != "BoolType":
        return False
    return name in _KINDS and isinstance(value, _KINDS[name])


_OF_TORCH = "torch._jit_internal"
"""Where torch makes such a class."""


@cache
def _named(name: str, fields: tuple[str, ...]) -> Any:
    return namedtuple(name, fields)


def tuple_maker(kind: Any) -> Any:
    """Makes a tuple of such a type of its parts: a plain one, or one with names."""
    text = kind.str()
    if not text.startswith("NamedTuple("):
        return lambda *parts: parts
    return _named(kind.annotation_str.split(".")[-1], fields_of(text))


def with_read_tuples(value: Any) -> Any:
    """A result with the classes of tuples that a form in Python gives: torch makes a class for each that a script returns."""
    kind = type(value)
    if kind is tuple:
        return tuple(with_read_tuples(part) for part in value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):  # what torch.sort gives is a class of its own
        parts = [with_read_tuples(part) for part in value]
        return (_named(kind.__name__, kind._fields) if kind.__module__ == _OF_TORCH else kind)(*parts)
    if type(value) is list:
        return [with_read_tuples(part) for part in value]
    return {key: with_read_tuples(part) for key, part in value.items()} if type(value) is dict else value


def fields_of(text: str) -> tuple[str, ...]:
    """Names in `NamedTuple(a : Tensor, b : Dict(str, Tensor))`."""
    fields, depth, start = [], 0, len("NamedTuple(")
    for at, letter in enumerate(text[start:], start):
        if (letter == "," and depth == 0) or at == len(text) - 1:
            fields.append(text[start:at].split(":")[0].strip())
            start = at + 1
        depth += letter in "([{"
        depth -= letter in ")]}"
    return tuple(f for f in fields if f)
