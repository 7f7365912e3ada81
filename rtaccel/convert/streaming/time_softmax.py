"""Softmax over time steps as the running means that it weighs: attention that pools, and logarithms of sums.

With m_t the largest score so far, e_t = exp(s_t - m_t) and a_t = exp(m_(t-1) - m_t), both sums go on from step to step,
n_t = a_t n_(t-1) + e_t v_t and d_t = a_t d_(t-1) + e_t, and n / d is the mean of the steps so far. Both are kept in float64, so a
stream of very many steps still moves.

Source: M. Milakov, N. Gimelshein, Online normalizer calculation for softmax, 2018 (arXiv:1805.02867).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend.decompositions.lines.running_op import RUNNING_EXTREME
from rtaccel.convert.frontend.nodes import insert_call
from rtaccel.convert.frontend.rolled.scan_op import LINEAR_SCAN
from rtaccel.convert.streaming.weighted_sums import WeightedSum, weighted_sums

_SOFTMAX = (aten.softmax.int, aten._softmax.default)


def softmax_as_running_means(graph: fx.Graph, length: int) -> bool:
    """In place: for each softmax over so many time steps of which sums are all that is read. Whether there was one."""
    before = set(graph.nodes)
    for node in [n for n in graph.nodes if n.target is aten.scaled_dot_product_attention.default]:
        _written_out(graph, node, length)
    for node in [n for n in graph.nodes if n.target in _SOFTMAX]:
        dim = _along(node, node.args[1], length)
        sums = weighted_sums(node, dim) if dim is not None else None
        if dim is None or not sums:
            continue
        with graph.inserting_before(node):
            running = Running(graph, node, node.args[0], dim)
        for found in sums:
            with graph.inserting_before(found.result):
                found.result.replace_all_uses_with(running.mean(found))
    for node in [n for n in graph.nodes if n.target is aten.logsumexp.default]:
        dims: Any = node.args[1]
        dim = _along(node.args[0], dims[0], length) if len(dims) == 1 else None
        if dim is not None:
            with graph.inserting_before(node):
                made = Running(graph, node, node.args[0], dim).logarithm(len(node.args) > 2 and bool(node.args[2]))
            node.replace_all_uses_with(made)
    graph.eliminate_dead_code()
    return set(graph.nodes) != before


def _along(value: Any, dim: Any, length: int) -> int | None:
    """The dimension as a number from 0, where it alone may be that of time: scores of each step by each have two."""
    shape = value.meta["val"].shape
    if not shape or value.meta["val"].dtype != torch.float32:
        return None
    dim %= len(shape)
    return int(dim) if [d for d, size in enumerate(shape) if size == length] == [dim] else None


def _written_out(graph: fx.Graph, node: fx.Node, length: int) -> None:
    """Attention of something else than the time steps to all of them, as the products that it is."""
    q, k, v, mask, _, causal = (*node.args, None, 0.0, False)[:6] if len(node.args) < 6 else node.args[:6]
    grouped = node.kwargs.get("enable_gqa", False)
    shapes = [x.meta["val"].shape for x in (q, k, v)]  # type: ignore[union-attr]
    if mask is not None or causal or grouped or len({len(s) for s in shapes}) != 1:
        return
    if shapes[1][-2] != length or shapes[0][-2] == length:
        return
    scale = node.kwargs.get("scale")
    scale = shapes[0][-1] ** -0.5 if scale is None else scale
    with graph.inserting_before(node):
        scaled = insert_call(graph, node, aten.mul.Tensor, (q, scale))
        turned = insert_call(graph, node, aten.transpose.int, (k, -2, -1))
        scores = insert_call(graph, node, aten.matmul.default, (scaled, turned))
        weights = insert_call(graph, node, aten.softmax.int, (scores, -1))
        node.replace_all_uses_with(insert_call(graph, node, aten.matmul.default, (weights, v)))
    graph.erase_node(node)


@dataclass
class Running:
    """The sums of a softmax over the steps so far, whose calls go before `like`."""

    graph: fx.Graph
    like: fx.Node
    scores: Any
    dim: int
    parts: tuple[fx.Node, fx.Node, fx.Node, fx.Node] = field(init=False)
    """(most, factor, part, sum), each of the shape of the scores: m, a, e and d."""

    def __post_init__(self) -> None:
        rank, lowest = self.scores.meta["val"].dim(), torch.finfo(torch.float32).min
        front = [0] if self.dim and self.scores.meta["val"].shape[0] == 1 else []
        order = [*front, self.dim, *(d for d in range(rank) if d != self.dim and d not in front)]
        s, dim = self._call(aten.permute.default, self.scores, order), len(front)  # so a step is a row
        # The lowest number for steps that are masked out, which weigh nothing.
        most = self._call(aten.clamp.default, self._call(RUNNING_EXTREME, s, dim, True), lowest)
        padded = self._call(aten.constant_pad_nd.default, most, [*([0, 0] * (rank - 1 - dim)), 1, 0])
        before = self._call(aten.slice.Tensor, padded, dim, 0, s.meta["val"].shape[dim])
        fall = self._call(aten.clamp.default, self._call(aten.sub.Tensor, before, most), None, 0.0)
        factor = self._call(aten.exp.default, fall)
        part = self._call(aten.exp.default, self._call(aten.sub.Tensor, s, most))
        total = self._call(LINEAR_SCAN, factor, part, dim, True)
        back = [order.index(d) for d in range(rank)]
        most, factor, part, total = (self._call(aten.permute.default, v, back) for v in (most, factor, part, total))
        self.parts = (most, factor, part, total)

    def _call(self, target: Any, *args: Any) -> fx.Node:
        return insert_call(self.graph, self.like, target, args)

    def _newest(self, value: fx.Node, dim: int) -> fx.Node:
        return self._call(aten.select.int, value, dim, value.meta["val"].shape[dim] - 1)

    def mean(self, found: WeightedSum) -> fx.Node:
        """What takes the place of `found.result`. Its calls go where the graph inserts now."""
        _, factor, part, total = (found.seen(self.graph, p) for p in self.parts)
        product = part
        for value in found.factors:
            product = self._call(aten.mul.Tensor, product, value)
        shape = list(product.meta["val"].shape)
        run = self._call(LINEAR_SCAN, self._call(aten.expand.default, factor, shape), product, found.dim, True)
        whole = self._call(aten.expand.default, total, shape)
        made = self._call(aten.div.Tensor, self._newest(run, found.dim), self._newest(whole, found.dim))
        return found.finished(self.graph, made)

    def logarithm(self, keepdim: bool) -> fx.Node:
        most, total = (self._newest(self.parts[i], self.dim) for i in (0, 3))
        made = self._call(aten.add.Tensor, most, self._call(aten.log.default, total))
        return self._call(aten.unsqueeze.default, made, self.dim) if keepdim else made
