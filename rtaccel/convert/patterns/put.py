"""Rules for calls that put elements where computed indices say: scatter, index_add, index_put."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend import layout
from rtaccel.convert.frontend.graph.small import SMALL, held
from rtaccel.convert.frontend.iteration import iteration
from rtaccel.convert.frontend.layout import Atom, View
from rtaccel.convert.frontend.nodes import OpNode, hints
from rtaccel.convert.patterns.indexing import INDEX_DTYPES, ONE, Indexed, Operands, cut_to, index_view, kept_of
from rtaccel.convert.patterns.rules import Call, Refused, general


def _put(call: Call, operands: Operands, whole: View, target: View, indices: list[tuple[Any, View]], runs: list[Atom],
         source: tuple[Any, View], shape: Sequence[int], mode: str, negative: bool) -> OpNode:  # fmt: skip
    """whole: of the tensor that is put into. target: of the result, and with indices and source against `shape`."""
    dtype = call.node.meta["val"].dtype
    if dtype in _MAY_OVERFLOW and mode in ("add", "prod"):
        raise Refused(f"joins {str(dtype).removeprefix('torch.')}")
    result = View("", call.ordered(call.shape, _lead(call, whole, target)).dims)
    aligned = [View("", target.dims, target.offset), *(v for _, v in indices), source[1]]
    order = call.build._dense_like(View("", tuple(call.leading(aligned, shape))))
    found = iteration(order, aligned)
    copied = iteration(result, [whole, result])
    if found is None or copied is None:
        raise Refused("layout: its samples lie in several dimensions")
    operands.add("x", call["self"], whole)
    for k, (value, index) in enumerate(indices):
        operands.add(f"i{k}", value, index)
    operands.add("src", *source)
    if not operands.reads:
        raise Refused("puts nothing of the inputs")
    wanted = torch.int64 if dtype in INDEX_DTYPES else torch.float32
    for name in {"x", "src"} & operands.tensors.keys():
        operands.tensors[name] = operands.tensors[name].to(wanted)
    attrs = {
        "mode": mode, "dims": found.dims, "kept": kept_of(found, range(1, 1 + len(indices))), "places": found.places,
        "sizes": tuple(r.size for r in runs), "strides": tuple(r.stride for r in runs), "negative": int(negative),
        "whole": (copied.dims, copied.places[0], copied.places[1]),
    }  # fmt: skip
    return call.op_node("put", operands.reads, result, prod(copied.dims), call.row_of(result), True,
                        tensors=operands.tensors, attrs=attrs)  # fmt: skip


def _lead(call: Call, whole: View, target: View) -> View:
    """The order of a result: that of the tensor that is put into, or dense where that is a constant."""
    if whole.base:
        return whole
    return call.build._dense_like(View("", tuple(call.leading([target], call.shape))))


def _result_like(call: Call, whole: View, others: Sequence[View]) -> View:
    """The result before it is decided where its elements lie, with samples where an operand has them."""
    lead = call.leading([whole, *(v for v in others if len(v.dims) == len(call.shape))], call.shape)
    like = whole if whole.base else call.build._dense_like(View("", tuple(lead)))
    return call.ordered(call.shape, like)


def _number(call: Call, rank: int) -> tuple[Any, View]:
    """The plain number that is put, as the result keeps it."""
    return held(call["value"], call.node.meta["val"].dtype), View("", tuple([ONE] * rank))


_MAY_OVERFLOW = {torch.bool, torch.int32, *SMALL}
"""What holds a sum or product of its numbers in another way than the kernels, which add float32 and int64."""
_REDUCTIONS = {"sum": "add", "prod": "prod", "amax": "amax", "amin": "amin", "add": "add", "multiply": "prod"}


@general(aten.scatter.src, aten.scatter.value, aten.scatter.reduce, aten.scatter.value_reduce, aten.scatter_add.default,
         aten.scatter_reduce.two)  # fmt: skip
def _scatter(call: Call) -> OpNode | str:
    target = call.node.target
    mode = "add" if target is aten.scatter_add.default else "set"
    if target in (aten.scatter.reduce, aten.scatter.value_reduce, aten.scatter_reduce.two):
        found = _REDUCTIONS.get(call["reduce"])
        if found is None or (target is aten.scatter_reduce.two and not call["include_self"]):
            return "joins in another way than a sum, a product or an extreme with what was there"
        mode = found
    operands = Operands(call)
    whole, index = operands.see(call["self"]), index_view(operands, call["index"])
    if not whole.dims or not index.dims:
        return "is of one number"
    dim = call["dim"] % len(whole.dims)
    shape = hints(call["index"].meta["val"].shape)
    if target in (aten.scatter.value, aten.scatter.value_reduce):
        source: tuple[Any, View] = _number(call, len(shape))
    else:
        view = operands.see(call["src"])
        cut = cut_to(
            View(view.base, tuple(ONE if d == dim else a for d, a in enumerate(view.dims)), view.offset), shape, -1
        )
        own = call.build.cut(view, dim, 0, shape[dim])
        if own is None:
            return "layout: reads a part of a dimension that no strides describe"
        source = (
            call["src"],
            View(cut.base, tuple(own.dims[d] if d == dim else a for d, a in enumerate(cut.dims)), cut.offset),
        )
    result = _result_like(call, whole, [index])
    if result.has_batch(dim) or index.has_batch(dim):
        return "puts into some samples"
    run = layout.run_of(result, dim)
    assert run is not None
    return _put(
        call, operands, whole, cut_to(result, shape, dim), [(call["index"], index)], [run], source, shape, mode, False
    )


@general(aten.index_add.default, aten.index_copy.default, aten.index_fill.int_Scalar)
def _index_join(call: Call) -> OpNode | str:
    target = call.node.target
    if target is aten.index_add.default and call["alpha"] != 1:
        return "adds a multiple"
    operands = Operands(call)
    whole = operands.see(call["self"])
    if not whole.dims:
        return "is of one number"
    dim = call["dim"] % len(whole.dims)
    index = index_view(operands, call["index"])
    if index.batch_dim is not None or not index.dims:
        return "puts into some samples"
    shape = list(call.shape)
    shape[dim] = index.shape[0]
    index = View(index.base, tuple(index.dims[0] if d == dim else ONE for d in range(len(shape))), index.offset)
    fills = target is aten.index_fill.int_Scalar
    source = _number(call, len(shape)) if fills else (call["source"], operands.see(call["source"]))
    result = _result_like(call, whole, [] if fills else [source[1]])
    run = layout.run_of(result, dim)
    if result.has_batch(dim) or run is None:
        return "puts into some samples"
    mode = "add" if target is aten.index_add.default else "set"
    aligned = cut_to(result, shape, dim)
    return _put(call, operands, whole, aligned, [(call["index"], index)], [run], source, shape, mode, False)


@general(aten.index_put.default, aten._unsafe_index_put.default)
def _index_put(call: Call) -> OpNode | str:
    operands = Operands(call)
    whole = operands.see(call["self"])
    if not whole.dims:
        return "is of one number"
    given = list(call["indices"])
    if any(i is not None and i.meta["val"].dtype not in INDEX_DTYPES for i in given):
        return "puts where truth values say"
    result = _result_like(call, whole, [])
    if call.build.batch is not None and result.batch_dim is None:
        return "puts each sample's elements into one constant"
    found = Indexed(call, operands, View("", result.dims), given)
    source = operands.see(call["values"])
    views = [found.view, *(v for _, v in found.indices)]
    rank = len(found.view.dims)
    shape = [max((v.shape[d] for v in views), default=1) for d in range(rank)]
    source = View(source.base, (*[ONE] * (rank - len(source.dims)), *source.dims), source.offset)
    mode = "add" if call["accumulate"] else "set"
    return _put(
        call, operands, whole, found.view, found.indices, found.runs, (call["values"], source), shape, mode, True
    )
