"""Linear recurrences that a model computes as a tree of slices, products and sums (a parallel scan), as one call.

Such trees differ: in place or by concatenation, padded to a power of two or not. All have in common that each result is a
polynomial of the two inputs. So it is not the tree that is recognized: the polynomials are compared with those of
h_t = a_t * h_(t-1) + b_t, at random whole numbers modulo a prime. Polynomials of degree d that differ agree there with a
probability of d / p at most (Schwartz 1980, Zippel 1979).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend.nodes import hints, insert_call
from rtaccel.convert.frontend.rolled.lift import is_zero
from rtaccel.convert.frontend.rolled.scan_op import LINEAR_SCAN
from rtaccel.convert.frontend.view_ops import Arguments

PRIME = 2**31 - 1
MIN_STEPS = 4
"""Shorter ones stay as they are."""
MAX_ELEMENTS = 2**21
"""Of a result that is compared."""
MAX_COMPARED = 32
"""Inputs that are compared with the recurrence in vain."""
MAX_FOLLOWED = 200_000
"""Calls that are followed back in vain, of which a tree has some hundred."""

_PICKS = {aten.slice.Tensor, aten.select.int}
_LOOKS = {
    aten.permute.default, aten.transpose.int, aten.unsqueeze.default, aten.squeeze.dim, aten.squeeze.dims, aten.expand.default,
    aten.alias.default, aten.clone.default, aten.flip.default, aten.slice_scatter.default, aten.select_scatter.default,
    aten.copy.default, aten.cat.default, aten.stack.default, aten.flatten.using_ints, aten.unflatten.int,
}  # fmt: skip
_TURNS = {aten.permute.default, aten.transpose.int, aten.unsqueeze.default, aten.squeeze.dim, aten.expand.default}
_RESHAPES = {aten.view.default, aten.reshape.default, aten._unsafe_view.default}
_SUMS = {aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor}


@dataclass(frozen=True)
class Found:
    """factor, added: a and b of the recurrence. dim: that it runs along. back: from the last time step on."""

    factor: fx.Node
    added: fx.Node
    dim: int
    back: bool
    inside: frozenset[fx.Node]


@dataclass
class Budget:
    """What may be done until the next tree is found, so that no model takes long for trees that it does not have."""

    compared: int = MAX_COMPARED
    followed: int = MAX_FOLLOWED


def with_parallel_scans_joined(graph: fx.Graph) -> bool:
    """Puts one call in the place of each tree, in place; whether there was one."""
    order = {node: at for at, node in enumerate(graph.nodes)}
    budget, inside = Budget(), set[fx.Node]()
    for node in reversed(list(graph.nodes)):
        if node in inside or not may_end(node):
            continue
        for end in turned(node):
            found = _recurrence(end, order, budget)
            if found is not None:
                _replace(graph, end, found)
                inside |= found.inside
                budget = Budget()
                break
    if inside:
        graph.eliminate_dead_code()
    return bool(inside)


def may_end(node: fx.Node) -> bool:
    """Whether it is a sum or looks at another tensor, and something computes with it."""
    value = node.meta.get("val")
    if not (_moves(node) or node.target is aten.add.Tensor) or all(_moves(user) for user in node.users):
        return False
    if not isinstance(value, Tensor) or value.dtype != torch.float32 or not has_sizes(node):
        return False
    return max(hints(value.shape), default=0) >= MIN_STEPS and math.prod(hints(value.shape)) <= MAX_ELEMENTS


def has_sizes(node: fx.Node) -> bool:
    """Whether each size is known or was traced: others follow from numbers of the inputs."""
    return all(isinstance(size, int) or size.node.has_hint() for size in node.meta["val"].shape)


def turned(end: fx.Node) -> Iterator[fx.Node]:
    """The result, and what it shows in another order of dimensions: one of them may have the shape of the inputs."""
    node: Any = end
    yield node
    while node.target in _TURNS or node.target in _RESHAPES:
        node = node.args[0]
        yield node


def _moves(node: fx.Node) -> bool:
    """Whether each element of its result is one of its inputs, or a zero."""
    if node.target is aten.constant_pad_nd.default:
        return not Arguments(node)["value"]
    if node.target is aten.pad.default:
        return Arguments(node)["mode"] == "constant" and not Arguments(node)["value"]
    return node.target in _PICKS or node.target in _LOOKS or node.target in _RESHAPES


def _recurrence(end: fx.Node, order: dict[fx.Node, int], budget: Budget) -> Found | None:
    """Follows a node back to pairs of tensors that all of it is computed from, nearest first."""
    shape = hints(end.meta["val"].shape)
    for pair, inside in cuts(end, order, 2, budget):
        sums = sum(n.target is aten.add.Tensor for n in inside)
        dims = [d for d, size in enumerate(shape) if MIN_STEPS <= size <= 2**sums]
        if not dims or any(hints(n.meta["val"].shape) != shape or n.meta["val"].dtype != torch.float32 for n in pair):
            continue
        if not budget.compared:
            return None
        budget.compared -= 1
        found = _compared(end, pair, inside, order, dims)
        if found is not None:
            return found
    return None


def cuts(
    end: fx.Node, order: dict[fx.Node, int], count: int, budget: Budget
) -> Iterator[tuple[tuple[fx.Node, ...], frozenset[fx.Node]]]:
    """Each so many tensors that `end` is computed from, nearest first, with the calls between."""
    open_: list[tuple[int, fx.Node]] = [(-order[end], end)]
    seen, stuck, inside = {end}, set[fx.Node](), set[fx.Node]()
    while open_ and len(stuck) <= count and budget.followed:
        budget.followed -= 1
        _, node = heapq.heappop(open_)
        if not (_moves(node) or node.target in _SUMS or is_zero(node)):
            stuck.add(node)
            continue
        inside.add(node)
        for read in () if is_zero(node) else node.all_input_nodes:
            if read not in seen and isinstance(read.meta.get("val"), Tensor):
                if not has_sizes(read):
                    return
                seen.add(read)
                heapq.heappush(open_, (-order[read], read))
        if len(open_) + len(stuck) == count:
            yield (*(n for _, n in open_), *stuck), frozenset(inside)


def _compared(
    end: fx.Node, pair: tuple[fx.Node, ...], inside: frozenset[fx.Node], order: dict[fx.Node, int], dims: list[int]
) -> Found | None:
    made = at_random(end, pair, inside, order)
    if made is None:
        return None
    result, values = made
    for dim in dims:
        for factor, added in (pair, pair[::-1]):
            for back in (False, True):
                if _is_scan(result, values[factor], values[added], dim, back):
                    return Found(factor, added, dim, back, inside)
    return None


def at_random(
    end: fx.Node, given: tuple[fx.Node, ...], inside: frozenset[fx.Node], order: dict[fx.Node, int]
) -> tuple[Tensor, dict[fx.Node, Tensor]] | None:
    """A result for random whole numbers modulo the prime, and these; None where a call cannot take whole numbers."""
    draw = torch.Generator().manual_seed(len(inside))
    values = {n: torch.randint(1, PRIME, hints(n.meta["val"].shape), generator=draw) for n in given}
    try:
        return _evaluated(end, sorted(inside, key=lambda n: order[n]), dict(values)), values
    except Exception:  # whatever torch says of the arguments
        return None


def _evaluated(end: fx.Node, calls: list[fx.Node], values: dict[fx.Node, Tensor]) -> Tensor:
    def value(node: fx.Node) -> Any:
        if node in values:
            return values[node]
        size = node.meta["val"]
        return size if isinstance(size, int) else int(size.node.hint)

    for node in calls:
        if is_zero(node):
            values[node] = torch.zeros(hints(node.meta["val"].shape), dtype=torch.int64)
            continue
        args, named = fx.map_arg((node.args, node.kwargs), value)
        if node.target in _SUMS:
            args = tuple(int(a) if isinstance(a, float) and a.is_integer() else a for a in args)
        target: Callable[..., Tensor] = aten.reshape.default if node.target in _RESHAPES else node.target  # type: ignore[assignment]
        made = target(*args, **named)
        if made.dtype != torch.int64:
            raise TypeError(str(node.target))
        values[node] = made % PRIME if node.target in _SUMS else made
    return values[end]


def _is_scan(result: Tensor, a: Tensor, b: Tensor, dim: int, back: bool) -> bool:
    """Stops at the first time step that differs."""
    h = torch.zeros_like(b.select(dim, 0))
    steps = range(result.shape[dim])
    for t in reversed(steps) if back else steps:
        h = (a.select(dim, t) * h + b.select(dim, t)) % PRIME
        if not torch.equal(h, result.select(dim, t)):
            return False
    return True


def _replace(graph: fx.Graph, end: fx.Node, found: Found) -> None:
    def call(target: Any, *args: Any) -> fx.Node:
        return insert_call(graph, end, target, args)

    with graph.inserting_before(end):
        a, b = found.factor, found.added
        if found.back:
            a, b = (call(aten.flip.default, n, [found.dim]) for n in (a, b))
        made = call(LINEAR_SCAN, a, b, found.dim)
        if found.back:
            made = call(aten.flip.default, made, [found.dim])
    end.replace_all_uses_with(made)
