"""Eigenvalues of small symmetric matrices a [n, n], from the least one on; [M, steps, width], computed in float64.

attrs["n"], attrs["count"]: matrices of a sample. They lie one behind the other and by rows, a [count * n * n], y [count * n].
Of a the lower triangle is read.

A matrix with a number there that is not finite has eigenvalues of NaN. FormatError: eigenvalues that are not found in 60 steps
each, which no finite matrix is known to need.
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
    matrices.check_within("eigvalsh", n, count=count)
    matrices.check(stage, matrices.squares(stage), {"y": (count, n)})
    return {"n": n, "count": count}


def _values(stage: Stage, a: Tensor) -> Tensor:
    wide = matrices.mirrored(matrices.operands(stage, (a,), matrices.squares(stage))["a"])
    return matrices.per_matrix(wide, torch.linalg.eigvalsh, (wide.shape[-1],))


def reference(stage: Stage, a: Tensor) -> tuple[Tensor]:
    lower(stage)
    return (matrices.result(stage, 0, _values(stage, a), len(a)),)


def tolerance(stage: Stage, a: Tensor) -> Tolerance:
    """The result rounds once. In float64 all are off by so many units of the largest one."""
    y = _values(stage, a)
    off = 8 * (1 + y.shape[-1]) * matrices.EPS_64 * y.abs().amax(-1, keepdim=True)
    return Tolerance(atol=(y.abs() * matrices.EPS / 2 + off).reshape(len(a), *stage.outputs[0].shape))


def make_stage(n: int, count: int = 1) -> Stage:
    made = matrices.values({"y": (count, n)})
    return Stage("eigvalsh", "case", matrices.values({"a": (count, n, n)}), made, {}, {"n": n, "count": count})


SIZES = ((1, 3), (2, 1), (3, 5), (4, 2), (7, 1), (17, 1), (33, 1), (64, 1))


def cases() -> Iterator[Case]:
    yield from matrices.cases(
        ((f"n{n}-x{count}", make_stage(n, count)) for n, count in SIZES), matrices.KINDS, matrices.squares
    )


def cost(problem: Problem) -> Cost:
    n, count = problem.attrs["n"], problem.attrs["count"]
    return Cost(bytes=matrices.moved(problem), flops=problem.rows * count * n * n * (3 * n + 30))


OPERATOR = register_operator(
    Operator(
        name="eigvalsh",
        axes={"a": ("M", "steps", "width"), "y": ("M", "steps", "width")},
        reference=reference,
        cases=cases,
        tolerance=tolerance,
        cost=cost,
        lower=lower,
        by_row=False,
    )
)
