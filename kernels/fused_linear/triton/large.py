"""Fused linear of float32 rows of large layers: linear's kernels for few rows and for many, with a residual behind them."""

from __future__ import annotations

from collections.abc import Iterator

from rtaccel.core.stage import Problem
from rtaccel.kernels._gpu.triton_spec import Specialisation
from rtaccel.kernels.fused_linear import contract
from rtaccel.kernels.fused_linear.triton.tensor_core import select_config
from rtaccel.kernels.linear.triton import large


def refused(problem: Problem) -> str | None:
    if problem.attrs.get("input_format", "none") != "none":
        return "does not quantize x: its products are those of bfloat16 numbers"
    return None


def specializations() -> Iterator[Specialisation]:
    """The forms that are compiled and held to a budget without a GPU."""
    stage = contract.make_stage(4096, 4096, "w4a16", residual=True)
    for kind, rows in ((large.THIRDS, 1), (large.WIDE, 16)):
        yield kind.form(select_config(Problem.of(stage, rows, "cuda")), rows)


large.register("fused_linear", select_config, contract.lower, refused)
