"""Figures over all networks: geometric means of ratios, and shares of networks that meet a condition."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bench.peers.results import CLASSES, Row, best_of

Rows = Mapping[str, Sequence[Row]]
"""Network -> a row per runtime."""

EAGER, ORT, OURS, OURS_INT8 = "torch_eager", "ort_fp32", "rt_float32", "rt_w8a8"


@dataclass(frozen=True)
class Ratios:
    """One ratio per network, above 1 where rtaccel is the faster one. names: the networks, in the same order."""

    names: tuple[str, ...]
    values: tuple[float, ...]

    @property
    def mean(self) -> float | None:
        """The geometric mean; None for no network."""
        if not self.values:
            return None
        return math.exp(sum(math.log(v) for v in self.values) / len(self.values))

    @property
    def below_one(self) -> tuple[str, ...]:
        return tuple(name for name, value in zip(self.names, self.values) if value < 1)


def row_of(rows: Sequence[Row], peer: str) -> Row | None:
    """The row of a runtime, where it has a time."""
    return next((row for row in rows if row.peer == peer and row.best_us is not None), None)


def ratios(found: Rows, other: Callable[[Sequence[Row]], Row | None], mine: str) -> Ratios:
    """Time of the other row over that of `mine`, for the networks that have both."""
    names, values = [], []
    for name, rows in found.items():
        theirs, own = other(rows), row_of(rows, mine)
        if theirs is not None and own is not None and theirs.best_us and own.best_us:
            names.append(name)
            values.append(theirs.best_us / own.best_us)
    return Ratios(tuple(names), tuple(values))


def beside(peer: str) -> Callable[[Sequence[Row]], Row | None]:
    return lambda rows: row_of(rows, peer)


def best_exact_peer(rows: Sequence[Row]) -> Row | None:
    """The fastest other runtime whose error is at most that of the class `exact`."""
    return best_of(rows, "exact", ours=False)


def best_int8_peer(rows: Sequence[Row]) -> Row | None:
    return best_of(rows, "int8", ours=False)


def accurate(found: Rows, peer: str, limit: str) -> tuple[str, ...]:
    """Networks on which a runtime keeps to an error class."""
    return tuple(
        name for name, rows in found.items()
        if (row := row_of(rows, peer)) is not None and row.error is not None and row.error <= CLASSES[limit]
    )  # fmt: skip


def only(found: Rows, names: Sequence[str]) -> Rows:
    return {name: rows for name, rows in found.items() if name in set(names)}
