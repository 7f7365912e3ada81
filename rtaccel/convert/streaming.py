"""From a model over a window to one over a moment: each layer computes the newest row, and keeps what it needs of the past.

Every value over time has rows for moments; row r is what is known at the moment r + shift. Layers that treat rows alike
keep the shift; a convolution over time whose newest tap is its own moment keeps it too, with its past in a ring; a
recurrent layer carries its state. The row of the newest moment is all that is computed. What would need a moment that
is still to come, or all moments at once, is refused.
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
from rtaccel.convert.frontend.nodes import ROW_WISE, Buffer, OpNode
from rtaccel.convert.passes.fuse_epilogue import fold
from rtaccel.core.errors import UnsupportedProblem

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


@dataclass(frozen=True)
class _Time:
    """shift: row r of a value is of the moment r + shift; steps: its rows; felt: further moments that a row depends on
    backwards, -1 for all. A value without rows over time has steps 0."""

    shift: int
    steps: int
    felt: int


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


def _no(what: str) -> UnsupportedProblem:
    return UnsupportedProblem("stream", what, "a model that can go moment by moment", "See docs/how-to/stream.md.")


def _streamed(model: nn.Module, window: torch.Tensor, length: int, form: tuple[str, ...]) -> Streamed:
    captured = capture(model, (window,), fixed=True)
    if len(captured.inputs) != 1:
        raise _no(f"{len(captured.inputs)} inputs")
    graph = build_graph(captured, None, windowed=True)
    left = [d for d in graph.op_nodes if d.op == "torch"]
    if left:
        raise _no(f"{left[0].name}: {left[0].reason}")
    return _Walk(captured, graph, length, form).run()


class _Walk:
    """Rewrites nodes in order. One use."""

    def __init__(self, captured: Captured, graph: OpGraph, length: int, form: tuple[str, ...]) -> None:
        self.captured, self.graph, self.length, self.form = captured, graph, length, form
        self.buffers = {name: replace(buffer) for name, buffer in graph.buffers.items()}
        self.times: dict[str, _Time] = {}
        self.real: dict[str, str] = {}  # a value that is another's rows over another time: that other
        self.states: set[str] = set()
        self.op_nodes: list[OpNode] = []

    def run(self) -> Streamed:
        source = self.captured.inputs[0]
        buffer = self.buffers[source]
        if buffer.elements % self.length or (buffer.width and buffer.elements // buffer.width != self.length):
            raise _no("an input whose rows are not moments")
        buffer.width = buffer.elements // self.length
        self.times[source] = _Time(0, self.length, 0)
        for op_node in self.graph.op_nodes:
            self._take(op_node)
        found = [self._output(o) for o in self.graph.outputs if isinstance(o, str)]
        outputs = [o for o in found if o is not None]
        if not outputs:
            raise _no("no output over time")
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
        if time.steps and self._newest(time) != time.steps - 1:
            raise _no("an output that needs moments still to come")
        base = self.real.get(base, base)
        if base in self.captured.inputs:
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
            raise _no(f"{op_node.name} ({op_node.op}), which looks at all moments at once")

    def _rows(self, op_node: OpNode, times: Sequence[_Time]) -> None:
        if len({(t.shift if t.steps else None, t.steps) for t in times}) != 1:
            raise _no(f"{op_node.name}, which brings different moments together")
        self._emit(op_node, replace(times[0], felt=_longest(times)))

    def _emit(self, op_node: OpNode, time: _Time) -> None:
        out = op_node.writes[0]
        if time.steps and self.buffers[out].steps != time.steps:
            raise _no(f"{op_node.name}, whose rows are not moments")
        self.op_nodes.append(op_node)
        self.times[out] = time

    def _gather(self, op_node: OpNode, time: _Time) -> None:
        """Rows of a value: a run of them is another shift, the newest alone is the moment itself."""
        rows = op_node.attrs.get("rows")
        source, out = op_node.reads[0], op_node.writes[0]
        if rows is None and source in self.captured.inputs:
            width, index = self.buffers[source].width, op_node.attrs["index"]
            moments = range(index[0], index[0] + len(index) // width)
            turned = tuple(c * self.length + r for r in moments for c in range(width))
            if index == turned and self.buffers[out].width == width:
                rows = tuple(moments)  # [features, moments] turned round, or a part of it: a moment is the same
        if rows is None or not time.steps or rows != tuple(range(rows[0], rows[0] + len(rows))):
            raise _no(f"{op_node.name}, which picks other elements than whole moments in order")
        if len(rows) == 1 and time.steps > 1:
            if rows[0] != self._newest(time):
                raise _no(f"{op_node.name}, which reads another moment than the newest")
            time = _Time(0, 0, time.felt)
        else:
            time = _Time(time.shift + rows[0], len(rows), time.felt)
        self.real[out], self.times[out] = source, time

    def _conv(self, op_node: OpNode, times: Sequence[_Time]) -> None:
        a = op_node.attrs
        if a["in_size"][0] != 1 or a["kernel"][0] != 1 or a["stride"] != (1, 1) or not times[0].steps:
            raise _no(f"{op_node.name}, a convolution over something else than moments, or with a stride")
        taps, dilation = a["kernel"][1], a["dilation"][1]
        reach = (taps - 1) * dilation
        shift = times[0].shift + reach - a["padding"][1]
        time = _Time(shift, a["out_size"][1], _longest([_Time(0, 0, _plus(times[0].felt, reach)), *times[1:]]))
        if any((t.shift, t.steps) != (shift, time.steps) for t in times[1:]):
            raise _no(f"{op_node.name}, whose residual is of other moments")
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
            raise _no(f"{op_node.name}, which reads moments still to come")
        rows, hidden = a["layers"], a["hidden"]
        names = [f"{op_node.writes[0]}:{part}" for part in (("h", "c") if op_node.op == "lstm" else ("h",))]
        for name in names:
            self.buffers[name] = Buffer(rows * hidden, hidden)
            self.states.add(name)
        attrs = {**a, "time": 1, "batch_first": 1, "last_only": 0}
        made = replace(op_node, reads=[op_node.reads[0], *names], writes=[op_node.writes[0], *names], attrs=attrs)
        self._emit(made, _Time(time.shift, time.steps, -1))


def _plus(felt: int, more: int) -> int:
    return -1 if felt < 0 else felt + more


def _longest(times: Sequence[_Time]) -> int:
    felt = [t.felt for t in times]
    return -1 if -1 in felt else max(felt)


def moment_of(example: Any) -> int:
    """The features of a moment: the width of the example, 1 for indices."""
    return int(example.shape[-1]) if example.dim() > 1 else 1
