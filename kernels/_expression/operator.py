"""What both contracts say: y = f(x_0, x_1, ..., constants), any tree of elementwise functions in one pass, float32.

attrs["program"] is the text of it, which program.py explains; functions.py has what there is. Two operators:

expression           every row alike: x_i [M, C] or [M, 1], constants [C] or [1], y [M, C].
strided_expression   by strides over one sample: attrs["dims"] are the sizes of the iteration, whose order is that of the
                     elements of y; attrs["places"] has for each input, then for each constant, an offset and a stride for each
                     dimension, in elements; a stride of 0 repeats. x_i [M, steps, width], y [M, steps, width].

Inputs are float32, or int64, which is rounded to float32. Each function rounds on its own; NaN goes through as in torch. A
truth value is 1.0 or 0.0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.errors import ShapeError
from rtaccel.core.registry import Cost, Operator, Tolerance
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels._common.strides import Resolved, dense, elements, limits, resolve_dense
from rtaccel.kernels._expression.chain import schedule
from rtaccel.kernels._expression.merging import EXPRESSIONS
from rtaccel.kernels._expression.program import Instruction, error_bound, evaluate, parse


def constants(stage: Stage) -> list[Tensor]:
    """In the order of their names in the program."""
    return [stage.tensors[f"c{i}"] for i in range(len(stage.tensors))]


def instructions(stage: Stage) -> list[Instruction]:
    return parse(stage.attrs["program"], len(stage.inputs), len(stage.tensors))


def strided(stage: Stage) -> bool:
    return "dims" in stage.attrs


def iteration(stage: Stage) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """Sizes of the iteration, and the place of each input, constant and of the result. Raises ShapeError where they are none."""
    y = stage.outputs[0]
    if not strided(stage):
        widths = [*(v.width for v in stage.inputs), *(c.numel() for c in constants(stage))]
        if any(w not in (1, y.width) for w in widths):
            raise ShapeError("expression", f"operands of widths {widths}", f"1 or {y.width}", "Correct the stage.")
        return (y.width,), [*((0, int(w > 1)) for w in widths), (0, 1)]
    dims = tuple(stage.attrs["dims"])
    places = [tuple(p) for p in stage.attrs["places"]]
    if prod(dims) != y.steps * y.width or len(places) != len(stage.inputs) + len(stage.tensors):
        raise ShapeError(
            "expression", f"{len(places)} places over {dims}", f"one an operand, {y.steps * y.width} elements",
            "Correct the stage.",
        )  # fmt: skip
    sizes = [*(v.steps * v.width for v in stage.inputs), *(c.numel() for c in constants(stage))]
    for place, size in zip(places, sizes):
        if len(place) != len(dims) + 1 or limits(dims, place)[0] < 0 or limits(dims, place)[1] >= size:
            raise ShapeError(
                "expression", f"a place {place} over {dims}", f"elements 0..{size - 1}", "Correct the stage."
            )
    return dims, [*places, dense(dims)]


def lower(stage: Stage) -> Mapping[str, Any]:
    """The chain as the core takes it: names, places of operands, numbers; dims and strides in rows and columns."""
    chain = schedule(instructions(stage), len(stage.inputs), len(stage.tensors))
    dims, places = iteration(stage)
    if strided(stage):
        widths = [*(v.width for v in stage.inputs), *(c.numel() for c in constants(stage)), stage.outputs[0].width]
        found = resolve_dense(dims, places, widths)
    else:
        found = Resolved(dims, ((0, 0),) * len(places), tuple(places), (None,) * len(places))
    low: dict[str, Any] = {
        "links": ",".join(link.name for link in chain.links),
        "operands": tuple(i for link in chain.links for i in (link.a, link.b)),
        "parameters": torch.tensor([link.parameter for link in chain.links]),
        "numbers": torch.tensor(chain.numbers or [0.0]),
        "number_count": len(chain.numbers),
        "stored": chain.stored,
        "by_row": int(not strided(stage)),
        "dims": found.dims,
        "strides": found.strides(),
    }
    for i, tensor in enumerate(constants(stage)):
        low[f"c{i}"] = tensor.reshape(-1)
    for i, table in enumerate(found.tables):
        if table is not None:
            low[f"table{i}"] = tuple(int(e) for e in table)
    return low


def operands(stage: Stage, inputs: Sequence[Tensor]) -> dict[str, Sequence[Tensor]]:
    """Inputs and constants as tensors that broadcast: [M, C], or [M, *dims]."""
    if not strided(stage):
        return {"x": inputs, "c": constants(stage)}
    dims, places = iteration(stage)
    xs, cs = [], []
    for x, place in zip(inputs, places):
        m = x.shape[0]
        flat = x.flatten(1)
        if min(place[1:], default=0) < 0:
            index = torch.from_numpy(elements(dims, place)).to(x.device)
            xs.append(flat[:, index].reshape(m, *dims))
        else:
            xs.append(flat.as_strided((m, *dims), (flat.shape[1], *place[1:]), flat.storage_offset() + place[0]))
    for c, place in zip(constants(stage), places[len(inputs) :]):
        index = torch.from_numpy(elements(dims, place)).to(c.device)
        cs.append(c.reshape(-1)[index].reshape(1, *dims))
    return {"x": xs, "c": cs}


def computed(stage: Stage, inputs: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    given = operands(stage, [x.float() if x.dtype == torch.int64 else x for x in inputs])
    cast = {kind: [t.to(dtype) for t in tensors] for kind, tensors in given.items()}
    y = evaluate(instructions(stage), cast).float()
    m, out = inputs[0].shape[0], stage.outputs[0]
    if not strided(stage):
        return y.expand(m, out.width).contiguous()
    return y.expand(m, *stage.attrs["dims"]).reshape(m, *out.shape)


def reference(stage: Stage, *inputs: Tensor) -> tuple[Tensor]:
    return (computed(stage, inputs, torch.float64),)


def tolerance(stage: Stage, *inputs: Tensor) -> Tolerance:
    given = operands(stage, [x.float() for x in inputs])
    bound = error_bound(instructions(stage), {kind: [t.double() for t in tensors] for kind, tensors in given.items()})
    m, out = inputs[0].shape[0], stage.outputs[0]
    if not strided(stage):
        return Tolerance(atol=bound.expand(m, out.width))
    return Tolerance(atol=bound.expand(m, *stage.attrs["dims"]).reshape(m, *out.shape))


def packed_bytes(stage: Stage) -> int:
    """Numbers as tiles, and a table for each input in the worst case."""
    program, elements = stage.attrs["program"], stage.outputs[0].steps * stage.outputs[0].width
    tables = 8 * elements * len(stage.attrs.get("places", ()))
    return 4096 + 1024 * len(program) * 4 + tables


def cost(problem: Problem) -> Cost:
    elements = problem.matrix_rows * problem.out_widths[0]
    return Cost(bytes=4 * elements * (len(problem.in_widths) + 1), flops=elements * len(problem.attrs["program"]))


def make(name: str, **traits: Any) -> Operator:
    """The contract of one of the two operators."""
    return Operator(name=name, reference=reference, tolerance=tolerance, cost=cost, lower=lower, packed_bytes=packed_bytes,
                    merging=EXPRESSIONS, **traits)  # fmt: skip
