"""Operators that choose elements: by indices that are constant or computed, by order, by truth values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rtaccel.convert.onnx import numbers as n
from rtaccel.convert.onnx.table import op


def _positive(index: Tensor, size: Any) -> Tensor:
    """Indices that count from the end, from the beginning."""
    return torch.where(index < 0, index + size, index)


@op("Gather", builds=True)
def gather(build: Any, x: Any, index: Any, *, axis: int = 0) -> Any:
    known = build.known(index)
    if known is not None and known.ndim == 0:
        return build.call(select, x, axis=axis, index=int(known))
    if known is not None and known.size:
        return build.call(
            gather_known, x, build.constant(known.astype("int64")), axis=axis, from_end=bool((known < 0).any())
        )
    if build.is_number(index):
        return build.call(select_at, x, build.numbers(index, 1), axis=axis)
    return build.call(gather_computed, x, index, axis=axis)


def select_at(x: Tensor, index: n.Numbers, *, axis: int) -> Tensor:
    """One place, or several, that follow from the shapes."""
    places = n.array(index)
    if places.ndim == 0:
        return x.select(axis, places.item())
    return gather_known(x, n.tensor(places, torch.int64), axis=axis, from_end=True)


def select(x: Tensor, *, axis: int, index: int) -> Tensor:
    return x.select(axis, index)


def gather_known(x: Tensor, index: Tensor, *, axis: int, from_end: bool) -> Tensor:
    if from_end:
        index = _positive(index, x.shape[axis])
    axis = axis % x.dim()
    made = x.index_select(axis, index.reshape(-1))
    return made if index.dim() == 1 else made.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


def gather_computed(x: Tensor, index: Tensor, *, axis: int) -> Tensor:
    axis = axis % x.dim()
    index = _positive(index.long(), x.shape[axis])
    if axis == 0 and x.dim() == 2:
        return torch.nn.functional.embedding(index, x)
    return x[(slice(None),) * axis + (index,)]


@op("GatherElements")
def gather_elements(x: Tensor, index: Tensor, *, axis: int = 0) -> Tensor:
    return torch.gather(x, axis, _positive(index.long(), x.shape[axis]))


@op("GatherND")
def gather_nd(x: Tensor, index: Tensor, *, batch_dims: int = 0) -> Tensor:
    parts = [_positive(index[..., i].long(), x.shape[batch_dims + i]) for i in range(index.shape[-1])]
    lead = []
    for d in range(batch_dims):
        places = torch.arange(x.shape[d])
        lead.append(places.reshape(*(-1 if i == d else 1 for i in range(parts[0].dim()))))
    return x[tuple(lead) + tuple(parts)]


_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


@op("ScatterElements", "Scatter")
def scatter_elements(x: Tensor, index: Tensor, updates: Tensor, *, axis: int = 0, reduction: str = "none") -> Tensor:
    index = _positive(index.long(), x.shape[axis])
    if reduction == "none":
        return torch.scatter(x, axis, index, updates)
    return torch.scatter_reduce(x, axis, index, updates, _REDUCTIONS[reduction], include_self=True)


@op("ScatterND")
def scatter_nd(x: Tensor, index: Tensor, updates: Tensor, *, reduction: str = "none") -> Tensor:
    parts = tuple(_positive(index[..., i].long(), x.shape[i]) for i in range(index.shape[-1]))
    if reduction == "none":
        return torch.index_put(x, parts, updates)
    if reduction == "add":
        return torch.index_put(x, parts, updates, accumulate=True)
    rest = x.shape[index.shape[-1] :]
    place = torch.zeros_like(parts[0])
    for part, size in zip(parts, x.shape):
        place = place * size + part
    flat = x.reshape(-1, *rest)
    rows = place.reshape(-1, *(1 for _ in rest)).expand(-1, *rest)
    values = updates.reshape(-1, *rest)
    return torch.scatter_reduce(flat, 0, rows, values, _REDUCTIONS[reduction], include_self=True).reshape(x.shape)


@op("OneHot", numbers=(1,))
def one_hot(index: Tensor, depth: n.Numbers, values: Tensor, *, axis: int = -1) -> Tensor:
    count = n.ints(depth)[0]
    axis = axis % (index.dim() + 1)
    places = torch.arange(count).reshape(*(-1 if i == axis else 1 for i in range(index.dim() + 1)))
    hit = _positive(index.long(), count).unsqueeze(axis) == places
    return torch.where(hit, values[1], values[0])


@op("TopK")
def top_k_1(x: Tensor, *, k: int, axis: int = -1) -> Any:
    return top_k(x, (k,), axis=axis)


@op("TopK", since=10, numbers=(1,))
def top_k(x: Tensor, k: n.Numbers, *, axis: int = -1, largest: int = 1, sorted: int = 1) -> Any:
    """Of equal values the first comes first, which torch.topk does not promise."""
    values, places = torch.sort(x, dim=axis, descending=bool(largest), stable=True)
    count = n.ints(k)[0]
    return values.narrow(axis, 0, count), places.narrow(axis, 0, count)


@op("ArgMax", "ArgMin", builds=True)
def arg_extreme(build: Any, x: Any, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Any:
    kind = build.node.op_type
    return build.call(
        arg, x, axis=axis, keepdims=bool(keepdims), largest=kind == "ArgMax", last=bool(select_last_index)
    )


def arg(x: Tensor, *, axis: int, keepdims: bool, largest: bool, last: bool) -> Tensor:
    find = torch.argmax if largest else torch.argmin
    if not last:
        return find(x, axis, keepdims)
    return x.shape[axis] - 1 - find(x.flip(axis), axis, keepdims)


@op("Compress", "NonZero", "Unique", "NonMaxSuppression", builds=True)
def of_computed_size(build: Any, *inputs: Any, **attrs: Any) -> Any:
    build.refuse("gives as many elements as its values say; a plan has fixed sizes")
