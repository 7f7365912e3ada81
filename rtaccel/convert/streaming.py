"""From a model over a window to one over a time step: each layer computes the newest row, and keeps what it needs of the past.

Every value over time has rows for time steps; row r is what is known at the time step r + shift. Layers that treat rows alike
keep the shift; a convolution over time whose newest tap is its own time step keeps it too, with its past in a ring; a
recurrent layer carries its state. The row of the newest time step is all that is computed. What would need a time step that
is still to come, or all time steps at once, is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from rtaccel.convert.build_graph import build_graph
from rtaccel.convert.frontend.export import ExportedGraph, capture
from rtaccel.convert.frontend.graph import OpGraph
from rtaccel.convert.frontend.nodes import ROW_WISE, Buffer, OpNode
from rtaccel.convert.passes.fuse_epilogue import fold
from rtaccel.core.errors import UnsupportedProblem

LAYOUTS = (("batch", "time", "features"), ("batch", "features", "time"), ("time", "batch", "features"))
LENGTHS = (61, 67)
"""InputStatistics of the window that a model is traced with where calibration data does not say: primes, unlike any width."""


@dataclass(frozen=True)
class Streamed:
    """A captured model as nodes over one time step. states: names of values kept from call to call. memory: for how many
    further calls a time step reaches, -1 for ever. output: name of what a call gives. form: where the time steps were."""

    exported: ExportedGraph
    graph: OpGraph
    states: frozenset[str]
    memory: int
    layout: tuple[str, ...]


@dataclass(frozen=True)
class _Time:
    """shift: row r of a value is of the time step r + shift; steps: its rows; receptive_field: further time
    steps that a row depends on backwards, -1 for all. A value without rows over time has steps 0."""

    shift: int
    steps: int
    receptive_field: int


def stream_graph(model: nn.Module, features: int, dtype: torch.dtype, calibrated: tuple[int, ...] | None) -> Streamed:
    """Tries the forms a window can have: [batch, time, features], [batch, features, time], [time, batch, features].

    calibrated: shape of a calibration window, whose length is then that of the trace.
    Raises UnsupportedProblem with what each form met where none can be streamed.
    """
    reasons: list[str] = []
    for length in LENGTHS:
        reasons = []
        layouts: Sequence[tuple[str, ...]] = LAYOUTS if dtype != torch.int64 else LAYOUTS[:1]
        if (
            calibrated is not None
        ):  # in a window of one time step, samples and time steps look alike: that is tried last
            layouts = tuple(sorted(layouts, key=lambda layout: calibrated[layout.index("time")] == 1))
        for layout in layouts:
            time_steps = length if calibrated is None else calibrated[layout.index("time")]
            sizes = {"batch": 1, "time": time_steps, "features": features}
            shape = [sizes[name] for name in layout if dtype != torch.int64 or name != "features"]
            if calibrated is not None and any(
                sizes[name] != size for name, size in zip(layout, calibrated) if name == "features"
            ):
                reasons.append(f"{list(layout)}: calibration data of shape {list(calibrated)}")
                continue
            try:
                return _streamed(model, torch.zeros(shape, dtype=dtype, device="cpu"), time_steps, layout)
            except UnsupportedProblem as error:
                reasons.append(f"{list(layout)}: {error.got}, {error.next_step}")
    raise UnsupportedProblem(
        "stream",
        f"{type(model).__name__}: {'; '.join(reasons)}",
        "LSTM, GRU, causal convolutions and layers that treat time steps alike, from one input",
        "Pad convolutions on the left only, and read the newest time step at the end.",
    )


def _no(what: str) -> UnsupportedProblem:
    return UnsupportedProblem("stream", what, "a model that can go step by step", "See docs/how-to/stream.md.")


def _streamed(model: nn.Module, window: torch.Tensor, length: int, layout: tuple[str, ...]) -> Streamed:
    exported = capture(model, (window,), fixed=True)
    if len(exported.inputs) != 1:
        raise _no(f"{len(exported.inputs)} inputs")
    graph = build_graph(exported, None, windowed=True)
    left = [d for d in graph.op_nodes if d.op == "torch"]
    if left:
        raise _no(f"{left[0].name}: {left[0].reason}")
    return _Walk(exported, graph, length, layout).run()


class _Walk:
    """Rewrites nodes in order. One use."""

    def __init__(self, exported: ExportedGraph, graph: OpGraph, length: int, layout: tuple[str, ...]) -> None:
        self.exported, self.graph, self.length, self.layout = exported, graph, length, layout
        self.buffers = {name: replace(buffer) for name, buffer in graph.buffers.items()}
        self.times: dict[str, _Time] = {}
        self.real: dict[str, str] = {}  # a value that is another's rows over another time: that other
        self.states: set[str] = set()
        self.op_nodes: list[OpNode] = []

    def run(self) -> Streamed:
        source = self.exported.inputs[0]
        buffer = self.buffers[source]
        if buffer.elements % self.length or (buffer.width and buffer.elements // buffer.width != self.length):
            raise _no("an input whose rows are not time steps")
        buffer.width = buffer.elements // self.length
        self.times[source] = _Time(0, self.length, 0)
        for op_node in self.graph.op_nodes:
            self._take(op_node)
        found = [self._output(o) for o in self.graph.outputs if isinstance(o, str)]
        outputs = [o for o in found if o is not None]
        if not outputs:
            raise _no("no output over time")
        receptive_field = [
            time.receptive_field for name, time in self.times.items() if self.real.get(name, name) in outputs
        ]
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
        memory = -1 if -1 in receptive_field else max(receptive_field)
        return Streamed(self.exported, graph, frozenset(self.states), memory, self.layout)

    def _output(self, name: str) -> str | None:
        base = self.graph.views[name].base if name in self.graph.views else name
        time = self.times.get(base)
        if time is None:
            return None  # the state of a recurrent layer: the stream keeps it itself
        if time.steps and self._newest(time) != time.steps - 1:
            raise _no("an output that needs time steps still to come")
        base = self.real.get(base, base)
        if base in self.exported.inputs:
            raise _no("an output that is the input")
        return base

    def _newest(self, time: _Time) -> int:
        return self.length - 1 - time.shift

    def _take(self, op_node: OpNode) -> None:
        if any(r not in self.times for r in op_node.reads):
            raise _no(f"{op_node.name}, which reads the final state of a recurrent layer")
        times = [self.times[r] for r in op_node.reads]
        op_node = replace(op_node, reads=[self.real.get(r, r) for r in op_node.reads], attrs=dict(op_node.attrs))
        if op_node.op in (*ROW_WISE, "concat", "embedding"):
            self._rows(op_node, times)
        elif op_node.op == "rearrange":
            self._gather(op_node, times[0])
        elif op_node.op == "conv":
            self._conv(op_node, times)
        elif op_node.op in ("lstm", "gru"):
            self._recurrent(op_node, times[0])
        else:
            raise _no(f"{op_node.name} ({op_node.op}), which looks at all time steps at once")

    def _rows(self, op_node: OpNode, times: Sequence[_Time]) -> None:
        if len({(t.shift if t.steps else None, t.steps) for t in times}) != 1:
            raise _no(f"{op_node.name}, which brings different time steps together")
        self._emit(op_node, replace(times[0], receptive_field=_longest(times)))

    def _emit(self, op_node: OpNode, time: _Time) -> None:
        out = op_node.writes[0]
        if time.steps and self.buffers[out].steps != time.steps:
            raise _no(f"{op_node.name}, whose rows are not time steps")
        self.op_nodes.append(op_node)
        self.times[out] = time

    def _gather(self, op_node: OpNode, time: _Time) -> None:
        """Rows of a value: a run of them is another shift, the newest alone is the time step itself."""
        rows = op_node.attrs.get("rows")
        source, out = op_node.reads[0], op_node.writes[0]
        if rows is None and source in self.exported.inputs:
            width, index = self.buffers[source].width, op_node.attrs["index"]
            time_steps = range(index[0], index[0] + len(index) // width)
            turned = tuple(c * self.length + r for r in time_steps for c in range(width))
            if index == turned and self.buffers[out].width == width:
                rows = tuple(
                    time_steps
                )  # [features, time steps] turned round, or a part of it: a time step is the same
        if rows is None or not time.steps or rows != tuple(range(rows[0], rows[0] + len(rows))):
            raise _no(f"{op_node.name}, which picks other elements than whole time steps in order")
        if len(rows) == 1 and time.steps > 1:
            if rows[0] != self._newest(time):
                raise _no(f"{op_node.name}, which reads another time step than the newest")
            time = _Time(0, 0, time.receptive_field)
        else:
            time = _Time(time.shift + rows[0], len(rows), time.receptive_field)
        self.real[out], self.times[out] = source, time

    def _conv(self, op_node: OpNode, times: Sequence[_Time]) -> None:
        a = op_node.attrs
        if a["in_size"][0] != 1 or a["kernel"][0] != 1 or a["stride"] != (1, 1) or not times[0].steps:
            raise _no(f"{op_node.name}, a convolution over something else than time steps, or with a stride")
        taps, dilation = a["kernel"][1], a["dilation"][1]
        reach = (taps - 1) * dilation
        shift = times[0].shift + reach - a["padding"][1]
        time = _Time(
            shift, a["out_size"][1], _longest([_Time(0, 0, _plus(times[0].receptive_field, reach)), *times[1:]])
        )
        if any((t.shift, t.steps) != (shift, time.steps) for t in times[1:]):
            raise _no(f"{op_node.name}, whose residual is of other time steps")
        x, channels = op_node.reads[0], self.buffers[op_node.reads[0]].width
        ring = f"{op_node.writes[0]}:ring"
        self.buffers[ring] = Buffer((reach + 1) * channels, channels)
        self.states.add(ring)
        attrs: dict[str, Any] = {k: a[k] for k in ("groups", "activation", "activation_parameter") if k in a}
        attrs |= {"stream": 1, "kernel": (1, taps), "dilation": (1, dilation)}
        made = replace(op_node, reads=[x, ring, *op_node.reads[1:]], writes=[op_node.writes[0], ring], attrs=attrs)
        self._emit(made, time)

    def _recurrent(self, op_node: OpNode, time: _Time) -> None:
        a = op_node.attrs
        if a["directions"] != 1 or a["batch"] != 1 or len(op_node.reads) != 1 or not time.steps:
            raise _no(f"{op_node.name}, which runs backwards, or starts from a state that is given")
        if a["time"] != time.steps or self._newest(time) != time.steps - 1:
            raise _no(f"{op_node.name}, which reads time steps still to come")
        rows, hidden = a["layers"], a["hidden"]
        names = [f"{op_node.writes[0]}:{part}" for part in (("h", "c") if op_node.op == "lstm" else ("h",))]
        for name in names:
            self.buffers[name] = Buffer(rows * hidden, hidden)
            self.states.add(name)
        attrs = {**a, "time": 1, "batch_first": 1, "last_only": 0}
        made = replace(op_node, reads=[op_node.reads[0], *names], writes=[op_node.writes[0], *names], attrs=attrs)
        self._emit(made, _Time(time.shift, time.steps, -1))


def _plus(receptive_field: int, more: int) -> int:
    return -1 if receptive_field < 0 else receptive_field + more


def _longest(times: Sequence[_Time]) -> int:
    receptive_field = [t.receptive_field for t in times]
    return -1 if -1 in receptive_field else max(receptive_field)


def time_step_of(example: Any) -> int:
    """The features of a time step: the width of the example, 1 for indices."""
    return int(example.shape[-1]) if example.dim() > 1 else 1
