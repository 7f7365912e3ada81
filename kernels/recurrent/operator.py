"""The contract of a recurrent operator, from what tells LSTM and GRU apart: the gates, the cells and the states."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from rtaccel.core.registry import Case, Cost, Operator, Tolerance
from rtaccel.core.stage import Problem, Stage
from rtaccel.core.traits import Recurrence
from rtaccel.kernels.recurrent import layout, reference
from rtaccel.kernels.recurrent.bound import float_tolerance
from rtaccel.kernels.recurrent.cases import cases
from rtaccel.kernels.recurrent.convert import traits
from rtaccel.kernels.recurrent.reference import Cell


def operator_of(
    name: str, cells: tuple[Cell, Cell], sigmoid_gates: tuple[bool, ...], states: tuple[str, ...]
) -> Operator:
    """The operator `name`; of as many gates as sigmoid_gates has.

    cells: of float32, and of quantized weights. sigmoid_gates: for each gate, whether it is a sigmoid.
    states: their letters, as in h0 and hn.
    """
    gates = len(sigmoid_gates)

    def lower(stage: Stage) -> Mapping[str, Any]:
        return layout.lower(stage, sigmoid_gates=sigmoid_gates)

    def compute(stage: Stage, *inputs: Tensor) -> tuple[Tensor, ...]:
        return reference.compute(stage, dict(lower(stage)), cells, *inputs)

    def tolerance(stage: Stage, *inputs: Tensor) -> Tolerance:
        """Quantized: the same bits. float32: a running bound."""
        return Tolerance() if layout.quantized(stage) else float_tolerance(stage, dict(lower(stage)), *inputs)

    def own_cases() -> Iterator[Case]:
        return cases(name, gates)

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
        **traits(Recurrence(gates, states)),
    )  # fmt: skip
