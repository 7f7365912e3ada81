"""Pool in Triton: the positions of each window one after the other, from a table; float32 and int8."""

from __future__ import annotations

from collections.abc import Iterator

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels._general.triton_tile import Text, too_large
from rtaccel.kernels._gpu.triton_spec import Specialisation
from rtaccel.kernels.pool import contract

SUM_RUN = 512
"""Numbers that are added one after the other; their sums are added after (kernels/_common/long_sums.h)."""


def text(stage: Stage) -> Text:
    low, x, y = contract.lower(stage), stage.inputs[0], stage.outputs[0]
    made, c, taps, int8 = Text(y.steps * y.width, stage.inputs, y), x.width, low["taps"], x.dtype == "int8"
    made.table("index", low["index"])
    made.keep("multiplier", low["multiplier"])
    first = (
        ("-512, tl.int32" if int8 else '-float("inf"), tl.float32')
        if low["largest"]
        else f"0, tl.{'int32' if int8 else 'float32'}"
    )
    join = ("tl.maximum(acc, x)" if int8 else "larger(acc, x)") if low["largest"] else "acc + x"
    start = f"acc = tl.full((BLOCK_M, BLOCK_N), {first})"
    walk = [
        f"    row = tl.load(index_ptr + p * {taps} + t, mask=e < N, other=-1)",
        f"    x = tl.load(x0_ptr + m * {x.steps * c} + row.to(tl.int64) * {c} + e % {c}, mask=inside & (row >= 0), other=0)",
        *([f"    x = x.to(tl.int32) - {low['x_zero_point']}"] if int8 else []),
        f"    acc = tl.where(row >= 0, {join}, acc)",
    ]
    if low["largest"] or int8 or taps <= SUM_RUN:
        loop = [start, f"for t in range(0, {taps}):", *walk]
    else:
        run = [start, f"for t in range(run, tl.minimum(run + {SUM_RUN}, {taps})):", *walk, "whole += acc"]
        loop = [f"whole = tl.full((BLOCK_M, BLOCK_N), {first})", f"for run in range(0, {taps}, {SUM_RUN}):"]
        loop += [*(f"    {line}" for line in run), "acc = whole"]
    made.add(
        f"p = e // {c}",
        *loop,
        "multiplier = tl.load(multiplier_ptr + p, mask=e < N, other=0.0)",
        f'y = activate(acc.to(tl.float32) * multiplier, {low["activation_parameter"]!r}, "{low["activation"]}")',
    )
    if y.quant is not None:
        made.add(f"y = to_int8(y * {low['y_inv_scale']!r}, {low['y_zero_point']})")
    return made


def specialize(stage: Stage, problem: Problem) -> Specialisation:
    return text(stage).specialize(f"pool_{stage.attrs['kind']}", problem.rows)


def prepare(stage: Stage, problem: Problem) -> Prepared:
    """x [M, in steps, C] -> y [M, out steps, C]; any M."""
    return text(stage).launcher(stage, specialize(stage, problem), problem.device)


def specializations() -> Iterator[Specialisation]:
    """The forms that are compiled and held to a budget without a GPU."""
    for kind, kernel in (("max", (2, 2)), ("avg", (28, 28))):
        stage = contract.make_stage(kind, 64, (28, 28), kernel, kernel, (0, 0), 1, ("float32", "float32"))
        yield specialize(stage, Problem.of(stage, 1, "cuda"))


def supports(problem: Problem) -> str | None:
    if problem.attrs.get("planes"):
        return "reads a row of channels for each position, not planes"
    return too_large(problem)


register_impl(Impl("pool", "triton_taps", "triton", 10, supports, prepare))
