"""Strided expression: y = f(x_0, x_1, ..., constants) by strides over a sample; kernels/_expression/operator.py says the rest."""

from __future__ import annotations

from rtaccel.core.registry import register_operator
from rtaccel.core.stage_traits import ByElements
from rtaccel.core.traits import Role
from rtaccel.kernels._expression import cases, operator
from rtaccel.kernels._expression.in_plans import Followed, Programs, TwoOperands
from rtaccel.kernels._expression.streaming import STREAMING

OPERATOR = register_operator(
    operator.make(
        "strided_expression",
        axes={"x_i": ("M", "steps", "width"), "y": ("M", "steps", "width")},
        cases=cases.by_strides,
        by_row=False,
        planes=ByElements(),
        role=Role.FORMULA,
        squares=Programs(),
        formula=Followed(),
        pairs=TwoOperands(),
        streaming=STREAMING,
    )
)
