"""LSTM: all layers and directions of an nn.LSTM, over a window or one time step of a stream.

    i, f, g, o = W_x x_t + b_x + W_h h + b_h         sigmoid for i, f, o; tanh for g
    c = f * c + i * g,   h = o * tanh(c)

inputs (x, h0, c0) or (x,), where the states start at zero; outputs (y, hn, cn) or (y,). Layout of the values, names of
tensors and attributes: kernels/recurrent/layout.py. With int8 and int4 weights the arithmetic is fixed to the bit:
kernels/recurrent/reference.py. A kernel reads a state before it writes it, so h0 and hn may be one value: a
stream then is the same stage with time = 1.

A stream (a sample, one of its batch) that holds a NaN or an infinity in x, h0 or c0 comes out as NaN everywhere with int8
and int4 weights; with float32 it goes where the formulas take it. Other streams are not touched.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from rtaccel.core.registry import Case, Cost, Operator, Tolerance, register_operator
from rtaccel.core.stage import Problem, Stage
from rtaccel.core.traits import Recurrence
from rtaccel.kernels.recurrent import layout
from rtaccel.kernels.recurrent import reference as meaning
from rtaccel.kernels.recurrent.bound import float_tolerance
from rtaccel.kernels.recurrent.cases import cases as cases_of
from rtaccel.kernels.recurrent.convert import traits

GATES = 4
CELLS = (meaning.lstm_cell, meaning.quantized_lstm_cell)


def lower(stage: Stage) -> Mapping[str, Any]:
    return layout.lower(stage, sigmoid_gates=(True, True, False, True))


def reference(stage: Stage, *inputs: Tensor) -> tuple[Tensor, ...]:
    return meaning.compute(stage, dict(lower(stage)), CELLS, *inputs)


def tolerance(stage: Stage, *inputs: Tensor) -> Tolerance:
    """Quantized: the same bits. float32: a running bound."""
    return Tolerance() if layout.quantized(stage) else float_tolerance(stage, dict(lower(stage)), *inputs)


def cases() -> Iterator[Case]:
    return cases_of("lstm", GATES)


def cost(problem: Problem) -> Cost:
    return layout.cost(problem, GATES)


OPERATOR = register_operator(
    Operator(
        name="lstm",
        axes={
            "x": ("M", "T*B", "K"), "h0": ("M", "L*D*B", "H"), "c0": ("M", "L*D*B", "H"),
            "weight_ih_l0": ("4H", "K"), "weight_hh_l0": ("4H", "H"), "bias_ih_l0": ("4H",), "bias_hh_l0": ("4H",),
            "y": ("M", "T*B", "D*H"), "hn": ("M", "L*D*B", "H"), "cn": ("M", "L*D*B", "H"),
        },
        reference=reference,
        cases=cases,
        tolerance=tolerance,
        cost=cost,
        lower=lower,
        **traits(Recurrence(GATES, ("h", "c"))),
    )
)  # fmt: skip
