"""Nodes with a schema as functions: operators of ATen and of other libraries, and functions of numbers and lists."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from rtaccel.convert.frontend.torchscript.mkldnn import DENSE
from rtaccel.convert.frontend.torchscript.numbers import HeldNumber, cast, computed, materialized
from rtaccel.convert.frontend.torchscript.python_calls import PYTHON_CALLS
from rtaccel.convert.frontend.torchscript.scalars import function_for
from rtaccel.convert.frontend.torchscript.types import enumerated


def operator_of(text: str) -> Callable[..., Any] | None:
    """What computes a node with this schema, given all arguments in its order. None where torch has no such operator."""
    schema = torch._C.parse_schema(text)
    kinds = [str(argument.type) for argument in schema.arguments]
    on_tensors = any("Tensor" in kind for kind in kinds)
    plain = DENSE.get(schema.name) or function_for(schema.name, on_tensors)
    readers = [enumerated(argument.real_type) for argument in schema.arguments]
    if plain is not None:
        is_float = len(schema.returns) == 1 and str(schema.returns[0].type) == "float"
        return _Plain(plain, _dtypes_of(schema.name, readers), is_float)
    space, _, name = schema.name.partition("::")
    packet = getattr(getattr(torch.ops, space), name, None)
    overload = getattr(packet, schema.overload_name or "default", None)
    call = PYTHON_CALLS.get(f"{schema.name}.{schema.overload_name}".removesuffix("."))
    if overload is None or "..." in text:  # torch reads those off a stack
        return None
    if call is not None:
        return _Operator(schema.name, call, readers, [""] * len(readers))
    named = [argument.name if argument.kwarg_only else "" for argument in schema.arguments]
    return _Operator(schema.name, overload, readers, named)


def _dtypes_of(name: str, readers: list[Any]) -> list[Any]:
    """`torch.tensor` says of its dtype that it is an integer."""
    if name not in ("aten::tensor", "aten::as_tensor"):
        return readers
    return [readers[0], enumerated("ScalarType"), *readers[2:]]


def _read(value: Any, values: tuple[Any, ...] | None) -> Any:
    if values is None or type(value) is not int:
        return value
    if not 0 <= value < len(values):
        raise RuntimeError(f"a dtype or layout that torch numbers {value}, which is not read")
    return values[value]


class _Plain:
    """A function of Python. is_float: it gives a real number, also where Python's gives a whole one."""

    def __init__(self, run: Callable[..., Any], readers: list[Any], is_float: bool) -> None:
        self._run, self._readers, self._is_float = run, readers, is_float

    def __call__(self, *values: Any) -> Any:
        more = values[len(self._readers) :]  # of `format`, which takes any number
        result = self._run(*(_read(v, r) for v, r in zip(values, self._readers)), *more)
        if self._is_float and isinstance(result, (int, torch.SymInt)):
            return torch.sym_float(result)
        return result


class _Operator:
    """An overload of an operator, or torch's call of it. named: the names of arguments that it takes by name."""

    def __init__(self, name: str, overload: Any, readers: list[Any], named: list[str]) -> None:
        self._name, self._overload, self._readers, self._named = name, overload, readers, named

    def __call__(self, *given: Any) -> Any:
        values = [_read(v, r) for v, r in zip(given, self._readers)]
        if values and isinstance(values[0], HeldNumber):
            found = self._of_number(values)
            if found is not None:
                return found
        values = [materialized(v) for v in values]
        args = [v for v, name in zip(values, self._named) if not name]
        return self._overload(*args, **{name: v for v, name in zip(values, self._named) if name})

    def _of_number(self, values: list[Any]) -> HeldNumber | None:
        if self._name.endswith("_"):
            raise RuntimeError(f"{self._name} on a number that the graph keeps as a tensor")
        dtypes = [v for v in values if isinstance(v, torch.dtype)]
        if self._name == "aten::to" and len(dtypes) == 1:
            return cast(values[0], dtypes[0])
        return computed(self._name, values)
