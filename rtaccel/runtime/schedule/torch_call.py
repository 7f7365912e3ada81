"""One call of torch, bound to the tensors it reads and to the memory it writes.

An ATen overload reads its Python arguments by a schema, which costs 0.6 to 1.6 us a call more than the binding that torch
generates for the same operator. So those are tried first, with `out=`. Each is held to the result of the overload, bit for bit.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rtaccel.convert.aten import aten, sized_by_numbers
from rtaccel.core.errors import ShapeError

_HOMES = {
    "special_": "_special",
    "fft_": "_fft",
    "linalg_": "_linalg",
    "": "_nn",
}
"""Where torch keeps generated bindings beside those of `torch` itself, by the beginning of the operator's name."""


def bound_call(
    target: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Tensor | tuple[Tensor, ...]
) -> Callable[[], Any]:
    """The call without arguments that computes `target(*args, **kwargs)` into `result`, which holds it for these arguments."""
    outs = (result,) if isinstance(result, Tensor) else result
    wanted = [_bits(t) for t in outs]
    if not _draws_numbers(target) and not _counts(target, args):
        for call, names in _writing(target):
            trial = [torch.empty_like(t) if t.dtype != torch.bool else t.logical_not() for t in outs]
            if _gives(partial(call, *args, **kwargs, **names(trial)), trial, wanted):
                return partial(call, *args, **kwargs, **names(list(outs)))
        for call in _bindings(target):
            if _returns(partial(call, *args, **kwargs), outs, wanted):
                return _copying(partial(call, *args, **kwargs), outs)
    return _copying(partial(target, *args, **kwargs), outs)


def _copying(call: Callable[[], Any], outs: tuple[Tensor, ...]) -> Callable[[], Any]:
    if len(outs) == 1:
        copy, shape = outs[0].copy_, outs[0].shape

        def one() -> None:
            found = call()
            made = found if isinstance(found, Tensor) else found[0]
            if made.shape != shape:
                raise _other_shape(made, shape)
            copy(made)

        return one

    def several() -> None:
        for out, found in zip(outs, call()):
            if found.shape != out.shape:
                raise _other_shape(found, out.shape)
            out.copy_(found)

    return several


def _other_shape(found: Tensor, shape: torch.Size) -> ShapeError:
    """Of a result whose shape depends on numbers, in a plan that has memory for those of the example."""
    return ShapeError(
        "call", f"a result of shape {list(found.shape)} inside the model", f"{list(shape)}, as for the example",
        "Compile with an example whose numbers give these shapes, or without specialize=True.",
    )  # fmt: skip


def _bindings(target: Any) -> Iterator[Callable[..., Any]]:
    """The generated bindings of an ATen operator."""
    if not isinstance(target, torch._ops.OpOverload) or target.namespace != "aten":
        return
    name = target._schema.name.removeprefix("aten::")
    for beginning, home in _HOMES.items():
        found = getattr(getattr(torch._C, home, None), name, None) if name.startswith(beginning) else None
        if found is not None:
            yield found
    found = getattr(torch._C._VariableFunctions, name, None)
    if found is not None:
        yield found


def _writing(target: Any) -> Iterator[tuple[Callable[..., Any], Callable[[list[Tensor]], dict[str, Any]]]]:
    """Calls that may take the memory of their results, with how they want it named."""
    for call in _bindings(target):
        yield call, _as_out
    if not isinstance(target, torch._ops.OpOverload):
        return
    own = [(a.name, str(a.type)) for a in target._schema.arguments]
    packet = target.overloadpacket
    for name in packet.overloads():
        overload = getattr(packet, name)
        given = overload._schema.arguments
        outs = [a.name for a in given if a.is_out]
        if outs and [(a.name, str(a.type)) for a in given if not a.is_out] == own:
            yield overload, partial(_by_name, outs)


def _as_out(outs: list[Tensor]) -> dict[str, Any]:
    return {"out": outs[0] if len(outs) == 1 else tuple(outs)}


def _by_name(names: list[str], outs: list[Tensor]) -> dict[str, Any]:
    return dict(zip(names, outs))


def _draws_numbers(target: Any) -> bool:
    return isinstance(target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in target.tags


def _counts(target: Any, args: Sequence[Any]) -> bool:
    """Whether the shape of a result depends on numbers: memory that is given to such a call would move where they differ."""
    if not isinstance(target, torch._ops.OpOverload):
        return False
    packet = target.overloadpacket
    counting = sized_by_numbers(target) or any(sized_by_numbers(getattr(packet, name)) for name in packet.overloads())
    if packet is not aten.index:
        return counting
    return any(isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in args[1])


def _gives(call: Callable[[], Any], into: list[Tensor], wanted: list[Tensor]) -> bool:
    """Whether a call leaves exactly the wanted numbers in tensors that it neither moved nor resized."""
    before = [(t.data_ptr(), t.shape, t.stride()) for t in into]
    for tensor in into:
        if tensor.dtype == torch.bool:
            continue  # the caller has filled it with what is wrong
        tensor.fill_(float("nan") if tensor.is_floating_point() or tensor.is_complex() else 77)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            call()
        except Exception:  # this face of the operator takes other arguments
            return False
    return before == [(t.data_ptr(), t.shape, t.stride()) for t in into] and all(
        torch.equal(_bits(t), bits) for t, bits in zip(into, wanted)
    )


def _returns(call: Callable[[], Any], like: tuple[Tensor, ...], wanted: list[Tensor]) -> bool:
    """Whether a call gives exactly the wanted numbers."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            found = call()
        except Exception:
            return False
    parts = (found,) if isinstance(found, Tensor) else tuple(found) if isinstance(found, (tuple, list)) else ()
    if len(parts) != len(like) or not all(isinstance(p, Tensor) for p in parts):
        return False
    return all(
        p.dtype == t.dtype and p.shape == t.shape and torch.equal(_bits(p), bits)
        for p, t, bits in zip(parts, like, wanted)
    )


def _bits(tensor: Tensor) -> Tensor:
    """The bytes of a tensor in a copy."""
    flat = torch.empty(tensor.numel(), dtype=tensor.dtype, device=tensor.device)
    return flat.copy_(tensor.reshape(-1)).view(torch.uint8)
