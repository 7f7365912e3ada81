"""Fused linear of int8 products in two launches: the first rounds x once and marks its rows, the other multiplies.

Programs that round x themselves would each round the same rows, which costs more than a launch where rows are many and long. A
mark is the scale of a row. With one scale for all it is 1, by which nothing changes, or NaN. So a row that int8 cannot hold is
NaN in y, and no third launch looks at x.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from torch import Tensor

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels._gpu.triton_spec import INT8_MMA, MAX_N, Specialisation
from rtaccel.kernels.fused_linear import contract
from rtaccel.kernels.fused_linear.triton.tensor_core import select_config
from rtaccel.kernels.linear.contract import MAX_K
from rtaccel.kernels.linear.triton.mixed_config import KernelConfig, Operands, specialize
from rtaccel.kernels.quantize.triton.quantize import quantizer


def marked_config(problem: Problem) -> KernelConfig:
    """Of the launch that multiplies. With one scale int8 outputs have no NaN to hand on, and need no marks."""
    scaled = problem.attrs.get("input_format") == "int8" or problem.out_dtypes[0] != "int8"
    return replace(select_config(problem), x="int8", rows="none", scaled=scaled)


def supports(problem: Problem) -> str | None:
    if problem.attrs.get("input_format") not in ("static", "int8"):
        return "rounds float32 x to int8"
    if problem.out_widths[0] > MAX_N:
        return f"has at most 65535 programs along N, for N <= {MAX_N}, not N = {problem.out_widths[0]}"
    if problem.in_widths[0] > MAX_K:
        return f"sums in int32, which holds K <= {MAX_K}, not K = {problem.in_widths[0]}"
    return None


def prepare(stage: Stage, problem: Problem) -> Prepared:
    """x float32 [M, K] and, where the stage has one, residual float32 [M, N] -> y [M, N]; any M."""
    config = marked_config(problem)
    multiply = Operands.of(config, contract.lower(stage), problem.matrix_rows, problem.device).launcher("fused_linear")
    if contract.input_format(stage) == "int8":
        quantize = quantizer(config.k, 0.0, 0, marks=False, dynamic=True)
    else:
        quantize = quantizer(config.k, *contract.static_scale(stage), marks=config.scaled)

    def call(x: Tensor, *residual: Tensor) -> tuple[Tensor, ...]:
        return multiply(*quantize(x), *residual)

    return call


def specializations() -> Iterator[Specialisation]:
    """The forms that are compiled and held to a budget without a GPU."""
    stage = contract.make_stage(1024, 1024, "w8a8-inside", "relu", residual=True)
    yield specialize(marked_config(Problem.of(stage, 32, "cuda")), 32).with_requirements(INT8_MMA)


register_impl(Impl("fused_linear", "triton_marked", "triton", 9, supports, prepare, launches=2))
