"""Pointwise: y = act(x * scale + shift + other), float32, on matrices [M, C].

scale and shift [C] are optional and go together (a BatchNorm that found no linear layer to fold into);
`other` [M, C] is an optional second input (a residual). Product, sum and residual each round once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.registry import Case, Cost, Operator, Tolerance, register_operator
from rtaccel.core.stage import Problem, Stage, Value
from rtaccel.kernels._shared import activations


def lower(stage: Stage) -> Mapping[str, Any]:
    low: dict[str, Any] = {
        "activation": stage.attrs.get("activation", "none"),
        "activation_parameter": float(stage.attrs.get("activation_parameter", 0.0)),
    }
    if "scale" in stage.tensors:
        low["scale"], low["shift"] = stage.tensors["scale"], stage.tensors["shift"]
    return low


def _before_activation(stage: Stage, x: Tensor, other: Tensor | None) -> Tensor:
    if "scale" in stage.tensors:
        x = x * stage.tensors["scale"] + stage.tensors["shift"]
    return x if other is None else x + other


def reference(stage: Stage, x: Tensor, other: Tensor | None = None) -> tuple[Tensor]:
    low = lower(stage)
    t = _before_activation(stage, x, other)
    return (activations.apply(low["activation"], t.double(), low["activation_parameter"]).float(),)


def tolerance(stage: Stage, x: Tensor, other: Tensor | None = None) -> Tolerance:
    act = stage.attrs.get("activation", "none")
    if act in ("none", "relu"):
        return Tolerance()
    t = _before_activation(stage, x, other)
    if act == "leaky_relu":  # the reference multiplies in float64, so its one rounding may differ by a unit
        return Tolerance(atol=t.abs() * torch.finfo(torch.float32).eps)
    return Tolerance(atol=activations.error(act, t))


def make_stage(c: int, activation: str, parameter: float, affine: bool, residual: bool) -> Stage:
    g = torch.Generator().manual_seed(c)
    tensors = {"scale": torch.randn(c, generator=g), "shift": torch.randn(c, generator=g)} if affine else {}
    inputs = (Value("x", c), Value("r", c)) if residual else (Value("x", c),)
    attrs = {"activation": activation, "activation_parameter": parameter}
    return Stage("pointwise", "case", inputs, (Value("y", c),), tensors, attrs)


def cases() -> Iterator[Case]:
    parameters = {"leaky_relu": 0.1, "elu": 1.3}
    for index, act in enumerate(activations.ACTIVATIONS):
        for rows, c in ((1, 1), (3, 17), (2, 64), (5, 131)):
            affine, residual = bool((index + c) % 2), bool((index + rows) % 2)
            stage = make_stage(c, act, parameters.get(act, 0.0), affine, residual)

            def make(seed: int, rows: int = rows, c: int = c, n: int = len(stage.inputs)) -> tuple[Tensor, ...]:
                g = torch.Generator().manual_seed(seed)
                return tuple(torch.randn(rows, c, generator=g) * 4 for _ in range(n))

            label = f"{act}{'-affine' if affine else ''}{'-residual' if residual else ''}"
            yield Case(f"M{rows}-C{c}-{label}", stage, make)


def cost(problem: Problem) -> Cost:
    elements = problem.matrix_rows * problem.out_widths[0]
    return Cost(bytes=4 * elements * (len(problem.in_widths) + 1), flops=2 * elements)


OPERATOR = register_operator(
    Operator(
        name="pointwise",
        axes={"x": ("M", "C"), "other": ("M", "C"), "scale": ("C",), "shift": ("C",), "y": ("M", "C")},
        reference=reference,
        cases=cases,
        tolerance=tolerance,
        cost=cost,
        lower=lower,
    )
)
