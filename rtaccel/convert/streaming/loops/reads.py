"""Where a graph reads a tensor one time step after the other, and what in it depends on no time step at all."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend.constants import draws
from rtaccel.convert.frontend.rolled.lift import whole_of

MIN_STEPS = 4
"""Fewer reads of a tensor are no loop that shows how it goes on."""

MAX_LAG = 16
"""Steps that a body reads back on its own; what it keeps for longer, it keeps as a tensor of rows."""

_FILLED = {
    **dict.fromkeys((aten.zeros.default, aten.zeros_like.default, aten.new_zeros.default), 0),
    **dict.fromkeys((aten.ones.default, aten.ones_like.default, aten.new_ones.default), 1),
    **dict.fromkeys((aten.full.default, aten.full_like.default, aten.new_full.default)),
}
"""Calls that read the shape of a tensor alone -> what they fill theirs with; an argument of theirs where it is None."""
_PIECES = (aten.split.Tensor, aten.split_with_sizes.default, aten.chunk.default, aten.tensor_split.sections)


@dataclass(frozen=True)
class Read:
    """Index `at` of a dimension of a tensor. keeps: with that dimension left as one of size 1."""

    source: fx.Node
    dim: int
    keeps: bool
    at: int

    @property
    def family(self) -> tuple[fx.Node, int, bool]:
        return self.source, self.dim, self.keeps


def is_filled(node: fx.Node) -> bool:
    return node.target in _FILLED


def fill_of(node: fx.Node) -> Any:
    """The number that such a call fills a tensor with; None where that is a node."""
    fill = _FILLED[node.target]
    given = fill if fill is not None else node.args[2 if node.target is aten.new_full.default else 1]
    return None if isinstance(given, fx.Node) else given


def operands(node: fx.Node) -> Iterator[fx.Node]:
    """The nodes whose elements a call reads."""
    return iter(()) if is_filled(node) else iter(node.all_input_nodes)


def read_of(node: fx.Node) -> Read | None:
    """The time step that a call takes of a tensor; None for another call."""
    if node.op != "call_function" or not node.args or not isinstance(node.args[0], fx.Node):
        return None
    source = node.args[0]
    if node.target is operator.getitem:
        return _piece(source, node.args[1])
    value = source.meta.get("val")
    if not isinstance(value, torch.Tensor) or not all(isinstance(a, int) for a in node.args[1:]):
        return None
    if node.target is aten.select.int:
        dim = int(node.args[1]) % value.dim()  # type: ignore[arg-type]
        return Read(whole_of(source), dim, False, int(node.args[2]) % value.shape[dim])  # type: ignore[arg-type]
    if node.target is aten.slice.Tensor and len(node.args) >= 4 and node.args[4:] in ((), (1,)):
        dim = int(node.args[1]) % value.dim()  # type: ignore[arg-type]
        size = value.shape[dim]
        start, end = (min(max(int(a) + (size if int(a) < 0 else 0), 0), size) for a in node.args[2:4])  # type: ignore[arg-type]
        if end - start == 1 < size:
            return Read(whole_of(source), dim, True, start)
    return None


def _piece(source: fx.Node, index: Any) -> Read | None:
    whole: Any = source.args[0] if source.args else None
    value = whole.meta.get("val") if isinstance(whole, fx.Node) else None
    if not isinstance(value, torch.Tensor) or not isinstance(index, int):
        return None
    if source.target is aten.unbind.int:
        dim = int(source.args[1] if len(source.args) > 1 else 0) % value.dim()  # type: ignore[arg-type]
        return Read(whole_of(whole), dim, False, index % value.shape[dim])
    if source.target in _PIECES and not source.kwargs:
        dim = int(source.args[2] if len(source.args) > 2 else 0) % value.dim()  # type: ignore[arg-type]
        made = source.meta["val"]
        if len(made) == value.shape[dim] and all(part.shape[dim] == 1 for part in made):
            return Read(whole_of(whole), dim, True, index % len(made))
    return None


def _is_whole(at: set[int], size: int) -> bool:
    """Whether all steps are read, but for some last ones that decide no result."""
    return len(at) >= max(MIN_STEPS, size - MAX_LAG, size // 2 + 1) and at == set(range(len(at)))


class Reads:
    """Reads of a graph. of: node -> what it reads, of tensors that are read whole and that depend on no other such read. steps:
    how many a loop has: the newest time step that a node depends on, -1 for none. inputs: of the model."""

    def __init__(self, graph: fx.Graph, inputs: tuple[str, ...]) -> None:
        self.inputs = {n for n in graph.nodes if n.op == "placeholder" and n.name in inputs}
        found = {node: read for node in graph.nodes if (read := read_of(node)) is not None}
        seen: dict[tuple[fx.Node, int, bool], set[int]] = {}
        for read in found.values():
            seen.setdefault(read.family, set()).add(read.at)
        whole = {f for f, at in seen.items() if _is_whole(at, f[0].meta["val"].shape[f[1]])}
        behind: set[fx.Node] = set()
        for node in graph.nodes:
            own = found.get(node)
            if (own is not None and own.family in whole) or any(n in behind for n in operands(node)):
                behind.add(node)
        first = {f for f in whole if f[0] not in behind}
        self.partial = {
            f[0].meta["val"].shape[f[1]] for f, at in seen.items() if len(at) >= MIN_STEPS and f not in whole
        }
        self.lengths = sorted({f[0].meta["val"].shape[f[1]] for f in first})
        self.of = {node: read for node, read in found.items() if read.family in first}
        self.free: dict[fx.Node, bool] = {}
        for node in graph.nodes:
            fixed = node.op in ("placeholder", "get_attr") and node not in self.inputs
            computed = node.op == "call_function" and not draws(node) and all(self.free[n] for n in operands(node))
            self.free[node] = fixed or computed
        self.graph = graph

    def levels(self, steps: int) -> dict[fx.Node, int]:
        found: dict[fx.Node, int] = {}
        for node in self.graph.nodes:
            own = self.of.get(node)
            if own is not None and own.source.meta["val"].shape[own.dim] == steps:
                found[node] = own.at
            else:
                found[node] = max((found[n] for n in operands(node)), default=-1)
        return found
