"""`mixed_kernel` as an implementation of linear: bfloat16, W8A16, W4A16, W4A8, and W8A8 where K is worth cutting."""

from __future__ import annotations

from collections.abc import Iterator

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.core.weight_format import WeightFormat
from rtaccel.kernels._gpu.triton_spec import ASYNC_COPY, BF16_MMA, INT8_MMA, MAX_N, WIDE_LOAD, Specialisation
from rtaccel.kernels.linear import contract, contract_weights
from rtaccel.kernels.linear.triton.mixed_config import WEIGHTS, KernelConfig, Operands, specialize, split_of


def supports(problem: Problem) -> str | None:
    if problem.weight_format is WeightFormat.FLOAT32:
        return "has no form for float32 weights, which torch multiplies"
    if problem.out_widths[0] > MAX_N:
        return f"has at most 65535 programs along N, for N <= {MAX_N}, not N = {problem.out_widths[0]}"
    if problem.weight_format not in WEIGHTS:
        return f"has no form for {problem.weight_format} weights"
    if problem.in_dtypes[0] == "int8" and problem.in_widths[0] > contract.MAX_K:
        return f"sums in int32, which holds K <= {contract.MAX_K}, not K = {problem.in_widths[0]}"
    if problem.weight_format is WeightFormat.INT8 and problem.in_dtypes[0] == "int8":
        config = KernelConfig.of_linear(problem)
        if split_of(config, problem.matrix_rows) == 1:
            return "takes W8A8 where K is cut among programs, and here there are tiles enough, or too few steps"
    return None


def prepare(stage: Stage, problem: Problem) -> Prepared:
    """x [M, K] and, with dynamic rows, row_scale float32 [M, 1] -> y [M, N]; any M, best for those of the problem."""
    config = KernelConfig.of_linear(problem)
    return Operands.of(config, contract.lower(stage), problem.matrix_rows, problem.device).launcher("linear")


def specializations() -> Iterator[Specialisation]:
    """The forms that are compiled and held to a budget without a GPU."""
    make, make_weights = contract.make_stage, contract_weights.make_stage
    for stage, rows, requires in (
        (make_weights(1024, 1024, "w4a16"), 1, (BF16_MMA, WIDE_LOAD)),
        (make_weights(1024, 1024, "w4a8-static", "relu", out="int8"), 8, (INT8_MMA,)),
        (make_weights(1024, 1024, "w8a16", "gelu"), 1, (BF16_MMA, WIDE_LOAD)),
        (make_weights(640, 128, "bfloat16", "relu"), 8, (BF16_MMA, ASYNC_COPY)),
        (make(1024, 256, "dynamic", "relu"), 8, (INT8_MMA,)),
    ):
        yield specialize(KernelConfig.of_linear(Problem.of(stage, rows, "cuda")), rows).with_requirements(*requires)


register_impl(Impl("linear", "triton_tensor_core", "triton", 12, supports, prepare))
