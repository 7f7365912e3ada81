"""Expression: y = f(x_0, x_1, ..., constants) on matrices, every row alike; kernels/_expression/operator.py says the rest."""

from __future__ import annotations

from rtaccel.core.registry import register_operator
from rtaccel.core.row_traits import ROW_BY_ROW, STREAMS_ELEMENTS
from rtaccel.core.stage_traits import EachElement
from rtaccel.kernels._expression import cases, operator
from rtaccel.kernels._expression.in_plans import Followed, Programs

OPERATOR = register_operator(
    operator.make(
        "expression",
        axes={"x_i": ("M", "C"), "c_i": ("C",), "y": ("M", "C")},
        cases=cases.by_row,
        rows_needed=ROW_BY_ROW,
        squares=Programs(),
        formula=Followed(),
        streaming=STREAMS_ELEMENTS,
        planes=EachElement(broadcasts=True),
    )
)
