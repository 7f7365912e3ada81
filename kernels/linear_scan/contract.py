"""Linear scan: y[line, t] = a[line, t] * y[line, t - 1] + b[line, t], y[line, -1] = 0; float32, [M, steps, width].

The recurrence of state-space models (S4D, the selective scan of Mamba), of moving averages and of leaky integrators. Inputs
(a, b), or b alone with a constant tensor `a`, flat. attrs["dims"]: sizes of the dimensions that lines differ in, then of the one
that they run along. attrs["places"]: of a, b and y, offset and strides in elements of a dense value; a stride of 0 repeats.

Streaming (attr stream = 1): the last of dims is 1, a state h [as y] comes last of the inputs and of the outputs: y = a * h + b,
and h becomes y. Each step rounds twice, or once where a product and a sum are fused. NaN and infinities go on along a line.

attrs["wide"], 0 where it is left out: 1 where y[line, t - 1] is taken in float64, before it is rounded to y. So a sum of many
steps keeps its digits. The state of a stream is int64 then: the bits of a float64.
Source: Gu, Dao: Mamba, linear-time sequence modeling with selective state spaces, 2023.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from math import prod
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.errors import ShapeError
from rtaccel.core.registry import Case, Cost, Operator, Tolerance, register_operator
from rtaccel.core.stage import Problem, Stage, Value
from rtaccel.kernels._common import lines
from rtaccel.kernels.linear_scan.streaming import STREAMING

Place = tuple[int, ...]


def is_stream(stage: Stage) -> bool:
    return bool(stage.attrs.get("stream", 0))


def is_wide(stage: Stage) -> bool:
    return bool(stage.attrs.get("wide", 0))


def state_dtype(stage: Stage) -> str:
    return "int64" if is_wide(stage) else "float32"


def geometry(stage: Stage) -> tuple[Place, list[Place]]:
    """(dims, places of a, b and y). Raises ShapeError where they do not fit."""
    dims, places = tuple(stage.attrs["dims"]), [tuple(p) for p in stage.attrs["places"]]
    y, states = stage.outputs[0], stage.inputs[2 - ("a" in stage.tensors) :]
    sizes = [v.steps * v.width for v in (*stage.inputs[: 2 - ("a" in stage.tensors)], y)]
    if "a" in stage.tensors:
        sizes.insert(0, stage.tensors["a"].numel())
    fits = (
        len(places) == len(sizes) == 3
        and len(stage.outputs) == 1 + len(states) == 1 + is_stream(stage)
        and all(
            (s.steps, s.width, s.dtype) == (y.steps, y.width, state_dtype(stage)) for s in (*states, *stage.outputs[1:])
        )
        and bool(dims)
        and prod(dims) == sizes[2]
        and (dims[-1] == 1 or not is_stream(stage))
    )
    if not fits:
        raise ShapeError("linear_scan", f"{len(places)} places over {dims}", "those of a, b and y, which has every element",
                         "Correct the stage.")  # fmt: skip
    for place, size in zip(places, sizes):
        lines.check_place("linear_scan", dims, place, size)
    return dims, places


def lower(stage: Stage) -> Mapping[str, Any]:
    dims, places = geometry(stage)
    y, kept = stage.outputs[0], len(dims) - 1
    constant = stage.tensors.get("a")
    widths = [
        constant.numel() if constant is not None else stage.inputs[0].width,
        stage.inputs[constant is None].width,
        y.width,
    ]
    low: dict[str, Any] = {"count": prod(dims[:-1]), "along": dims[-1], "stream": int(is_stream(stage))}
    low |= {"wide": 1} if is_wide(stage) else {}
    for i, (place, width) in enumerate(zip(places, widths)):
        low |= lines.tables(str(i), dims, kept, place, width)
    if constant is not None:
        low["a"] = constant.reshape(-1)
    return low


def operands(stage: Stage, inputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """a and b as [M, lines, along]."""
    dims, places = geometry(stage)
    kept, found = len(dims) - 1, list(inputs)
    if "a" in stage.tensors:
        found.insert(0, stage.tensors["a"].to(inputs[0].dtype).reshape(1, -1).expand(inputs[0].shape[0], -1))
    a, b = (lines.read(x, dims, kept, place) for x, place in zip(found[:2], places))
    return a, b


def state_of(stage: Stage, inputs: tuple[Tensor, ...]) -> Tensor:
    """h before the first step, as [M, lines]."""
    dims, places = geometry(stage)
    if not is_stream(stage):
        return torch.zeros(())
    held = inputs[-1].contiguous().view(torch.float64) if is_wide(stage) else inputs[-1]
    return lines.read(held, dims, len(dims) - 1, places[2])[..., 0]


def compute(stage: Stage, *inputs: Tensor) -> tuple[Tensor, ...]:
    """In the dtype of the inputs, or in float64 where h is."""
    dims, places = geometry(stage)
    a, b = operands(stage, inputs)
    dtype = torch.float64 if is_wide(stage) else b.dtype
    h, made = state_of(stage, inputs).to(b.device, dtype).expand(b.shape[:-1]), []
    for t in range(dims[-1]):
        h = a[..., t].to(dtype) * h + b[..., t].to(dtype)
        made.append(h)
    y = lines.written(torch.stack(made, -1), dims, places[2], stage.outputs[0].shape)
    if not is_stream(stage):
        return (y.to(b.dtype),)
    return y.to(b.dtype), y.contiguous().view(torch.int64) if is_wide(stage) else y.clone()


def reference(stage: Stage, *inputs: Tensor) -> tuple[Tensor, ...]:
    wide = compute(stage, *(x.double() if x.is_floating_point() else x for x in inputs))
    return tuple(y.float() if y.is_floating_point() else y for y in wide)


def tolerance(stage: Stage, *inputs: Tensor) -> Tolerance:
    """u: the unit of float32. A step adds 2 u (|a h| + |y|) to the error that it takes over, times |a|. Where h is in float64, u
    is its unit, and y is rounded once."""
    dims, places = geometry(stage)
    a, b = operands(stage, tuple(x.double() if x.is_floating_point() else x for x in inputs))
    u = torch.finfo(torch.float64 if is_wide(stage) else torch.float32).eps
    h, error, made = state_of(stage, inputs).double().expand(b.shape[:-1]), torch.zeros_like(b[..., 0]), []
    for t in range(dims[-1]):
        product = a[..., t] * h
        h = product + b[..., t]
        error = a[..., t].abs() * error + 2 * u * (product.abs() + h.abs()) + 1e-37
        made.append(error + (torch.finfo(torch.float32).eps * h.abs() if is_wide(stage) else 0.0))
    return Tolerance(
        atol=lines.written(torch.stack(made, -1), dims, places[2], stage.outputs[0].shape).nan_to_num(0.0, 0.0, 0.0)
    )


def make_stage(
    steps: int, count: int, layout: str = "rows", constant: bool = False, stream: bool = False, wide: bool = False
) -> Stage:
    """count lines of so many steps. layout: "rows" (a row for each step), "lines" (a row for each line), "between" (lines in
    groups of four with the steps between), "repeated" (a is the same for every line)."""
    dims: Place = (count, steps)
    shape, place = (
        ((steps, count), (0, 1, count)) if layout in ("rows", "repeated") else ((count, steps), (0, steps, 1))
    )
    if layout == "between":
        dims, place, shape = (count // 4, 4, steps), (0, 4 * steps, 1, 4), (count // 4 * steps, 4)
    of_a = (0, 0, 1) if layout == "repeated" else place
    a = Value("a", 1, steps=steps) if layout == "repeated" else Value("a", shape[1], steps=shape[0])
    b, y = Value("b", shape[1], steps=shape[0]), Value("y", shape[1], steps=shape[0])
    inputs, tensors = (a, b), {}
    if constant:
        made = torch.rand(a.steps * a.width, generator=torch.Generator().manual_seed(steps))
        inputs, tensors = (b,), {"a": made}
    outputs: tuple[Value, ...] = (y,)
    attrs = {"dims": dims, "places": (of_a, place, place), "stream": int(stream), **({"wide": 1} if wide else {})}
    if stream:
        before, after = (Value(n, y.width, "int64" if wide else "float32", steps=y.steps) for n in ("h", "h_out"))
        inputs, outputs = (*inputs, before), (y, after)
    return Stage("linear_scan", "case", inputs, outputs, tensors, attrs)


def cases() -> Iterator[Case]:
    layouts, stages = ("rows", "lines", "between", "repeated"), list[Stage]()
    for layout, constant in product(layouts, (False, True)):
        sizes = [(1, 1), (7, 3), (12, 68), (33, 16), (5, 132)]
        stages += [make_stage(t, n, layout, constant) for t, n in sizes if layout != "between" or n % 4 == 0]
        stages += [make_stage(1, n, layout, constant, stream=True) for n in (4, 36)]
        stages += [make_stage(t, n, layout, constant, wide=True) for t, n in ((7, 4), (33, 68))]
        stages += [make_stage(1, n, layout, constant, stream=True, wide=True) for n in (4, 36)]
    for index, stage in enumerate(stages):

        def make(seed: int, stage: Stage = stage) -> tuple[Tensor, ...]:
            g = torch.Generator().manual_seed(seed)
            found = [torch.randn(3, *v.shape, generator=g) for v in stage.inputs]
            if is_stream(stage) and is_wide(stage):
                found[-1] = found[-1].double().mul(1.7).view(torch.int64)
            if "a" not in stage.tensors:
                found[0] = found[0].sigmoid() * 1.2 - 0.1
            at = len(found) - 1 - is_stream(stage)
            rare = torch.rand(found[at].shape, generator=g)
            found[at] = torch.where(rare < 0.004, torch.tensor(float("nan")), found[at])
            return tuple(found)

        yield Case(
            f"{index}-{'x'.join(map(str, stage.attrs['dims']))}{'-wide' * is_wide(stage)}{'-stream' * is_stream(stage)}",
            stage,
            make,
        )


def packed_bytes(stage: Stage) -> int:
    """Tables of three operands, groups of lines, and the constant."""
    constant, dims = stage.tensors.get("a"), stage.attrs["dims"]
    return lines.table_bytes(dims, 3) + 24 * prod(dims[:-1]) + (0 if constant is None else 4 * constant.numel() + 4096)


def cost(problem: Problem) -> Cost:
    made = problem.rows * problem.out_steps[0] * problem.out_widths[0]
    read = problem.rows * sum(s * w for s, w in zip(problem.in_steps, problem.in_widths))
    if len(problem.in_widths) == 1 + int(problem.attrs.get("stream", 0)):  # a is a constant
        read += prod(n for n, stride in zip(problem.attrs["dims"], problem.attrs["places"][0][1:]) if stride)
    return Cost(bytes=4 * (read + made), flops=2 * made)


OPERATOR = register_operator(
    Operator(
        name="linear_scan",
        axes={"a": ("M", "steps", "width"), "b": ("M", "steps", "width"), "y": ("M", "steps", "width")},
        reference=reference,
        cases=cases,
        tolerance=tolerance,
        cost=cost,
        lower=lower,
        packed_bytes=packed_bytes,
        by_row=False,
        make_stage=make_stage,
        streaming=STREAMING,
    )
)
