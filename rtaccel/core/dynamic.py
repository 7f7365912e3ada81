"""What `dynamic=` says: the dimensions beside the batch whose size changes from call to call, and the bounds of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rtaccel.core.errors import ShapeError, UnsupportedProblem

EXAMPLE = 'dynamic={"x": {1: (1, 512)}}'


@dataclass(frozen=True)
class DynamicDim:
    """One dimension. argument: its place among the arguments; dim: not negative; lo, hi: both included."""

    argument: int
    name: str
    dim: int
    lo: int
    hi: int

    def __str__(self) -> str:
        return f"{self.name}.shape[{self.dim}]"


def dynamic_dims(given: Any, names: Sequence[str], ranks: Sequence[int | None]) -> tuple[DynamicDim, ...]:
    """The dimensions in the order of the arguments.

    given: {argument: {dimension: (lo, hi)}}, an argument by its name or place. names: of the arguments. ranks: dimensions
    of each, None for what is no tensor. Raises UnsupportedProblem for what is not of that form, ShapeError for a dimension
    or bounds that cannot be.
    """
    if not isinstance(given, Mapping) or not given or not all(isinstance(one, Mapping) for one in given.values()):
        raise UnsupportedProblem("compile", f"dynamic={given!r}", f"as in {EXAMPLE}", "Name arguments and dimensions.")
    found = []
    for key, dims in given.items():
        place = key if isinstance(key, int) else names.index(key) if key in names else -1
        if isinstance(key, bool) or not 0 <= place < len(ranks):
            known = ", ".join(names) or f"0 to {len(ranks) - 1}"
            raise UnsupportedProblem("compile", f"dynamic for {key!r}", f"an argument: {known}", "Name one of these.")
        rank, name = ranks[place], names[place] if place < len(names) else f"argument {place}"
        if rank is None:
            raise UnsupportedProblem("compile", f"dynamic for {name}", "an argument that is a tensor", "Leave it out.")
        found += [_dim(place, name, rank, dim, bounds) for dim, bounds in dims.items()]
    return tuple(sorted(found, key=lambda one: (one.argument, one.dim)))


def _dim(place: int, name: str, rank: int, dim: Any, bounds: Any) -> DynamicDim:
    if type(dim) is not int or not -rank <= dim < rank:
        raise ShapeError("compile", f"dynamic dimension {dim!r} of {name}", f"one of its {rank}", "Count from 0.")
    at = dim % rank
    if at == 0:
        raise ShapeError(
            "compile", f"dynamic dimension 0 of {name}", "another one: the batch is open as it is",
            "Leave it out; max_batch bounds it.",
        )  # fmt: skip
    pair = tuple(bounds) if isinstance(bounds, (tuple, list)) else ()
    if len(pair) != 2 or not all(type(n) is int for n in pair) or not 1 <= pair[0] <= pair[1]:
        raise ShapeError(
            "compile", f"bounds {bounds!r} of dimension {at} of {name}", "(lo, hi), both included, lo at least 1",
            f"As in {EXAMPLE}.",
        )  # fmt: skip
    return DynamicDim(place, name, at, *pair)
