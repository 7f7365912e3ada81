"""Split-K: several programs sum parts of one tile, and the last to arrive adds the parts in a fixed order.

A layer of few outputs gives few tiles, and most multiprocessors would idle while a few read all its weights. With
`split_k` programs per tile each reads a part of K. The parts go to a workspace; a counter per tile tells the last program,
which sums them from the first to the last, whoever came when: the same bits in every run, for float sums too. It sets the
counter back to 0, so that a CUDA graph finds it clean in its next replay. One launch, no second pass.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import triton
import triton.language as tl
from torch import Tensor

from rtaccel.kernels._gpu.triton_epilogue import epilogue


@triton.jit
def put_part(acc, in_m, work_ptr, count_ptr, tile, part, SPLIT: tl.constexpr):
    """Writes the rows `in_m` of this program's part of a tile; whether it is the last of SPLIT to do so. tile: int64.

    The barrier orders the stores of all threads before the atomic of one of them, which publishes them to the device
    (release) and, for the last, makes those of the others visible (acquire).
    """
    m = tl.arange(0, acc.shape[0])[:, None]
    n = tl.arange(0, acc.shape[1])[None, :]
    base = work_ptr + (tile * SPLIT + part) * (acc.shape[0] * acc.shape[1])
    tl.store(base + m * acc.shape[1] + n, acc, mask=in_m[:, None])
    tl.debug_barrier()
    return tl.atomic_add(count_ptr + tile, 1, sem="acq_rel", scope="gpu") == SPLIT - 1


@triton.jit
def sum_parts(acc, in_m, work_ptr, count_ptr, tile, SPLIT: tl.constexpr):
    """The sum of a tile's parts, first to last; the counter is ready for the next launch. For the last program only.

    `.cg` reads past the multiprocessor's own cache, which may hold what the workspace was in the launch before.
    """
    m = tl.arange(0, acc.shape[0])[:, None]
    n = tl.arange(0, acc.shape[1])[None, :]
    base = work_ptr + tile * SPLIT * (acc.shape[0] * acc.shape[1])
    at, inside = m * acc.shape[1] + n, in_m[:, None]
    total = tl.load(base + at, mask=inside, other=0, cache_modifier=".cg")  # [m, n]
    for part in tl.static_range(1, SPLIT):
        total += tl.load(base + part * (acc.shape[0] * acc.shape[1]) + at, mask=inside, other=0, cache_modifier=".cg")
    tl.store(count_ptr + tile, 0)
    return total


@triton.jit
def split_epilogue(acc, m, in_m, n, row_scale, work_ptr, count_ptr, end, SPLIT: tl.constexpr):
    """`epilogue` of a tile whose sums the programs of the grid's third axis share; the last of them does it."""
    if SPLIT > 1:
        tile = tl.program_id(1).to(tl.int64) * tl.num_programs(0) + tl.program_id(0)
        if put_part(acc, in_m, work_ptr, count_ptr, tile, tl.program_id(2), SPLIT):
            total = sum_parts(acc, in_m, work_ptr, count_ptr, tile, SPLIT)
            epilogue(total, m, in_m, n, row_scale, end)
    else:
        epilogue(acc, m, in_m, n, row_scale, end)


TARGET_PROGRAMS = 128
"""About as many programs as the multiprocessors of the cards this is for (A100 108, H100 132, B200 148)."""


def parts_of(tiles: int, steps: int, most: int = 8) -> int:
    """In how many parts, a power of two, to cut the `steps` of K where there are `tiles`: at least two steps a part, and at most
    one step in sixteen that is there only to make the parts equal."""
    parts = 1
    while parts * 2 <= most and tiles * parts * 2 <= TARGET_PROGRAMS and steps >= parts * 4:
        if -(-steps // (parts * 2)) * (parts * 2) * 16 > steps * 17:
            break
        parts *= 2
    return parts


@dataclass
class Workspace:
    """Parts and counters of one prepared kernel, kept between calls and grown where a call has more tiles.

    What was outgrown is kept too: a captured graph may hold its address. Calls of one kernel must follow each other on one
    stream, as those of a compiled model do.
    """

    tile_elements: int
    split: int
    dtype: torch.dtype
    _held: dict[torch.device, list[tuple[Tensor, Tensor]]] = field(default_factory=dict)

    def exchange_key(self) -> tuple[object, ...]:
        """It holds nothing of the weights: one of the same sizes serves as well."""
        return (self.tile_elements, self.split, self.dtype)

    def take(self, tiles: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """(parts [tiles * split * tile_elements], counters int32 [tiles] of zeros)."""
        held = self._held.setdefault(device, [])
        if not held or held[-1][1].numel() < tiles:
            parts = torch.empty(tiles * self.split * self.tile_elements, dtype=self.dtype, device=device)
            held.append((parts, torch.zeros(tiles, dtype=torch.int32, device=device)))
        return held[-1]
