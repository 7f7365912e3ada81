"""Tree ensemble in plain torch: all trees go down one level at a time."""

from __future__ import annotations

from torch import Tensor

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels.tree_ensemble import contract


def supports(problem: Problem) -> str | None:
    return None


def prepare(stage: Stage, problem: Problem) -> Prepared:
    tables = {
        name: table.to(problem.device) for name, table in contract.lower(stage).items() if name in contract.TABLES
    }

    def call(x: Tensor) -> tuple[Tensor]:
        return (contract.sums(x, tables, stage.attrs),)

    return call


register_impl(Impl("tree_ensemble", "portable_torch", "portable", 0, supports, prepare))
