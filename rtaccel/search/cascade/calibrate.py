"""Limits of a cascade on calibration data: the least mean time for a permitted drop of the metric."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rtaccel.core.errors import FormatError, UnsupportedProblem
from rtaccel.search.cascade.exits import Exit, exit_like
from rtaccel.search.cascade.judge import Judge, stage_answers
from rtaccel.search.cascade.stages import Stages, fitted_input
from rtaccel.search.cascade.timing import stage_times
from rtaccel.search.metric import Relative

OP = "Cascade.calibrated"

CANDIDATES = 64
"""Limits that are tried for a stage: between quantiles of its scores."""

SHARES = (None, 0.0, 0.25, 0.5, 0.75, 1.0)
"""How much of the permitted drop may be used up by the end of a stage; None: no row leaves there."""

MAX_SHARINGS = 250
"""Of the permitted drop between stages."""


@dataclass(frozen=True)
class Calibration:
    """What was found on the calibration data. full: the metric of the last stage; value: of the cascade. drop: by how much the
    cascade is below, with the standard errors that were asked for. shares: of rows that leave at each stage. stage_us: median
    time of each stage alone, batch 1. mean_us: of a row, from the shares; full_us: of the last stage alone."""

    rows: int
    full: float
    value: float
    drop: float
    max_drop: float
    shares: tuple[float, ...]
    stage_us: tuple[float, ...]
    mean_us: float
    full_us: float

    def __str__(self) -> str:
        shares = ", ".join(f"{share:.1%}" for share in self.shares)
        return (
            f"calibrated on {self.rows} rows: metric {self.value:.6g}, {self.full:.6g} by the last stage alone; drop at most "
            f"{self.drop:.3g} of {self.max_drop:.3g}\nrows leave at: {shares}; about {self.mean_us:.2f} us a row, "
            f"{self.full_us:.2f} us by the last stage alone"
        )


def calibrated_exits(
    stages: Stages, data: Any, labels: Any, metric: Any, max_drop: Any, test: Any, standard_errors: float
) -> tuple[list[Exit], Calibration]:
    """Exits for all stages but the last, and what is known of them. Raises as `Cascade.calibrated`."""
    if stages.streams:
        raise UnsupportedProblem(
            OP, "streams", "models without states: what a stream remembers depends on the exits before",
            "Choose limits by hand, and judge them with report().",
        )  # fmt: skip
    data = fitted_input(OP, data, stages.input)
    if len(data) < 2:
        raise FormatError(OP, f"{len(data)} rows", "two or more; hundreds say something", "Pass more data.")
    judge = Judge(OP, len(data), labels, metric)
    tests = _tests(test, len(stages.models) - 1)
    for index, one in enumerate(tests):
        one.check_answer(OP, index, stages.output.trailing)
    answers = stage_answers(stages, data)
    allowed = _allowed(max_drop, judge.value(answers[-1]))
    us = [float(np.median(ns)) * 1e-3 for ns in stage_times(stages, data[:1])]
    scores = [one.scores(y) for one, y in zip(tests, answers)]

    def drop(left: Tensor) -> float:
        return judge.drop(answers[-1], _mixed(answers, left), standard_errors)

    best: tuple[float, list[Exit], Tensor] | None = None
    for sharing in _sharings(len(tests)):
        exits, left = _chosen(tests, scores, [None if s is None else s * allowed for s in sharing], drop)
        mean = _mean_us(left, us)
        if best is None or mean < best[0]:
            best = mean, exits, left
    assert best is not None
    mean, exits, left = best
    shares = tuple(float((left == i).double().mean()) for i in range(len(us)))
    value, full_us = judge.value(_mixed(answers, left)), sum(us) if stages.heads else us[-1]
    full = judge.value(answers[-1])
    return exits, Calibration(len(data), full, value, drop(left), allowed, shares, tuple(us), mean, full_us)


def _tests(test: Any, count: int) -> list[Exit]:
    each = list(test) if isinstance(test, Sequence) and not isinstance(test, str) else [test] * count
    if len(each) != count:
        raise FormatError(OP, f"{len(each)} tests", f"{count}, one after each stage but the last", "Match them.")
    return [exit_like(OP, one, 0.0) for one in each]


def _allowed(max_drop: Any, full: float) -> float:
    if isinstance(max_drop, Relative):
        return max_drop.of(full)
    if isinstance(max_drop, bool) or not isinstance(max_drop, (int, float)) or not 0 <= max_drop < float("inf"):
        raise FormatError(OP, f"max_drop={max_drop!r}", "a finite number, 0 or above, or rt.Relative", "0.01 is 1 %.")
    return float(max_drop)


def _sharings(count: int) -> Iterator[tuple[float | None, ...]]:
    """Ways to share the drop: what may be used up by the end of each stage, never less than before. The last may use all."""

    def rising(sharing: tuple[float | None, ...]) -> bool:
        given = [s for s in sharing if s is not None]
        return given == sorted(given)

    if not count:
        return iter([()])
    ways = ((*front, last) for front in itertools.product(SHARES, repeat=count - 1) for last in (1.0, None))
    return itertools.islice(filter(rising, ways), MAX_SHARINGS)


def _chosen(
    tests: Sequence[Exit], scores: Sequence[Tensor], allowed: Sequence[float | None], drop: Callable[[Tensor], float]
) -> tuple[list[Exit], Tensor]:
    """Stage by stage the limit that lets most rows leave; and the stage int64 [rows] at which each does."""
    last = len(tests)
    left = torch.full((len(scores[0]) if scores else 0,), last)
    exits = []
    for index, (test, score, limit) in enumerate(zip(tests, scores, allowed)):
        chosen = test.never
        for candidate in _candidates(test, score[left == last]) if limit is not None else ():
            trial = torch.where((left == last) & candidate.passes(score), index, left)
            if drop(trial) <= limit:  # type: ignore[operator]
                chosen, left = candidate, trial
                break
        exits.append(chosen)
    return exits, left


def _candidates(test: Exit, scores: Tensor) -> Iterator[Exit]:
    """Limits between neighboring scores, from the one that lets most rows leave."""
    finite = scores[scores.isfinite()].unique()  # ascending
    if test.above is None:
        finite = finite.flip(0)
    if not len(finite):
        return
    places = np.unique(np.linspace(0, len(finite) - 1, min(CANDIDATES, len(finite))).round().astype(int))
    for place in places:
        here = float(finite[place])
        yield test.at(here if place == 0 else float(((finite[place - 1].double() + here) / 2).float()))


def _mixed(answers: Sequence[Tensor], left: Tensor) -> Tensor:
    y = answers[-1].clone()
    for index, answer in enumerate(answers[:-1]):
        y[left == index] = answer[left == index]
    return y


def _mean_us(left: Tensor, us: Sequence[float]) -> float:
    return float(torch.from_numpy(np.cumsum(us))[left].mean()) if len(left) else float(sum(us))
