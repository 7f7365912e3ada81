"""Resample: y[.., j, ..] = the sum over t of weight[j, t] * x[.., index[j, t], ..], float32, [M, steps, width] each.

Interpolation along one dimension, by constants. attrs["outer"]: positions in front of the dimension. attrs["inner"]: rows of each
position along it; the columns of a row are inside too. attrs["index"]: a tuple of positions for each output. weight [outputs,
taps]: that of each of them; what an output has no position for is not read.

    y = w[0] * x[0]; then y = fma(w[t], x[t], y) for the others, in order
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.errors import ShapeError
from rtaccel.core.registry import Case, Cost, Operator, Tolerance, register_operator
from rtaccel.core.stage import Problem, Stage, Value


def table(stage: Stage) -> Tensor:
    """int64 [outputs, taps], -1 where there is none. Raises ShapeError where the attributes do not fit the values."""
    outer, inner, given = stage.attrs["outer"], stage.attrs["inner"], stage.attrs["index"]
    x, y, weight = stage.inputs[0], stage.outputs[0], stage.tensors["weight"]
    size = max(1, outer * inner)
    fits = x.width == y.width and x.steps % size == 0 and y.steps == size * len(given)
    taps = max((len(own) for own in given), default=0)
    if not fits or weight.shape != (len(given), taps) or min((len(own) for own in given), default=0) < 1:
        raise ShapeError(
            "resample", f"{outer} x {len(given)} x {inner} rows and weights {list(weight.shape)} for {y.steps} steps",
            "a position and a weight for each output, as many columns", "Correct the stage.",
        )  # fmt: skip
    if any(not 0 <= at < x.steps // size for own in given for at in own):
        raise ShapeError("resample", "a position outside", f"positions 0..{x.steps // size - 1}", "Correct the stage.")
    return torch.tensor([[*own, *[-1] * (taps - len(own))] for own in given])


def lower(stage: Stage) -> Mapping[str, Any]:
    """index [outputs * taps], -1 at the end of what an output reads."""
    index = table(stage)
    return {
        "outer": stage.attrs["outer"],
        "inner": stage.attrs["inner"],
        "outputs": index.shape[0],
        "taps": index.shape[1],
        "index": tuple(index.reshape(-1).tolist()),
        "weight": stage.tensors["weight"],
    }


def summed(stage: Stage, x: Tensor, weight: Tensor) -> Tensor:
    """[M, *shape of y], in the dtype of x."""
    index, outer, inner = table(stage).to(x.device), stage.attrs["outer"], stage.attrs["inner"]
    y, size = stage.outputs[0], stage.inputs[0].steps // (outer * inner)
    parts = x.reshape(x.shape[0], outer, size, inner * y.width)[:, :, index.clamp(min=0)]
    absent = (index < 0)[:, :, None]
    products = (parts * weight.to(x.dtype)[:, :, None]).masked_fill(absent, 0.0)
    return products.sum(3).reshape(x.shape[0], *y.shape)


def reference(stage: Stage, x: Tensor) -> tuple[Tensor]:
    return (summed(stage, x.double(), stage.tensors["weight"].to(x.device)).float(),)


def tolerance(stage: Stage, x: Tensor) -> Tolerance:
    """A product and an addition for each tap: each rounds at most the sum of sizes."""
    weight = stage.tensors["weight"].abs().to(x.device)
    size = summed(stage, x.double().abs().nan_to_num(posinf=0.0), weight)
    return Tolerance(atol=torch.finfo(torch.float32).eps * (weight.shape[1] + 1) * size + 1e-37)


def make_stage(outer: int, size: int, inner: int, width: int, index: tuple[tuple[int, ...], ...], seed: int) -> Stage:
    taps = max(len(own) for own in index)
    weight = torch.randn(len(index), taps, generator=torch.Generator().manual_seed(seed))
    x, y = Value("x", width, steps=outer * size * inner), Value("y", width, steps=outer * len(index) * inner)
    attrs = {"outer": outer, "inner": inner, "index": index}
    return Stage("resample", "case", (x,), (y,), {"weight": weight}, attrs)


def cases() -> Iterator[Case]:
    for number, (outer, size, inner, width) in enumerate(
        ((1, 1, 1, 1), (1, 5, 1, 7), (3, 4, 2, 16), (2, 6, 5, 33), (1, 9, 3, 130), (4, 3, 1, 64))
    ):
        for taps in (1, 2, 4, 7):
            own = [tuple((j * 3 + t) % size for t in range(taps)) for j in range(2 * size - 1)]
            if number % 2 and taps > 1:
                own[-1] = own[-1][: taps // 2]
            stage = make_stage(outer, size, inner, width, tuple(own), number)

            def make(seed: int, stage: Stage = stage) -> tuple[Tensor, ...]:
                x = torch.randn(3, *stage.inputs[0].shape, generator=torch.Generator().manual_seed(seed))
                x.view(-1)[x.numel() // 2] = float("nan")
                x.view(-1)[0] = float("inf")
                return (x,)

            yield Case(f"{outer}x{size}x{inner}x{width}-{taps}", stage, make)


def cost(problem: Problem) -> Cost:
    read = problem.in_steps[0] * problem.in_widths[0]
    written = problem.out_steps[0] * problem.out_widths[0]
    taps = max(len(own) for own in problem.attrs["index"])
    return Cost(bytes=4 * problem.rows * (read + written), flops=2 * taps * problem.rows * written)


def packed_bytes(stage: Stage) -> int:
    return 16 * (stage.tensors["weight"].numel() + 64) + 4096


OPERATOR = register_operator(
    Operator(
        name="resample",
        axes={"x": ("M", "steps", "width"), "weight": ("outputs", "taps"), "y": ("M", "out steps", "width")},
        reference=reference,
        cases=cases,
        tolerance=tolerance,
        cost=cost,
        lower=lower,
        packed_bytes=packed_bytes,
        by_row=False,
    )
)
