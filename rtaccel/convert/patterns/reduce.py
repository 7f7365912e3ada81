"""Rules for sums, means, extremes and products over any dimensions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend.layout import Atom, View
from rtaccel.convert.frontend.nodes import OpNode
from rtaccel.convert.patterns.rules import Call, Refused, general


def reduced(call: Call, kind: str, value: Any, dims: Sequence[int] | None, keepdim: bool) -> OpNode:
    view = call.elements(value)
    rank = len(view.dims)
    over = sorted({d % rank for d in dims}) if dims else list(range(rank))
    if any(view.has_batch(d) for d in over):
        raise Refused("joins samples")
    kept = [a for d, dim in enumerate(view.dims) if d not in over for a in dim if not a.batch and a.size != 1]
    others = [a for d in over for a in view.dims[d] if a.size != 1]
    kept.sort(key=lambda a: -abs(a.stride))
    others.sort(key=lambda a: -abs(a.stride))
    strides, stride = {}, 1
    for atom in reversed(kept):
        strides[id(atom)] = stride
        stride *= atom.size
    result: list[tuple[Atom, ...]] = []
    for d, dim in enumerate(view.dims):
        if d in over:
            if keepdim:
                result.append((Atom(1, 1),))
            continue
        result.append(tuple(a if a.batch or a.size == 1 else Atom(a.size, strides[id(a)]) for a in dim))
    elements = prod(a.size for a in kept)
    attrs = {
        "kind": kind, "dims": tuple(a.size for a in (*kept, *others)), "kept": len(kept),
        "place": (view.offset, *(a.stride for a in (*kept, *others))),
    }  # fmt: skip
    width = 1 if call.build.windowed and over == [rank - 1] else 0 if elements > 1 else 1
    return call.op_node("reduce", [view.base], View("", tuple(result)), elements, width, attrs=attrs)


def _over(kind: str, dims: str | None = "dim", dtype: torch.dtype = torch.float32) -> Callable[[Call], OpNode | str]:
    """dims: the argument that names the dimensions; None for a call over all of them. dtype: of the tensor."""

    def apply(call: Call) -> OpNode | str:
        if call["self"].meta["val"].dtype != dtype:
            return f"works on {call['self'].meta['val'].dtype}"
        if dims is None:
            return reduced(call, kind, call["self"], None, False)
        given = [call[dims]] if isinstance(call[dims], int) else call[dims]
        return reduced(call, kind, call["self"], given, bool(call["keepdim"]))

    return apply


general(aten.sum.dim_IntList)(_over("sum"))
general(aten.mean.dim)(_over("mean"))
general(aten.amax.default)(_over("amax"))
general(aten.amin.default)(_over("amin"))
general(aten.prod.dim_int)(_over("prod"))
general(aten.sum.default)(_over("sum", None))
general(aten.mean.default)(_over("mean", None))
general(aten.max.default)(_over("amax", None))
general(aten.min.default)(_over("amin", None))
general(aten.prod.default)(_over("prod", None))
# Truth values are 1 or 0: one of them is true, or all of them.
general(aten.any.dim, aten.any.dims)(_over("amax", dtype=torch.bool))
general(aten.all.dim, aten.all.dims)(_over("amin", dtype=torch.bool))
general(aten.any.default)(_over("amax", None, torch.bool))
general(aten.all.default)(_over("amin", None, torch.bool))
