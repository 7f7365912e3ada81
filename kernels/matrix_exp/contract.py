"""Matrix exponential: y = 1 + a + a^2 / 2 + a^3 / 6 + .. of small matrices a [n, n]; [M, steps, width], computed in float64.

attrs["n"], attrs["count"]: matrices of a sample. They lie one behind the other and by rows, a and y [count * n * n].

A matrix with a number that is not finite has a result of NaN. What is too large for float32 is infinite.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.registry import Case, Cost, Operator, Tolerance, register_operator
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels._matrices import matrices


def lower(stage: Stage) -> Mapping[str, Any]:
    n, count = matrices.attributes(stage, "n", "count")
    matrices.check_within("matrix_exp", n, count=count)
    matrices.check(stage, matrices.squares(stage), {"y": (count, n, n)})
    return {"n": n, "count": count}


def reference(stage: Stage, a: Tensor) -> tuple[Tensor]:
    lower(stage)
    wide = matrices.operands(stage, (a,), matrices.squares(stage))["a"]
    y = matrices.per_matrix(wide, torch.linalg.matrix_exp, tuple(wide.shape[-2:]))
    return (matrices.result(stage, 0, y, len(a)),)


def tolerance(stage: Stage, a: Tensor) -> Tolerance:
    """The result rounds once. In float64 a squaring doubles the error that is there, and the norm doubles as often."""
    wide = matrices.operands(stage, (a,), matrices.squares(stage))["a"]
    y = torch.linalg.matrix_exp(wide)
    off = (
        64 * matrices.EPS_64 * wide.shape[-1] * (1 + wide.abs().sum(-1).amax(-1)[..., None, None]) * matrices.largest(y)
    )
    return Tolerance(atol=(y.abs() * matrices.EPS + off).reshape(reference(stage, a)[0].shape))


def make_stage(n: int, count: int = 1) -> Stage:
    shape = {"a": (count, n, n)}
    made = matrices.values({"y": (count, n, n)})
    return Stage("matrix_exp", "case", matrices.values(shape), made, {}, {"n": n, "count": count})


def cases() -> Iterator[Case]:
    stages = (
        (f"n{n}-x{count}", make_stage(n, count))
        for n, count in ((1, 3), (2, 1), (3, 5), (4, 2), (7, 1), (17, 1), (33, 1))
    )
    yield from matrices.cases(stages, ("normal", "zero", "low rank", "small", "diagonal"), matrices.squares)


def cost(problem: Problem) -> Cost:
    """With one squaring."""
    n, count = problem.attrs["n"], problem.attrs["count"]
    return Cost(bytes=matrices.moved(problem), flops=14 * problem.rows * count * n**3)


OPERATOR = register_operator(
    Operator(
        name="matrix_exp",
        axes={"a": ("M", "steps", "width"), "y": ("M", "steps", "width")},
        reference=reference,
        cases=cases,
        tolerance=tolerance,
        cost=cost,
        lower=lower,
        by_row=False,
    )
)
