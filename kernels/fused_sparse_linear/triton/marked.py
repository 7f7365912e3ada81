"""A sparse layer of x with one scale in two launches: the first rounds x once and marks its rows, the other multiplies.

The kernels that multiply are those of `sparse_linear`. A mark is the scale of a row: 1, by which nothing changes, or NaN.
"""

from __future__ import annotations

from torch import Tensor

from rtaccel.core.registry import Impl, Prepared, impls, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels.fused_linear.contract import static_scale
from rtaccel.kernels.fused_sparse_linear import contract
from rtaccel.kernels.quantize.triton.quantize import quantizer


def inner_problem(problem: Problem) -> Problem:
    """int8 outputs have no NaN to hand on."""
    return contract.inner_problem(problem, marked=problem.out_dtypes[0] != "int8")


def multiplying(problem: Problem) -> tuple[Impl | None, str | None]:
    """(the kernel that multiplies, why the last one does not)."""
    reason: str | None = None
    for impl in impls("triton", "sparse_linear"):
        reason = impl.supports(inner_problem(problem))
        if reason is None:
            return impl, None
    return None, reason


def supports(problem: Problem) -> str | None:
    if "x_scale" not in problem.attrs:
        return "rounds float32 x by one scale for all rows"
    return multiplying(problem)[1]


def prepare(stage: Stage, problem: Problem) -> Prepared:
    """x float32 [M, K] -> y [M, N]; any M, best for those of the problem."""
    impl, reason = multiplying(problem)
    assert impl is not None, reason
    multiply = impl.prepare(contract.inner(stage), inner_problem(problem))
    marks = len(inner_problem(problem).in_widths) > 1
    quantize = quantizer(problem.in_widths[0], *static_scale(stage), marks=marks)

    def call(x: Tensor) -> tuple[Tensor, ...]:
        return multiply(*quantize(x))

    return call


register_impl(Impl("fused_sparse_linear", "triton_marked", "triton", 10, supports, prepare, launches=2))
