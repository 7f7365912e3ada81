"""Which stages the recurrent kernel in CUDA C++ is for, and what of them its form depends on."""

from __future__ import annotations

from rtaccel.core.stage import Problem, Stage
from rtaccel.core.weight_format import WeightFormat
from rtaccel.kernels.recurrent.cuda.config import MAX_OUTPUTS, Head
from rtaccel.kernels.recurrent.layout import MAX_K, Geometry


def unsupported(stage: Stage, following: Stage | None) -> str | None:
    """None, or why a stage and its head are none of the kernel's, whatever their size."""
    geometry = Geometry.of(stage.attrs)
    problem = Problem.of(stage, 1, "cuda")
    if problem.weight_format not in (WeightFormat.INT8, WeightFormat.INT4):
        return f"has int8 or int4 weights, not {problem.weight_format}"
    if geometry.directions != 1 or geometry.time != 1 or geometry.batch != 1:
        return "runs one stream forwards, step by step"
    if max(problem.in_widths[0], geometry.hidden) > MAX_K:
        return f"sums in int32, which holds widths up to {MAX_K}"
    if stage.inputs[0].dtype != "float32" or "x_scale" not in stage.attrs:
        return "quantizes x with a static scale: pass calibration="
    if group_of(stage) % 32:
        return f"has int4 weights in groups that 32 divides, not {group_of(stage)}"
    if following is None:
        return None if stage.outputs[0].dtype == "float32" else "answers in float32"
    integer = following.op == "linear" and WeightFormat.of(following.tensors["weight"]).integer
    if not integer or len(following.inputs) != 1 or following.inputs[0].dtype != "int8":
        return f"has a W8A8 or W4A8 linear layer with a static scale as its head, not {following.name} ({following.op})"
    if following.outputs[0].dtype != "float32" or following.outputs[0].width > MAX_OUTPUTS:
        return f"has a head of up to {MAX_OUTPUTS} float32 outputs"
    if group_of(following) % 32:
        return f"has a head with int4 weights in groups that 32 divides, not {group_of(following)}"
    return None


def group_of(stage: Stage) -> int:
    """Of int4 weights; 0 for int8."""
    return int(stage.attrs.get("group_size", 0)) if stage.weight_format is WeightFormat.INT4 else 0


def head_of(following: Stage | None) -> Head | None:
    if following is None:
        return None
    return Head(following.outputs[0].width, str(following.attrs.get("activation", "none")), group_of(following))
