"""`Anytime`: the best answer that fits before a deadline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from rtaccel.core.errors import FormatError
from rtaccel.search.cascade.exits import NEVER
from rtaccel.search.cascade.staged import Staged
from rtaccel.search.cascade.stages import checked_stages
from rtaccel.search.cascade.timing import stage_times


class Anytime(Staged):
    """Runs compiled models in order of their quality, each while its measured time still fits before the deadline.

    stages: as of `rt.Cascade`, the worst and fastest first. The first one always runs; the answer is that of the last that ran.
    deadline_us: from the start of a call, by the native clock. A stage is begun where the time left is at least what it takes.
    heads: as of `rt.Cascade`: then the stages follow one another.
    costs_us: what each stage takes, for one row or a batch alike. None: the 99th percentile of 400 calls, measured at the first
        call or `bind` with a number of rows, and kept for that number.

    All rows of a batch have the same stage. Streams of stages that are not run keep their past as it is.
    A stage can take longer than it did when it was measured: `late` counts the calls that ended after their deadline.
    Raises as `rt.Cascade`, and FormatError for a deadline or costs that are not positive numbers.

    Source: anytime algorithms (Dean and Boddy, 1988).

    Example:
        >>> import torch, rtaccel as rt
        >>> x = torch.randn(1, 8)
        >>> small, full = (rt.compile(torch.nn.Linear(8, 3).eval(), (x,)) for _ in range(2))
        >>> best = rt.Anytime([small, full], deadline_us=1_000_000)
        >>> best(x).shape, best.last_exit
        (torch.Size([1, 3]), 1)
    """

    def __init__(
        self,
        stages: Sequence[Any],
        deadline_us: float,
        *,
        heads: Sequence[Any] | None = None,
        costs_us: Sequence[float] | None = None,
    ) -> None:
        checked = checked_stages("Anytime", stages, heads, "hold")
        count = len(checked.models)
        self._deadline_ns = _ns("deadline_us", deadline_us)
        self._given = None if costs_us is None else [_ns("costs_us", us) for us in costs_us]
        if self._given is not None and len(self._given) != count:
            raise FormatError("Anytime", f"{len(self._given)} costs", f"{count}, one for each stage", "Match them.")
        self._costs: dict[int, list[int]] = {}
        super().__init__("Anytime", checked, [NEVER] * count)

    @property
    def late(self) -> int:
        """Calls that ended after their deadline."""
        return int(self._native.late)

    def costs_us(self, rows: int = 1) -> tuple[float, ...] | None:
        """What each stage takes with so many rows, as it was given or measured; None where it was not measured yet."""
        found = self._given or self._costs.get(rows)
        return None if found is None else tuple(ns * 1e-3 for ns in found)

    def measure_costs(self, x: Tensor) -> tuple[float, ...]:
        """Measures the stages again for as many rows as x has, and keeps that; for calls that were bound before too.

        x: as the models take it, float32 [rows, ...]. Gives microseconds of each stage. Raises ShapeError where x does not fit.
        """
        self._costs[len(x)] = [int(np.quantile(ns, 0.99)) for ns in stage_times(self._stages, x)]
        self._native.deadline(self._deadline_ns, self._given or self._costs[len(x)], len(x))
        return tuple(ns * 1e-3 for ns in self._costs[len(x)])

    def _prepare(self, x: Tensor) -> None:
        if len(x) in self._costs or not len(x):
            return
        if self._given is None:
            self.measure_costs(x)
        else:
            self._costs[len(x)] = self._given
            self._native.deadline(self._deadline_ns, self._given, len(x))

    def __repr__(self) -> str:
        return f"Anytime({len(self._stages.models)} stages, deadline_us={self._deadline_ns * 1e-3:g})"


def _ns(name: str, us: Any) -> int:
    if isinstance(us, bool) or not isinstance(us, (int, float, np.floating)) or not 0 < us < math.inf:
        raise FormatError("Anytime", f"{name}={us!r}", "microseconds above 0", "Pass a number.")
    return max(1, round(float(us) * 1e3))
