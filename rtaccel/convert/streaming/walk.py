"""From a model over a window to one over a time step: each layer computes the newest row, and keeps what it needs of the past.

Every value over time has rows for time steps; row r is what is known at the time step r + shift. Layers that treat rows alike
keep the shift; a convolution over time whose newest tap is its own time step keeps it too, with its past in a ring; a
recurrent layer carries its state: each operator's `streaming` says how (rtaccel.core.row_traits). The row of the newest
time step is all that is computed. What would need a time step that is still to come, or all time steps at once, is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx

from rtaccel.convert.frontend.exported.graph import ExportedGraph
from rtaccel.convert.frontend.graph.op_graph import OpGraph
from rtaccel.convert.frontend.graph.values import stored_apart
from rtaccel.convert.frontend.nodes import Buffer, OpNode, gather_node
from rtaccel.convert.passes.fuse_epilogue import fold
from rtaccel.convert.streaming.loops.enter import Loops
from rtaccel.convert.streaming.loops.find import Loop
from rtaccel.convert.streaming.loops.in_place import written_in_place
from rtaccel.convert.streaming.outputs import is_in_order, order_of_step
from rtaccel.convert.streaming.rows import by_places, cut_constants, fit_rows, has_rows, is_written_constant, row_width
from rtaccel.core.registry import with_role
from rtaccel.core.row_traits import SameRows, TimeSpan, later, not_streamable
from rtaccel.core.traits import Node, Role


@dataclass(frozen=True)
class Streamed:
    """A captured model as nodes over one time step. states: names of values kept from call to call. memory: for how many
    further calls a time step reaches, -1 for ever. layout: where the time steps were. whole: what reads as many time steps as the
    traced window has, if anything does. results: which of the model's results the outputs are."""

    exported: ExportedGraph
    graph: OpGraph
    states: frozenset[str]
    memory: int
    layout: tuple[str, ...]
    whole: str = ""
    results: tuple[int, ...] = ()


class Walk(Loops):
    """Rewrites nodes in order: an rtaccel.core.row_traits.StreamWalk. One use."""

    def __init__(
        self,
        exported: ExportedGraph,
        graph: OpGraph,
        length: int,
        layout: tuple[str, ...],
        has_context: bool,
        delay: int = 0,
        loops: Sequence[Loop] = (),
    ) -> None:
        """delay: steps that an output comes after its own. loops: what gives further inputs of the graph."""
        self.exported, self.length, self.layout = exported, length, layout
        self.graph = replace(graph, op_nodes=tuple(by_places(n, graph.buffers, length) for n in graph.op_nodes))
        self.has_context = has_context
        self.buffers = {name: replace(buffer) for name, buffer in graph.buffers.items()}
        self.times: dict[str, TimeSpan] = {}
        self.delay, self.whole = delay, ""
        self.real: dict[str, str] = {}  # a value that is another's rows over another time: that other
        self.states: set[str] = set()
        self.constant: set[str] = set()
        self.final: set[str] = set()
        self.shapes: dict[str, tuple[int, ...]] = {}  # of a step of an output, where it is not that of its rows
        self.op_nodes: list[OpNode] = []
        self.after: list[OpNode] = []
        self.loops = {name: loop for loop in loops for name in loop.results}
        self.taken: set[OpNode] = set()
        self.last: list[OpNode] = []
        self.made: dict[str, fx.Node] = {}
        self.tables: dict[str, torch.Tensor] = {}  # by the value that is its row of the step

    def run(self) -> Streamed:
        source = self.exported.inputs[0]
        buffer = self.buffers[source]
        inner = buffer.elements // self.length
        if buffer.elements % self.length or not (self.fit_rows(source, inner) or not buffer.width):
            raise not_streamable("an input whose rows are not time steps")
        buffer.width = buffer.width or inner
        self.times[source] = TimeSpan(0, self.length, 0, 1, inner)
        for op_node in self.graph.op_nodes:
            self.take_in_turn(op_node)
        self._check_shapes()
        returned: Any = next(n for n in self.exported.graph.nodes if n.op == "output").args[0]
        ends = [(i, o, n) for i, (o, n) in enumerate(zip(self.graph.outputs, returned)) if isinstance(o, str)]
        found = [(i, n, self._output(o, n)) for i, o, n in ends]
        given = [(i, self._as_given(n, base)) for i, n, base in found if base is not None]
        places = {base: i for i, base in reversed(given)}
        outputs = list(dict.fromkeys(base for _, base in given))
        if not outputs:
            raise not_streamable("no output over time")
        receptive_field = [
            time.receptive_field for name, time in self.times.items() if self.real.get(name, name) in outputs
        ]
        for name in set(self.times) - set(self.real):
            buffer, count = self.buffers[name], self._count_per_step(name)
            self.buffers[name] = Buffer(count, row_width(buffer.width, count), buffer.dtype)
        last = written_in_place(self.op_nodes, self.last, {*outputs})
        graph = replace(
            self.graph,
            op_nodes=tuple(fold([*self.op_nodes, *last], {*outputs})),
            buffers=self.buffers,
            views={},
            outputs=tuple(outputs),
            trailing=self._trailing(outputs),
            batch=True,
        )
        memory = -1 if -1 in receptive_field else max(receptive_field)
        return Streamed(
            self.exported,
            graph,
            frozenset(self.states),
            memory,
            self.layout,
            self.whole,
            tuple(places[o] for o in outputs),
        )

    def _as_given(self, node: fx.Node, name: str) -> str:
        """The value of an output in the dtype that the model gives, where it is kept in another: int32 as int64, truth values as
        float32."""
        dtype = stored_apart(node)
        if dtype is None:
            return name
        made, count = f"{node.name}:returned", self._count_per_step(name)
        self.buffers[made] = replace(self.buffers[name], dtype=str(dtype).removeprefix("torch."))
        self.times[made] = self.times[name]
        attrs = {"program": ("truth x0" if dtype == torch.bool else "copy x0",), "dims": (count,), "places": ((0, 1),)}
        self.op_nodes.append(OpNode(with_role(Role.WHOLE).name, node, node.name, [name], [made], attrs=attrs))
        return made

    def _trailing(self, outputs: Sequence[str]) -> dict[str, tuple[int, ...]]:
        """Shapes of a sample where they are not those of its rows: whole numbers without features, such as indices, and time
        steps of several rows."""
        made = {n.name: n.meta.get("val") for n in self.exported.graph.nodes}
        found = dict(self.shapes)
        for name in (*self.exported.inputs, *outputs):
            if name in found:
                continue
            buffer = self.buffers[name]
            if buffer.steps > 1:
                several = name not in self.exported.inputs and buffer.width > 1
                found[name] = (buffer.steps, buffer.width) if several else (buffer.elements,)
        for name in (*self.exported.inputs, *(o for o in self.graph.outputs if isinstance(o, str))):
            seen, base = made.get(name), self.graph.views[name].base if name in self.graph.views else name
            if not isinstance(seen, torch.Tensor) or seen.dtype != torch.int64:
                continue
            if seen.dim() - (self.length in seen.shape) == 1:
                found[self.real.get(base, base)] = ()
        return found

    def _check_shapes(self) -> None:
        """A model that takes time steps for samples gives a row for each of them, of its only sample."""
        for node in next(n for n in self.exported.graph.nodes if n.op == "output").all_input_nodes:
            made = node.meta.get("val")
            if (
                isinstance(made, torch.Tensor)
                and made.dim() == 2
                and made.shape[0] == self.length
                and made.shape[1] != 1
            ):
                raise not_streamable("an output without a dimension for its samples")

    def _output(self, name: str, node: fx.Node) -> str | None:
        base = self.graph.views[name].base if name in self.graph.views else name
        self.provide(base)
        time = self.times.get(base)
        if time is None or base in self.final:
            return None  # the state of a recurrent layer: the stream keeps it itself
        late = time.steps - 1 - self.newest(time) if time.steps else 0
        if time.lead or time.rest or not 0 <= late <= self.delay:
            told = (
                f": it comes {late} late, as with delay={late}" if late > 0 and not time.lead and not time.rest else ""
            )
            raise not_streamable(f"an output that needs time steps still to come{told}")
        buffer, order = self.buffers[base], self._order(node, base, time)
        one_channel = time.outer == 1 and buffer.width in (1, buffer.elements)
        if time.is_by_rows(buffer.width) or one_channel or self._has_rows(name, time):
            order = None if order is None or is_in_order(order[0]) else order
        elif order is None:
            raise not_streamable("an output whose rows are not time steps")
        base = self.real.get(base, base)
        if base in self.exported.inputs:
            raise not_streamable("an output that is the input")
        base = base if late == self.delay else self._waiting(base, self.delay - late)
        if order is None and base in self.states:  # which is another one when the step is over
            return self._apart(node, base, time)
        return base if order is None else self._in_order(node, base, time, *order)

    def _order(self, output: fx.Node, base: str, time: TimeSpan) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
        """The elements of an output in a step of its value, and the shape of a step; None where it has no place for each."""
        view = self.graph.views.get(output.name)
        if view is None or view.base != base:
            return None
        found = order_of_step(view, time, self.buffers[view.base].width)
        return found if found is not None and found[1][:1] == (1,) else None

    def _in_order(
        self, node: fx.Node, base: str, time: TimeSpan, order: tuple[int, ...], shape: tuple[int, ...]
    ) -> str:
        made = f"{node.name}:in_order"
        self.buffers[made] = replace(self.buffers[base], elements=len(order), width=shape[-1])
        self.times[made], self.shapes[made] = TimeSpan(0, 0, time.receptive_field), shape[1:]
        self.op_nodes.append(gather_node(node, node.name, base, made, {"index": order}))
        return made

    def _apart(self, node: fx.Node, state: str, time: TimeSpan) -> str:
        made, count = f"{node.name}:apart", self.elements(state)
        self.buffers[made], self.times[made] = replace(self.buffers[state]), TimeSpan(0, 0, time.receptive_field)
        whole = {"index": tuple(range(count))}
        self.op_nodes.append(gather_node(node, node.name, state, made, whole))
        return made

    def _waiting(self, name: str, steps: int) -> str:
        """An output so many steps later."""
        made = self.delayed(next(n for n in self.graph.op_nodes if name in n.writes), name, steps)
        self.times[made] = TimeSpan(0, 1, later(self.times[name], steps))
        return made

    def _has_rows(self, output: str, time: TimeSpan) -> bool:
        made = next(n for n in self.exported.graph.nodes if n.name == output).meta.get("val")
        base = self.graph.views[output].base if output in self.graph.views else output
        return isinstance(made, torch.Tensor) and has_rows(time, self.buffers[base].width, made.shape)

    def fit_rows(self, name: str, inner: int) -> bool:
        return fit_rows(self.graph.op_nodes, self.buffers, name, inner)

    def newest(self, span: TimeSpan) -> int:
        return self.length - 1 - span.shift

    def is_input(self, name: str) -> bool:
        return name in self.exported.inputs

    def add_table(self, node: Node, table: torch.Tensor) -> str:
        for name, known in self.tables.items():
            if known.shape == table.shape and torch.equal(known, table):
                return name
        name = f"{node.writes[0]}:row{len(self.tables)}"
        self.buffers[name] = Buffer(table.shape[1], table.shape[1])
        count = self.add_state(f"{name}:count", 1, 1)
        made = OpNode(
            with_role(Role.TABLE).name, self._source(node), node.name, [count], [name, count], {"table": table}
        )
        self.op_nodes.append(made)
        self.tables[name] = table
        return name

    def needs_context(self, what: str) -> None:
        if not self.has_context:
            raise not_streamable(f"{what}: give the number of time steps as context=")

    def _take(self, op_node: OpNode) -> None:
        if is_written_constant(op_node, self.elements(op_node.writes[0])):
            self.op_nodes.append(op_node)
            self.constant.add(op_node.writes[0])
            self.times[op_node.writes[0]] = TimeSpan(0, 0, 0)
            return
        if any(r not in self.times for r in op_node.reads):
            raise not_streamable(f"{op_node.name}, which reads the final state of a recurrent layer")
        spans = [self.times[r] for r in op_node.reads]
        reads, out = [self.real.get(r, r) for r in op_node.reads], op_node.writes[0]
        op_node = replace(op_node, reads=reads, writes=list(op_node.writes), attrs=dict(op_node.attrs))
        streaming, given = op_node.operator.streaming, op_node.writes[:]
        if streaming is None:
            raise not_streamable(f"{op_node.name} ({op_node.op}), which looks at all time steps at once")
        if any(span.lead or span.rest for span in spans) and not streaming.edges:
            raise not_streamable(f"{op_node.name} ({op_node.op}), of a value that is no whole number of time steps")
        by_rows = all(span.is_by_rows(self.width(name)) for span, name in zip(spans, reads))
        if not by_rows and not streaming.any_layout:
            raise not_streamable(f"{op_node.name} ({op_node.op}), of values whose rows are not time steps")
        found = streaming.step(op_node, spans, self)
        if isinstance(found, SameRows):
            self.real[out], self.times[out] = op_node.reads[0], found.span
            return
        buffer, inner = self.buffers[out], found.inner or self.buffers[out].width
        if found.steps and buffer.elements != found.lead + found.outer * found.steps * inner + found.rest:
            raise not_streamable(f"{op_node.name}, whose rows are not time steps")
        self.op_nodes.append(cut_constants(op_node, buffer.width) if streaming.by_element else op_node)
        self.op_nodes += self.after
        self.after.clear()
        self.times |= {own: found for own in given if own in op_node.writes}
