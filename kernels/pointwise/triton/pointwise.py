"""Pointwise in Triton: scale, join, activation and rounding of each element, for float32 and int8 alike."""

from __future__ import annotations

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels._general.triton_tile import Text, too_large
from rtaccel.kernels._gpu.triton_spec import Specialisation
from rtaccel.kernels.pointwise import contract

JOINS = {"add": "x + other", "mul": "x * other", "hypot": "tl.sqrt_rn(x * x + other * other)"}


def text(stage: Stage) -> Text:
    low, y = contract.lower(stage), stage.outputs[0]
    made = Text(y.width, stage.inputs, y)
    for i, (name, value) in enumerate(zip(("x", "other"), stage.inputs)):
        made.read(name, i, "e")
        if value.quant is not None:
            made.add(
                f"{name} = ({name}.to(tl.int32) - {value.quant.zero_point}).to(tl.float32) * {value.quant.scale!r}"
            )
    if "scale" in low:
        for name in ("scale", "shift"):
            made.keep(name, low[name])
            made.read(name, None, "e", "e < N")
        made.add("x = x * scale + shift")
    if len(stage.inputs) > 1:
        made.add(f"x = {JOINS[low['join']]}")
    made.add(f'y = activate(x, {low["activation_parameter"]!r}, "{low["activation"]}")')
    if y.quant is not None:
        made.add(f"y = to_int8(y * {low['y_inv_scale']!r}, {low['y_zero_point']})")
    return made


def specialize(stage: Stage, problem: Problem) -> Specialisation:
    return text(stage).specialize("pointwise", problem.matrix_rows)


def prepare(stage: Stage, problem: Problem) -> Prepared:
    """x and, where the stage has one, other [M, C] -> y [M, C]; any M."""
    stage = stage.matrices()
    return text(stage).launcher(stage, specialize(stage, problem), problem.device)


def supports(problem: Problem) -> str | None:
    if any(d not in ("float32", "int8") for d in (*problem.in_dtypes, *problem.out_dtypes)):
        return "computes float32 and int8"
    return too_large(problem)


register_impl(Impl("pointwise", "triton_tile", "triton", 10, supports, prepare))
