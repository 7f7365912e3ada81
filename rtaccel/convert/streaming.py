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
from rtaccel.convert.frontend.graph import DraftGraph
from rtaccel.convert.frontend.nodes import ROW_WISE, Draft, Slot
from rtaccel.convert.passes.fuse_epilogue import fold
from rtaccel.core.errors import UnsupportedProblem

FORMS = (("batch", "time", "features"), ("batch", "features", "time"), ("time", "batch", "features"))
LENGTHS = (61, 67)
"""Moments of the window that a model is traced with where calibration data does not say: primes, unlike any width."""


@dataclass(frozen=True)
class Streamed:
    """A captured model as drafts over one moment. states: names of values kept from call to call. memory: for how many
    further calls a moment is felt, -1 for ever. output: name of what a call gives. form: where the moments were."""

    captured: Captured
    graph: DraftGraph
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


def stream_drafts(model: nn.Module, features: int, dtype: torch.dtype, calibrated: tuple[int, ...] | None) -> Streamed:
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
    left = [d for d in graph.drafts if d.op == "torch"]
    if left:
        raise _no(f"{left[0].name}: {left[0].reason}")
    return _Walk(captured, graph, length, form).run()


class _Walk:
    """Rewrites drafts in order. One use."""

    def __init__(self, captured: Captured, graph: DraftGraph, length: int, form: tuple[str, ...]) -> None:
        self.captured, self.graph, self.length, self.form = captured, graph, length, form
        self.slots = {name: replace(slot) for name, slot in graph.slots.items()}
        self.times: dict[str, _Time] = {}
        self.real: dict[str, str] = {}  # a value that is another's rows over another time: that other
        self.states: set[str] = set()
        self.drafts: list[Draft] = []

    def run(self) -> Streamed:
        source = self.captured.inputs[0]
        slot = self.slots[source]
        if slot.elements % self.length or (slot.width and slot.elements // slot.width != self.length):
            raise _no("an input whose rows are not moments")
        slot.width = slot.elements // self.length
        self.times[source] = _Time(0, self.length, 0)
        for draft in self.graph.drafts:
            self._take(draft)
        found = [self._output(o) for o in self.graph.outputs if isinstance(o, str)]
        outputs = [o for o in found if o is not None]
        if not outputs:
            raise _no("no output over time")
        felt = [time.felt for name, time in self.times.items() if self.real.get(name, name) in outputs]
        for name in set(self.times) - set(self.real):
            self.slots[name] = Slot(self.slots[name].width, self.slots[name].width, self.slots[name].dtype)
        graph = replace(
            self.graph,
            drafts=tuple(fold(self.drafts, {*outputs})),
            slots=self.slots,
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

    def _take(self, draft: Draft) -> None:
        if any(r not in self.times for r in draft.reads):
            raise _no(f"{draft.name}, which reads the final state of a recurrent layer")
        times = [self.times[r] for r in draft.reads]
        draft = replace(draft, reads=[self.real.get(r, r) for r in draft.reads], attrs=dict(draft.attrs))
        if draft.op in (*ROW_WISE, "concat", "embedding"):
            self._rows(draft, times)
        elif draft.op == "rearrange":
            self._gather(draft, times[0])
        elif draft.op == "conv":
            self._conv(draft, times)
        elif draft.op in ("lstm", "gru"):
            self._recurrent(draft, times[0])
        else:
            raise _no(f"{draft.name} ({draft.op}), which looks at all moments at once")

    def _rows(self, draft: Draft, times: Sequence[_Time]) -> None:
        if len({(t.shift if t.steps else None, t.steps) for t in times}) != 1:
            raise _no(f"{draft.name}, which brings different moments together")
        self._emit(draft, replace(times[0], felt=_longest(times)))

    def _emit(self, draft: Draft, time: _Time) -> None:
        out = draft.writes[0]
        if time.steps and self.slots[out].steps != time.steps:
            raise _no(f"{draft.name}, whose rows are not moments")
        self.drafts.append(draft)
        self.times[out] = time

    def _gather(self, draft: Draft, time: _Time) -> None:
        """Rows of a value: a run of them is another shift, the newest alone is the moment itself."""
        rows = draft.attrs.get("rows")
        source, out = draft.reads[0], draft.writes[0]
        if rows is None and source in self.captured.inputs:
            width, index = self.slots[source].width, draft.attrs["index"]
            moments = range(index[0], index[0] + len(index) // width)
            turned = tuple(c * self.length + r for r in moments for c in range(width))
            if index == turned and self.slots[out].width == width:
                rows = tuple(moments)  # [features, moments] turned round, or a part of it: a moment is the same
        if rows is None or not time.steps or rows != tuple(range(rows[0], rows[0] + len(rows))):
            raise _no(f"{draft.name}, which picks other elements than whole moments in order")
        if len(rows) == 1 and time.steps > 1:
            if rows[0] != self._newest(time):
                raise _no(f"{draft.name}, which reads another moment than the newest")
            time = _Time(0, 0, time.felt)
        else:
            time = _Time(time.shift + rows[0], len(rows), time.felt)
        self.real[out], self.times[out] = source, time

    def _conv(self, draft: Draft, times: Sequence[_Time]) -> None:
        a = draft.attrs
        if a["in_size"][0] != 1 or a["kernel"][0] != 1 or a["stride"] != (1, 1) or not times[0].steps:
            raise _no(f"{draft.name}, a convolution over something else than moments, or with a stride")
        taps, dilation = a["kernel"][1], a["dilation"][1]
        reach = (taps - 1) * dilation
        shift = times[0].shift + reach - a["padding"][1]
        time = _Time(shift, a["out_size"][1], _longest([_Time(0, 0, _plus(times[0].felt, reach)), *times[1:]]))
        if any((t.shift, t.steps) != (shift, time.steps) for t in times[1:]):
            raise _no(f"{draft.name}, whose residual is of other moments")
        x, channels = draft.reads[0], self.slots[draft.reads[0]].width
        ring = f"{draft.writes[0]}:ring"
        self.slots[ring] = Slot((reach + 1) * channels, channels)
        self.states.add(ring)
        attrs: dict[str, Any] = {k: a[k] for k in ("groups", "activation", "activation_parameter") if k in a}
        attrs |= {"stream": 1, "kernel": (1, taps), "dilation": (1, dilation)}
        made = replace(draft, reads=[x, ring, *draft.reads[1:]], writes=[draft.writes[0], ring], attrs=attrs)
        self._emit(made, time)

    def _recurrent(self, draft: Draft, time: _Time) -> None:
        a = draft.attrs
        if a["directions"] != 1 or a["batch"] != 1 or len(draft.reads) != 1 or not time.steps:
            raise _no(f"{draft.name}, which runs backwards, or starts from a state that is given")
        if a["time"] != time.steps or self._newest(time) != time.steps - 1:
            raise _no(f"{draft.name}, which reads moments still to come")
        rows, hidden = a["layers"], a["hidden"]
        names = [f"{draft.writes[0]}:{part}" for part in (("h", "c") if draft.op == "lstm" else ("h",))]
        for name in names:
            self.slots[name] = Slot(rows * hidden, hidden)
            self.states.add(name)
        attrs = {**a, "time": 1, "batch_first": 1, "last_only": 0}
        made = replace(draft, reads=[draft.reads[0], *names], writes=[draft.writes[0], *names], attrs=attrs)
        self._emit(made, _Time(time.shift, time.steps, -1))


def _plus(felt: int, more: int) -> int:
    return -1 if felt < 0 else felt + more


def _longest(times: Sequence[_Time]) -> int:
    felt = [t.felt for t in times]
    return -1 if -1 in felt else max(felt)


def moment_of(example: Any) -> int:
    """The features of a moment: the width of the example, 1 for indices."""
    return int(example.shape[-1]) if example.dim() > 1 else 1
