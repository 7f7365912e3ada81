"""The samples of one run, and the bounds that they prove of a quantile."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np

from rtaccel.measure.statistics.dependence import ENOUGH_EXCEEDANCES, inflation
from rtaccel.measure.statistics.quantiles import allowed_exceedances, refuting_exceedances


def proved(over: int, n: int, factor: float, tail: Fraction) -> bool:
    """Whether `over` of n calls over a limit prove that at most `tail` of all are. factor: inflation of that number."""
    effective = int(n / factor)
    return effective >= 1 and over <= allowed_exceedances(effective, tail) * factor


def refuted(over: int, n: int, factor: float, tail: Fraction) -> bool:
    """Whether they prove that more than `tail` are; two at least."""
    effective = int(n / factor)
    refuting = refuting_exceedances(effective, tail) if effective >= 1 else None
    return refuting is not None and over >= max(refuting, 2) * factor


class Run:
    """The samples of a run. in_order: float64 [n], as measured. Sorted only when something asks for it."""

    def __init__(self, in_order: Any) -> None:
        self.in_order = np.asarray(in_order, dtype=np.float64)
        self.n = len(self.in_order)
        self._bounds: dict[Fraction, tuple[float | None, float | None]] = {}

    @cached_property
    def rank(self) -> np.ndarray:
        """int64 [n]: places in time, from the quickest sample to the slowest."""
        return np.argsort(self.in_order, kind="stable")

    @cached_property
    def ordered(self) -> np.ndarray:
        """float64 [n], ascending."""
        return self.in_order[self.rank]

    def over(self, limit: float) -> int:
        """How many samples exceed a limit."""
        if "ordered" in self.__dict__:
            return self.n - int(self.ordered.searchsorted(limit, side="right"))
        return int(np.count_nonzero(self.in_order > limit))

    def inflation(self, limit: float) -> float:
        """D of `dependence` for the calls over a limit.

        Where they are fewer than 32, it is no less than that of the slow calls near the limit: those of the 32 slowest
        that take half of it or more, with their ties.
        """
        places = self._places_over(limit)
        found = inflation(places, self.n)
        if len(places) < ENOUGH_EXCEEDANCES < self.n:
            near = max(self._slowest(ENOUGH_EXCEEDANCES), limit / 2)
            found = max(found, inflation(self._places_over(np.nextafter(near, -np.inf)), self.n))
        return found

    def _places_over(self, limit: float) -> np.ndarray:
        if "ordered" in self.__dict__:
            return self.rank[self.n - self.over(limit) :]
        return np.flatnonzero(self.in_order > limit)

    def _slowest(self, count: int) -> float:
        if "ordered" in self.__dict__:
            return float(self.ordered[self.n - count])
        return float(np.partition(self.in_order, self.n - count)[self.n - count])

    def bounds(self, tail: Fraction) -> tuple[float | None, float | None]:
        """99 % bounds of a quantile, each on its own: the largest limit that is refuted and the least that is proved.

        Found by bisection over the samples; None where they are too few. Of calls that look independent they are the
        order statistics of `quantiles.estimate`.
        """
        if tail not in self._bounds:
            self._bounds[tail] = self._find_bounds(tail)
        return self._bounds[tail]

    def _find_bounds(self, tail: Fraction) -> tuple[float | None, float | None]:
        n, expected = self.n, int(self.n * tail)

        def refutes(over: int) -> bool:  # a limit just below the sample that is over-th from the top
            limit = np.nextafter(self.ordered[n - max(over, 1)], -np.inf)
            return refuted(self.over(limit), n, self.inflation(limit), tail)

        def proves(fewer: int) -> bool:  # a limit equal to the sample with so many above it
            limit = self.ordered[n - 1 - expected + fewer]
            return proved(self.over(limit), n, self.inflation(limit), tail)

        low, high = _first(refutes, expected, n), _first(proves, 0, expected)
        return (
            None if low is None else float(self.ordered[n - max(low, 1)]),
            None if high is None else float(self.ordered[n - 1 - expected + high]),
        )


def _first(holds: Callable[[int], bool], start: int, stop: int) -> int | None:
    """The first of start .. stop that holds, of a property that goes on holding; None where even `stop` does not."""
    if not holds(stop):
        return None
    while start < stop:
        middle = (start + stop) // 2
        if holds(middle):
            stop = middle
        else:
            start = middle + 1
    return start
