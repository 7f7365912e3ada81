"""Recurrences of complex numbers that are written as a parallel scan, as the loop that they are, which streams as others do.

h_t = a_t h_(t-1) + b_t with a, b and h as pairs of real tensors. Which trees are one is found as for real ones
(rtaccel/convert/frontend/rolled/parallel.py): by the polynomials that they compute.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import torch
from torch import Tensor, fx

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend.nodes import hints, insert_call
from rtaccel.convert.frontend.rolled.parallel import PRIME, Budget, at_random, cuts, may_end, turned


@dataclass(frozen=True)
class Scan:
    """The parts of a and b, and the dimension that is time."""

    a_re: fx.Node
    a_im: fx.Node
    b_re: fx.Node
    b_im: fx.Node
    dim: int


def with_complex_scans_as_loops(graph: fx.Graph, steps: int) -> None:
    """In place: for scans over so many time steps."""
    order = {node: at for at, node in enumerate(graph.nodes)}
    budget, inside, found = Budget(), set[fx.Node](), dict[Scan, dict[str, fx.Node]]()
    for node in reversed(list(graph.nodes)):
        if node in inside or not may_end(node) or steps not in hints(node.meta["val"].shape):
            continue
        for end in turned(node):
            known = _scan(end, order, steps, budget)
            if known is not None:
                scan, part, between = known
                found.setdefault(scan, {}).setdefault(part, end)
                inside |= between - {end}
                budget = Budget()
                break
    for scan, ends in found.items():
        first = min(ends.values(), key=lambda n: order[n])
        for part, made in zip(("re", "im"), _loop(graph, first, scan, steps)):
            if part in ends:
                ends[part].replace_all_uses_with(made)
    if found:
        graph.eliminate_dead_code()


def _scan(
    end: fx.Node, order: dict[fx.Node, int], steps: int, budget: Budget
) -> tuple[Scan, str, frozenset[fx.Node]] | None:
    """The scan that a tensor is a part of, which part, and the calls of the tree."""
    shape = hints(end.meta["val"].shape)
    dims = [d for d, size in enumerate(shape) if size == steps]
    for given, between in cuts(end, order, 4, budget) if dims else ():
        sums = sum(n.target is aten.add.Tensor for n in between)
        if 2**sums < steps or any(hints(n.meta["val"].shape) != shape for n in given):
            continue
        if not budget.compared:
            return None
        budget.compared -= 1
        known = _compared(end, given, between, order, dims)
        if known is not None:
            return (*known, between)
    return None


def _compared(
    end: fx.Node, given: tuple[fx.Node, ...], between: frozenset[fx.Node], order: dict[fx.Node, int], dims: list[int]
) -> tuple[Scan, str] | None:
    made = at_random(end, given, between, order)
    if made is None:
        return None
    result, values = made
    for dim in dims:
        for own in given:
            if not torch.equal(values[own].select(dim, 0), result.select(dim, 0)):
                continue  # the first h is the first b
            for a_re, a_im, other in permutations([n for n in given if n is not own]):
                for part, scan in (
                    ("re", Scan(a_re, a_im, own, other, dim)),
                    ("im", Scan(a_re, a_im, other, own, dim)),
                ):
                    if _is_part(result, scan, values, part):
                        return scan, part
    return None


def _is_part(result: Tensor, scan: Scan, values: dict[fx.Node, Tensor], part: str) -> bool:
    re = im = torch.zeros_like(result.select(scan.dim, 0))
    for t in range(result.shape[scan.dim]):
        a_re, a_im, b_re, b_im = (values[n].select(scan.dim, t) for n in (scan.a_re, scan.a_im, scan.b_re, scan.b_im))
        re, im = (a_re * re - a_im * im + b_re) % PRIME, ((a_re * im) % PRIME + a_im * re + b_im) % PRIME
        if not torch.equal(re if part == "re" else im, result.select(scan.dim, t)):
            return False
    return True


def _loop(graph: fx.Graph, at: fx.Node, scan: Scan, steps: int) -> Sequence[fx.Node]:
    """Both parts of h over time, by a loop in front of a node."""

    def call(target: Any, *args: Any) -> fx.Node:
        return insert_call(graph, at, target, args)

    def step(node: fx.Node, t: int) -> fx.Node:
        """What it is at a time step: of a tensor that is repeated over time, what is repeated."""
        source = node.args[0] if node.target in (aten.repeat.default, aten.expand.default) else None
        if isinstance(source, fx.Node):
            whole = hints(node.meta["val"].shape)
            shape = [1] * (len(whole) - source.meta["val"].dim()) + hints(source.meta["val"].shape)
            dim = scan.dim - len(whole) + source.meta["val"].dim()
            alike = node.target is aten.expand.default or [n for d, n in enumerate(shape) if d != scan.dim] == [
                n for d, n in enumerate(whole) if d != scan.dim
            ]
            if alike and shape[scan.dim] == 1:
                return source if dim < 0 else call(aten.select.int, source, dim, 0)
        return call(aten.select.int, node, scan.dim, t)

    made: list[tuple[fx.Node, fx.Node]] = []
    with graph.inserting_before(at):
        like = call(aten.select.int, scan.b_re, scan.dim, 0)
        re = im = call(aten.zeros_like.default, like)
        for t in range(steps):
            a_re, a_im, b_re, b_im = (step(n, t) for n in (scan.a_re, scan.a_im, scan.b_re, scan.b_im))
            turned = (call(aten.mul.Tensor, a, h) for a, h in ((a_re, re), (a_im, im), (a_re, im), (a_im, re)))
            first, second, third, fourth = turned
            re = call(aten.add.Tensor, call(aten.sub.Tensor, first, second), b_re)
            im = call(aten.add.Tensor, call(aten.add.Tensor, third, fourth), b_im)
            made.append((re, im))
        return [call(aten.stack.default, list(part), scan.dim) for part in zip(*made)]
