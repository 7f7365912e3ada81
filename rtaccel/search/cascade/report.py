"""What a cascade does with data: where rows leave, how long that takes, what the answers are worth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rtaccel.core.errors import FormatError, ShapeError
from rtaccel.measure.latency import measure
from rtaccel.measure.result import Latency
from rtaccel.nn.check import describe
from rtaccel.search.cascade.judge import Judge, stage_answers
from rtaccel.search.cascade.stages import fitted_input
from rtaccel.search.cascade.timing import kept_past, timed

if TYPE_CHECKING:
    from rtaccel.search.cascade.cascade import Cascade

OP = "Cascade.report"

FULL_CALLS = 300
"""Of the last stage alone, for comparison."""


@dataclass(frozen=True)
class ExitRow:
    """Rows that a stage answered: their share of all, and the median, mean and 99th percentile of the time of their calls in
    microseconds, all stages before included. None where there are none. For several streams a call counts for its last stage."""

    stage: int
    share: float
    median_us: float | None
    mean_us: float | None
    p99_us: float | None


@dataclass(frozen=True)
class CascadeReport:
    """Of calls one after another. exits: a row for each stage. mean_us, p99_us: of all calls. expected_us: the mean with each
    exit's median in place of its times, which a few interruptions by other work do not move. full_us: median of the last stage
    alone (with heads, of the trunk and the last head). worst: latency of the longest path, with the budget's verdict; None
    without a budget. metric: of the cascade; full_metric: of the last stage; None without labels and metric."""

    calls: int
    exits: tuple[ExitRow, ...]
    mean_us: float
    p99_us: float
    expected_us: float
    full_us: float
    worst: Latency | None
    metric: float | None
    full_metric: float | None

    @property
    def shares(self) -> tuple[float, ...]:
        """Of rows that leave at each stage."""
        return tuple(row.share for row in self.exits)

    @property
    def verdict(self) -> str | None:
        """PASS, FAIL or UNDECIDED on the worst path; None without a budget."""
        return None if self.worst is None else self.worst.verdict

    def __str__(self) -> str:
        lines = ["stage   share  median us   mean us    p99 us"]
        for row in self.exits:
            times = "  ".join(map(_us, (row.median_us, row.mean_us, row.p99_us)))
            lines.append(f"{row.stage:5}  {row.share:6.1%}   {times}")
        lines.append(f"  all  {1:6.1%}   {_us(None)}  {_us(self.mean_us)}  {_us(self.p99_us)}")
        ratio = self.full_us / self.expected_us
        lines.append(
            f"last stage alone: {self.full_us:.2f} us, {ratio:.2f} times the {self.expected_us:.2f} us of shares and medians"
        )
        if self.metric is not None and self.full_metric is not None:
            lines.append(f"metric {self.metric:.6g}, {self.full_metric:.6g} by the last stage alone")
        if self.worst is not None:
            lines.append(f"worst path: p99 {self.worst.p99_us:.2f} us, {self.worst.verdict}")
        return "\n".join(lines)


def _us(value: float | None) -> str:
    return f"{'-':>8}" if value is None else f"{value:8.2f}"


def report_on(
    cascade: Cascade, data: Any, labels: Any, metric: Callable[[Tensor], float] | None, budget: Any
) -> CascadeReport:
    """As `Cascade.report`."""
    stages = cascade._stages
    rows = stages.streams or 1
    x = _rows_of(data, stages.streams)
    x = fitted_input(OP, x, stages.input)
    if not len(x):
        raise FormatError(OP, "no rows", "one or more", "Pass data.")
    judge = None if labels is None and metric is None else Judge(OP, len(x), labels, metric)
    with kept_past(stages):
        cascade.reset()
        ns, left, y = cascade._profile(x, rows)
        cascade.reset()
        full = _full(cascade, x, rows) if judge is not None else None
        full_us = _full_us(cascade, x[:rows])
        worst = None
        if budget is not None:
            first = x[:rows].clone()
            longest = cascade.bind(first, cascade._empty(first), worst=True)
            worst = measure(
                longest,
                budget=budget,
                size_bytes=cascade.weight_bytes,
                peak_bytes=cascade.peak_bytes,
                name="worst path",
            )
    us, deepest = ns * 1e-3, left.max(1)
    medians = [float(np.median(us[deepest == i])) if (deepest == i).any() else 0.0 for i in range(len(stages.models))]
    expected = float(np.array(medians)[deepest].mean())
    exits = []
    for index in range(len(stages.models)):
        own = us[deepest == index]
        times = (float(np.median(own)), float(own.mean()), _p99(own)) if len(own) else (None, None, None)
        exits.append(ExitRow(index, float((left == index).mean()), *times))
    return CascadeReport(
        len(us), tuple(exits), float(us.mean()), _p99(us), expected, full_us, worst,
        None if judge is None else judge.value(y), None if judge is None or full is None else judge.value(full),
    )  # fmt: skip


def _rows_of(data: Any, streams: int) -> Any:
    """Rows in order; of streams, those of a time step beside each other."""
    if not streams or not isinstance(data, Tensor):
        return data
    if data.dim() < 2 or data.shape[1] != streams:
        raise ShapeError(OP, describe(data), f"[time, {streams}, ...]", "Give every stream its time steps.")
    return data.flatten(0, 1)


def _full(cascade: Cascade, x: Tensor, rows: int) -> Tensor:
    """Answers of the last stage alone."""
    stages = cascade._stages
    if not stages.streams:
        return stage_answers(stages, x)[-1]
    return torch.cat([stages.models[-1](part) for part in x.split(rows)])


def _full_us(cascade: Cascade, x: Tensor) -> float:
    """Median of the last stage alone; with heads of the whole trunk and its last head, which is all that the answer needs."""
    stages = cascade._stages
    chain = [*stages.models, stages.heads[-1]] if stages.heads else [stages.models[-1]]
    total = np.zeros(FULL_CALLS)
    for model in chain:
        y = model(x)
        total += timed(model.bind(x, out=torch.empty_like(y)), FULL_CALLS)
        x = y
    return float(np.median(total)) * 1e-3


def _p99(us: np.ndarray) -> float:
    """The smallest time that 99 % of the calls do not exceed."""
    return float(np.sort(us)[max(0, int(np.ceil(0.99 * len(us))) - 1)])
