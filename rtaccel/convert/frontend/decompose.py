"""A call that no operator computes, as calls of simpler kinds: by torch's own decompositions, on tensors without data.

The new nodes stand in the graph before the call. Whether they are better than the call, the builder finds out: it goes back
where one of them would stay PyTorch's.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, fx
from torch._guards import detect_fake_mode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from rtaccel.convert.frontend.einsum import einsum
from rtaccel.convert.frontend.unrolled import UNROLLED


@cache
def _table() -> dict[Any, Callable[..., Any]]:
    from torch._decomp import decomposition_table

    return dict(decomposition_table)


def decomposition(target: Any) -> Callable[..., Any] | None:
    """A function of the same arguments made of simpler calls; None where torch has none."""
    if not isinstance(target, torch._ops.OpOverload):
        return None
    own = OWN.get(target)
    if own is not None:
        return own
    found = _table().get(target)
    if found is not None:
        return found
    if torch._C._dispatch_has_kernel_for_dispatch_key(target.name(), torch._C.DispatchKey.CompositeImplicitAutograd):
        return target.decompose
    return None


@dataclass(frozen=True)
class Parts:
    """nodes: the simpler calls, in order. results: those that have the results of the call, or numbers."""

    nodes: list[fx.Node]
    results: list[Any]


def decompose(node: fx.Node) -> Parts | None:
    """Inserts the simpler calls before the node; its readers still read the node. None where there is no decomposition, or it
    fails."""
    function = decomposition(node.target)
    if function is None:
        return None
    sources = list(dict.fromkeys(node.all_input_nodes))
    values = [s.meta.get("val") for s in sources]
    if any(not isinstance(v, Tensor) for v in values):
        return None

    def call(*tensors: Tensor) -> Any:
        given = dict(zip(sources, tensors))
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: given[n])
        return pytree.tree_leaves(function(*args, **kwargs))

    try:
        whole = node.target in WITH_PRODUCTS
        with (detect_fake_mode(values) if whole else None) or nullcontext():  # its constants have no data either
            made = make_fx(call, tracing_mode="real", pre_dispatch=whole, _allow_non_fake_inputs=True)(*values)
    except Exception:  # a decomposition that does not trace: the call stays
        return None
    new: list[fx.Node] = []
    results = insert_parts(made.graph, node, node, sources, new)
    return None if results is None else Parts(_without_dead(node, new, results), results)


def insert_parts(
    made: fx.Graph, before: fx.Node, node: fx.Node, sources: list[fx.Node], new: list[fx.Node] | None = None
) -> list[Any] | None:
    """Copies the calls of a graph in front of `before`, as calls of the module that `node` is of; gives the nodes of its results.
    sources: what its inputs are. new: takes the copies. None, with nothing left, where it has constants of its own."""
    graph = node.graph
    placeholders = iter(sources)
    copies: dict[fx.Node, Any] = {}
    new = [] if new is None else new
    with graph.inserting_before(before):
        for part in made.nodes:
            if part.op == "placeholder":
                copies[part] = next(placeholders)
            elif part.op == "call_function":
                copy = graph.node_copy(part, lambda n: copies[n])
                copy.meta = {**node.meta, "val": part.meta.get("val")}
                copies[part] = copy
                new.append(copy)
            elif part.op == "output":
                results: list[Any] = [copies[r] if isinstance(r, fx.Node) else r for r in part.args[0]]
            else:  # a constant of the decomposition's own
                take_back(new)
                return None
    return results


def _without_dead(node: fx.Node, new: list[fx.Node], results: list[Any]) -> list[fx.Node]:
    """Without what only makes a result that nobody reads."""
    read = set(range(len(results)))
    if not isinstance(node.meta.get("val"), Tensor):
        read = {int(user.args[1]) for user in node.users}  # type: ignore[arg-type]
    needed = {r for i, r in enumerate(results) if i in read and isinstance(r, fx.Node)}
    for part in reversed(new):
        if part in needed:
            needed.update(part.all_input_nodes)
        else:
            node.graph.erase_node(part)
    return [part for part in new if part in needed]


def take_back(new: list[fx.Node]) -> None:
    """The graph without the nodes that decompositions inserted, those inside one another too: nobody else reads them."""
    left = set(new)
    while left:
        free = [part for part in left if not part.users]
        for part in free:
            part.graph.erase_node(part)
        left.difference_update(free)
        if not free:
            raise AssertionError(f"{sorted(n.name for n in left)} of a decomposition are read by others")


def _variance(x: Tensor, dim: Any = None, correction: Any = None, keepdim: bool = False) -> Tensor:
    dims = list(range(x.dim())) if not dim else [d % x.dim() for d in dim]
    count = 1
    for d in dims:
        count *= x.shape[d]
    off = x - torch.ops.aten.mean.dim(x, dims, True)
    total = torch.ops.aten.sum.dim_IntList(off * off, dims, keepdim)
    return total / max(count - (1 if correction is None else correction), 0)


def _group_norm(
    x: Tensor, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, enabled: bool = True
) -> Tensor:
    rows = x.reshape(x.shape[0], groups, -1)
    off = rows - torch.ops.aten.mean.dim(rows, [-1], True)
    scaled = off * torch.ops.aten.rsqrt(torch.ops.aten.mean.dim(off * off, [-1], True) + eps)
    y = scaled.reshape(x.shape)
    by_channel = [1, -1, *[1] * (x.dim() - 2)]
    y = y if weight is None else y * weight.reshape(by_channel)
    return y if bias is None else y + bias.reshape(by_channel)


def _instance_norm(
    x: Tensor, weight: Any, bias: Any, mean: Any, var: Any, of_input: bool, momentum: float, eps: float, enabled: bool
) -> Tensor:
    if of_input:
        return _group_norm(x, x.shape[1], weight, bias, eps)
    by_channel = [1, -1, *[1] * (x.dim() - 2)]
    y = (x - mean.reshape(by_channel)) * torch.rsqrt(var.reshape(by_channel) + eps)
    y = y if weight is None else y * weight.reshape(by_channel)
    return y if bias is None else y + bias.reshape(by_channel)


def _cosine(a: Tensor, b: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    def size(x: Tensor) -> Tensor:
        return torch.ops.aten.sum.dim_IntList(x * x, [dim]).sqrt().clamp_min(eps)

    return torch.ops.aten.sum.dim_IntList(a * b, [dim]) / (size(a) * size(b))


def _stack(tensors: list[Tensor], dim: int = 0) -> Tensor:
    """torch's own way joins them in another dimension first, which may be that of the samples."""
    dim %= tensors[0].dim() + 1
    return torch.ops.aten.cat.default([t.unsqueeze(dim) for t in tensors], dim)


def _extreme(reduce: Callable[..., Tensor], index: Callable[..., Tensor]) -> Callable[..., Any]:
    return lambda x, dim, keepdim=False: (reduce(x, [dim], keepdim), index(x, dim, keepdim))


def _of_truths(call: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Of truth values as whole numbers."""

    def apply(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if x.dtype != torch.bool:
            raise NotImplementedError  # it would be taken apart into itself
        return call(x.long(), *args, **kwargs)

    return apply


def _of_numbers(call: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Of numbers as truth values."""

    def apply(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if x.dtype == torch.bool:
            raise NotImplementedError
        return call(x != 0, *args, **kwargs)

    return apply


def _smallest(x: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    values, indices = torch.ops.aten.topk.default(x, k, dim, False, True)
    if keepdim:
        return values.narrow(dim, k - 1, 1), indices.narrow(dim, k - 1, 1)
    return values.select(dim, k - 1), indices.select(dim, k - 1)


def _median(x: Tensor, dim: int = -1, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """The lower one of two in the middle; a NaN where there is one."""
    values, indices = _smallest(x, (x.shape[dim] - 1) // 2 + 1, dim, keepdim)
    nan = torch.ops.aten.any.dim(torch.isnan(x), dim, keepdim)
    first = torch.ops.aten.argmax.default(x, dim, keepdim)
    return torch.where(nan, float("nan"), values), torch.where(nan, first, indices)


def _searched(
    boundaries: Tensor, x: Tensor, *, out_int32: bool = False, right: bool = False, side: Any = None, sorter: Any = None
) -> Tensor:
    if boundaries.dim() != 1 or sorter is not None:
        raise NotImplementedError
    return _bucketize(x, boundaries, out_int32=out_int32, right=right if side is None else side == "right")


def _bucketize(x: Tensor, boundaries: Tensor, *, out_int32: bool = False, right: bool = False) -> Tensor:
    """How many boundaries are below; a NaN is above all of them."""
    beyond = boundaries > x[..., None] if right else boundaries >= x[..., None]
    count = torch.ops.aten.sum.dim_IntList((~beyond).long(), [-1])
    return count.to(torch.int32) if out_int32 else count


OWN: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.max.dim: _extreme(torch.ops.aten.amax.default, torch.ops.aten.argmax.default),
    torch.ops.aten.min.dim: _extreme(torch.ops.aten.amin.default, torch.ops.aten.argmin.default),
    torch.ops.aten.var_mean.correction: lambda x, dim=None, *, correction=None, keepdim=False: (
        _variance(x, dim, correction, keepdim),
        torch.ops.aten.mean.dim(x, dim if dim else list(range(x.dim())), keepdim),
    ),
    torch.ops.aten.group_norm.default: _group_norm,
    torch.ops.aten.instance_norm.default: _instance_norm,
    **UNROLLED,
    torch.ops.aten.stack.default: _stack,
    **{
        target: _of_truths(target)
        for target in (
            torch.ops.aten.sum.dim_IntList,
            torch.ops.aten.sum.default,
            torch.ops.aten.cumsum.default,
            torch.ops.aten.prod.default,
            torch.ops.aten.cumprod.default,
        )
    },
    **{
        target: _of_numbers(target)
        for target in (
            torch.ops.aten.any.dim,
            torch.ops.aten.any.dims,
            torch.ops.aten.any.default,
            torch.ops.aten.all.dim,
            torch.ops.aten.all.dims,
            torch.ops.aten.all.default,
        )
    },
    torch.ops.aten.einsum.default: einsum,
    torch.ops.aten.copy.default: lambda x, source, non_blocking=False: torch.ops.aten.clone.default(
        source.to(x.dtype).expand(x.shape)
    ),
    torch.ops.aten.__rshift__.Scalar: lambda x, bits: torch.div(x, 2**bits, rounding_mode="floor"),
    torch.ops.aten.__lshift__.Scalar: lambda x, bits: x * 2**bits,
    torch.ops.aten.bitwise_right_shift.Tensor_Scalar: lambda x, bits: torch.div(x, 2**bits, rounding_mode="floor"),
    torch.ops.aten.bitwise_left_shift.Tensor_Scalar: lambda x, bits: x * 2**bits,
    torch.ops.aten.kthvalue.default: _smallest,
    torch.ops.aten.bucketize.Tensor: _bucketize,
    torch.ops.aten.searchsorted.Tensor: _searched,
    torch.ops.aten.median.dim: _median,
    torch.ops.aten.cosine_similarity.default: _cosine,
    torch.ops.aten.var.dim: lambda x, dim, unbiased=True, keepdim=False: _variance(x, dim, int(unbiased), keepdim),
    torch.ops.aten.std.dim: lambda x, dim, unbiased=True, keepdim=False: _variance(
        x, dim, int(unbiased), keepdim
    ).sqrt(),
    torch.ops.aten.var.correction: lambda x, dim=None, *, correction=None, keepdim=False: _variance(
        x, dim, correction, keepdim
    ),
    torch.ops.aten.std.correction: lambda x, dim=None, *, correction=None, keepdim=False: _variance(
        x, dim, correction, keepdim
    ).sqrt(),
}

WITH_PRODUCTS: set[Any] = {torch.ops.aten.einsum.default}
"""Calls whose products stay as they are written: torch takes `matmul` apart into calls that join dimensions."""
