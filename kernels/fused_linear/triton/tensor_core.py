"""`mixed_kernel` of linear with its rows quantized in front and a residual behind: one launch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from rtaccel.core import settings
from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.core.weight_format import WeightFormat
from rtaccel.kernels._gpu.triton_spec import BF16_MMA, FP8_MMA, INT8_MMA, MAX_N, WIDE_LOAD, Specialisation, power_of_two
from rtaccel.kernels.fused_linear import contract
from rtaccel.kernels.linear.contract import MAX_K
from rtaccel.kernels.linear.triton.mixed_config import WEIGHTS, KernelConfig, Operands, specialize

FLOAT8_CAPABILITY = (8, 9)


INSIDE = 8192
"""Numbers of x in the rows of a program up to which it rounds them to int8 itself. With more a launch before costs less, by
the model of bench/device/layers.py: programs would round the same rows again. Not measured on a card."""


def select_config(problem: Problem) -> KernelConfig:
    rows = str(problem.attrs.get("input_format", "none"))
    plain = replace(problem, in_widths=problem.in_widths[:1], in_dtypes=problem.in_dtypes[:1])
    config = replace(KernelConfig.of_linear(plain), rows=rows, residual=bool(problem.attrs.get("residual")))
    return replace(config, compensated=True) if rows == "static" and config.weight == "int8" else config


def rounds_inside(problem: Problem) -> bool:
    """Whether programs round x to int8 themselves."""
    return power_of_two(problem.matrix_rows, 16, 64) * problem.in_widths[0] <= INSIDE


def supports(problem: Problem) -> str | None:
    if problem.out_widths[0] > MAX_N:
        return f"has at most 65535 programs along N, for N <= {MAX_N}, not N = {problem.out_widths[0]}"
    if problem.weight_format not in WEIGHTS:
        return f"has no form for {problem.weight_format} weights, which torch multiplies"
    how = problem.attrs.get("input_format")
    if how in ("static", "int8") and not rounds_inside(problem):
        return f"rounds x in programs of one launch up to {INSIDE} numbers in their rows; a launch before does so once"
    if (problem.in_dtypes[0] == "int8" or how in ("int8", "static")) and problem.in_widths[0] > MAX_K:
        return f"sums in int32, which holds K <= {MAX_K}, not K = {problem.in_widths[0]}"
    if problem.weight_format is WeightFormat.FLOAT8 and not settings.triton_interpret():
        import torch

        if torch.cuda.is_available() and torch.cuda.get_device_capability() < FLOAT8_CAPABILITY:
            return f"{torch.cuda.get_device_name()} multiplies no float8: compute capability 8.9 or newer does"
    return None


def prepare(stage: Stage, problem: Problem) -> Prepared:
    """x [M, K] and, where the stage has one, residual float32 [M, N] -> y [M, N]; any M, best for those of the problem."""
    return Operands.of(select_config(problem), contract.lower(stage), problem.matrix_rows, problem.device).launcher(
        "fused_linear"
    )


def specializations() -> Iterator[Specialisation]:
    """The forms that are compiled and held to a budget without a GPU."""
    for stage, rows, requires in (
        (contract.make_stage(512, 1024, "w8a8-rows", "relu", out="int8"), 1, (INT8_MMA, WIDE_LOAD)),
        (contract.make_stage(512, 1024, "w8a8-inside", "relu"), 16, (INT8_MMA, WIDE_LOAD)),
        (contract.make_stage(1024, 1024, "w4a16", residual=True), 16, (BF16_MMA, WIDE_LOAD)),
        (contract.make_stage(1024, 1024, "float8", "gelu"), 1, (FP8_MMA, WIDE_LOAD)),
    ):
        yield specialize(select_config(Problem.of(stage, rows, "cuda")), rows).with_requirements(*requires)


register_impl(Impl("fused_linear", "triton_tensor_core", "triton", 10, supports, prepare))
