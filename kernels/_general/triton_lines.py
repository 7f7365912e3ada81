"""Kernels over lines, in Triton: text that numbers the lines of all samples, and places along them.

A line is what is joined, sorted or scanned: the first dimensions of an iteration number the lines of a sample, the others go
along one. Lines of several samples lie in one tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from rtaccel.kernels._general.triton_places import Place, address, digits, joined
from rtaccel.kernels._gpu.triton_spec import Tiling, power_of_two

TILE = 2048
"""Elements of a tile: 256 threads with 8 each."""


def rows(lines: int) -> list[str]:
    """m and k: the sample and the line in it of each row of the tile. `there` says which rows there are."""
    found = ["r = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)[:, None]"]
    if lines == 1:
        found += ["m = r", "k = tl.zeros((BLOCK_R, 1), tl.int32)"]
    else:
        found += [f"m = r // {lines}", f"k = (r % {lines}).to(tl.int32)"]
    return [*found, "there = m < rows"]


def place(
    dims: Sequence[int], kept: int, whole: Place, line: str, step: str, name: str
) -> tuple[list[str], list[str], str, str]:
    """(lines for k, lines for o, address of a line, address along it) of an operand. line, step: names of the indices."""
    outer_dims, (outer,) = joined(dims[:kept], [whole[: kept + 1]])
    inner_dims, (inner,) = joined(dims[kept:], [(0, *whole[kept + 1 :])])
    own = digits(outer_dims, line, f"{name}k") if any(outer[1:]) else []
    along = digits(inner_dims, step, f"{name}o") if any(inner[1:]) else []
    return own, along, address(outer, f"{name}k"), address(inner, f"{name}o")


def tiling(lines: int, over: int, near: bool) -> Tiling:
    """lines: of all samples. near: neighbors along a line lie together; else those of different lines."""
    if near:
        wide = power_of_two(over, 1, TILE)
        high = power_of_two(lines // 128, 1, max(1, min(32, TILE // wide)))
    else:
        high = power_of_two(min(lines, 32), 1, 32)
        wide = power_of_two(over, 1, TILE // 2 // high)
    return Tiling(high, 1, wide, num_warps=power_of_two(high * wide // 128, 1, 8))


def neighbors(dims: Sequence[int], kept: int, whole: Place) -> bool:
    """Whether elements along a line lie nearer than lines do."""
    along = [abs(s) for n, s in zip(dims[kept:], whole[kept + 1 :]) if n > 1 and s]
    across = [abs(s) for n, s in zip(dims[:kept], whole[1 : kept + 1]) if n > 1 and s]
    return not across or not along or min(along) <= min(across)


def count(dims: Sequence[int]) -> int:
    return prod(dims)
