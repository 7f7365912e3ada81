"""Softmax over the columns: y[m, c] = exp(x[m, c] - max_c x) / sum_c exp(...), float32 [M, C]."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from rtaccel.core.registry import Case, Cost, Operator, Tolerance, register_operator
from rtaccel.core.stage import Problem, Stage, Value


def reference(stage: Stage, x: Tensor) -> tuple[Tensor]:
    return (torch.softmax(x.double(), -1).float(),)


def tolerance(stage: Stage, x: Tensor) -> Tolerance:
    """exp within 2 units, a sum of C terms, a division; y <= 1. The argument x - max rounds once, which
    moves exp by |x - max| * eps relative, and exp(-d) * d <= 0.37."""
    eps = torch.finfo(torch.float32).eps
    return Tolerance(atol=eps * (4 + x.shape[1]) * torch.softmax(x.double(), -1) + eps)


def cases() -> Iterator[Case]:
    for rows, c in ((1, 1), (1, 5), (3, 17), (2, 64), (5, 131)):

        def make(seed: int, rows: int = rows, c: int = c) -> tuple[Tensor, ...]:
            return (torch.randn(rows, c, generator=torch.Generator().manual_seed(seed)) * 6,)

        yield Case(f"M{rows}-C{c}", Stage("softmax", "case", (Value("x", c),), (Value("y", c),)), make)


def cost(problem: Problem) -> Cost:
    elements = problem.matrix_rows * problem.out_widths[0]
    return Cost(bytes=8 * elements, flops=4 * elements)


OPERATOR = register_operator(
    Operator(
        name="softmax",
        axes={"x": ("M", "C"), "y": ("M", "C")},
        reference=reference,
        cases=cases,
        tolerance=tolerance,
        cost=cost,
        lower=lambda stage: {},
    )
)
