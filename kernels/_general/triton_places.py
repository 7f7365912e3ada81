"""Text of the addresses of strided operands: from the number of an element of an iteration to where an operand lies.

Values on a card are dense, so an operand is an offset and a stride for each dimension, and there are no rows that are padded.
Dimensions that all operands walk in one stride are joined first, so that most stages need no division.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

Place = tuple[int, ...]

MAX_ELEMENTS = 2**31 - 1
"""Of a sample of one value: elements within a sample are numbered in 32 bits, samples in 64."""


def joined(dims: Sequence[int], places: Sequence[Place]) -> tuple[tuple[int, ...], list[Place]]:
    """(dims, places) of the same iteration, with as few dimensions as there can be; at least one."""
    sizes: list[int] = []
    strides: list[list[int]] = [[] for _ in places]
    for d, size in enumerate(dims):
        own = [p[d + 1] for p in places]
        if size == 1:
            continue
        if sizes and all(s[-1] == o * size for s, o in zip(strides, own)):
            sizes[-1] *= size
            for s, o in zip(strides, own):
                s[-1] = o
        else:
            sizes.append(size)
            for s, o in zip(strides, own):
                s.append(o)
    if not sizes:
        return (1,), [(p[0], 0) for p in places]
    return tuple(sizes), [(p[0], *s) for p, s in zip(places, strides)]


def nested(dims: Sequence[int], source: Place, target: Place) -> tuple[list[int], Place, Place] | None:
    """(sizes, source, target) with strides in y from the largest down, all positive; None where they are not nested."""
    sizes, (source, target) = joined(dims, [source, target])
    at, start = [source[0], target[0]], []
    for size, own, wide in zip(sizes, source[1:], target[1:]):
        if wide < 0:
            at, own, wide = [at[0] + (size - 1) * own, at[1] + (size - 1) * wide], -own, -wide
        start.append((wide, size, own))
    start.sort(reverse=True)
    inner = 0
    for wide, size, _ in reversed(start):
        if wide <= inner:
            return None
        inner += (size - 1) * wide
    return [s for _, s, _ in start], (at[0], *(o for _, _, o in start)), (at[1], *(w for w, _, _ in start))


def digits(dims: Sequence[int], number: str, name: str) -> list[str]:
    """Lines that set name0, name1, ... to the index in each dimension, from the number of an element."""
    lines = []
    for d, size in enumerate(dims):
        inner = prod(dims[d + 1 :])
        text = number if inner == 1 else f"{number} // {inner}"
        if d:
            text = f"({text}) % {size}" if inner > 1 else f"{text} % {size}"
        lines.append(f"{name}{d} = {text}")
    return lines


def address(place: Place, name: str) -> str:
    """The element of an operand, from the indices that `digits` set. A constant alone stays a number."""
    parts = [str(place[0])] if place[0] or not any(place[1:]) else []
    parts += [f"{name}{d}" if s == 1 else f"{name}{d} * {s}" for d, s in enumerate(place[1:]) if s]
    return " + ".join(parts)


def as_tile(at: str) -> str:
    """An address that is a number as a tile of one: a load takes no mask of tiles with a number."""
    return f"{at} + tl.zeros((1, 1), tl.int32)" if at.isdigit() else at
