"""Places over a value of all time steps, [outer, steps, inner], as places over one of a single time step, [outer, inner]."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class OneStep:
    """dim: of the iteration, the one over time steps; -1 where a single step is read. first: the first step that is read.
    place: over the other dimensions."""

    dim: int
    first: int
    place: tuple[int, ...]


def one_step(dims: Sequence[int], place: Sequence[int], steps: int, inner: int) -> OneStep | None:
    """None where steps are read in another order than one after the other."""
    whole, offset = steps * inner, place[0]
    over_time = [d for d, (n, stride) in enumerate(zip(dims, place[1:])) if n > 1 and stride == inner]
    dim = over_time[0] if over_time else -1
    first = offset // inner % steps
    if len(over_time) > 1 or (over_time and first + dims[dim] > steps):
        return None
    strides, reach = [], offset % inner
    for d, (n, stride) in enumerate(zip(dims, place[1:])):
        if d == dim:
            continue
        if n > 1 and stride % whole:
            reach += stride * (n - 1)
            if stride < 0:
                return None
        strides.append(0 if n == 1 else stride if stride % whole else stride // steps)
    if reach >= inner:
        return None
    return OneStep(dim, first, (offset // whole * inner + offset % inner, *strides))


@dataclass(frozen=True)
class Windows:
    """dim: of the iteration, the one over windows, each a step later. first: the newest step that the first window reads. reach:
    how many steps before its newest one a window reads. place: over the other dimensions, in elements of the newest `reach` + 1
    steps."""

    dim: int
    first: int
    reach: int
    place: tuple[int, ...]


def step_windows_of(dims: Sequence[int], place: Sequence[int], steps: int, inner: int) -> Windows | None:
    """Places over a value [steps, inner] that read several of its steps for each; None for others."""
    offset, *strides = place
    over = [d for d, (n, stride) in enumerate(zip(dims, strides)) if n > 1 and stride and stride % inner == 0]
    along = [d for d in over if strides[d] == inner]
    if not along or min(strides) < 0:
        return None
    dim = max(along, key=lambda d: dims[d])
    reach = sum((dims[d] - 1) * strides[d] // inner for d in over if d != dim)
    within = offset % inner + sum((n - 1) * s for d, (n, s) in enumerate(zip(dims, strides)) if d not in over)
    first = offset // inner + reach
    if not reach or within >= inner or first + dims[dim] > steps:
        return None
    return Windows(dim, first, reach, (offset % inner, *(s for d, s in enumerate(strides) if d != dim)))


def time_apart(
    dims: Sequence[int], places: Sequence[Sequence[int]], layouts: Sequence[tuple[int, int]]
) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """The same iteration with dimensions cut where time begins and ends in an operand, as passes may have merged them.

    layouts: (steps, inner) of the first operands; others follow in `places`.
    """
    sizes, strides = list(dims), [list(p[1:]) for p in places]
    d = 0
    while d < len(sizes):
        cut = _cut(sizes[d], [(own[d], steps, inner) for own, (steps, inner) in zip(strides, layouts)])
        if cut is None:
            d += 1
            continue
        sizes[d : d + 1] = [sizes[d] // cut, cut]
        for own in strides:
            own[d : d + 1] = [own[d] * cut, own[d]]
    return tuple(sizes), [(p[0], *own) for p, own in zip(places, strides)]


def _cut(size: int, operands: Sequence[tuple[int, int, int]]) -> int | None:
    """The size of the inner part of a dimension that holds more than one of: numbers of a time step, time steps, outer parts."""
    for stride, steps, inner in operands:
        for bound in (inner * steps, inner):
            if 0 < stride < bound < stride * size and bound % stride == 0 and size % (bound // stride) == 0:
                return bound // stride
    return None
