"""Pool: the average or the maximum over a window of positions, channel by channel, then an activation.

Axes: x [M, in steps, C], y [M, out steps, C]; geometry as for conv (kernels/_common/geometry.py). Global pooling is a
window of the whole image. attrs kind ("avg" or "max"), count_include_pad (1), activation, activation_parameter.

Instead of a geometry, attrs in_size (of any number of dimensions), windows: for each dimension and each output along it the
positions that it reads, and divisors: what an average divides by, the product over the dimensions.

avg: sum over the positions inside the image, divided by the size of the window (count_include_pad = 1) or by the
number of them (0). max: the largest of those inside; a NaN wins.

    acc = sum of x                       float32 in any order;  int8: of (q - zero_point), int32 and exact
    t   = float32(acc) * multiplier[p]   multiplier: 1 / count, for int8 input times its scale
    y   = act(t)                         float32, or int8 as clamp(rint(act(t) * y_inv_scale) + y_zero_point, -128, 127)

Planes (attr planes = 1): the elements of x are [C, *in_size] and those of y [C, *out size], row by row of the value, however
many steps it has; all positions. An average is then summed row by row, and along the rows after.

max takes max x or max (q - zero_point) for the sum, and count 1. For none, relu and leaky_relu the scale of an int8
output is folded into multiplier. A sample of float32 x that is not finite and goes to int8 is marked by the plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.errors import ShapeError, UnsupportedProblem
from rtaccel.core.registry import Case, Cost, Operator, Tolerance, register_operator
from rtaccel.core.stage import Problem, QParams, Stage, Value
from rtaccel.core.stage_traits import Int8Flow, static_inside
from rtaccel.formats.int8 import inverse_scale, to_int8
from rtaccel.kernels._common import activations
from rtaccel.kernels._common.geometry import as_rows
from rtaccel.kernels.pool.planes import MAX_INT8, PoolPlanes, by_position, planes_of, rows_of
from rtaccel.kernels.pool.streaming import STREAMING
from rtaccel.kernels.pool.windows import image_of, lines_of, taps_of, windows_of


def lower(stage: Stage) -> Mapping[str, Any]:
    """index [out steps * taps]: rows of x, -1 for padding; multiplier [out steps]. Raises ShapeError, UnsupportedProblem."""
    if stage.attrs.get("planes"):
        return _over_planes(stage)
    kind, (x, y) = stage.attrs["kind"], (stage.inputs[0], stage.outputs[0])
    if kind not in ("avg", "max"):
        raise UnsupportedProblem("pool", f"kind {kind!r}", '"avg" or "max"', "Name one of these.")
    if x.width != y.width or (x.dtype == "int8" and x.quant is None):
        raise ShapeError(
            "pool",
            f"{x.dtype}[{x.width}] to {y.dtype}[{y.width}]",
            "as many channels, a static scale for int8",
            "Correct the stage.",
        )
    windows = windows_of(stage)
    if not (windows.index >= 0).any(1).all():
        raise ShapeError("pool", "a window wholly in the padding", "windows that see the image", "Use less padding.")
    count = torch.ones_like(windows.divisor) if kind == "max" else windows.divisor
    multiplier = torch.ones((), dtype=torch.float32) / count
    if x.quant is not None:
        multiplier = torch.tensor(x.quant.scale, dtype=torch.float32) / count
    act, inv_scale = stage.attrs.get("activation", "none"), torch.tensor(1.0)
    if y.quant is not None:
        inv_scale = torch.tensor(inverse_scale(y.quant), dtype=torch.float32)
        if act in activations.HOMOGENEOUS:
            multiplier, inv_scale = multiplier * inv_scale, torch.tensor(1.0)
    return {
        "activation": act,
        "activation_parameter": float(stage.attrs.get("activation_parameter", 0.0)),
        "largest": int(kind == "max"),
        "taps": windows.index.shape[1],
        "index": tuple(windows.index.flatten().tolist()),
        "multiplier": multiplier,
        "x_zero_point": 0 if x.quant is None else x.quant.zero_point,
        "y_inv_scale": float(inv_scale),
        "y_zero_point": 0 if y.quant is None else y.quant.zero_point,
    }


def _over_planes(stage: Stage) -> Mapping[str, Any]:
    """rows, columns: of the windows, -1 for none; stride, dilation and before: of regular ones (Lines)."""
    low, lines, (height, width) = lower(by_position(stage)), lines_of(stage.attrs), image_of(stage.attrs)[0]
    if stage.inputs[0].dtype == "int8" and low["taps"] > MAX_INT8:
        raise UnsupportedProblem(
            "pool", f"windows of {low['taps']}", f"at most {MAX_INT8} for planes of int8", "Leave planes out."
        )
    kept = {k: v for k, v in low.items() if k not in ("index", "taps")}
    tables = {"rows": tuple(lines.rows.flatten().tolist()), "columns": tuple(lines.columns.flatten().tolist())}
    regular = {"stride": lines.stride, "dilation": lines.dilation, "before": lines.before}
    sizes = {"height": height, "width": width, "row_taps": lines.rows.shape[1], "taps": lines.columns.shape[1]}
    return {**kept, "planes": 1, **tables, **regular, **sizes}


def gather(stage: Stage, low: Mapping[str, Any], rows: Tensor) -> Tensor:
    """acc [M, out steps, C] of rows [M, in steps, C], in their dtype."""
    index = torch.tensor(low["index"]).reshape(-1, low["taps"])
    empty = float("-inf") if low["largest"] else 0.0
    window = torch.cat([rows, torch.full_like(rows[:, :1], empty)], 1)[:, index]
    return window.amax(2) if low["largest"] else window.sum(2)


def epilogue(stage: Stage, low: Mapping[str, Any], acc: Tensor) -> Tensor:
    t = acc * low["multiplier"][:, None].to(acc.device)
    a = activations.apply(low["activation"], t, low["activation_parameter"])
    if stage.outputs[0].dtype == "int8":
        a = to_int8(a, low["y_inv_scale"], low["y_zero_point"])
    return a.reshape(acc.shape[0], *stage.outputs[0].shape)


def reference(stage: Stage, x: Tensor) -> tuple[Tensor]:
    if stage.attrs.get("planes"):
        return (planes_of(stage, reference(by_position(stage), rows_of(stage, x))[0]),)
    low = lower(stage)
    rows = as_rows(x, stage.inputs[0].width).double() - low["x_zero_point"]
    acc = gather(stage, low, rows)
    if stage.inputs[0].dtype == "int8":
        return (epilogue(stage, low, acc.float()),)
    y = epilogue(stage, low, acc)
    return (y if y.dtype == torch.int8 else y.float(),)


def tolerance(stage: Stage, x: Tensor) -> Tolerance:
    """int8 input: exact but for a transcendental activation. float32: a sum of so many terms, in any order, and a product."""
    if stage.attrs.get("planes"):
        found = tolerance(by_position(stage), rows_of(stage, x))
        return replace(found, atol=planes_of(stage, found.atol)) if isinstance(found.atol, Tensor) else found
    low = lower(stage)
    act = low["activation"]
    exact = stage.inputs[0].dtype == "int8" and act in activations.HOMOGENEOUS
    if stage.outputs[0].dtype == "int8":
        return Tolerance(steps=0 if exact else 1)
    if exact:
        return Tolerance()
    rows = (as_rows(x, stage.inputs[0].width).double() - low["x_zero_point"]).abs().nan_to_num()
    magnitude = gather(stage, low, rows) * low["multiplier"][:, None]
    terms = 0 if stage.inputs[0].dtype == "int8" else 1 if low["largest"] else low["taps"] + 2
    slope = activations.slope(act, low["activation_parameter"])
    bound = slope * torch.finfo(torch.float32).eps * terms * magnitude + activations.error(act, magnitude)
    return Tolerance(atol=bound.reshape(x.shape[0], *stage.outputs[0].shape))


def cost(problem: Problem) -> Cost:
    size = {"float32": 4, "int8": 1}
    inputs = problem.in_widths[0] * problem.in_steps[0] * size[problem.in_dtypes[0]]
    outputs = problem.out_widths[0] * problem.out_steps[0]
    moved = problem.rows * (inputs + outputs * size[problem.out_dtypes[0]])
    return Cost(bytes=moved, flops=problem.rows * outputs * taps_of(problem.attrs))


def packed_bytes(stage: Stage) -> int:
    if stage.attrs.get("planes"):
        return packed_bytes(by_position(stage))
    return 8 * stage.outputs[0].steps * (taps_of(stage.attrs) + 64) + 4096


def make_stage(
    kind: str, c: int, in_size: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int],
    padding: tuple[int, int], include: int, dtypes: tuple[str, str], activation: str = "none",
) -> Stage:  # fmt: skip
    out = tuple((h + 2 * p - k) // s + 1 for h, p, k, s in zip(in_size, padding, kernel, stride))
    attrs = {
        "kind": kind, "in_size": in_size, "kernel": kernel, "stride": stride, "padding": padding, "dilation": (1, 1),
        "out_size": out, "count_include_pad": include, "activation": activation,
    }  # fmt: skip
    x = Value("x", c, dtypes[0], QParams(0.05, -7) if dtypes[0] == "int8" else None, in_size[0] * in_size[1])
    y = Value("y", c, dtypes[1], QParams(0.031, 3) if dtypes[1] == "int8" else None, out[0] * out[1])
    return Stage("pool", "case", (x,), (y,), {}, attrs)


def _by_dimension(stage: Stage) -> Stage:
    """Windows of differing sizes over the same image, in three dimensions."""
    height, width = stage.attrs["in_size"]
    windows = (((0,),), tuple((i, min(i + 1, height - 1)) for i in range(0, height, 2)), ((0,), tuple(range(width))))
    divisors = ((1,), tuple(2 + i for i in range(len(windows[1]))), (1, 3))
    attrs = {k: stage.attrs[k] for k in ("kind", "activation")}
    attrs |= {"in_size": (1, height, width), "windows": windows, "divisors": divisors}
    y = replace(stage.outputs[0], steps=len(windows[1]) * 2)
    return Stage("pool", "case", stage.inputs, (y,), {}, attrs)


def cases() -> Iterator[Case]:
    sizes = (
        (1, (1, 1), (1, 1), (1, 1), (0, 0)), (7, (1, 9), (1, 3), (1, 2), (0, 1)), (64, (5, 5), (5, 5), (1, 1), (0, 0)),
        (21, (6, 7), (3, 2), (2, 2), (1, 1)), (130, (1, 8), (1, 8), (1, 1), (0, 0)), (3, (2, 600), (1, 600), (1, 1), (0, 0)),
    )  # fmt: skip
    for number, (c, in_size, kernel, stride, padding) in enumerate(sizes):
        for kind, include in (("avg", 1), ("avg", 0), ("max", 1)):
            for dtypes in (("float32", "float32"), ("int8", "float32"), ("int8", "int8"), ("float32", "int8")):
                act = ("none", "relu", "sigmoid")[number % 3]
                stage = make_stage(kind, c, in_size, kernel, stride, padding, include, dtypes, act)
                make = _maker(stage, 1 + number % 3)

                yield Case(f"{kind}{include}-C{c}-{in_size}-{kernel}-{'-'.join(dtypes)}-{act}", stage, make)
                if number % 2:
                    by_dimension = _by_dimension(stage)
                    yield Case(f"windows-{kind}-C{c}-{'-'.join(dtypes)}", by_dimension, make)
    yield from _plane_cases()


def _plane_cases() -> Iterator[Case]:
    sizes = (
        (1, (1, 333), (1, 3), (1, 1), (0, 1)), (1, (13, 37), (3, 3), (1, 1), (1, 1)), (3, (8, 70), (2, 2), (2, 2), (0, 0)),
        (2, (5, 9), (3, 4), (1, 3), (1, 2)), (5, (6, 7), (6, 7), (1, 1), (0, 0)), (1, (4, 41), (1, 5), (2, 4), (0, 2)),
        (3, (2, 260), (1, 32), (1, 32), (0, 3)), (1, (3, 103), (2, 3), (1, 3), (0, 1)),
    )  # fmt: skip
    for number, (c, in_size, kernel, stride, padding) in enumerate(sizes):
        for kind, include in (("avg", 1), ("avg", 0), ("max", 1)):
            for dtypes in (("float32", "float32"), ("int8", "float32"), ("int8", "int8"), ("float32", "int8")):
                act = ("none", "relu", "sigmoid")[number % 3]
                rows = make_stage(kind, c, in_size, kernel, stride, padding, include, dtypes, act)
                for by_dimension in (False, True):
                    stage = _by_dimension(rows) if by_dimension else rows
                    x, y = stage.inputs[0], stage.outputs[0]
                    (_, width), (_, out) = image_of(stage.attrs)
                    if number % 2:  # rows of the value are those of the image
                        x = replace(x, width=width, steps=x.steps * x.width // width)
                        y = replace(y, width=out, steps=y.steps * y.width // out)
                    else:
                        x, y = (replace(v, width=v.steps * v.width, steps=1) for v in (x, y))
                    stage = PoolPlanes().over(stage, x, y)
                    label = (
                        f"planes{'-windows' if by_dimension else ''}-{kind}{include}-C{c}-{in_size}-{'-'.join(dtypes)}"
                    )
                    yield Case(label, stage, _maker(stage, 1 + number % 3))


def _maker(stage: Stage, samples: int) -> Callable[[int], tuple[Tensor, ...]]:
    def make(seed: int) -> tuple[Tensor, ...]:
        g = torch.Generator().manual_seed(seed)
        x = stage.inputs[0]
        if x.dtype == "int8":
            return (torch.randint(-128, 128, (samples, *x.shape), generator=g, dtype=torch.int8),)
        values = torch.randn(samples, *x.shape, generator=g) * 2
        if stage.outputs[0].dtype == "float32":
            values.view(-1)[0] = float("nan")
        return (values,)

    return make


OPERATOR = register_operator(
    Operator(
        name="pool",
        axes={"x": ("M", "in steps", "C"), "y": ("M", "out steps", "C")},
        reference=reference,
        cases=cases,
        tolerance=tolerance,
        cost=cost,
        lower=lower,
        by_row=False,
        packed_bytes=packed_bytes,
        make_stage=make_stage,
        int8=Int8Flow(writes=True, marks=static_inside, keeps_nan=True),
        planes=PoolPlanes(),
        streaming=STREAMING,
    )
)
