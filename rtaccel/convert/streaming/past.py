"""What a step keeps of values for later ones: their newest elements, what they were, and whether they have begun."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import fx

from rtaccel.convert.frontend.exported.graph import ExportedGraph
from rtaccel.convert.frontend.graph.op_graph import OpGraph
from rtaccel.convert.frontend.nodes import Buffer, OpNode
from rtaccel.convert.streaming.rows import row_width
from rtaccel.core.registry import with_role
from rtaccel.core.row_traits import TimeSpan, not_streamable
from rtaccel.core.traits import Node, Role


class Past:
    """The part of a walk that adds such values, and the nodes that write them. length: of the traced window; whole: a node that
    reads so many time steps, or nothing. after: what follows the node that is taken.
    last: what follows all nodes. made: nodes of graphs of their own, by what they write. real: a value that is another's rows
    over another time: that other. constant: values that are the same in each step. final: those that are a state after it."""

    exported: ExportedGraph
    graph: OpGraph
    length: int
    whole: str
    buffers: dict[str, Buffer]
    times: dict[str, TimeSpan]
    real: dict[str, str]
    states: set[str]
    constant: set[str]
    final: set[str]
    op_nodes: list[OpNode]
    after: list[OpNode]
    last: list[OpNode]
    made: dict[str, fx.Node]

    def elements(self, name: str) -> int:
        return self.buffers[name].elements

    def width(self, name: str) -> int:
        return self.buffers[name].width

    def add_state(self, name: str, rows: int, width: int, dtype: str = "float32") -> str:
        self.buffers[name] = Buffer(rows * width, width, dtype)
        self.states.add(name)
        return name

    def recent(self, node: Node, name: str, inner: int, count: int) -> str:
        if count == inner:
            return name
        if count >= self.length * inner:
            self.whole = node.name
        made, past = f"{name}:recent{count}", f"{name}:past{count}"
        if made in self.buffers:
            return made
        width, dtype = self.buffers[name].width, self.buffers[name].dtype
        if dtype not in ("float32", "int64"):
            raise not_streamable(f"{node.name}, over several time steps of {dtype}")
        width, kept = row_width(width, count), count - inner
        self.buffers[made] = Buffer(count, width, dtype)
        self.add_state(past, kept // width or 1, min(width, kept), dtype)
        self._copy(node, [past, name], made, (((kept,), (0, 1), (0, 1)), ((inner,), (0, 1), (kept, 1))))
        self._copy(node, [made], past, (((kept,), (inner, 1), (0, 1)),))
        return made

    def is_early(self, name: str) -> bool:
        return name in self.times and self.times[name].steps > 0 and self.times[name].shift < 0

    def delayed(self, node: Node, name: str, steps: int) -> str:
        made = f"{name}:late{steps}"
        count = (
            self._count_per_step(name) if name in self.times else self.elements(name)
        )  # or it is of one step already
        if made not in self.buffers:
            buffer = self.buffers[name]
            if steps == 1 and buffer.dtype in ("float32", "int64"):  # what is written when the step is over
                width = row_width(buffer.width, count)
                self.add_state(made, count // width, width, buffer.dtype)
                self._copy_last(node, name, made, count)
                return made
            past = self.recent(node, name, count, (steps + 1) * count)
            self.buffers[made] = Buffer(count, row_width(buffer.width, count), buffer.dtype)
            self._copy(node, [past], made, (((count,), (0, 1), (0, 1)),))
        return made

    def since(self, node: Node, name: str, shift: int) -> str:
        made = f"{name}:since{shift}"
        if made not in self.buffers:
            count = self._count_per_step(name)
            self.buffers[made] = Buffer(count, row_width(self.width(name), count))
            self.op_nodes.append(self._masked(node, name, made, count, shift))
        return made

    def zero_until(self, node: Node, state: str, shift: int) -> str:
        made = f"{state}:made"
        self.buffers[made] = replace(self.buffers[state])
        self.after.append(self._masked(node, made, state, self.buffers[state].elements, shift))
        return made

    def beginning(self, node: Node, state: str, first: str, shift: int) -> str:
        made, buffer = f"{state}:begun", self.buffers[state]
        self.buffers[made] = replace(buffer)
        every = (0, 1)
        attrs = {"program": ("where x1 x0 x2",), "dims": (buffer.elements,), "places": (every, (0, 0), every)}
        reads = [state, self.begun(node, shift + 1), first]
        self.op_nodes.append(
            OpNode(with_role(Role.FORMULA).name, self._source(node), node.name, reads, [made], attrs=attrs)
        )
        return made

    def is_constant(self, name: str) -> bool:
        return name in self.constant

    def newest_state(self, name: str, state: str) -> None:
        if name in self.buffers:
            self.real[name], self.times[name] = state, TimeSpan(0, 0, -1)
            self.final.add(name)

    def _count_per_step(self, name: str) -> int:
        """Elements of a value that are of one step."""
        span, buffer = self.times[name], self.buffers[name]
        return (buffer.elements - span.lead - span.rest) // (span.steps or 1)

    def _masked(self, node: Node, name: str, made: str, count: int, shift: int, fill: float = 0.0) -> OpNode:
        """`made` is `name` once `shift` steps are over, and a number before."""
        attrs = {"program": (f"where x1 x0 {fill}",), "dims": (count,), "places": ((0, 1), (0, 0))}
        reads = [name, self.begun(node, shift)]
        return OpNode(with_role(Role.FORMULA).name, self._source(node), node.name, reads, [made], attrs=attrs)

    def begun(self, node: Node, shift: int) -> str:
        """A value whose first element is 1 once so many steps are over, and 0 before: of ones, those of the past are kept."""
        made, past = f"begun{shift}", f"begun{shift}:past"
        if made not in self.buffers:
            self.buffers[made] = Buffer(shift + 1, shift + 1)
            self.add_state(past, 1, shift)
            ones = {"c0": torch.ones(1)}
            behind = (((shift,), (0, 1), (0, 1)), ((1,), (0, 0), (shift, 0)))
            self._copy(node, [past], made, behind, ones)
            self._copy(node, [made], past, (((shift,), (1, 1), (0, 1)),))
        return made

    def _copy(
        self, node: Node, reads: list[str], made: str, parts: Any, tensors: dict[str, torch.Tensor] | None = None
    ) -> None:
        self.op_nodes.append(self._copied(node, reads, made, parts, tensors))

    def _copy_last(self, node: Node, name: str, state: str, count: int) -> None:
        self.last.append(self._copied(node, [name], state, (((count,), (0, 1), (0, 1)),)))

    def _copied(
        self, node: Node, reads: list[str], made: str, parts: Any, tensors: dict[str, torch.Tensor] | None = None
    ) -> OpNode:
        attrs = {"parts": parts, "fill": 0.0}
        return OpNode(with_role(Role.COPY).name, self._source(node), node.name, reads, [made], tensors or {}, attrs)

    def _source(self, node: Node) -> fx.Node:
        own = self.made.get(node.writes[0])
        return own or next(n.node for n in self.graph.op_nodes if n.writes[0] == node.writes[0])
