"""The part of a walk that computes the bodies of loops: a step of the stream is one of them, or as many as it has rows."""

from __future__ import annotations

import numpy as np

from rtaccel.convert.build_graph import build_graph
from rtaccel.convert.frontend import layout
from rtaccel.convert.frontend.nodes import Buffer, OpNode, gather_node
from rtaccel.convert.streaming.loops.find import Loop
from rtaccel.convert.streaming.loops.rounds import Rounds
from rtaccel.convert.streaming.so_far import SoFar
from rtaccel.core.row_traits import TimeSpan, later, not_streamable


class Loops(SoFar):
    """loops: of the window, by the results that they give. taken: nodes of the graph that are steps already. last: nodes that
    write what loops keep, when all else of a step is done."""

    loops: dict[str, Loop]
    real: dict[str, str]
    taken: set[OpNode]
    last: list[OpNode]

    def _take(self, op_node: OpNode) -> None:
        raise NotImplementedError

    def fit_rows(self, name: str, inner: int) -> bool:
        raise NotImplementedError

    def take_in_turn(self, op_node: OpNode) -> None:
        """After what it reads: that may come later in the graph where a loop is between them."""
        if op_node not in self.taken:
            self.taken.add(op_node)
            for name in op_node.reads:
                self.provide(name)
            self._take(op_node)

    def provide(self, name: str) -> None:
        """Makes sure that a value is known, where a loop is before it."""
        if name in self.times or not self.loops:
            return
        loop = self.loops.get(name)
        if loop is not None:
            self._enter(loop)
        for op_node in () if loop is not None else self.graph.op_nodes:
            if name in op_node.writes:
                self.take_in_turn(op_node)

    def _enter(self, loop: Loop) -> None:
        spans = {output: self._span(output) for output in loop.sources.values()}
        shift, steps = max(0, *(span.shift for span in spans.values())), {span.steps for span in spans.values()}
        if len(steps) != 1 or loop.steps % min(steps):
            raise not_streamable("a loop over values of different time steps")
        length = min(steps)
        body = loop.body(shift > 0)
        graph = build_graph(body.exported, None)
        left = [d for d in graph.op_nodes if d.is_fallback]
        if left or not graph.op_nodes:
            raise not_streamable(f"{left[0].name}: {left[0].reason}" if left else "a loop that computes nothing")
        self.made |= {d.writes[0]: d.node for d in graph.op_nodes}
        rows = {output: self._rows(graph.op_nodes[0], output, span, loop, shift) for output, span in spans.items()}
        Rounds(self, loop, body, graph).write(rows, shift)
        past = [later(span, shift - span.shift) for span in spans.values()]
        for name in loop.results:
            inner = self.elements(name) // length
            memory = -1 if body.states or -1 in past else max(past)
            self.times[name] = TimeSpan(shift, length, memory, 1, inner)

    def _base(self, output: str) -> str:
        return self.graph.views[output].base if output in self.graph.views else output

    def _span(self, output: str) -> TimeSpan:
        """Of the value that a loop reads."""
        self.provide(base := self._base(output))
        span = self.times.get(base)
        if span is None or not span.steps or span.lead or span.rest:
            raise not_streamable(f"a loop over {_named(output)}, which has no whole time steps")
        return span

    def _rows(self, node: OpNode, output: str, span: TimeSpan, loop: Loop, shift: int) -> list[str]:
        """Values that are the newest rows of what a loop reads, one for each body of a step."""
        base, view = self._base(output), self.graph.views.get(output)
        inner, whole = span.inner or self.width(base), span.steps * (span.inner or self.width(base))
        index = np.arange(self.elements(base)) if view is None else layout.offsets(view)
        index = index.reshape(loop.steps, -1)
        count = loop.steps // span.steps
        newest = index[-count:]
        on_time = ((newest % whole) // inner == span.steps - 1).all()
        if not on_time or not (index[count:] - index[:-count] == inner).all():
            raise not_streamable(f"a loop over {_named(output)}, whose rows are not time steps in order")
        if span.shift < shift and self.is_early(base):
            raise not_streamable(f"a loop over {_named(output)}, which begins before the first time step")
        name = self.real.get(base, base)
        if span.shift < shift:
            name = self.delayed(node, name, shift - span.shift)
        elif not self.fit_rows(name, inner):
            raise not_streamable(f"a loop over {_named(output)}, whose rows are not time steps")
        places = newest // whole * inner + newest % whole % inner
        return [self.part(node, name, [int(i) for i in own], f"{output}:row{t}") for t, own in enumerate(places)]

    def step_width(self, name: str) -> int:
        """Width of the rows of a value, as its step has it in the end."""
        count = self._count_per_step(name) if name in self.times else self.elements(name)
        width = self.buffers[name].width
        return width if width and count % width == 0 else count

    def part(self, node: OpNode, name: str, places: list[int], made: str) -> str:
        """The elements of a step of a value at these places: the value itself where that is all of it."""
        count = self._count_per_step(name) if name in self.times else self.elements(name)
        if places == list(range(count)):
            return name
        self.buffers[made] = Buffer(len(places), len(places), self.buffers[name].dtype)
        self.op_nodes.append(gather_node(node.node, node.name, name, made, {"index": tuple(places)}))
        return made


def _named(output: str) -> str:
    return output.removesuffix("_by_steps")
