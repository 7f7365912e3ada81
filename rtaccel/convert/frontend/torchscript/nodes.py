"""Nodes of a graph that are no operator with a schema of its own: they build and take apart, read and raise."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rtaccel.convert.frontend.torchscript import objects
from rtaccel.convert.frontend.torchscript.mkldnn import clamp_of
from rtaccel.convert.frontend.torchscript.numbers import held, materialized
from rtaccel.convert.frontend.torchscript.types import is_a, number_of, tuple_maker

_CONTEXTS = ("__torch__.torch.autograd.grad_mode.", "__torch__.torch.autograd.profiler.")
"""Contexts that change nothing here, where no gradient is kept."""


def function_of(node: Any) -> Callable[..., Any] | None:
    """What a node computes of its inputs, a row of results where there are several; None for one that is none of these."""
    kind = node.kind()
    if kind in _PLAIN:
        return _PLAIN[kind]
    made = _MADE.get(kind)
    return made(node) if made is not None else None


def _list(*parts: Any) -> list[Any]:
    return list(parts)


def _dictionary(*parts: Any) -> dict[Any, Any]:
    return dict(zip(parts[::2], parts[1::2]))


def _unpack(node: Any) -> Callable[..., Any]:
    count = node.outputsSize()
    return partial(_parts, count)


def _parts(count: int, whole: Any) -> Any:
    if len(whole) != count:
        raise torch.jit.Error(f"Expected {count} elements in a list but found {len(whole)}")
    return whole[0] if count == 1 else tuple(whole)


def _same(value: Any) -> Any:
    return value


def _nothing(*values: Any) -> None:
    return None


def _raise(message: Any, *kind: Any) -> Any:
    raise torch.jit.Error(str(message))


def _attribute(name: str) -> Callable[[Any], Any]:
    return lambda x: number_of(getattr(materialized(x), name))


def _is_instance(node: Any) -> Callable[..., Any]:
    kinds = tuple(node.tys("types"))
    return lambda value: any(is_a(value, kind) for kind in kinds)


def _chunk(node: Any) -> Callable[..., Any]:
    return partial(torch.chunk, chunks=node.i("chunks"), dim=node.i("dim"))


def _slice(node: Any) -> Callable[..., Any]:
    start, end = node.i("beg"), node.i("end")
    return lambda whole: whole[start:end]


def _context(node: Any) -> Callable[..., Any] | None:
    return _nothing if node.inputsAt(0).type().str().startswith(_CONTEXTS) else None


def _of_python(node: Any) -> Callable[..., Any] | None:
    """A method of Python that TorchScript was told to leave alone, or the function of a traced autograd.Function."""
    function = node.pyobj()
    if isinstance(function, type) and issubclass(function, torch.autograd.Function):
        function = function.apply
    elif getattr(
        function, "__closure__", None
    ):  # torch binds it to a ScriptModule; here it is called with the form of it
        function = inspect.getclosurevars(function).nonlocals.get("unbound_method", function)
    return partial(_call_python, function, node.cconv(), tuple(node.scalar_args()))


def _call_python(function: Any, convention: str, scalars: tuple[Any, ...], *values: Any) -> Any:
    tensors, others = iter(materialized(list(values))), iter(scalars)
    return function(*(next(tensors) if letter == "d" else next(others) for letter in convention))


def _to_list(x: Any, *shape: Any) -> Any:
    return materialized(x).tolist()


_PLAIN: dict[str, Callable[..., Any]] = {
    "prim::ListConstruct": _list,
    "prim::DictConstruct": _dictionary,
    "prim::TupleIndex": lambda whole, at: whole[at],
    "prim::StringIndex": lambda whole, at: whole[at],
    "prim::ModuleContainerIndex": objects.get_module,
    "prim::unchecked_cast": _same,
    "prim::unchecked_unwrap_optional": _same,
    "prim::Uninitialized": _nothing,
    "prim::Print": _nothing,
    "prim::RaiseException": _raise,
    "prim::NumToTensor": held,
    "prim::tolist": _to_list,
    "prim::EnumName": lambda member: member.name,
    "prim::EnumValue": lambda member: member.value,
    "prim::rangelist": lambda count: list(range(count)),
    "prim::data": lambda x: x.detach() if isinstance(x, Tensor) else x,
}
_ATTRIBUTES = (
    "dtype", "device", "layout", "is_cuda", "is_cpu", "is_sparse", "is_quantized", "is_mkldnn", "is_meta", "requires_grad",
    "itemsize", "type", "index",
)  # fmt: skip
_PLAIN.update({f"prim::{name}": _attribute(name) for name in _ATTRIBUTES})

_MADE: dict[str, Callable[[Any], Callable[..., Any] | None]] = {
    "prim::TupleConstruct": lambda node: tuple_maker(node.output().type()),
    "prim::ListUnpack": _unpack,
    "prim::TupleUnpack": _unpack,
    "prim::TupleSlice": _slice,
    "prim::ConstantChunk": _chunk,
    "prim::GetAttr": lambda node: partial(objects.get_attribute, node.s("name")),
    "prim::SetAttr": lambda node: partial(objects.set_attribute, node.s("name")),
    "prim::CreateObject": lambda node: partial(objects.create, node.output().type().str()),
    "prim::isinstance": _is_instance,
    "prim::Enter": _context,
    "prim::Exit": _context,
    "prim::PythonOp": _of_python,
    "prim::MKLDNNClamp": clamp_of,
    "prim::MKLDNNClamp_": clamp_of,
    "prim::MKLDNNHardTanh": clamp_of,
    "prim::MKLDNNHardTanh_": clamp_of,
}
