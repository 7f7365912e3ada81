"""Streams that met a NaN which int8 could not hold: their results are NaN for as long as the model could feel it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rtaccel.core.stage import Value
from rtaccel.plan.group import StagedPlan, Subgraph

Written = Callable[[Tensor, Tensor], None]
"""(mark float32 [streams, 1], what is written over)."""


@dataclass(frozen=True)
class Marks:
    """count: counts marks on, and makes those NaN whose results are. spread: of each result, makes its marked streams NaN.
    settle: of each state, zeros for what is not finite in a marked stream; else it would be marked anew by its own past."""

    count: Written
    spread: tuple[Written | None, ...]
    settle: tuple[Written | None, ...]

    @classmethod
    def of(cls, staged: StagedPlan, group: Subgraph, states: Sequence[Value], memory: int) -> Marks:
        """memory: for how many further steps a mark lasts, -1 for ever."""
        results = [p.value for p in group.outputs]
        settled = [v if memory >= 0 and v.dtype == "float32" else None for v in states]
        marked = [v if v.dtype == "float32" else None for v in results]
        if staged.triton:
            from rtaccel.kernels._gpu.triton_nan_propagation import marker, nan_propagator, settler

            return cls(
                marker(memory),
                tuple(None if v is None else nan_propagator(1, v.steps * v.width) for v in marked),
                tuple(None if v is None else settler(v.steps * v.width) for v in settled),
            )

        def count(mark: Tensor, left: Tensor) -> None:
            now = ~torch.isfinite(mark[:, 0])
            mark[now | (left != 0)] = float("nan")
            left.copy_(torch.where(now, memory, torch.where(left > 0, left - 1, left)))

        spread, settle = (
            tuple(None if v is None else f for v in values) for values, f in ((marked, _spread), (settled, _settle))
        )
        return cls(count, spread, settle)

    def __call__(self, mark: Tensor, left: Tensor, results: Sequence[Tensor], states: Sequence[Tensor]) -> None:
        """mark: NaN for streams that met one now. left: of each stream, for how many steps more."""
        for state, settle in zip(states, self.settle):
            if settle is not None:
                settle(mark, state)
        self.count(mark, left)
        for y, spread in zip(results, self.spread):
            if spread is not None:
                spread(mark, y)


def _spread(mark: Tensor, y: Tensor) -> None:
    y[~torch.isfinite(mark[:, 0])] = float("nan")


def _settle(mark: Tensor, state: Tensor) -> None:
    bad = ~torch.isfinite(mark).view(-1, *(1 for _ in state.shape[1:]))
    state[bad & ~torch.isfinite(state)] = 0.0
