"""One body of a loop as a graph of its own: a time step and what was before in, results and what is kept out."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend.exported.graph import ExportedGraph
from rtaccel.convert.streaming.loops.columns import Before, Column, Now, Reference, Same
from rtaccel.convert.streaming.loops.reads import Reads, fill_of, is_filled, operands
from rtaccel.convert.streaming.loops.stored import as_given, as_kept, kept_dtype

BEGUN = "loop_has_begun"
"""Input of a body: 1 once its loop has made a step, and 0 before."""


@dataclass(frozen=True)
class Body:
    """exported: a graph of inputs `reads`, `states`, and BEGUN where it asks for it; its results are the outputs, so many, then
    what each state is next. reads: name -> (tensor, dimension) that it is a step of. repeats: name of a node of the model's graph
    -> those of the nodes here that it is at one of the steps."""

    exported: ExportedGraph
    reads: dict[str, tuple[fx.Node, int]]
    states: tuple[str, ...]
    outputs: int
    repeats: dict[str, tuple[str, ...]]


class BodyGraph:
    """Writes the graph of a body. One use."""

    def __init__(self, exported: ExportedGraph, reads: Reads, steps: int, late: bool) -> None:
        """late: whether the loop begins after the first call, so that all its states wait."""
        self.exported, self.reads, self.late = exported, reads, late
        self.at = min(4, steps - 2)  # the step whose names the nodes have
        self.graph = fx.Graph()
        self.inputs: dict[str, tuple[fx.Node, int]] = {}
        self.states: dict[str, Before] = {}
        self.made: dict[Any, fx.Node] = {}
        self.condition: fx.Node | None = None
        self.repeats: dict[str, dict[str, None]] = {}

    def write(self, outputs: Sequence[Reference]) -> Body:
        made = [self.value(ref) for ref in outputs]
        following: dict[str, fx.Node] = {}
        while left := [name for name in self.states if name not in following]:
            for name in left:
                state = self.states[name]
                earlier = Before(state.of, state.lag - 1, state.inits[1:])
                following[name] = self.value(state.of if state.lag == 1 else earlier)
        results = [*made, *(following[name] for name in self.states)]
        self.graph.output(tuple(as_kept(self.graph, node) for node in results))
        begun = () if self.condition is None else (BEGUN,)
        exported = replace(
            self.exported, graph=self.graph, inputs=(*self.inputs, *self.states, *begun), any_batch=False
        )
        repeats = {name: tuple(own) for name, own in self.repeats.items()}
        return Body(exported, self.inputs, tuple(self.states), len(outputs), repeats)

    def value(self, ref: Reference) -> fx.Node:
        if isinstance(ref, Same):
            return self._constant(ref.value)
        if isinstance(ref, Now):
            return self._now(ref)
        key = (_key(ref.of), ref.lag, *map(id, ref.inits))
        if key not in self.made:
            self.made[key] = self._before(ref)
        return self.made[key]

    def _now(self, ref: Now) -> fx.Node:
        key = _key(ref)
        if key not in self.made:
            self.made[key] = self._read(ref) if ref.column is None else self._column(ref.column)
        return self.made[key]

    def _read(self, ref: Now) -> fx.Node:
        node = ref.read[self.at] or ref.sample
        name, made = self._input(node.name, node.meta["val"])
        source = self.reads.of[node]
        self.inputs[name] = source.source, source.dim
        self._stands_for(made, ref.read)
        return made

    def _column(self, column: Column) -> fx.Node:
        like = column.nodes[self.at] or column.sample
        args = tuple(self._argument(a) for a in column.args)
        kwargs = {k: self._argument(a) for k, a in column.kwargs.items()}
        begins = column.first is not None
        made = self._call(f"{like.name}_later" if begins else like.name, like, like.target, args, kwargs)
        self._stands_for(made, column.nodes)
        if begins:
            made = self._where(like.name, made, self._first(column.first))
            self._stands_for(made, [*column.nodes, column.first])
        return made

    def _argument(self, ref: Any) -> Any:
        if isinstance(ref, tuple):
            return [self._argument(r) for r in ref]
        return ref.value if isinstance(ref, Same) and not isinstance(ref.value, fx.Node) else self.value(ref)

    def _first(self, node: Any) -> Any:
        """What is in the place of a column at the first step."""
        if not isinstance(node, fx.Node) or self.reads.free[node]:
            return self._constant(node)
        read = self.reads.of.get(node)
        if read is not None:
            return self._now(self._family(node))
        key = ("first", node)
        if key not in self.made:
            args, kwargs = fx.map_arg((node.args, node.kwargs), self._first)
            self.made[key] = self._call(f"{node.name}_first", node, node.target, args, kwargs)
            self._stands_for(self.made[key], [node])
        return self.made[key]

    def _family(self, node: fx.Node) -> Now:
        family = self.reads.of[node].family
        found = {r.at: n for n, r in reversed(list(self.reads.of.items())) if r.family == family}
        steps = family[0].meta["val"].shape[family[1]]
        return Now(read=tuple(found.get(t) for t in range(steps)))

    def _before(self, ref: Before) -> fx.Node:
        own = ref.of.read if ref.of.column is None else ref.of.column.nodes
        like = own[self.at - ref.lag] if self.at >= ref.lag else None
        name = like.name if like is not None else f"{ref.of.sample.name}_before{ref.lag}"
        if any(name in (n.name, s) for n in self.graph.nodes for s in self.states):
            name = f"{name}_again{len(self.states)}"
        value = ref.of.sample.meta["val"]
        starts = self.late or not self._is_zero(ref.inits[0])
        kept, made = self._input(f"{name}_kept" if starts else name, value)
        self.states[kept] = ref
        self._stands_for(made, own)
        if starts:
            init = 0 if ref.inits[0] is None else ref.inits[0]
            first = self._first(init) if isinstance(init, fx.Node) else self._constant(init, value)
            made = self._where(name, made, first)
            self._stands_for(made, own)
        return made

    def _is_zero(self, init: Any) -> bool:
        """Whether a state begins with zeros, whatever the weights are."""
        if not isinstance(init, fx.Node):
            return init is None or init == 0
        value = self.number(init)
        return value is not None and not bool(value.any())

    def number(self, node: fx.Node) -> Tensor | None:
        """A value that is the same whatever the weights are; None for another one."""
        if is_filled(node):
            shape, dtype = node.meta["val"].shape, node.meta["val"].dtype
            filled = fill_of(node)
            return None if filled is None else torch.full(shape, filled, dtype=dtype, device="cpu")
        parts = list(operands(node))
        known = {n: self.number(n) for n in parts if n.op == "call_function"}
        if node.op != "call_function" or any(known.get(n) is None for n in parts):
            return None
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: known[n])
        made = node.target(*args, **kwargs)  # type: ignore[operator]
        return made if isinstance(made, Tensor) else None

    def _constant(self, value: Any, like: Tensor | None = None) -> Any:
        """A number or a node that is free of the inputs, with all that it is computed from. like: whose shape it gets."""
        if not isinstance(value, fx.Node):
            if like is None:
                return value
            meta = {"val": like.new_full(like.shape, value)}
            return self._put("loop_start", aten.full.default, (list(like.shape), value), {"dtype": like.dtype}, meta)
        if value not in self.made:
            self.made[value] = self._copied(value)
        made = self.made[value]
        if like is None or tuple(made.meta["val"].shape) == tuple(like.shape):
            return made
        wide = made.meta["val"].expand(like.shape)
        return self._put(
            f"{value.name}_wide", aten.expand.default, (made, list(like.shape)), {}, {**value.meta, "val": wide}
        )

    def _copied(self, node: fx.Node) -> fx.Node:
        if node.op != "call_function":
            return self._placeholder(node.name, node.meta.get("val"))
        fill = fill_of(node) if is_filled(node) else None
        if fill is not None:
            value = node.meta["val"]
            return self._call(node.name, node, aten.full.default, (list(value.shape), fill), {"dtype": value.dtype})
        args, kwargs = fx.map_arg((node.args, node.kwargs), self._constant)
        return self._call(node.name, node, node.target, args, kwargs)

    def _where(self, name: str, later: fx.Node, first: Any) -> fx.Node:
        """`later`, once the loop has made a step, and `first` before."""
        value = later.meta["val"]
        if not isinstance(first, fx.Node) or tuple(first.meta["val"].shape) != tuple(value.shape):
            first = self._wide(first, value)
        if self.condition is None:
            begun = self._placeholder(BEGUN, value.new_zeros(1, dtype=torch.float32))
            meta = {"val": value.new_zeros(1, dtype=torch.bool)}
            self.condition = self._put("loop_is_on", aten.gt.Scalar, (begun, 0.5), {}, meta)
        return self._put(name, aten.where.self, (self.condition, later, first), {}, dict(later.meta))

    def _wide(self, first: Any, like: Tensor) -> fx.Node:
        if not isinstance(first, fx.Node):
            made: fx.Node = self._constant(first, like)
            return made
        wide = first.meta["val"].expand(like.shape)
        return self._put(
            f"{first.name}_wide", aten.expand.default, (first, list(like.shape)), {}, {**first.meta, "val": wide}
        )

    def _call(self, name: str, like: fx.Node, target: Any, args: Any, kwargs: Any) -> fx.Node:
        return self._put(name, target, args, kwargs, dict(like.meta))

    def _put(self, name: str, target: Any, args: Any, kwargs: Any, meta: dict[str, Any]) -> fx.Node:
        made = self.graph.create_node("call_function", target, tuple(args), dict(kwargs), name=name)
        made.meta = meta
        return made

    def _placeholder(self, name: str, value: Any) -> fx.Node:
        first = next(iter(self.graph.nodes), None)
        with nullcontext() if first is None else self.graph.inserting_before(first):
            made = self.graph.create_node("placeholder", name, name=name)
        made.meta = {"val": value}
        return made

    def _input(self, name: str, value: Tensor) -> tuple[str, fx.Node]:
        """(its name, the value): a tensor that comes in, in the dtype that it is kept in."""
        dtype = kept_dtype(value.dtype)
        if dtype == value.dtype:
            return name, self._placeholder(name, value)
        made = self._placeholder(f"{name}_given", value.to(dtype))
        return made.name, as_given(self.graph, made, value.dtype, name)

    def _stands_for(self, made: fx.Node, nodes: Sequence[Any]) -> None:
        for node in nodes:
            if isinstance(node, fx.Node):
                self.repeats.setdefault(node.name, {})[made.name] = None


def _key(ref: Now) -> Any:
    return ref.column if ref.column is not None else ref.read
