"""Cast: y = x in another dtype, element by element; [M, steps, width] each, with as many elements a sample.

One of the two is float32. The other one is float16 or bfloat16, at the edge of a plan: a model in half precision takes and
gives such tensors. float32 holds each of their numbers. The other way a number is rounded to the nearest, ties to even, and one
beyond the largest becomes infinite, as torch does it. A NaN stays one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.errors import FormatError, ShapeError
from rtaccel.core.registry import Case, Cost, Operator, Tolerance, register_operator
from rtaccel.core.stage import Problem, Stage, Value
from rtaccel.core.traits import Role

HALVES = ("float16", "bfloat16")


def lower(stage: Stage) -> Mapping[str, Any]:
    x, y = stage.inputs[0], stage.outputs[0]
    kinds = (x.dtype, y.dtype)
    if not any(kinds in (("float32", half), (half, "float32")) for half in HALVES):
        raise FormatError("cast", f"{x.dtype} to {y.dtype}", "float32 on one side, float16 or bfloat16 on the other",
                          "Correct the stage.")  # fmt: skip
    if x.steps * x.width != y.steps * y.width:
        raise ShapeError("cast", f"{x.shape} to {y.shape}", "as many elements", "Correct the stage.")
    return {}


def reference(stage: Stage, x: Tensor) -> tuple[Tensor]:
    lower(stage)
    y = stage.outputs[0]
    return (x.to(getattr(torch, y.dtype)).reshape(x.shape[0], *y.shape),)


def make_stage(source: tuple[int, int], kind: str, result: tuple[int, int], to: str) -> Stage:
    """source, result: (steps, width)."""
    x, y = Value("x", source[1], kind, steps=source[0]), Value("y", result[1], to, steps=result[0])
    return Stage("cast", "case", (x,), (y,))


def numbers(shape: tuple[int, ...], seed: int) -> Tensor:
    """float32 of every size that the halves have and beyond: subnormal, halfway between two of them, infinite, NaN."""
    g = torch.Generator().manual_seed(seed)
    bits = torch.randint(-(2**31), 2**31, shape, generator=g).to(torch.int32)
    wild = bits.view(torch.float32)
    small = torch.randn(shape, generator=g) * torch.exp2(torch.randint(-30, 18, shape, generator=g).float())
    ties = (bits & 0x7FFFFFFF if seed % 2 else bits) & ~0x0FFF | 0x1000  # halfway between two of float16
    ties = torch.where(torch.rand(shape, generator=g) < 0.5, ties, bits & ~0xFFFF | 0x8000)  # of bfloat16
    kind = torch.randint(0, 3, shape, generator=g)
    return torch.where(kind == 0, wild, torch.where(kind == 1, small, ties.to(torch.int32).view(torch.float32)))


def cases() -> Iterator[Case]:
    shapes = [((1, n), (1, n)) for n in (1, 5, 16, 67, 131, 1024)] + [
        ((1, 603), (9, 67)),
        ((5, 24), (40, 3)),
        ((3, 40), (1, 120)),
    ]
    for half in HALVES:
        for to_half in (False, True):
            for source, result in shapes:
                kinds = ("float32", half) if to_half else (half, "float32")
                stage = make_stage(source, kinds[0], result, kinds[1])

                def make(seed: int, value: Value = stage.inputs[0]) -> tuple[Tensor, ...]:
                    x = numbers((3, *value.shape), seed)
                    return (x.to(getattr(torch, value.dtype)),)

                yield Case(f"{kinds[0]}-{kinds[1]}-{source[0]}x{source[1]}-{result[0]}x{result[1]}", stage, make)

        def all_of_it(seed: int, half: str = half) -> tuple[Tensor, ...]:
            return (torch.arange(-(2**15), 2**15).to(torch.int16).view(getattr(torch, half)).reshape(2, 2**15),)

        yield Case(f"every-{half}", make_stage((1, 2**15), half, (1, 2**15), "float32"), all_of_it)


def cost(problem: Problem) -> Cost:
    elements = problem.rows * problem.out_steps[0] * problem.out_widths[0]
    return Cost(bytes=6 * elements, flops=elements)


OPERATOR = register_operator(
    Operator(
        name="cast",
        axes={"x": ("M", "steps", "width"), "y": ("M", "steps", "width")},
        reference=reference,
        cases=cases,
        tolerance=lambda stage, *inputs: Tolerance(),
        cost=cost,
        lower=lower,
        by_row=False,
        whole_input=lambda stage: 1,
        role=Role.CAST,
    )
)
