"""Embedding in Triton: a row of the table for each sample. See triton_indices.py for what an index outside gives."""

from __future__ import annotations

from torch import Tensor

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.core.weight_format import WeightFormat
from rtaccel.kernels._general import triton_indices
from rtaccel.kernels._general.triton_tile import Text, too_large
from rtaccel.kernels.embedding import contract


def text(stage: Stage) -> Text:
    low, y = contract.lower(stage), stage.outputs[0]
    made = Text(y.width, stage.inputs, y)
    made.keep("weight", low["weight"])
    rows = low["weight"].shape[0]
    made.add(
        "index = tl.load(x0_ptr + m, mask=m < rows, other=0)",
        f"known = (index >= 0) & (index < {rows})",
        "index = tl.where(known, index, 0)",
        f"y = tl.load(weight_ptr + index * {y.width} + e, mask=inside, other=0).to(tl.float32)",
    )
    if "weight_scale" in low:
        made.keep("scale", low["weight_scale"])
        made.add("y = y * tl.load(scale_ptr + index)")
    made.add('y = tl.where(known, y, float("nan"))')
    return made


def supports(problem: Problem) -> str | None:
    if problem.weight_format not in (WeightFormat.FLOAT32, WeightFormat.INT8):
        return f"has no form for {problem.weight_format} weights"
    return too_large(problem)


def prepare(stage: Stage, problem: Problem) -> Prepared:
    """index int64 [M, 1] -> y float32 [M, C]; any M."""
    stage = stage.matrices()
    made, rows = text(stage), stage.tensors["weight"].shape[0]
    launch = made.launcher(stage, made.specialize("embedding", problem.matrix_rows), problem.device)

    def call(index: Tensor) -> tuple[Tensor]:
        triton_indices.check("embedding", (index,), (rows,), negative=False)
        return launch(index)

    return call


register_impl(Impl("embedding", "triton_rows", "triton", 10, supports, prepare))
