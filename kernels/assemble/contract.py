"""Assemble: y is put together of parts of its inputs, in any order; all float32 or all int64, [M, steps, width].

attrs["parts"]: for each input, then for each constant tensor (c0, c1, ...), (dims, place in x, place in y). A place is an
offset and a stride for each of the dims, in elements of a dense value. Later parts lie over earlier ones.
attrs["fill"]: what an element is that no part covers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rtaccel.core.errors import ShapeError, UnsupportedProblem
from rtaccel.core.registry import Case, Cost, Operator, Tolerance, register_operator
from rtaccel.core.stage import Problem, Stage, Value
from rtaccel.core.stage_traits import ByElements
from rtaccel.core.traits import Role
from rtaccel.kernels._common.strides import elements, limits, resolve
from rtaccel.kernels.assemble.streaming import STREAMING

Part = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


def parts(stage: Stage) -> list[Part]:
    """Raises ShapeError for a part that is none."""
    y = stage.outputs[0]
    found: list[Part] = [tuple(tuple(p) for p in part) for part in stage.attrs["parts"]]  # type: ignore[misc]
    found = [(dims, x, z) if dims else ((1,), (*x, 0), (*z, 0)) for dims, x, z in found]
    sizes = [*(v.steps * v.width for v in stage.inputs), *(c.numel() for c in _constants(stage))]
    if len(found) != len(sizes):
        raise ShapeError("assemble", f"{len(found)} parts", f"one an operand, {len(sizes)}", "Correct the stage.")
    for (dims, source, target), size in zip(found, sizes):
        for place, most in ((source, size), (target, y.steps * y.width)):
            low, high = limits(dims, place)
            if len(place) != len(dims) + 1 or low < 0 or high >= most:
                raise ShapeError(
                    "assemble", f"a place {place} over {dims}", f"elements 0..{most - 1}", "Correct the stage."
                )
    return found


def _constants(stage: Stage) -> list[Tensor]:
    return [stage.tensors[f"c{i}"] for i in range(len(stage.tensors))]


def covered(stage: Stage) -> bool:
    """Whether the parts cover the result."""
    seen = np.zeros(stage.outputs[0].steps * stage.outputs[0].width, dtype=bool)
    for dims, _, target in parts(stage):
        seen[elements(dims, target)] = True
    return bool(seen.all())


def lower(stage: Stage) -> Mapping[str, Any]:
    y = stage.outputs[0]
    # An element of int64 is copied as two of float32.
    halves = 2 if y.dtype == "int64" else 1
    widths = [halves * w for w in (*(v.width for v in stage.inputs), *(c.numel() for c in _constants(stage)))]
    if halves == 2 and stage.attrs.get("fill", 0.0) != 0.0:
        raise UnsupportedProblem("assemble", f"a fill of {stage.attrs['fill']}", "0 for int64", "Assemble float32.")
    low: dict[str, Any] = {
        "part_count": len(widths),
        "fill": float(stage.attrs.get("fill", 0.0)),
        "fills": int(not covered(stage)),
    }
    for i, ((dims, source, target), width) in enumerate(zip(parts(stage), widths)):
        if halves == 2:
            dims, source, target = (*dims, 2), _halved(source), _halved(target)
        found = resolve(dims, (source, target), (width, halves * y.width))
        low[f"dims{i}."], low[f"strides{i}."] = found.dims, found.strides()
        for k, table in enumerate(found.tables):
            if table is not None:
                low[f"table{k}{i}."] = tuple(int(e) for e in table)
    for i, constant in enumerate(_constants(stage)):
        low[f"c{i}"] = constant.reshape(-1).view(torch.float32)
    return low


def _halved(place: tuple[int, ...]) -> tuple[int, ...]:
    return (*(2 * p for p in place), 1)


def reference(stage: Stage, *inputs: Tensor) -> tuple[Tensor]:
    y, m = stage.outputs[0], inputs[0].shape[0]
    dtype = torch.int64 if y.dtype == "int64" else torch.float32
    made = torch.full((m, y.steps * y.width), stage.attrs.get("fill", 0.0), dtype=dtype, device=inputs[0].device)
    given = [*inputs, *(c.reshape(1, -1).to(inputs[0].device) for c in _constants(stage))]
    for x, (dims, source, target) in zip(given, parts(stage)):
        at = torch.from_numpy(elements(dims, target)).to(x.device)
        made[:, at] = x.flatten(1)[:, torch.from_numpy(elements(dims, source)).to(x.device)]
    return (made.reshape(m, *y.shape),)


def _case(label: str, shapes: list[tuple[int, int]], out: tuple[int, int], given: list[Part], **attrs: Any) -> Case:
    dtype = attrs.pop("dtype", "float32")
    inputs = tuple(Value(f"x{i}", w, dtype, steps=s) for i, (s, w) in enumerate(shapes))

    def numbers(g: torch.Generator, *shape: int) -> Tensor:
        made = torch.randn(*shape, generator=g)
        return (made * 1e12).long() if dtype == "int64" else made

    constants = attrs.pop("constants", ())
    tensors = {f"c{i}": numbers(torch.Generator().manual_seed(n), n) for i, n in enumerate(constants)}
    y = Value("y", out[1], dtype, steps=out[0])
    stage = Stage("assemble", "case", inputs, (y,), tensors, {"parts": tuple(given), **attrs})

    def make(seed: int) -> tuple[Tensor, ...]:
        g = torch.Generator().manual_seed(seed)
        return tuple(numbers(g, 3, *v.shape) for v in inputs)

    return Case(label, stage, make)


def cases() -> Iterator[Case]:
    for h, c in ((5, 3), (16, 16), (33, 48), (50, 130), (7, 64)):
        yield _case(f"turned-{h}x{c}", [(h, c)], (c, h), [((c, h), (0, 1, c), (0, h, 1))])
        yield _case(f"turned-flat-{h}x{c}", [(1, h * c)], (c, h), [((c, h), (0, 1, c), (0, h, 1))])
        yield _case(f"columns-{h}x{c}", [(h, c), (h, 5)], (h, c + 5),
                    [((h, c), (0, c, 1), (0, c + 5, 1)), ((h, 5), (0, 5, 1), (c, c + 5, 1))])  # fmt: skip
        yield _case(f"rows-{h}x{c}", [(h, c), (2, c)], (h + 2, c),
                    [((h, c), (0, c, 1), (2 * c, c, 1)), ((2, c), (0, c, 1), (0, c, 1))])  # fmt: skip
        yield _case(
            f"padded-{h}x{c}", [(h, c)], (h + 3, c + 2), [((h, c), (0, c, 1), (c + 2 + 1, c + 2, 1))], fill=-1.5
        )
        yield _case(f"backwards-{h}x{c}", [(h, c)], (h, c), [((h, c), (h * c - 1, -c, -1), (0, c, 1))])
        yield _case(f"other-rows-{h}x{c}", [(h, c)], (1, h * c), [((h, c), (0, c, 1), (0, c, 1))])
        yield _case(f"any-rows-{h}x{c}", [(c, h)], (h, c), [((c, h), (0, 1, c), (0, h, 1))])
    yield _case(
        "token", [(6, 20)], (7, 20), [((6, 20), (0, 20, 1), (20, 20, 1)), ((20,), (0, 1), (0, 1))], constants=(20,)
    )
    yield _case("whole", [(6, 20), (3, 4)], (8, 20), [((6, 20), (0, 20, 1), (20, 20, 1)), ((4, 3), (0, 1, 4), (3, 20, 1)),
                ((20,), (0, 1), (0, 1))], constants=(20,), dtype="int64")  # fmt: skip
    yield _case("whole-turned", [(7, 5)], (7, 5), [((5, 7), (0, 1, 5), (0, 7, 1))], dtype="int64")
    yield _case("over", [(4, 9), (2, 9)], (4, 9), [((4, 9), (0, 9, 1), (0, 9, 1)), ((2, 3), (0, 9, 1), (9 + 2, 9, 1))])
    yield _case(
        "overlap", [(4, 9), (4, 9)], (4, 9), [((4, 5), (0, 9, 1), (0, 9, 1)), ((4, 5), (0, 9, 1), (2, 9, 1))], fill=2.5
    )
    yield _case("repeated", [(3, 4)], (12, 4), [((3, 4, 4), (0, 4, 0, 1), (0, 16, 4, 1))])
    yield _case("grid", [(6, 10)], (12, 20), [((6, 2, 10, 2), (0, 10, 0, 1, 0), (0, 40, 20, 2, 1))])
    yield _case("one", [(6, 10)], (1, 1), [((), (13,), (0,))])


def cost(problem: Problem) -> Cost:
    return Cost(bytes=8 * problem.rows * problem.out_steps[0] * problem.out_widths[0], flops=0)


def packed_bytes(stage: Stage) -> int:
    return 4096 + sum(32 * prod(part[0]) + 1024 for part in stage.attrs["parts"])


OPERATOR = register_operator(
    Operator(
        name="assemble",
        axes={"x_i": ("M", "steps", "width"), "y": ("M", "steps", "width")},
        reference=reference,
        cases=cases,
        tolerance=lambda stage, *inputs: Tolerance(),
        cost=cost,
        lower=lower,
        packed_bytes=packed_bytes,
        by_row=False,
        role=Role.COPY,
        streaming=STREAMING,
        planes=ByElements(),
    )
)
