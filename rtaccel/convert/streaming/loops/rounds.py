"""The bodies of one time step, one after the other: their nodes, with what they keep between two of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

import torch

from rtaccel.convert.frontend import layout
from rtaccel.convert.frontend.graph.op_graph import OpGraph
from rtaccel.convert.frontend.nodes import Buffer, OpNode, gather_node
from rtaccel.convert.streaming.loops.body import BEGUN, Body
from rtaccel.convert.streaming.loops.find import Loop
from rtaccel.core.registry import with_role
from rtaccel.core.row_traits import not_streamable
from rtaccel.core.traits import Node, Role


class Host(Protocol):
    """The walk that they are part of."""

    buffers: dict[str, Buffer]
    op_nodes: list[OpNode]
    last: list[OpNode]

    def elements(self, name: str) -> int: ...
    def step_width(self, name: str) -> int: ...
    def begun(self, node: Node, shift: int) -> str: ...
    def add_state(self, name: str, rows: int, width: int, dtype: str = "float32") -> str: ...


class Rounds:
    """All bodies of a time step of a loop. One use."""

    def __init__(self, walk: Host, loop: Loop, body: Body, graph: OpGraph) -> None:
        self.walk, self.loop, self.body, self.graph = walk, loop, body, graph
        self.anchor = graph.op_nodes[0]
        self.outputs: tuple[str, ...] = graph.outputs

    def write(self, rows: Mapping[str, list[str]], shift: int) -> None:
        """rows: the values that a loop reads, by its sources, one for each round. shift: calls before its first step."""
        count = len(next(iter(rows.values())))
        self.steps = self.loop.steps // count
        tag = f"in_{self.loop.results[0]}"
        states = {name: self._state(name, tag) for name in self.body.states}
        now, given = dict(states), list[list[str]]()
        for turn in range(count):
            own = {r: rows[self.loop.sources[s.name, d]][turn] for r, (s, d) in self.body.reads.items()}
            own |= now
            if BEGUN in self.body.exported.inputs:
                own[BEGUN] = self._begun(shift, turn)
            renamed = self._round(own, f"{tag}{turn}" if count > 1 else tag, count == 1)
            found = [self._value(i, renamed, f"{tag}{turn}") for i in range(len(self.outputs))]
            given.append(found[: self.body.outputs])
            now = dict(zip(self.body.states, found[self.body.outputs :]))
        for name, state in states.items():
            self.walk.last.append(self._copied([now[name]], state))
        for result, values in zip(self.loop.results, zip(*given)):
            if values != (result,):
                self.walk.op_nodes.append(self._copied(list(values), result))

    def _state(self, name: str, tag: str) -> str:
        buffer = self.graph.buffers[name]
        width = buffer.width or buffer.elements
        return self.walk.add_state(f"{name}:{tag}", buffer.elements // width, width, buffer.dtype)

    def _begun(self, shift: int, turn: int) -> str:
        """1 once a body has run: in the first step of several bodies the first of them alone is the first one."""
        made = f"{BEGUN}:{shift}after{min(turn, 1)}"
        if made in self.walk.buffers:
            return made
        if shift + (turn == 0) == 1:  # whether there was a call before this one
            self.walk.add_state(made, 1, 1)
            self.walk.last.append(self._one(made, made))
            return made
        self.walk.buffers[made] = Buffer(1, 1)
        if shift + (turn == 0) == 0:
            self.walk.op_nodes.append(self._one(self._begun(shift, 0), made))
        else:
            told = self.walk.begun(self.anchor, shift + (turn == 0))
            self.walk.op_nodes.append(self._copied([told], made))
        return made

    def _round(self, own: Mapping[str, str], tag: str, alone: bool) -> dict[str, str]:
        """Adds the nodes of a body. own: what its inputs are. Gives what each value of it is called."""
        renamed = dict(own)
        for name, buffer in self.graph.buffers.items():
            if name in own:
                renamed[name] = self._of_width(own[name], buffer, f"{name}:{tag}_given")
            else:
                renamed[name] = f"{name}:{tag}"
                self.walk.buffers[renamed[name]] = replace(buffer)
        for result, name in zip(self.loop.results, self.outputs) if alone else ():
            if name in renamed and name not in own and renamed[name] not in self.loop.results:
                self._as_result(name, result, renamed)
        for op_node in self.graph.op_nodes:
            reads, writes = ([renamed[n] for n in names] for names in (op_node.reads, op_node.writes))
            self.walk.op_nodes.append(replace(op_node, reads=reads, writes=writes, attrs=dict(op_node.attrs)))
        return renamed

    def _of_width(self, given: str, buffer: Buffer, made: str) -> str:
        """What comes in, in rows of the width that the body reads."""
        if buffer.dtype != self.walk.buffers[given].dtype:
            raise not_streamable(f"a loop over {self.walk.buffers[given].dtype} as {buffer.dtype}")
        if not buffer.width or self.walk.step_width(given) == buffer.width:
            return given
        self.walk.buffers[made] = replace(buffer)
        self.walk.op_nodes.append(self._copied([given], made))
        return made

    def _as_result(self, name: str, result: str, renamed: dict[str, str]) -> None:
        """A value of the body that is the loop's result, under its name, where their rows agree."""
        buffer, whole = self.graph.buffers[name], self.walk.buffers[result]
        if buffer.dtype == whole.dtype and whole.width in (0, buffer.width) and buffer.width:
            whole.width = buffer.width
            del self.walk.buffers[renamed[name]]
            renamed[name] = result

    def _value(self, index: int, renamed: Mapping[str, str], tag: str) -> str:
        """What an output of the body is called: a copy where it looks at what came in."""
        name = self.outputs[index]
        view = self.graph.views.get(name)
        inputs = self.body.exported.inputs
        if name in self.graph.buffers and name not in inputs:
            return renamed[name]
        if view is None:
            raise not_streamable(f"{name}, which a loop gives or keeps, and which no step changes")
        places = layout.offsets(view).reshape(-1)
        made = f"{name}:{tag}_out{index}"
        self.walk.buffers[made] = Buffer(len(places), len(places), self.graph.buffers[view.base].dtype)
        attrs = {"index": tuple(int(i) for i in places)}
        self.walk.op_nodes.append(gather_node(self.anchor.node, self.anchor.name, renamed[view.base], made, attrs))
        return made

    def _copied(self, values: list[str], made: str) -> OpNode:
        """Values of as many elements each, one behind the other."""
        count = 1 if made.startswith(BEGUN) else self._elements(made) // len(values)
        return self._assembled(values, made, [((count,), (0, 1), (at * count, 1)) for at in range(len(values))])

    def _one(self, over: str, made: str) -> OpNode:
        """The number 1, over a value of one element: a copy has an input."""
        return self._assembled([over], made, [((1,), (0, 1), (0, 1))] * 2, {"c0": torch.ones(1)})

    def _assembled(
        self, values: list[str], made: str, parts: list[Any], tensors: dict[str, torch.Tensor] | None = None
    ) -> OpNode:
        node, attrs = self.anchor, {"parts": tuple(parts), "fill": 0.0}
        return OpNode(with_role(Role.COPY).name, node.node, node.name, values, [made], tensors or {}, attrs)

    def _elements(self, name: str) -> int:
        """Of one time step of a value."""
        count = self.walk.elements(name)
        return count // self.steps if name in self.loop.results else count
