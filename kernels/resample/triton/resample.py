"""Resample in Triton: the taps of each element one after the other, positions and weights from tables."""

from __future__ import annotations

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels._general.triton_tile import Text, too_large
from rtaccel.kernels.resample import contract


def text(stage: Stage) -> Text:
    low, x, y = contract.lower(stage), stage.inputs[0], stage.outputs[0]
    inner, taps, outputs = low["inner"] * x.width, low["taps"], low["outputs"]
    size = x.steps // (low["outer"] * low["inner"])
    made = Text(y.steps * y.width, stage.inputs, y)
    made.table("index", low["index"])
    made.keep("weight", low["weight"])
    made.add(
        f"j = e // {inner} % {outputs}",
        f"start = e // {inner * outputs} * {size * inner} + e % {inner}",
        "y = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)",
        f"for t in range(0, {taps}):",
        f"    at = tl.load(index_ptr + j * {taps} + t, mask=e < N, other=-1)",
        f"    w = tl.load(weight_ptr + j * {taps} + t, mask=e < N, other=0.0)",
        f"    x_ptr = x0_ptr + m * {x.steps * x.width} + start + at.to(tl.int64) * {inner}",
        "    x = tl.load(x_ptr, mask=inside & (at >= 0), other=0.0)",
        "    y = tl.where(at >= 0, y + w * x, y)",
    )
    return made


def prepare(stage: Stage, problem: Problem) -> Prepared:
    """x float32 [M, steps, width] -> y [M, out steps, width]; any M."""
    made = text(stage)
    return made.launcher(stage, made.specialize("resample", problem.rows), problem.device)


register_impl(Impl("resample", "triton_taps", "triton", 10, too_large, prepare))
