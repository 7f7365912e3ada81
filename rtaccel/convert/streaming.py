"""From a model over a window to one over a moment: each layer computes the newest row, and keeps what it needs of the past.

Every value over time has rows for moments; row r is what is known at the moment r + shift. Layers that treat rows alike
keep the shift; a convolution over time whose newest tap is its own moment keeps it too, with its past in a ring; a
recurrent layer carries its state: each operator's `streaming` says how (rtaccel.core.row_traits). The row of the newest
moment is all that is computed. What would need a moment that is still to come, or all moments at once, is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from rtaccel.convert.build_graph import build_graph
from rtaccel.convert.frontend.export import Captured, capture
from rtaccel.convert.frontend.graph import OpGraph
from rtaccel.convert.frontend.nodes import Buffer, OpNode
from rtaccel.convert.passes.fuse_epilogue import fold
from rtaccel.core.errors import UnsupportedProblem
from rtaccel.core.row_traits import SameRows, TimeSpan, not_streamable

FORMS = (("batch", "time", "features"), ("batch", "features", "time"), ("time", "batch", "features"))
LENGTHS = (61, 67)
"""Moments of the window that a model is traced with where calibration data does not say: primes, unlike any width."""


@dataclass(frozen=True)
class Streamed:
    """A captured model as nodes over one moment. states: names of values kept from call to call. memory: for how many
    further calls a moment is felt, -1 for ever. output: name of what a call gives. form: where the moments were."""

    captured: Captured
    graph: OpGraph
    states: frozenset[str]
    memory: int
    form: tuple[str, ...]


def stream_graph(model: nn.Module, features: int, dtype: torch.dtype, calibrated: tuple[int, ...] | None) -> Streamed:
    """Tries the forms a window can have: [batch, time, features], [batch, features, time], [time, batch, features].

    calibrated: shape of a calibration window, whose length is then that of the trace.
    Raises UnsupportedProblem with what each form met where none can be streamed.
    """
    reasons: list[str] = []
    for length in LENGTHS:
        reasons = []
        forms: Sequence[tuple[str, ...]] = FORMS if dtype != torch.int64 else FORMS[:1]
        if calibrated is not None:  # in a window of one moment, samples and moments look alike: that is tried last
            forms = tuple(sorted(forms, key=lambda form: calibrated[form.index("time")] == 1))
        for form in forms:
            moments = length if calibrated is None else calibrated[form.index("time")]
            sizes = {"batch": 1, "time": moments, "features": features}
            shape = [sizes[name] for name in form if dtype != torch.int64 or name != "features"]
            if calibrated is not None and any(
                sizes[name] != size for name, size in zip(form, calibrated) if name == "features"
            ):
                reasons.append(f"{list(form)}: calibration data of shape {list(calibrated)}")
                continue
            try:
                return _streamed(model, torch.zeros(shape, dtype=dtype, device="cpu"), moments, form)
            except UnsupportedProblem as error:
                reasons.append(f"{list(form)}: {error.got}, {error.next_step}")
    raise UnsupportedProblem(
        "stream",
        f"{type(model).__name__}: {'; '.join(reasons)}",
        "LSTM, GRU, causal convolutions and layers that treat moments alike, from one input",
        "Pad convolutions on the left only, and read the newest moment at the end.",
    )


def _streamed(model: nn.Module, window: torch.Tensor, length: int, form: tuple[str, ...]) -> Streamed:
    captured = capture(model, (window,), fixed=True)
    if len(captured.inputs) != 1:
        raise not_streamable(f"{len(captured.inputs)} inputs")
    graph = build_graph(captured, None, windowed=True)
    left = [d for d in graph.op_nodes if d.is_fallback]
    if left:
        raise not_streamable(f"{left[0].name}: {left[0].reason}")
    return _Walk(captured, graph, length, form).run()


class _Walk:
    """Rewrites nodes in order: an rtaccel.core.row_traits.StreamWalk. One use."""

    def __init__(self, captured: Captured, graph: OpGraph, length: int, form: tuple[str, ...]) -> None:
        self.captured, self.graph, self.length, self.form = captured, graph, length, form
        self.buffers = {name: replace(buffer) for name, buffer in graph.buffers.items()}
        self.times: dict[str, TimeSpan] = {}
        self.real: dict[str, str] = {}  # a value that is another's rows over another time: that other
        self.states: set[str] = set()
        self.op_nodes: list[OpNode] = []

    def run(self) -> Streamed:
        source = self.captured.inputs[0]
        buffer = self.buffers[source]
        if buffer.elements % self.length or (buffer.width and buffer.elements // buffer.width != self.length):
            raise not_streamable("an input whose rows are not moments")
        buffer.width = buffer.elements // self.length
        self.times[source] = TimeSpan(0, self.length, 0)
        for op_node in self.graph.op_nodes:
            self._take(op_node)
        found = [self._output(o) for o in self.graph.outputs if isinstance(o, str)]
        outputs = [o for o in found if o is not None]
        if not outputs:
            raise not_streamable("no output over time")
        felt = [time.felt for name, time in self.times.items() if self.real.get(name, name) in outputs]
        for name in set(self.times) - set(self.real):
            self.buffers[name] = Buffer(self.buffers[name].width, self.buffers[name].width, self.buffers[name].dtype)
        graph = replace(
            self.graph,
            op_nodes=tuple(fold(self.op_nodes, {*outputs})),
            buffers=self.buffers,
            views={},
            outputs=tuple(outputs),
            trailing={},
            batch=True,
        )
        memory = -1 if -1 in felt else max(felt)
        return Streamed(self.captured, graph, frozenset(self.states), memory, self.form)

    def _output(self, name: str) -> str | None:
        base = self.graph.views[name].base if name in self.graph.views else name
        time = self.times.get(base)
        if time is None:
            return None  # the state of a recurrent layer: the stream keeps it itself
        if time.steps and self.newest(time) != time.steps - 1:
            raise not_streamable("an output that needs moments still to come")
        base = self.real.get(base, base)
        if base in self.captured.inputs:
            raise not_streamable("an output that is the input")
        return base

    def newest(self, span: TimeSpan) -> int:
        return self.length - 1 - span.shift

    def width(self, name: str) -> int:
        return self.buffers[name].width

    def is_input(self, name: str) -> bool:
        return name in self.captured.inputs

    def add_state(self, name: str, rows: int, width: int) -> str:
        self.buffers[name] = Buffer(rows * width, width)
        self.states.add(name)
        return name

    def _take(self, op_node: OpNode) -> None:
        if any(r not in self.times for r in op_node.reads):
            raise not_streamable(f"{op_node.name}, which reads the final state of a recurrent layer")
        spans = [self.times[r] for r in op_node.reads]
        reads, out = [self.real.get(r, r) for r in op_node.reads], op_node.writes[0]
        op_node = replace(op_node, reads=reads, writes=list(op_node.writes), attrs=dict(op_node.attrs))
        streaming = op_node.operator.streaming
        if streaming is None:
            raise not_streamable(f"{op_node.name} ({op_node.op}), which looks at all moments at once")
        found = streaming.step(op_node, spans, self)
        if isinstance(found, SameRows):
            self.real[out], self.times[out] = op_node.reads[0], found.span
            return
        if found.steps and self.buffers[out].steps != found.steps:
            raise not_streamable(f"{op_node.name}, whose rows are not moments")
        self.op_nodes.append(op_node)
        self.times[out] = found


def moment_of(example: Any) -> int:
    """The features of a moment: the width of the example, 1 for indices."""
    return int(example.shape[-1]) if example.dim() > 1 else 1
