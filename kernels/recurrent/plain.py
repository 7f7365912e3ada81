"""What the plain-torch forms of recurrent layers share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.registry import Impl, Operator, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.core.weight_format import WeightFormat
from rtaccel.kernels.recurrent.layout import Geometry, quantized, sparse
from rtaccel.kernels.recurrent.lengths import by_torch, counts_of
from rtaccel.kernels.recurrent.operator import Cells
from rtaccel.kernels.recurrent.reference import Cell, compute, nonfinite, outputs_of


def register(operator: Operator, cells: Cells) -> None:
    """`portable_torch` of an operator."""
    formats = (WeightFormat.FLOAT32, *((WeightFormat.INT8, WeightFormat.INT4) if cells.quantizes else ()))

    def supports(problem: Problem) -> str | None:
        return None if problem.weight_format in formats else f"has no form for {problem.weight_format} weights"

    prepare = _prepare(operator.lower, cells.reference)
    register_impl(Impl(operator.name, "portable_torch", "portable", 0, supports, prepare))


def _torch_weights(stage: Stage, geometry: Geometry) -> list[Tensor]:
    """In the order torch._VF takes them; biases of zero where there are none."""
    weights = []
    for _, _, suffix in geometry.suffixes():
        matrices = [stage.tensors[f"weight_{which}{suffix}"] for which in ("ih", "hh")]
        zero = matrices[0].new_zeros(matrices[0].shape[0])
        weights += [*matrices, *(stage.tensors.get(f"bias_{which}{suffix}", zero) for which in ("ih", "hh"))]
    return weights


def _prepare(
    lower: Callable[[Stage], Mapping[str, Any]], cells: tuple[Cell, Cell | None]
) -> Callable[[Stage, Problem], Prepared]:
    """The `prepare` of an operator with these cells."""

    def prepare_stage(stage: Stage, problem: Problem) -> Prepared:
        low = dict(lower(stage))
        if quantized(stage):
            return lambda *inputs: compute(stage, low, cells, *inputs)
        geometry = Geometry.of(stage.attrs)
        weights = _torch_weights(stage, geometry)
        run = getattr(torch._VF, stage.op)  # of the same arguments, whichever it is
        count = 2 if stage.op == "lstm" else 1

        def call(*inputs: Tensor) -> tuple[Tensor, ...]:
            x, (counts, states) = geometry.time_steps(inputs[0]), counts_of(stage, *inputs)
            rows = geometry.layers * geometry.directions
            before = [geometry.streams(s).contiguous() for s in states] or [
                x.new_zeros(rows, x.shape[1], geometry.hidden)
            ] * count
            hx = tuple(before) if count == 2 else before[0]
            both = geometry.directions == 2
            if counts is None:
                y, *after = run(x, hx, weights, True, geometry.layers, 0.0, False, both, False)
            else:
                y, *after = by_torch(stage.op, x, counts, before, weights, True, geometry.layers, both, False)
            if sparse(stage):
                y, after = nonfinite(x, before, y, after, counts)
            return outputs_of(stage, low, y, after)

        return call

    return prepare_stage
