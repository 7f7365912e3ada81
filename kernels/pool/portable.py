"""Pool in plain torch: gathers each window."""

from __future__ import annotations

import torch
from torch import Tensor

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels._common.geometry import as_rows
from rtaccel.kernels.pool import contract, planes


def prepare(stage: Stage, problem: Problem) -> Prepared:
    if stage.attrs.get("planes"):
        inner = prepare(planes.by_position(stage), problem)
        return lambda x: (planes.planes_of(stage, inner(planes.rows_of(stage, x))[0]),)
    low = contract.lower(stage)
    width = stage.inputs[0].width

    def call(x: Tensor) -> tuple[Tensor]:
        rows = as_rows(x, width)
        if x.dtype == torch.int8:  # whole numbers below 2^53: exact
            rows = rows.double() - low["x_zero_point"]
        return (contract.epilogue(stage, low, contract.gather(stage, low, rows).float()),)

    return call


register_impl(Impl("pool", "portable_torch", "portable", 0, lambda problem: None, prepare))
