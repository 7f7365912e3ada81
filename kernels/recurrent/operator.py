"""The contract of a recurrent operator, from what tells LSTM, GRU and RNN apart, and what passes ask of all.

The traits are their weights and zeros, the rows they need, how they stream, and what they fuse with.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypedDict

from torch import Tensor

from rtaccel.core.registry import Case, Cost, Operator, Tolerance
from rtaccel.core.row_traits import Narrowing, RowsNeeded, Streaming, StreamWalk, TimeSpan, not_streamable
from rtaccel.core.stage import Problem, Stage
from rtaccel.core.stage_traits import Fusion, Int8Flow, Sparse, any_is_static
from rtaccel.core.traits import Node, Persistent, Recurrence, Weights
from rtaccel.kernels.recurrent import layout, reference
from rtaccel.kernels.recurrent.bound import float_tolerance
from rtaccel.kernels.recurrent.cases import cases
from rtaccel.kernels.recurrent.hidden_range import HiddenObserver
from rtaccel.kernels.recurrent.reference import Cell


def _matrices(tensors: Mapping[str, Tensor]) -> Sequence[str]:
    return [name for name in tensors if name.startswith("weight") and not name.endswith("_scale")]


def _of_input(tensors: Mapping[str, Tensor]) -> Sequence[str]:
    """Those of the first layer, in both directions."""
    return [name for name in _matrices(tensors) if name.startswith("weight_ih_l0")]


WEIGHTS = Weights(matrices=_matrices, of_input=_of_input, schemes=("float32", "w8a8", "w4a8"), inside="dynamic")


class RecurrentSparse(Sparse):
    by_layout = True

    def matrices(self, tensors: Mapping[str, Tensor], attrs: Mapping[str, object]) -> Sequence[str]:
        return _matrices(tensors)


def _is_window(stage: Stage) -> bool:
    """Quantized weights, and streams that begin at zeros: the result is all that it gives."""
    return len(stage.inputs) == len(stage.outputs) == 1 and layout.quantized(stage)


def _hands_on_sample(stage: Stage) -> bool:
    """A stream with a NaN or an infinity is NaN in all of its time steps, those before it too. Other streams are not."""
    floats = stage.inputs[0].dtype == stage.outputs[0].dtype == "float32"
    return floats and _is_window(stage) and stage.attrs["batch"] == 1


def _marks(stage: Stage) -> bool:
    """Streams side by side in a sample do not hand on a NaN to each other."""
    beside = stage.attrs["batch"] > 1 and len(stage.inputs) == 1
    return any_is_static(stage) or (beside and "x_scale" in stage.attrs)


class RecurrentFusion(Fusion):
    def static(self, stage: Stage, source: Stage, rows: int) -> Stage | None:
        """With int8 and int4 weights a stage quantizes x itself, with the same scale."""
        quant = source.outputs[0].quant
        if quant is None or stage.tensors["weight_ih_l0"].dtype.itemsize > 1:
            return None
        attrs = {**stage.attrs, "x_scale": quant.scale, "x_zero_point": quant.zero_point}
        return replace(stage, inputs=(source.inputs[0], *stage.inputs[1:]), attrs=attrs)


def _needed(node: Node, index: int, steps: int, wanted: Collection[int]) -> Iterable[int] | None:
    return None


def _narrow(node: Node, values: Narrowing) -> bool:
    """The newest time step may be all that is computed of y; the states are what they are."""
    y = node.writes[0]
    if values.is_narrowed(y) and _is_newest(node.attrs, values.rows_of(y)):
        node.attrs["last_only"] = 1
    else:
        values.keep_all(y)
    return False


def _is_newest(attrs: Mapping[str, Any], wanted: list[int]) -> bool:
    """Whether just the last time step of each inner sample is read, in a layer that runs in one direction."""
    time, batch, first = attrs["time"], attrs["batch"], attrs["batch_first"]
    last = [b * time + time - 1 if first else (time - 1) * batch + b for b in range(batch)]
    return attrs["directions"] == 1 and wanted == last


ROWS = RowsNeeded(_needed, _narrow, beside=True)


def _streaming(recurrence: Recurrence) -> Streaming:
    def step(node: Node, spans: Sequence[TimeSpan], walk: StreamWalk) -> TimeSpan:
        a, span = node.attrs, spans[0]
        first = node.reads[1:]
        if a["directions"] != 1 or a["batch"] != 1 or not span.steps or not all(map(walk.is_constant, first)):
            raise not_streamable(f"{node.name}, which runs backwards, or starts from a state that is computed")
        y, width = node.writes[0], walk.width(node.reads[0])
        rows, rest = divmod(span.inner or width, width or 1)
        late = span.steps - 1 - walk.newest(span)
        if rest or a["time"] != span.steps * rows or late < 0 or (late and a.get("last_only")):
            raise not_streamable(f"{node.name}, which reads time steps still to come")
        names = [walk.add_state(f"{y}:{part}", a["layers"], a["hidden"]) for part in recurrence.states]
        made = names
        if span.shift > 0:  # it begins when the first of its rows is there
            made = [walk.zero_until(node, name, span.shift) for name in names]
        past = [walk.beginning(node, *own, span.shift) for own in zip(names, first)] or names
        for own, name in zip(node.writes[1:] if not late else (), made):
            walk.newest_state(own, name)
        node.reads, node.writes = [node.reads[0], *past], [y, *made]
        node.attrs = {**a, "time": rows, "batch_first": 1, "last_only": 0}
        return TimeSpan(span.shift, span.steps, -1, 1, rows * walk.width(y))

    return Streaming(step, any_layout=True)


class Traits(TypedDict):
    by_row: bool
    weights: Weights
    int8: Int8Flow
    rows_needed: RowsNeeded
    streaming: Streaming
    recurrence: Recurrence
    sparse: Sparse
    fusion: Fusion
    persistent: Persistent | None


class Cells(NamedTuple):
    """What one time step computes: in float64, from quantized weights (None where the operator takes none), and how far off it
    may be in float32."""

    exact: Cell
    quantized: Cell | None
    bound: Callable[..., tuple[Tensor, ...]]

    @property
    def quantizes(self) -> bool:
        return self.quantized is not None

    @property
    def reference(self) -> tuple[Cell, Cell | None]:
        """Those that `reference.compute` chooses from."""
        return self.exact, self.quantized


def traits(recurrence: Recurrence, quantizes: bool, sparse: bool) -> Traits:
    """Fields of `Operator` that all share. sparse: whether there are kernels that leave zeros out, and stacks on a GPU."""
    observer: Callable[[str, bool], HiddenObserver] = HiddenObserver
    return Traits(
        by_row=False,
        weights=WEIGHTS if quantizes else replace(WEIGHTS, schemes=("float32",)),
        int8=Int8Flow(marks=_marks, hands_on_sample=_hands_on_sample, rounds_last=_is_window, state_observer=observer),
        rows_needed=ROWS,
        streaming=_streaming(recurrence),
        recurrence=recurrence,
        sparse=RecurrentSparse() if sparse else Sparse(),
        fusion=RecurrentFusion(),
        persistent=Persistent.STACK if sparse else None,
    )


def operator_of(
    name: str, cells: Cells, sigmoid_gates: tuple[bool, ...], states: tuple[str, ...], sparse: bool = True
) -> Operator:
    """The operator `name`; of as many gates as sigmoid_gates has.

    sparse: as `traits` has it. sigmoid_gates: for each gate, whether it is a sigmoid.
    states: their letters, as in h0 and hn.
    """
    gates = len(sigmoid_gates)

    def lower(stage: Stage) -> Mapping[str, Any]:
        return layout.lower(stage, sigmoid_gates=sigmoid_gates)

    def compute(stage: Stage, *inputs: Tensor) -> tuple[Tensor, ...]:
        return reference.compute(stage, dict(lower(stage)), cells.reference, *inputs)

    def tolerance(stage: Stage, *inputs: Tensor) -> Tolerance:
        """Quantized: the same bits. float32: a running bound."""
        if layout.quantized(stage):
            return Tolerance()
        return float_tolerance(stage, dict(lower(stage)), cells.bound, len(states), cells.quantizes, *inputs)

    def own_cases() -> Iterator[Case]:
        return cases(name, gates, cells.quantizes, sparse)

    def cost(problem: Problem) -> Cost:
        return layout.cost(problem, gates)

    rows, state = (f"{gates}H",), ("M", "L*D*B", "H")
    return Operator(
        name=name,
        axes={
            "x": ("M", "T*B", "K"), **{f"{s}0": state for s in states},
            "weight_ih_l0": (*rows, "K"), "weight_hh_l0": (*rows, "H"), "bias_ih_l0": rows, "bias_hh_l0": rows,
            "y": ("M", "T*B", "D*H"), **{f"{s}n": state for s in states},
        },
        reference=compute,
        cases=own_cases,
        tolerance=tolerance,
        cost=cost,
        lower=lower,
        whole_input=lambda stage: int(stage.attrs["time"]),
        **traits(Recurrence(gates, states), cells.quantizes, sparse),
    )  # fmt: skip
