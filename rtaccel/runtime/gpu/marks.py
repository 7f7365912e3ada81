"""Streams that met a NaN which int8 could not hold: their results are NaN for as long as the model could feel it.

Behind a step the calls of each stream are counted as well, where rings lie by them.

A state of a marked stream gets zeros for what is not finite; else it would mark the stream anew in each step that reads it. By
Triton all of it is one launch. In plain torch the plan makes a mark, one more result, and the rest follows from that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from rtaccel.core.stage import Value
from rtaccel.plan.group import Marking, StagedPlan, Subgraph


class Marks:
    """memory: for how many further steps a mark lasts, -1 for ever. states: what is kept, under the names after a step. calls:
    whether they are counted."""

    def __init__(self, staged: StagedPlan, group: Subgraph, states: Sequence[Value], memory: int, calls: bool) -> None:
        self._memory, self._looks = memory, staged.marks
        self.kept = bool(staged.marks)
        """Whether the plan keeps marks: else nothing in it would lose a NaN."""
        self._count: Callable[[Tensor], object] = lambda ticks: ticks.add_(1)
        self._floats = [i for i, p in enumerate(group.outputs) if p.value.dtype == "float32"]
        self._settled = [v for v in states if memory >= 0 and v.dtype == "float32"]
        self._places = [i for i, v in enumerate(states) if v in self._settled]
        self._launch: Callable[..., None] | None = None
        if staged.triton and not staged.marks and calls:
            from rtaccel.kernels._general.triton_calls import calls_counter

            self._count = calls_counter()
        if staged.triton and staged.marks:
            from rtaccel.kernels._general.triton_nan_values import Streamed, stream_marker

            streamed = Streamed(memory, tuple(v.steps * v.width for v in self._settled), calls)
            results = [group.outputs[i].value for i in self._floats]
            self._launch = stream_marker(staged.checked_sizes, tuple(v.steps * v.width for v in results), streamed)

    def inside(self, left: Tensor, ticks: Tensor | None) -> Marking | None:
        """What the plan does in a step of streams with so much left of their marks, int32 [streams], and so many calls, int64
        [streams, 1], both of which are written over."""
        return None if self._launch is None else partial(self._one_launch, left, ticks)

    def _one_launch(
        self, left: Tensor, ticks: Tensor | None, checked: Sequence[Tensor], floats: Sequence[Tensor],
        env: dict[str, Tensor],
    ) -> None:  # fmt: skip
        assert self._launch is not None
        self._launch(checked, floats, [env[v.name] for v in self._settled], left, ticks)

    def behind(
        self, mark: Tensor, left: Tensor, ticks: Tensor | None, results: Sequence[Tensor], states: Sequence[Tensor]
    ) -> None:
        """What is left after the plan. mark float32 [streams, 1]: NaN for streams that met one now."""
        if self._launch is not None:
            return
        if ticks is not None:
            self._count(ticks)
        if not self._looks:
            return
        for at in self._places:
            state = states[at]
            bad = ~torch.isfinite(mark).view(-1, *(1 for _ in state.shape[1:]))
            state[bad & ~torch.isfinite(state)] = 0.0
        now = ~torch.isfinite(mark[:, 0])
        hit = now | (left != 0)
        left.copy_(torch.where(now, self._memory, torch.where(left > 0, left - 1, left)))
        for at in self._floats:
            results[at][hit] = float("nan")
