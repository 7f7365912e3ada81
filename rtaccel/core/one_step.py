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
