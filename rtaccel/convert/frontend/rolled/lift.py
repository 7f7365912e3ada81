"""Nodes of a graph that compute the same, each for one time step, as nodes for all time steps: their first dimension."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import fx
from torch._guards import detect_fake_mode

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend.graph.open_shapes import leaves_open
from rtaccel.convert.frontend.rolled.scan_op import LINEAR_SCAN

EACH = {
    aten.mul.Tensor, aten.add.Tensor, aten.sub.Tensor, aten.div.Tensor, aten.exp.default, aten.log.default, aten.log1p.default,
    aten.sigmoid.default, aten.tanh.default, aten.relu.default, aten.silu.default, aten.gelu.default, aten.softplus.default,
    aten.neg.default, aten.abs.default, aten.sqrt.default, aten.rsqrt.default, aten.reciprocal.default, aten.pow.Tensor_Scalar,
    aten.rsub.Scalar, aten.clamp.default, aten.maximum.default, aten.minimum.default, aten.leaky_relu.default, aten.elu.default,
    aten.square.default, aten.mul.Scalar, aten.add.Scalar, aten.sub.Scalar, aten.div.Scalar,
}  # fmt: skip
"""Calls by element, whose tensors broadcast."""


Rule = Callable[["Lift", "tuple[fx.Node, ...]"], "fx.Node"]
RULES: dict[Any, Rule] = {}
"""Calls that have dimensions of their own. `rules` fills it."""


class NotALoop(Exception):
    """The nodes are not one call over time steps."""


@dataclass(frozen=True)
class Link:
    """h = factor * past + added. past: the h before, None where that is zero."""

    factor: Any
    past: fx.Node | None
    added: Any


def chain_link(node: Any, past: fx.Node | None = None) -> Link | None:
    """How a node goes on from an h before, which is `past` where that is known; None where it is no such sum."""
    if not isinstance(node, fx.Node) or node.target is not aten.add.Tensor or len(node.args) != 2 or node.kwargs:
        return None
    for product, added in (node.args, node.args[::-1]):
        if not isinstance(product, fx.Node) or product.target is not aten.mul.Tensor or len(product.users) != 1:
            continue
        for factor, h in (product.args, product.args[::-1]):
            if not isinstance(h, fx.Node):
                continue
            if past is None and is_zero(h):
                return Link(factor, None, added)
            goes_on = h.target is aten.add.Tensor and factor is not h if past is None else h is past
            if goes_on:
                return Link(factor, h, added)
    return None


def is_zero(node: Any) -> bool:
    if not isinstance(node, fx.Node):
        return False
    if node.target in (aten.full.default, aten.full_like.default):
        value = node.args[1]
        return isinstance(value, (int, float)) and value == 0
    return node.target in (aten.zeros.default, aten.zeros_like.default, aten.new_zeros.default)


class Lift:
    """New nodes are put before `at`. scans: the h of each time step, and the node of all of them. pending: the h of recurrences
    whose factors are being followed: these may not read them."""

    def __init__(self, graph: fx.Graph, at: fx.Node, order: dict[fx.Node, int]) -> None:
        self.graph, self.at, self.order = graph, at, order
        self.mode = detect_fake_mode([at.meta["val"]])
        self.known: dict[tuple[Any, ...], fx.Node] = {}
        self.scans: list[tuple[tuple[fx.Node, ...], fx.Node]] = []
        self.pending: list[fx.Node] = []
        self.made: list[fx.Node] = []

    def undo(self) -> None:
        """Takes what was made off the graph again."""
        for node in reversed(self.made):
            self.graph.erase_node(node)

    def call(self, target: Any, *args: Any, **named: Any) -> fx.Node:
        with self.graph.inserting_before(self.at):
            node = self.graph.call_function(target, args, named)
        self.made.append(node)
        values = fx.map_arg((args, named), lambda n: n.meta["val"])
        with self.mode or nullcontext(), leaves_open(values), torch.no_grad():
            try:
                node.meta["val"] = target(*values[0], **values[1])
            except Exception as error:  # whatever torch says of shapes that do not fit
                raise NotALoop from error
        node.meta |= {k: v for k, v in self.at.meta.items() if k in ("nn_module_stack", "custom", "stack_trace")}
        return node

    def hand_over(self) -> None:
        """What reads the h of one time step later reads it of all."""
        here = self.order.get(self.at, len(self.order))
        for nodes, scan in self.scans:
            for t, node in enumerate(nodes):
                later = [user for user in node.users if self.order.get(user, -1) > here]
                if later:
                    one = self.call(aten.select.int, scan, 0, t)
                    for user in later:
                        user.replace_input_with(node, one)

    def over_time(self, nodes: tuple[Any, ...]) -> fx.Node:
        """[time, ...] of a node for each time step, none the same as the one before."""
        nodes = tuple(whole_of(n) for n in nodes)
        if nodes in self.known:
            return self.known[nodes]
        if not all(isinstance(n, fx.Node) and n.op == "call_function" for n in nodes) or _is_one(nodes):
            raise NotALoop
        if any(node in self.pending for node in nodes):
            raise NotALoop
        made = self._recurrence(nodes) or self._taken(nodes) or self._computed(nodes)
        if made is None:
            raise NotALoop
        self.known[nodes] = made
        return made

    def argument(self, parts: tuple[Any, ...], rank: int) -> Any:
        """An argument of a call by element: the same for all time steps, or over time, of so many dimensions behind it."""
        first = parts[0]
        if _is_one(parts):
            return first
        if not isinstance(first, fx.Node):
            if any(isinstance(p, fx.Node) or type(p) is not type(first) or p != first for p in parts):
                raise NotALoop
            return first
        return self._of_rank(self.over_time(parts), rank)

    def _of_rank(self, node: fx.Node, rank: int) -> fx.Node:
        while node.meta["val"].dim() < rank + 1:
            node = self.call(aten.unsqueeze.default, node, 1)
        return node

    # A tensor of which each node takes one time step.

    def _taken(self, nodes: tuple[fx.Node, ...]) -> fx.Node | None:
        sources = [_one_of(node) for node in nodes]
        if any(s is None for s in sources):
            return None
        found = [s for s in sources if s is not None]
        first = found[0]
        if any((s.source, s.dim, s.keeps) != (first.source, first.dim, first.keeps) for s in found):
            return None
        steps, size = [s.at for s in found], first.source.meta["val"].shape[first.dim]
        if not isinstance(size, int):
            return None
        source, dim, count = first.source, first.dim, len(nodes)
        if steps == list(range(steps[0], steps[0] - count, -1)):
            if steps[-1] != 0 or count != size:
                source = self.call(aten.slice.Tensor, source, dim, steps[-1], steps[0] + 1)
            source = self.call(aten.flip.default, source, [dim])
        elif steps != list(range(steps[0], steps[0] + count)):
            return None
        elif count != size:
            source = self.call(aten.slice.Tensor, source, dim, steps[0], steps[0] + count)
        rank = source.meta["val"].dim()
        made = self.call(aten.permute.default, source, [dim, *(d for d in range(rank) if d != dim)]) if dim else source
        return self.call(aten.unsqueeze.default, made, dim + 1) if first.keeps else made

    # h_t = a_t * h_(t-1) + b_t

    def _recurrence(self, nodes: tuple[fx.Node, ...]) -> fx.Node | None:
        links = [chain_link(node, before) for before, node in pairwise(nodes)]
        if any(link is None for link in links):
            return None
        first = chain_link(nodes[0])
        known = [link for link in links if link is not None]
        rank = nodes[0].meta["val"].dim()
        if first is not None and first.past is None:
            known.insert(0, first)
        factors, added = tuple(link.factor for link in known), tuple(link.added for link in known)
        self.pending += nodes
        a, b = self.argument(factors, rank), self.argument(added, rank)
        del self.pending[len(self.pending) - len(nodes) :]
        whole = nodes[0].meta["val"].shape
        b = self._wide(b, len(known), whole)
        if len(known) < len(nodes):  # the first h is no such sum
            head = self._wide(self.call(aten.unsqueeze.default, nodes[0], 0), 1, whole)
            b = self.call(aten.cat.default, [head, b], 0)
            if isinstance(a, fx.Node) and a is not factors[0] and a.meta["val"].shape[0] == len(known):
                a = self.call(aten.cat.default, [self.call(aten.slice.Tensor, a, 0, 0, 1), a], 0)
        if not isinstance(a, fx.Node):
            a = self.call(aten.full.default, [1], float(a), dtype=torch.float32, device=b.meta["val"].device)
        made = self.call(LINEAR_SCAN, a, b, 0)
        self.scans.append((nodes, made))
        return made

    def _wide(self, node: Any, steps: int, shape: Sequence[Any]) -> fx.Node:
        """Broadcast to [steps, *shape]; what is the same for all time steps has none of its own."""
        if not isinstance(node, fx.Node):
            raise NotALoop
        value = node.meta["val"]
        if tuple(value.shape) == (steps, *shape):
            return node
        if any(not isinstance(s, int) for s in shape):
            raise NotALoop
        return self.call(aten.expand.default, node, [steps, *shape])

    # The same call for each time step.

    def _computed(self, nodes: tuple[fx.Node, ...]) -> fx.Node | None:
        first = nodes[0]
        if any(n.target is not first.target or len(n.args) != len(first.args) or n.kwargs.keys() != first.kwargs.keys()
               for n in nodes):  # fmt: skip
            return None
        if first.target in EACH:
            rank = first.meta["val"].dim()
            args = [self.argument(tuple(n.args[i] for n in nodes), rank) for i in range(len(first.args))]
            named = {k: self.argument(tuple(n.kwargs[k] for n in nodes), rank) for k in first.kwargs}
            return self.call(first.target, *args, **named)
        rule = RULES.get(first.target)
        return None if rule is None or first.kwargs else rule(self, nodes)


def _is_one(parts: Sequence[Any]) -> bool:
    """Whether a loop computes the same in each time step."""
    first, *others = parts
    if all(p is first for p in others):
        return True
    if not isinstance(first, fx.Node) or first.op != "call_function":
        return False
    if any(not isinstance(p, fx.Node) or p.target is not first.target or p.kwargs != first.kwargs for p in others):
        return False
    if any(len(p.args) != len(first.args) for p in others):
        return False
    columns = zip(*(p.args for p in parts))
    return all(_is_one(c) if isinstance(c[0], fx.Node) else all(a == c[0] for a in c) for c in columns)


@dataclass(frozen=True)
class _One:
    """Index `at` of a dimension of a tensor. keeps: with that dimension left as one of size 1."""

    source: fx.Node
    dim: int
    at: int
    keeps: bool


def _one_of(node: fx.Node) -> _One | None:
    source: Any = node.args[0]
    if not all(isinstance(a, int) for a in node.args[1:]):
        return None  # a place that depends on the number of samples, or the end of what has no end
    if node.target is operator.getitem and isinstance(source, fx.Node) and source.target is aten.unbind.int:
        tensor: Any = source.args[0]
        dim = int(source.args[1] if len(source.args) > 1 else 0)  # type: ignore[arg-type]
        return _One(tensor, dim % tensor.meta["val"].dim(), int(node.args[1]), False)  # type: ignore[arg-type]
    if node.target is aten.select.int:
        tensor, rank = whole_of(source), source.meta["val"].dim()
        dim, at = int(node.args[1]) % rank, int(node.args[2])  # type: ignore[arg-type]
        size = tensor.meta["val"].shape[dim]
        return _One(tensor, dim, at % size if isinstance(size, int) else at, False)
    if node.target is aten.slice.Tensor and len(node.args) == 4 and whole_of(node) is node:
        dim, start, end = (int(a) for a in node.args[1:4])  # type: ignore[arg-type]
        if end - start == 1 and start >= 0:
            return _One(whole_of(source), dim % source.meta["val"].dim(), start, True)
    return None


def whole_of(node: Any) -> Any:
    """What a tensor was before slices that keep all of it."""
    while isinstance(node, fx.Node) and node.target is aten.slice.Tensor and isinstance(node.args[0], fx.Node):
        source = node.args[0]
        start = node.args[2] if len(node.args) > 2 else 0
        step = node.args[4] if len(node.args) > 4 else 1
        if start not in (0, None) or step != 1 or tuple(source.meta["val"].shape) != tuple(node.meta["val"].shape):
            return node
        node = source
    return node
