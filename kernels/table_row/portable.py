"""Table row in plain torch."""

from __future__ import annotations

from torch import Tensor

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels.table_row import contract


def prepare(stage: Stage, problem: Problem) -> Prepared:
    contract.lower(stage)

    def call(count: Tensor) -> tuple[Tensor, ...]:
        return contract.reference(stage, count)

    return call


register_impl(Impl("table_row", "portable_torch", "portable", 0, lambda problem: None, prepare))
