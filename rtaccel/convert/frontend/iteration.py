"""One iteration over tensors that broadcast: sizes that fit the strides of all of them, and where each walks.

A logical dimension may be made of several runs (`layout.Atom`) in one operand and of others in the next one. Here they are cut
into common ones, in the order of the result's memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from rtaccel.convert.frontend.layout import Atom, View, same_samples
from rtaccel.kernels._common.strides import common_sizes, recut


@dataclass(frozen=True)
class Iteration:
    """dims: sizes without the samples, as the result lies. places: for each operand its offset and strides."""

    dims: tuple[int, ...]
    places: tuple[tuple[int, ...], ...]


def iteration(result: View, operands: Sequence[View]) -> Iteration | None:
    """operands broadcast against the result, which is dense. None where no common cut has strides, or where samples lie in
    different dimensions."""
    sizes: list[int] = []
    strides: list[list[int]] = [[] for _ in range(len(operands) + 1)]
    for d, own in enumerate(result.dims):
        lists = [own]
        for view in operands:
            at = d - (len(result.dims) - len(view.dims))
            found = _against(own, view.dims[at] if at >= 0 else ())
            if found is None:
                return None
            lists.append(found)
        runs = [[a for a in atoms if not a.batch] for atoms in lists]
        cut = common_sizes([a.size for a in atoms] for atoms in runs)
        if cut is None:
            return None
        sizes += cut
        for target, atoms in zip(strides, runs):
            target += recut([a.size for a in atoms], [a.stride for a in atoms], cut)
    order = sorted(range(len(sizes)), key=lambda i: -strides[0][i])
    order = [i for i in order if sizes[i] != 1]
    dims = tuple(sizes[i] for i in order) or (1,)
    places = []
    for view, own_strides in zip(operands, strides[1:]):
        places.append((view.offset, *([own_strides[i] for i in order] or [0])))
    return Iteration(dims, tuple(places))


def _against(own: tuple[Atom, ...], dim: tuple[Atom, ...]) -> tuple[Atom, ...] | None:
    """The runs of one dimension of an operand beside those of the result: one of stride 0 where it broadcasts."""
    size = prod(a.size for a in own if not a.batch)
    if prod(a.size for a in dim) == 1 and not any(a.batch for a in dim):
        return (Atom(size, 0),)
    if size != prod(a.size for a in dim if not a.batch) or not same_samples([own], [dim]):
        return None
    return dim
