"""How a plan gets such a stage: from what makes the differences of two operands by strides, and what joins them over some of the
dimensions.

Each dimension that is kept moves a, w, both or neither. The last ones that move one operand alone are j, the ones before that
move the other alone are i, and all before are b. No operand is one of the two for good: the size of a difference has no sign.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from rtaccel.core.stage import Stage, Value
from rtaccel.core.stage_traits import Differences, Joins, Pairs
from rtaccel.kernels._common.strides import dense, elements

MIN_COLUMNS = 4
"""Fewer fill too little of a vector."""

WEIGHTED = (("sum", "squares"), ("mean", "squares"), ("sum", "magnitudes"), ("mean", "magnitudes"))
KINDS = (*WEIGHTED, ("amax", "magnitudes"))
"""What there is of (attrs["kind"], attrs["of"]), with weights and without."""


@dataclass(frozen=True)
class Piece:
    """A dimension, and how far one step of it moves each operand, and the weights."""

    size: int
    steps: tuple[int, ...]

    @property
    def alone(self) -> int | None:
        """The operand that alone it moves."""
        moved = [o for o in (0, 1) if self.steps[o]]
        return moved[0] if len(moved) == 1 else None


class InPlans(Pairs):
    def joined(self, name: str, y: Value, differences: Differences, joins: Joins) -> Stage | None:
        kinds = WEIGHTED if differences.weights is not None else KINDS
        found = _pieces(differences, joins)
        if (joins.kind, differences.of) not in kinds or y.dtype != "float32" or found is None:
            return None
        starts, kept, k = found
        right = kept[-1].alone if kept else None
        if right is None:
            return None
        j = _trailing(kept, right)
        i = _trailing(kept[: len(kept) - len(j)], 1 - right)
        b = kept[: len(kept) - len(i) - len(j)]
        if prod(p.size for p in j) < MIN_COLUMNS or prod(p.size for p in k) < 1:
            return None
        sides = [("a", differences.operands[1 - right], 1 - right, (*b, *i, *k)),
                 ("w", differences.operands[right], right, (*b, *k, *j))]  # fmt: skip
        if differences.weights is not None:
            if any(p.steps[2] for p in i):
                return None
            sides.append(("v", differences.weights, 2, (*b, *k, *j)))
        inputs, tensors, places = [], {}, []
        for letter, operand, of, along in sides:
            place = (starts[of], *(p.steps[of] for p in along))
            if isinstance(operand, Value):
                inputs.append(operand)
            else:
                tensors[letter], place = in_order(operand, tuple(p.size for p in along), place)
            places.append(place)
        sizes = tuple(tuple(p.size for p in group) for group in (b, i, j, k))
        attrs = {"kind": joins.kind, "of": differences.of, "sizes": sizes, "places": tuple(places)}
        return Stage("pairwise", name, tuple(inputs), (y,), tensors, attrs)


def _trailing(pieces: Sequence[Piece], alone: int | None) -> list[Piece]:
    """The last ones that move this operand alone."""
    first = len(pieces)
    while alone is not None and first and pieces[first - 1].alone == alone:
        first -= 1
    return list(pieces[first:])


def in_order(
    x: Tensor, dims: tuple[int, ...], place: tuple[int, ...], rows: int | None = None
) -> tuple[Tensor, tuple[int, ...]]:
    """A parameter as it is read, and its place. A dimension that moves nothing stays out, but for those from `rows` on."""
    whole = len(dims) if rows is None else rows
    moving = tuple(n if stride or d >= whole else 1 for d, (n, stride) in enumerate(zip(dims, place[1:])))
    index = torch.from_numpy(elements(moving, place))
    strides = tuple(s if n > 1 else 0 for n, s in zip(moving, dense(moving)[1:]))
    return x.detach().reshape(-1)[index.to(x.device)].contiguous(), (0, *strides)


def _pieces(differences: Differences, joins: Joins) -> tuple[list[int], list[Piece], list[Piece]] | None:
    """Where each operand starts, the dimensions that are kept, and those that are joined. None where the join reads other
    elements than a walk over the dimensions of the differences gives."""
    dims = differences.dims
    places = [*differences.places, differences.weights_place or (0, *(0 for _ in dims))]
    at, rest = [], joins.place[0]
    for stride in dense(dims)[1:]:
        at.append(rest // stride)
        rest %= stride
    starts = [place[0] + sum(n * s for n, s in zip(at, place[1:])) for place in places]
    groups: list[list[Piece]] = [[], []]
    for d, (size, stride) in enumerate(zip(joins.dims, joins.place[1:])):
        parts = _parts(size, stride, dims) if size > 1 else []
        if parts is None:
            return None
        for count, inner, steps in parts:
            at[inner] += (count - 1) * steps
            groups[d >= joins.kept].append(Piece(count, tuple(place[1 + inner] * steps for place in places)))
    if any(last >= size for last, size in zip(at, dims)):
        return None
    return starts, groups[0], groups[1]


def _parts(size: int, stride: int, dims: tuple[int, ...]) -> list[tuple[int, int, int]] | None:
    """A dimension over a dense value cut where dimensions of that begin: (size, dimension, steps in it)."""
    found: list[tuple[int, int, int]] = []
    whole = dense(dims)[1:]
    while True:
        inner = next((d for d in reversed(range(len(dims))) if 0 < stride < whole[d] * dims[d]), None)
        if inner is None or stride % whole[inner]:
            return None
        steps = stride // whole[inner]
        count = dims[inner] // steps
        if size <= count or inner == 0:
            return [(size, inner, steps), *found]
        if dims[inner] % steps or size % count:
            return None
        found.insert(0, (count, inner, steps))
        size, stride = size // count, whole[inner] * dims[inner]
