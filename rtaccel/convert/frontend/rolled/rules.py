"""How calls with dimensions of their own are made for all time steps at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend.rolled.lift import RULES, Lift, NotALoop, Rule


def _rule(*targets: Any) -> Callable[[Rule], Rule]:
    def add(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(targets, function))
        return function

    return add


def _alike(nodes: tuple[fx.Node, ...]) -> list[Any]:
    """The arguments behind the first, which are the same numbers for all."""
    first, *others = (list(n.args[1:]) for n in nodes)
    if any(rest != first for rest in others) or any(isinstance(a, fx.Node) for a in first):
        raise NotALoop
    return first


def _moved(dim: Any, rank: int) -> int:
    """A dimension of a time step, where time comes before it."""
    return int(dim) % rank + 1


@_rule(aten.unsqueeze.default)
def _unsqueeze(lift: Lift, nodes: tuple[fx.Node, ...]) -> fx.Node:
    (dim,) = _alike(nodes)
    rank = nodes[0].meta["val"].dim()
    return lift.call(aten.unsqueeze.default, lift.over_time(tuple(n.args[0] for n in nodes)), _moved(dim, rank))


@_rule(aten.squeeze.dim, aten.select.int)
def _one_dimension(lift: Lift, nodes: tuple[fx.Node, ...]) -> fx.Node:
    dim, *rest = _alike(nodes)
    source: Any = nodes[0].args[0]
    made = lift.over_time(tuple(n.args[0] for n in nodes))
    return lift.call(nodes[0].target, made, _moved(dim, source.meta["val"].dim()), *rest)


@_rule(aten.transpose.int)
def _transpose(lift: Lift, nodes: tuple[fx.Node, ...]) -> fx.Node:
    a, b = _alike(nodes)
    rank = nodes[0].meta["val"].dim()
    made = lift.over_time(tuple(n.args[0] for n in nodes))
    return lift.call(aten.transpose.int, made, _moved(a, rank), _moved(b, rank))


@_rule(aten.view.default, aten.reshape.default, aten._unsafe_view.default)
def _view(lift: Lift, nodes: tuple[fx.Node, ...]) -> fx.Node:
    sizes: Any = nodes[0].args[1]
    if any(n.args[1] != sizes for n in nodes):
        raise NotALoop
    return lift.call(aten.reshape.default, lift.over_time(tuple(n.args[0] for n in nodes)), [len(nodes), *sizes])


@_rule(aten.flatten.using_ints)
def _flatten(lift: Lift, nodes: tuple[fx.Node, ...]) -> fx.Node:
    given = _alike(nodes)
    start, end = given[0] if given else 0, given[1] if len(given) > 1 else -1
    source: Any = nodes[0].args[0]
    rank = source.meta["val"].dim()
    made = lift.over_time(tuple(n.args[0] for n in nodes))
    return lift.call(aten.flatten.using_ints, made, _moved(start, rank), _moved(end, rank))


@_rule(aten.clone.default, aten.dropout.default)
def _unchanged(lift: Lift, nodes: tuple[fx.Node, ...]) -> fx.Node:
    return lift.over_time(tuple(n.args[0] for n in nodes))


@_rule(aten.sum.dim_IntList, aten.mean.dim)
def _reduction(lift: Lift, nodes: tuple[fx.Node, ...]) -> fx.Node:
    dims, *rest = _alike(nodes)
    source: Any = nodes[0].args[0]
    rank = source.meta["val"].dim()
    made = lift.over_time(tuple(n.args[0] for n in nodes))
    return lift.call(nodes[0].target, made, [_moved(d, rank) for d in dims or range(rank)], *rest)


@_rule(aten.linear.default)
def _linear(lift: Lift, nodes: tuple[fx.Node, ...]) -> fx.Node:
    first = nodes[0]
    if any(n.args[1:] != first.args[1:] for n in nodes):
        raise NotALoop
    return lift.call(aten.linear.default, lift.over_time(tuple(n.args[0] for n in nodes)), *first.args[1:])


@_rule(aten.matmul.default, aten.bmm.default)
def _matmul(lift: Lift, nodes: tuple[fx.Node, ...]) -> fx.Node:
    ranks = {a.meta["val"].dim() for n in nodes for a in n.all_input_nodes}
    if min(ranks) < 2:
        raise NotALoop
    rank = max(ranks)
    sides = [lift.argument(tuple(n.args[i] for n in nodes), rank) for i in range(2)]
    return lift.call(aten.matmul.default, *sides)
