"""Finds the loops of a captured window, and puts an input in the place of each of their results."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import fx

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend.exported.graph import ExportedGraph
from rtaccel.convert.streaming.loops.body import Body, BodyGraph
from rtaccel.convert.streaming.loops.columns import Before, Column, Columns, NotALoop, Now, Reference, Same, is_one
from rtaccel.convert.streaming.loops.reads import MAX_LAG, Reads
from rtaccel.convert.streaming.loops.stored import as_given, kept_dtype

_JOINS = (aten.stack.default, aten.cat.default)


@dataclass(frozen=True)
class Loop:
    """steps: of the window. results: names of the inputs that stand for what it gives, [steps, ...]. sources: (tensor, dimension)
    -> the name of the output that is it, with the steps first."""

    exported: ExportedGraph
    reads: Reads
    steps: int
    outputs: tuple[Reference, ...]
    results: tuple[str, ...]
    sources: dict[tuple[str, int], str]

    def body(self, late: bool) -> Body:
        """late: as BodyGraph has it."""
        return BodyGraph(self.exported, self.reads, self.steps, late).write(self.outputs)


@dataclass(frozen=True)
class Apart:
    """exported: without loops: it has inputs for their results, and gives what they read. why: of reads that are no loop."""

    exported: ExportedGraph
    loops: tuple[Loop, ...]
    why: str = ""
    repeats: dict[str, tuple[str, ...]] = field(default_factory=dict)


def loops_apart(exported: ExportedGraph, length: int) -> Apart:
    """length: time steps of the window."""
    loops: list[Loop] = []
    why = ""
    while True:
        reads = Reads(exported.graph, exported.inputs)
        found = None
        for steps in (n for n in reads.lengths if n % length == 0):
            try:
                found = Split(exported, reads, steps, len(loops)).split()
            except NotALoop as error:
                why = str(error)
        if found is None:
            if not why and any(size % length == 0 for size in reads.partial):
                why = "steps that do not each read their own"
            return Apart(exported, tuple(loops), why, _merged(loops))
        loops.append(found[1])
        exported = found[0]


def _merged(loops: list[Loop]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for loop in loops:
        for name, own in loop.body(True).repeats.items():
            found[name] = tuple(dict.fromkeys((name, *found.get(name, ()), *own)))
    return found


class Split:
    """Takes one loop out of a graph. One use."""

    def __init__(self, exported: ExportedGraph, reads: Reads, steps: int, index: int) -> None:
        self.exported, self.reads, self.steps, self.index = exported, reads, steps, index
        self.columns = Columns(reads, steps)
        self.order = {node: i for i, node in enumerate(exported.graph.nodes)}
        self.given: dict[Any, tuple[Reference, fx.Node]] = {}
        self.named: list[str] = []
        self.graph = fx.Graph()
        self.copies: dict[fx.Node, fx.Node] = {}

    def split(self) -> tuple[ExportedGraph, Loop] | None:
        """The graph without the loop, and the loop; None where no time steps meet in it. Raises NotALoop."""
        roots = self._roots()
        if roots is None:
            return None
        for entries in roots:
            self.columns.reference(entries)
        self._fill()
        self.owners = {
            node: (column, t)
            for column in self.columns.columns
            for t, node in enumerate(column.nodes)
            if node is not None
        }
        output = next(n for n in self.exported.graph.nodes if n.op == "output")
        for node in self.exported.graph.nodes:
            if node.op == "placeholder":
                self.copies[node] = self.graph.node_copy(node)
        self._copy_all(list(output.all_input_nodes))
        results = fx.map_arg(output.args[0], self.copies.__getitem__)
        if not self.given:
            raise self._refused("steps that are no bodies of one loop")
        outputs = [ref for ref, _ in self.given.values()]
        named = tuple(self.named)
        body = BodyGraph(self.exported, self.reads, self.steps, False).write(outputs)
        sources: dict[tuple[str, int], str] = {}
        read = []
        for source, dim in body.reads.values():
            if (source.name, dim) not in sources:
                self._copy_all([source])
                first = self._steps_first(self.copies[source], dim)
                sources[source.name, dim] = first.name
                read.append(first)
        self.graph.output((*results, *read)).meta = dict(output.meta)
        inputs = (*self.exported.inputs, *named)
        loop = Loop(self.exported, self.reads, self.steps, tuple(outputs), named, sources)
        return replace(self.exported, graph=self.graph, inputs=inputs), loop

    def _roots(self) -> list[list[Any]] | None:
        """What time steps hand on, at each of them but the last, in the order of the graph."""
        levels = self.reads.levels(self.steps)
        handed: list[list[fx.Node]] = [[] for _ in range(self.steps)]
        for node, level in levels.items():
            if level >= 0 and any(levels[user] > level for user in node.users if user.op != "output"):
                handed[level].append(node)
        counts = [len(own) for own in handed]
        if not any(counts[1:-1]):
            return None
        same = next((t for t in range(1, self.steps - 1) if counts[t] != counts[1]), self.steps - 1)
        if same < max(self.steps - 1 - MAX_LAG, min(self.steps - 1, 3)) or not counts[1]:
            raise self._refused("steps that hand on different numbers of values, or read other steps than their own")
        own = handed[0] if counts[0] == counts[1] else [None] * counts[1]
        unknown = [None] * (self.steps - same)
        return [[own[i], *(at[i] for at in handed[1:same]), *unknown] for i in range(counts[1])]

    def _refused(self, why: str) -> NotALoop:
        return NotALoop("a loop that runs backward in time" if self._runs_backward() else why)

    def _runs_backward(self) -> bool:
        """Whether the steps of some tensor are first used in falling order."""
        used: dict[Any, list[tuple[int, int]]] = {}
        for node, read in self.reads.of.items():
            first = min((self.order[user] for user in node.users), default=None)
            if first is not None:
                used.setdefault(read.family, []).append((first, read.at))
        at = [[t for _, t in sorted(own)] for own in used.values()]
        return any(own == sorted(own, reverse=True) for own in at if len(own) > 1)

    def _fill(self) -> None:
        """What the last steps compute although no later one reads it."""
        order = sorted(self.columns.columns, key=lambda column: self.order[column.sample])
        claimed = {(node, t) for column in order for t, node in enumerate(column.nodes) if node is not None}
        for t in range(2, self.steps):
            for column in order:
                if column.nodes[t] is None:
                    node = self._node_at(column, t, claimed)
                    if node is not None:
                        column.nodes[t] = node
                        claimed.add((node, t))

    def _node_at(self, column: Column, t: int, claimed: set[tuple[fx.Node, int]]) -> fx.Node | None:
        given = {id(r): self._at(r, t) for r in _nodes_of((column.args, column.kwargs))}
        moving = [n for r in _nodes_of((column.args, column.kwargs)) if not isinstance(r, Same) and (n := given[id(r)])]
        sample = column.sample
        users = sorted(moving[0].users, key=lambda n: self.order[n]) if moving else []
        for user in users:
            if (user, t) in claimed or user.target is not sample.target or len(user.args) != len(sample.args):
                continue
            if user.kwargs.keys() == sample.kwargs.keys() and all(
                _fits(ref, own, given) for ref, own in zip((*column.args, *column.kwargs.values()),
                                                           (*user.args, *user.kwargs.values()))
            ):  # fmt: skip
                return user
        return None

    def _at(self, ref: Reference, t: int) -> fx.Node | None:
        if isinstance(ref, Same):
            return ref.value if isinstance(ref.value, fx.Node) else None
        of, t = (ref, t) if isinstance(ref, Now) else (ref.of, t - ref.lag)
        return None if t < 0 else of.read[t] if of.column is None else of.column.nodes[t]

    # The graph around the loop.

    def _copy_all(self, wanted: list[fx.Node]) -> None:
        """What the nodes need, in the order of the graph, with the loop's results in the place of what computes them."""
        needed: set[fx.Node] = set()
        stack = list(wanted)
        while stack:
            node = stack.pop()
            if node in needed:
                continue
            needed.add(node)
            made = self.copies.get(node) or self._joined(node) or self._owned(node)
            if made is None:
                stack += node.all_input_nodes
            else:
                self.copies[node] = made
        for node in sorted(needed - self.copies.keys(), key=lambda n: self.order[n]):
            self.copies[node] = self.graph.node_copy(node, self.copies.__getitem__)

    def _owned(self, node: fx.Node) -> fx.Node | None:
        """What the last step gave: the last of what all of them gave."""
        column, t = self.owners.get(node, (None, 0))
        if column is None or not isinstance(node.meta.get("val"), torch.Tensor):
            return None
        ref = Now(column) if t == self.steps - 1 else self._kept(column, self.steps - 1 - t)
        if ref is None:
            raise self._refused(f"{node.name}, of one step that is read by itself")
        whole = self._result(ref, node.name)
        return self._call(node, f"{node.name}_of_all", aten.select.int, (whole, 0, self.steps - 1))

    def _kept(self, column: Column, lag: int) -> Before | None:
        """What a column was some steps before, as the body itself reads it; None where it does not."""
        for own in self.columns.columns:
            for ref in _nodes_of((own.args, own.kwargs)):
                if isinstance(ref, Before) and ref.of.column is column and ref.lag == lag:
                    return ref
        return None

    def _joined(self, node: fx.Node) -> fx.Node | None:
        """`torch.stack` or `torch.cat` of what the steps gave, in order."""
        if node.op != "call_function" or node.target not in _JOINS or node.kwargs:
            return None
        parts: Any = node.args[0]
        rank = node.meta["val"].dim()
        dim = int(node.args[1] if len(node.args) > 1 else 0) % rank  # type: ignore[arg-type]
        found = self._run(parts, node.name)
        if found is None:
            return None
        size = 0 if node.target is aten.stack.default else parts[0].meta["val"].shape[dim]
        inner = list(range(1, found.meta["val"].dim()))
        turned = self._call(node, f"{node.name}_turned", aten.permute.default, (found, [*inner[:dim], 0, *inner[dim:]]))
        if not size:
            return turned
        if size == 1:
            return self._call(node, f"{node.name}_joined", aten.squeeze.dim, (turned, dim + 1))
        return self._call(node, f"{node.name}_joined", aten.reshape.default, (turned, list(node.meta["val"].shape)))

    def _run(self, parts: Any, name: str) -> fx.Node | None:
        """[steps, ...] of values of steps in a row."""
        if len(parts) == self.steps:
            try:
                ref = self.columns.reference(list(parts))
            except NotALoop:
                return None
            return None if isinstance(ref, Same) or _is_read(ref) else self._result(ref, name)
        owned = [self.owners.get(part) for part in parts]
        if len(parts) < 2 or any(o is None or o[0] is not owned[0][0] for o in owned):  # type: ignore[index]
            return None
        at = [o[1] for o in owned if o is not None]
        if at != list(range(at[0], at[0] + len(at))) or owned[0] is None:
            return None
        whole = self._result(Now(owned[0][0]), name)
        return self._call(parts[0], f"{name}_steps", aten.slice.Tensor, (whole, 0, at[0], at[0] + len(at)))

    def _result(self, ref: Reference, name: str) -> fx.Node:
        """The input that stands for what the loop gives, [steps, ...]."""
        assert isinstance(ref, (Now, Before))
        of, lag = (ref, 0) if isinstance(ref, Now) else (ref.of, ref.lag)
        inits = () if isinstance(ref, Now) else ref.inits
        key = (of.column, of.read, lag, *map(id, inits))
        if key not in self.given:
            value = of.sample.meta["val"]
            first = next(iter(self.graph.nodes))
            with self.graph.inserting_before(first):
                made = self.graph.create_node("placeholder", name, name=name)
            made.meta = {"val": value.new_empty((self.steps, *value.shape), dtype=kept_dtype(value.dtype))}
            self.named.append(made.name)
            self.given[key] = (
                ref,
                made
                if kept_dtype(value.dtype) == value.dtype
                else as_given(self.graph, made, value.dtype, f"{name}_as_given"),
            )
        return self.given[key][1]

    def _steps_first(self, source: fx.Node, dim: int) -> fx.Node:
        rank = source.meta["val"].dim()
        order = [dim, *(d for d in range(rank) if d != dim)]
        return self._call(source, f"{source.name}_by_steps", aten.permute.default, (source, order))

    def _call(self, like: fx.Node, name: str, target: Any, args: tuple[Any, ...]) -> fx.Node:
        made = self.graph.create_node("call_function", target, args, name=name)
        given = fx.map_arg(args, lambda n: n.meta["val"])
        made.meta = {**like.meta, "val": target(*given)}
        return made


def _nodes_of(refs: Any) -> Iterator[Reference]:
    """The references of arguments."""
    if isinstance(refs, (Same, Now, Before)):
        yield refs
    elif isinstance(refs, dict):
        yield from _nodes_of(tuple(refs.values()))
    elif isinstance(refs, tuple):
        for ref in refs:
            yield from _nodes_of(ref)


def _fits(ref: Any, own: Any, given: dict[int, fx.Node | None]) -> bool:
    """Whether an argument is what a reference is at a step."""
    if isinstance(ref, tuple):
        return (
            isinstance(own, (list, tuple))
            and len(own) == len(ref)
            and all(_fits(r, o, given) for r, o in zip(ref, own))
        )
    if isinstance(ref, Same):
        return is_one(ref.value, own)
    return own is not None and own is given[id(ref)]


def _is_read(ref: Reference) -> bool:
    return isinstance(ref, Now) and ref.column is None
