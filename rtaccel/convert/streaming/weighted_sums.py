"""Sums over time that weights go into: a product with them and its sum, or a product of matrices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend.nodes import insert_call

_COPIES = (aten.clone.default, aten._unsafe_view.default, aten.contiguous.default)
_PRODUCTS = (aten.bmm.default, aten.matmul.default)
_SUM = aten.sum.dim_IntList

Views = tuple[fx.Node, ...]


@dataclass(frozen=True)
class WeightedSum:
    """The sum of w * value over dimension `dim`, which is time, and then over others.

    views: the calls that bring a tensor of the shape of the weights to where it is multiplied; unsqueezed: dimensions it gets
    then. factors: what it is multiplied with. over: the dimensions that are summed besides, when time is gone. kept: those that
    are of size one in the result. result: the node that the sum is."""

    views: Views
    unsqueezed: tuple[int, ...]
    factors: tuple[Any, ...]
    dim: int
    over: tuple[int, ...]
    kept: tuple[int, ...]
    result: fx.Node

    def seen(self, graph: fx.Graph, value: fx.Node) -> fx.Node:
        """A tensor of the shape of the weights, as they are multiplied."""
        for view in self.views:
            value = insert_call(graph, self.result, view.target, (value, *view.args[1:]), dict(view.kwargs))
        for dim in self.unsqueezed:
            value = insert_call(graph, self.result, aten.unsqueeze.default, (value, dim))
        return value

    def finished(self, graph: fx.Graph, value: fx.Node) -> fx.Node:
        """The result, of the sum over time."""
        if self.over:
            value = insert_call(graph, self.result, _SUM, (value, list(self.over)))
        for dim in self.kept:
            value = insert_call(graph, self.result, aten.unsqueeze.default, (value, dim))
        return value


def weighted_sums(weights: fx.Node, dim: int) -> list[WeightedSum] | None:
    """All that is read of weights whose dimension `dim` is time, or None where something else is."""
    found: list[WeightedSum] = []
    return found if _readers(weights, weights, dim, (), found) else None


def _readers(weights: fx.Node, seen: fx.Node, dim: int, views: Views, found: list[WeightedSum]) -> bool:
    for user in list(seen.users):
        if _is_view(user, seen):
            moved = _moved(weights, dim, (*views, user))
            if moved is None or not _readers(weights, user, dim, (*views, user), found):
                return False
        elif not _sum_in(user, seen, views, _moved(weights, dim, views), found):
            return False
    return bool(seen.users)


def _is_view(node: fx.Node, of: fx.Node) -> bool:
    target: Any = node.target
    if node.op != "call_function" or not node.args or node.args[0] is not of or of in node.args[1:]:
        return False
    if target in _COPIES or (target is aten.dropout.default and node.args[2] is False):
        return True
    return (
        isinstance(target, torch._ops.OpOverload) and target.is_view and isinstance(node.meta.get("val"), torch.Tensor)
    )


def _moved(weights: fx.Node, dim: int, views: Views) -> int | None:
    """Where the dimension of time is after some views; None where it is no dimension of its own."""
    shape = weights.meta["val"].shape
    index = torch.arange(shape[dim]).reshape([-1 if d == dim else 1 for d in range(len(shape))])
    made = index.expand(shape)
    for view in views:
        made = view.target(made, *view.args[1:], **view.kwargs)  # type: ignore[operator]
    places = [d for d, n in enumerate(made.shape) if n == shape[dim]]
    for place in places:
        wanted = index.reshape([-1 if d == place else 1 for d in range(made.dim())]).expand(made.shape)
        if torch.equal(made, wanted):
            return place
    return None


def _sum_in(user: fx.Node, seen: fx.Node, views: Views, dim: int | None, found: list[WeightedSum]) -> bool:
    if dim is None:
        return False
    parts = [a for a in user.args if isinstance(a, fx.Node)]
    if len(parts) == 2 and parts[0] is not parts[1] and not user.kwargs:
        if user.target is aten.mul.Tensor:
            return _of_products(user, seen, views, dim, (), found)
        if user.target in _PRODUCTS and min(p.meta["val"].dim() for p in parts) >= 2:
            return _of_matrices(user, seen, views, dim, found)
    if user.target is aten.einsum.default:
        return _of_letters(user, seen, views, dim, found)
    return False


def _of_products(
    product: fx.Node, seen: fx.Node, views: Views, dim: int, factors: tuple[Any, ...], found: list[WeightedSum]
) -> bool:
    """Sums of w * v, or of that times further values."""
    rank = product.meta["val"].dim()
    dim += rank - seen.meta["val"].dim()
    factors = (*factors, product.args[1] if product.args[0] is seen else product.args[0])
    for user in product.users:
        if user.target is aten.mul.Tensor and not user.kwargs and user.args[0] is not user.args[1]:
            if not _of_products(user, product, views, dim, factors, found):
                return False
            continue
        dims: Any = user.args[1] if user.target is _SUM else None
        over = sorted({d % rank for d in dims or ()})
        if dim not in over or user.kwargs:
            return False
        left = tuple(d - (d > dim) for d in over if d != dim)
        kept = tuple(over) if len(user.args) > 2 and user.args[2] else ()
        found.append(WeightedSum(views, (), factors, dim, left, kept, user))
    return bool(product.users)


def _of_matrices(product: fx.Node, seen: fx.Node, views: Views, dim: int, found: list[WeightedSum]) -> bool:
    """w [.., i, time] times v [.., time, j], or v [.., i, time] times w [.., time, j]."""
    first, rank = product.args[0] is seen, seen.meta["val"].dim()
    if dim != rank - (1 if first else 2):
        return False
    value: Any = product.args[1 if first else 0]
    at = (-1, -3) if first else (-3, -1)  # a dimension for the other's rows or columns
    with product.graph.inserting_before(product):
        other = insert_call(product.graph, product, aten.unsqueeze.default, (value, at[1]))
    found.append(WeightedSum(views, (at[0],), (other,), product.meta["val"].dim() - 1, (), (), product))
    return True


def _of_letters(product: fx.Node, seen: fx.Node, views: Views, dim: int, found: list[WeightedSum]) -> bool:
    """An einsum of two tensors, each of whose dimensions has a letter of its own."""
    text, (both) = str(product.args[0]).replace(" ", ""), product.args[1]
    terms, _, out = text.partition("->")
    names = terms.split(",")
    if not isinstance(both, (list, tuple)) or len(names) != 2 or "." in text or "->" not in text or both[0] is both[1]:
        return False
    if any(len(set(n)) != len(n) for n in (*names, out)):
        return False
    own, others = names if both[0] is seen else names[::-1]
    letters = out + "".join(sorted({*own, *others} - {*out}))
    if own[dim] in out or not isinstance(both[own is names[0]], fx.Node):
        return False
    value = both[1] if both[0] is seen else both[0]
    with product.graph.inserting_before(product):
        value = _lettered(product, value, others, letters)
        mapped = _lettered(product, seen, own, letters)
    made: list[fx.Node] = []
    at: Any = mapped
    while at is not seen:
        made.insert(0, at)
        at = at.args[0]
    time = letters.index(own[dim])
    left = tuple(d - (d > time) for d in range(len(out), len(letters)) if d != time)
    found.append(WeightedSum((*views, *made), (), (value,), time, left, (), product))
    return True


def _lettered(like: fx.Node, value: Any, names: str, letters: str) -> Any:
    """A tensor with a dimension for each letter, in their order."""
    order = sorted(range(len(names)), key=lambda d: letters.index(names[d]))
    value = insert_call(like.graph, like, aten.permute.default, (value, order))
    for d, letter in enumerate(letters):
        if letter not in names:
            value = insert_call(like.graph, like, aten.unsqueeze.default, (value, d))
    return value
