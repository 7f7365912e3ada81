"""Leading dimensions of one: a slot of one sample, and a model that takes a batch of them."""

from __future__ import annotations

from collections.abc import Sequence


def without_ones(shape: Sequence[int]) -> tuple[int, ...]:
    """A shape without its leading dimensions of one, as that of a batch."""
    sizes = tuple(shape)
    while sizes and sizes[0] == 1:
        sizes = sizes[1:]
    return sizes


def of_rank(shape: Sequence[int], rank: int) -> tuple[int, ...]:
    """The shape with a leading one more, or one less, where it then has so many dimensions; else as it is."""
    sizes = tuple(shape)
    if rank == len(sizes) + 1:
        return (1, *sizes)
    return sizes[1:] if rank == len(sizes) - 1 and sizes[0] == 1 else sizes
