"""Draw in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels.draw import contract


class Drawing:
    """kept: how many samples were given, which a call changes beside its result."""

    def __init__(self, stage: Stage) -> None:
        contract.checked(stage)
        self._stage, self.kept = stage, (torch.zeros(1, dtype=torch.int64, device="cpu"),)

    def __call__(self, x: Tensor) -> tuple[Tensor]:
        (given,) = self.kept
        first = int(given)
        given += x.shape[0]
        return (contract.numbers(self._stage, first, x.shape[0]).to(x.device),)


def prepare(stage: Stage, problem: Problem) -> Prepared:
    return Drawing(stage)


register_impl(Impl("draw", "portable_torch", "portable", 0, lambda problem: None, prepare))
