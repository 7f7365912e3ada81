"""Many streams in a graph: their states stay in the device's memory, and a time step of all of them is one replay.

A stage reads states and gives new ones, as it does other values. So a group with states becomes one that has them at its edge,
before and after (`with_states`). What a stage makes of a state that nobody reads any more it writes where that lies. Else the
graph copies it there at its end, as where a kernel reads all states of a layer and writes new ones.

A ring of past columns lies by the number of the call, as on the CPU. Each stream counts its own calls, in the device's memory,
for all of its rings: so a step writes one column of each, and some of the streams may go on alone.

int8 has no number for a NaN. Where a stage rounds to it, the plan marks the stream (`marks.py`), and a count says for how many
further steps its results are NaN: as long as the model could feel it, or for ever. That is what a stream on the CPU does.

A model with state of its own is one stream whose states begin with numbers of its own. All of a call is its sample. What a stage
keeps (`Role.KEEP`) is no launch: what it would have copied is the new state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rtaccel.backends.cuda_errors import translated
from rtaccel.core.errors import FormatError
from rtaccel.core.registry import operator
from rtaccel.core.stage import GraphIO, Stage, Value
from rtaccel.core.traits import Role
from rtaccel.plan.group import StagedPlan, Subgraph
from rtaccel.runtime.gpu.device import DeviceLayer
from rtaccel.runtime.gpu.graph import GraphPlan
from rtaccel.runtime.gpu.marks import Marks
from rtaccel.runtime.gpu.past.columns import from_bytes, size_of, to_bytes, turned

if TYPE_CHECKING:
    from rtaccel.kernels._core.cpu import States

MARK = Value("stream:mark", 1)
"""Zeros on their way in; a stream's is NaN on its way out where int8 could not hold its numbers."""

TICK = Value("stream:tick", 1, "int64")
"""The calls of a stream so far."""

FOR_EVER = -1
"""How long a mark lasts in a model that keeps states of its own."""


@dataclass(frozen=True)
class StatedGroup:
    """whole: with its states, and the mark, at the edge. before, after: values of each state; after is before where no stage
    writes it. begins: by name, what states of a model hold before its first call; those of streams are zeros, in int8 too. rings:
    names of states whose rows lie by the number of the call."""

    whole: Subgraph
    before: tuple[Value, ...]
    after: tuple[Value, ...]
    begins: Mapping[str, Tensor]
    rings: frozenset[str]

    @property
    def followed(self) -> list[tuple[str, str]]:
        """(the new state, the state): where the one may be written over the other. What is a result as well, or new for two
        states, has memory of its own."""
        edge = [port.value.name for port in self.whole.outputs]
        ends = zip(self.after, self.before)
        return [(new.name, old.name) for new, old in ends if new is not old and edge.count(new.name) == 1]


def beginnings(stages: Iterable[Stage]) -> dict[str, Tensor]:
    """By the name of each state that stages keep: its numbers before the first call."""
    return {s.outputs[0].name: s.tensors["initial"] for s in stages if operator(s.op).role is Role.KEEP}


def with_states(group: Subgraph, names: frozenset[str]) -> StatedGroup:
    """A value that is written again has another name from there on. States are in the order in which stages name them, as in a
    native plan."""
    stages: list[Stage] = []
    before, latest = dict[str, Value](), dict[str, Value]()
    begins, rings = beginnings(group.stages), set[str]()
    for stage in group.stages:
        before |= {v.name: v for v in (*stage.inputs, *stage.outputs) if v.name in names and v.name not in before}
        inputs = tuple(latest.get(v.name, v) for v in stage.inputs)
        if stage.outputs[0].name in begins:  # it keeps a state: nothing behind it reads one
            latest[stage.outputs[0].name] = inputs[0]
            continue
        streaming = operator(stage.op).streaming
        if streaming is not None and streaming.by_tick is not None and stage.outputs[-1].name in names:
            rings.add(stage.outputs[-1].name)
            stage, inputs = streaming.by_tick(stage, TICK), (*inputs[:2], TICK, *inputs[2:])
        outputs = []
        for v in stage.outputs:
            made = replace(v, name=f"{v.name}:after{len(stages)}") if v.name in names else v
            if v.name in names:
                latest[v.name] = made
            outputs.append(made)
        stages.append(replace(stage, inputs=inputs, outputs=tuple(outputs)))
    after = tuple(latest.get(name, value) for name, value in before.items())
    ends = [
        tuple(GraphIO(v, 0 if begins else 1, v.shape) for v in (MARK, *values)) for values in (before.values(), after)
    ]
    tick = [GraphIO(TICK, 0 if begins else 1, TICK.shape)] * bool(rings)
    whole = Subgraph(
        tuple(stages), (*group.inputs, *ends[0], *tick), (*group.outputs, *ends[1]), frozenset(v.name for v in after)
    )
    return StatedGroup(whole, tuple(before.values()), after, begins, frozenset(rings))


class GraphStream(GraphPlan):
    """A plan whose calls are time steps of all streams. staged: of `stated.whole`. group: without states."""

    NEXT = "Please report the model; a stream on the CPU has no graph."
    saves_as_native = True
    """`save_state` gives the bytes of a native plan of the same program."""

    def __init__(
        self, staged: StagedPlan, layer: DeviceLayer, group: Subgraph, stated: StatedGroup, states: States
    ) -> None:
        self._memory = states.memory
        self._values, device = stated.before, layer.device
        self._after = [after.name for after in stated.after]
        self._written = [after is not before for before, after in zip(stated.before, stated.after)]
        count = states.samples
        self._states = [
            torch.zeros((count, *v.shape), dtype=getattr(torch, v.dtype), device=device) for v in self._values
        ]
        self.state_bytes = sum(t.numel() * t.element_size() for t in self._states)
        self._rings = [v.name in stated.rings for v in self._values]
        self.begin(stated.begins)
        for state, begin in zip(self._states, self._begins):
            state.copy_(begin)
        self._is_one = bool(stated.begins)  # all of a call is one sample
        self._left = torch.zeros(count, dtype=torch.int32, device=device)
        self._ticks = torch.zeros((count, 1), dtype=torch.int64, device=device) if stated.rings else None
        self._zeros = torch.zeros((count, 1), device=device)
        self._in_place = staged.placed = staged.places(stated.followed)
        self._marks = Marks(staged, group, stated.after, states.memory, bool(stated.rings))
        super().__init__(staged, layer, count, group)
        self.scratch_bytes = self.state_bytes

    def _fits(self, tensors: tuple[Tensor, ...], ports: tuple[GraphIO, ...]) -> bool:
        """Of all streams and no others."""
        if not super()._fits(tensors, ports):
            return False
        return all(t.shape[: p.lead].numel() == self._samples for t, p in zip(tensors, ports) if p.lead)

    def begin(self, begins: Mapping[str, Tensor]) -> None:
        """What states hold before the first call and after a reset, by name; zeros where nothing is said."""
        self._begins = []
        for state, v in zip(self._states, self._values):
            zero = torch.tensor(0 if v.quant is None else v.quant.zero_point, dtype=state.dtype, device="cpu")
            begin = begins.get(v.name)
            self._begins.append((zero if begin is None else begin.view(state.shape[1:])).to(state.device))

    # -- a time step -----------------------------------------------------------------------------------------------

    def _advanced(
        self, inputs: tuple[Tensor, ...], states: Sequence[Tensor], left: Tensor, ticks: Tensor | None
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """(results, new states) of as many streams as the tensors have. left and ticks are written over."""
        beside = (self._zeros[: left.numel()], *states, *(() if ticks is None else (ticks,)))
        if self._is_one:
            beside = tuple(t[0] for t in beside)
        self._staged.marking = self._marks.inside(left, ticks)
        found = self._taken(self._staged.call((*inputs, *beside)), inputs)
        ends = len(self._group.outputs)
        results, mark, after = found[:ends], found[ends], found[ends + 1 :]
        if self._is_one:
            self._marks.behind(mark[None], left, ticks, [y[None] for y in results], [state[None] for state in after])
        else:
            self._marks.behind(mark, left, ticks, results, after)
        return results, after

    def _launched(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        results, after = self._advanced(inputs, self._states, self._left, self._ticks)
        for state, new, name, written in zip(self._states, after, self._after, self._written):
            if written and name not in self._staged.placed:
                state.copy_(new.view(state.shape))
        return results

    def _any_kept(self, kept: Sequence[Tensor]) -> Sequence[Tensor]:
        """States of random numbers, but for those of one number, which count."""
        states, others = kept[: len(self._states)], kept[len(self._states) :]
        plain = [v.dtype not in ("float32", "int8") or v.steps * v.width == 1 for v in self._values]
        return (*(t if same else _random(t) for t, same in zip(states, plain)), *others)

    def _compared(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Nothing is written over a state that may still be read."""
        self._staged.placed = {}
        try:
            return self._launched(inputs)
        finally:
            self._staged.placed = self._in_place

    def _kept(self) -> tuple[Tensor, ...]:
        return (*self._states, self._left, *(() if self._ticks is None else (self._ticks,)), *self._staged.kept)

    def held(self) -> dict[str, Tensor]:
        ticks = {} if self._ticks is None else {TICK.name: self._ticks}
        return {MARK.name: self._zeros, **ticks, **{v.name: state for v, state in zip(self._values, self._states)}}

    # -- some of the streams ---------------------------------------------------------------------------------------

    def call_some(self, inputs: tuple[Tensor, ...], streams: Tensor) -> Any:
        """A time step of these, their kernels launched one by one; the others stand still. None where tensors do not fit. Raises
        ValueError for a stream that there is not, or twice, with nothing changed."""
        fits = streams.dtype == torch.int64 and streams.dim() == 1
        rows = [t for t in inputs if isinstance(t, Tensor) and t.dim() and t.shape[0] == len(streams)]
        if not fits or len(rows) != len(inputs):
            return None
        if not StagedPlan._fits(self, inputs, self._group.inputs):
            return None
        numbers = streams.tolist()
        if any(not 0 <= s < self._samples for s in numbers):
            raise ValueError("a stream that there is not")
        if len(set(numbers)) != len(numbers):
            raise ValueError("a stream twice")
        at = streams.to(self._left.device)
        if not numbers:
            made = tuple(
                torch.empty((0, *p.trailing), dtype=getattr(torch, p.value.dtype), device=at.device)
                for p in self._group.outputs
            )
            return made[0] if len(made) == 1 else made
        with translated("step", self._layer.free_text), self._order:
            past, left = [s.index_select(0, at) for s in self._states], self._left.index_select(0, at)
            ticks = None if self._ticks is None else self._ticks.index_select(0, at)
            results, after = self._advanced(inputs, past, left, ticks)
            for state, new in zip(self._states, after):
                state.index_copy_(0, at, new.view(len(numbers), *state.shape[1:]))
            self._left.index_copy_(0, at, left)
            if ticks is not None and self._ticks is not None:
                self._ticks.index_copy_(0, at, ticks)
        return results[0] if len(results) == 1 else tuple(results)

    def run_some(self, inputs: tuple[Tensor, ...], outputs: Any, streams: Tensor) -> bool:
        outs = (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)
        shapes = [(len(streams), *p.trailing) for p in self._group.outputs]
        if [tuple(o.shape) for o in outs] != shapes or not StagedPlan._fits(self, outs, self._group.outputs):
            return False
        results = self.call_some(inputs, streams)
        if results is None:
            return False
        for out, result in zip(outs, (results,) if isinstance(results, Tensor) else results):
            out.copy_(result)
        return True

    # -- the past --------------------------------------------------------------------------------------------------

    def reset(self, first: int, count: int) -> None:
        with self._order:
            for state, begin in zip(self._states, self._begins):
                state[first : first + count] = begin
            for t in (self._left, *(() if self._ticks is None else (self._ticks,)), *self._staged.kept):
                t[first : first + count].zero_()

    def save_state(self) -> bytes:
        """As a native plan of the same program saves it: states by name, [streams, rows, bytes of a row], how long each stream
        is marked, how many steps it is behind, the tick. Waits for the steps so far."""
        return self._saved(slice(0, self._samples)) + bytes(8 * self._samples + 8)

    def load_state(self, state: bytes) -> None:
        """Raises ValueError, with nothing changed, for bytes that `save_state` of the same program did not give."""
        held, ending = self._parted(state, self._samples, 2 * self._samples + 1)
        steps = ending[-1] - ending[self._samples : -1]  # of each stream, which may be behind the others
        if ending[-1] < 0 or bool((steps < 0).any()):
            raise ValueError(f"a state after {int(min(ending[-1], steps.min()))} calls")
        self._set(slice(0, self._samples), held, ending[: self._samples], steps)

    def save_stream(self, stream: int) -> bytes:
        return self._saved(slice(stream, stream + 1)) + bytes(8)

    def load_stream(self, stream: int, state: bytes) -> None:
        held, ending = self._parted(state, 1, 2)
        if ending[-1] < 0:
            raise ValueError(f"a stream after {int(ending[-1])} steps")
        self._set(slice(stream, stream + 1), held, ending[:1], ending[1:])

    def _saved(self, streams: slice) -> bytes:
        with self._order:
            ticks = None if self._ticks is None else self._ticks[streams]
            each = zip(self._states, self._rings)
            held = b"".join(to_bytes(state[streams], ticks if ring else None) for state, ring in each)
            left = self._left[streams].cpu().to(torch.int64)
        return held + left.numpy().tobytes()

    def _parted(self, state: bytes, streams: int, numbers: int) -> tuple[list[Tensor], Tensor]:
        """(each state, the whole numbers behind them)."""
        sizes = [streams * size_of(v) for v in self._values]
        if len(state) != sum(sizes) + 8 * numbers:
            raise ValueError(f"{sum(sizes) + 8 * numbers} bytes expected")
        held, at = [], 0
        for v, size in zip(self._values, sizes):
            held.append(from_bytes(state[at : at + size], v))
            at += size
        return held, torch.frombuffer(bytearray(state[at:]), dtype=torch.int64)

    def _set(self, streams: slice, held: Sequence[Tensor], left: Tensor, steps: Tensor) -> None:
        """steps: calls of each stream, by which its rings lie. From here on it counts from 0."""
        allowed = (left == 0) | (left == self._memory) | ((left > 0) & (left <= self._memory))
        if not bool(allowed.all()):
            raise ValueError(f"a mark for {int(left[~allowed][0])} calls")
        with self._order:
            for state, given, ring in zip(self._states, held, self._rings):
                given = turned(given, -steps) if ring else given
                state[streams].copy_(given.view(state[streams].shape))
            self._left[streams].copy_(left)
            if not self._marks.kept:
                self._spoil(streams)
            if self._ticks is not None:
                self._ticks[streams].zero_()

    def _spoil(self, streams: slice) -> None:
        """In a plan without marks what is not finite is in the states, where a past of the CPU has zeros and a mark."""
        marked = self._left[streams] != 0
        for state, v in zip(self._states, self._values):
            counts = self._memory >= 0 and v.steps * v.width == 1
            if v.dtype == "float32" and not counts:
                state[streams][marked] = float("nan")
        self._left[streams].zero_()

    def note(self) -> str:
        what = "with its state" if self._is_one else f"for a time step of {self._samples} streams"
        return f"one CUDA graph {what}; {self.state_bytes:,} B of states stay on the device"


def _random(t: Tensor) -> Tensor:
    return torch.randn_like(t) if t.is_floating_point() else torch.randint_like(t, -128, 128)


def graph_stream(
    group: Subgraph, states: States, layer: DeviceLayer, plan: Callable[[Subgraph], tuple[Any, Any]]
) -> tuple[GraphStream, Any]:
    """(the plan of streams, the kernels that were chosen). plan: of a group without states."""
    stated = with_states(group, states.names)
    staged, choices = plan(stated.whole)
    if not isinstance(staged, StagedPlan):
        raise FormatError("stream", f"a {type(staged).__name__}", "a plan of kernels", "Leave backend= out.")
    with translated("graph", layer.free_text):
        return GraphStream(staged, layer, group, stated, states), choices
