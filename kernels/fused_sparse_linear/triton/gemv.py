"""The sparse kernels of few rows with the quantization of x in front: one launch.

Each program finds the largest |x| of its rows, rounds them, and holds the int8 numbers in shared memory, from where it gathers
them; kernels of sparse_linear (triton_gemv, triton_semi, triton_semi_int4) with QUANTIZE. So x is rounded once for each
program of eight outputs, which is worth a launch as long as programs are few: rtaccel.plan.sparse_gpu decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import ModuleType

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels._gpu.triton_spec import GPU_DP4A, WIDE_LOAD, Specialisation, power_of_two
from rtaccel.kernels.fused_sparse_linear import contract
from rtaccel.kernels.sparse_linear.triton import gemv, semi, semi_int4
from rtaccel.kernels.sparse_linear.triton.rows import (
    LARGEST,
    KernelConfig,
    held_words,
    more_than_few,
    problem_of_size,
)


def supports_with(kernel: ModuleType) -> Callable[[Problem], str | None]:
    """None, or why not, of one of the kernels. x need not lie in words here: any K will do."""

    def supports(problem: Problem) -> str | None:
        k, n = problem.in_widths[0], problem.out_widths[0]
        if "x_scale" in problem.attrs and not problem.attrs.get("rows_in_front"):
            return "rounds x in each of its programs; the model of sparse layers holds one launch before to be faster"
        whole = contract.inner_problem(problem)
        whole = Problem(**{**vars(whole), "in_widths": (-(-k // 4) * 4, *whole.in_widths[1:])})
        reason: str | None = kernel.supports(whole) or more_than_few(whole)
        if reason is None and not held_words(k, power_of_two(n, 1, 8)):
            return f"holds a row of x in shared memory, for K <= {1024 * power_of_two(n, 1, 8)}, not K = {k}"
        return reason

    return supports


def prepare_with(kernel: ModuleType) -> Callable[[Stage, Problem], Prepared]:
    """x float32 [M, K] -> y [M, N]; any M, best for those of the problem."""

    def prepare(stage: Stage, problem: Problem) -> Prepared:
        how = "static" if contract.is_static(stage) else "rows"
        made: Prepared = kernel.prepare(contract.inner(stage), contract.inner_problem(problem), quantize=how)
        return made

    return prepare


def specializations() -> Iterator[Specialisation]:
    """The forms that are compiled and held to a budget without a GPU."""
    for k, n, rows, (b, c), activation in (
        (1024, 1024, 1, (1, 4), "relu"),
        (1024, 1024, 4, (LARGEST, LARGEST), "none"),
    ):
        config = KernelConfig.of(problem_of_size(k, n, "dynamic", "window", rows, activation=activation), b, c).fused(
            "rows"
        )
        yield gemv.specialize(config, rows).with_requirements(GPU_DP4A, WIDE_LOAD)
    config = KernelConfig.of(problem_of_size(1024, 1024, "dynamic", "2:4", 1), 1, 4).fused("rows")
    yield semi.specialize(config, 1).with_requirements(GPU_DP4A, WIDE_LOAD, semi.PERMUTE)
    for k, n, rows, layout, (b, c), kernel in (
        (4096, 256, 1, "window", (1, 4), gemv), (1024, 1024, 4, "window", (LARGEST, LARGEST), gemv),
        (4096, 256, 1, "2:4", (1, 4), semi),
    ):  # fmt: skip
        config = KernelConfig.of(problem_of_size(k, n, "static", layout, rows, activation="relu"), b, c).fused("static")
        yield kernel.specialize(config, rows).with_requirements(GPU_DP4A, WIDE_LOAD)
    problem = problem_of_size(1024, 1024, "w4a8-dynamic", "2:4", 1, group_size=32)
    config = semi_int4.select_config(problem).fused("rows")
    yield semi_int4.specialize(config, 32, 1).with_requirements(GPU_DP4A, WIDE_LOAD, semi.PERMUTE)


for _kernel in (gemv, semi, semi_int4):
    _name = f"triton_{_kernel.__name__.rpartition('.')[2]}"
    register_impl(Impl("fused_sparse_linear", _name, "triton", 20, supports_with(_kernel), prepare_with(_kernel)))
