"""How weights in blocks and single weights lie in memory for the Triton kernels.

W is cut into blocks of b outputs by c inputs, both powers of two; those without a number are left out. b neighboring outputs
have their blocks in the same columns. Row r of blocks is one stream of units, each of whole blocks and at least 16 bytes:

    starts [rows of blocks + 1]     int32, in units: of row r of blocks are units starts[r] .. starts[r + 1] - 1 of each output
    columns [units * unit / c]      int16 (int32 where that is too small), of each block in blocks; 0 where a unit is padded
    weight [...]                    from element starts[r] * unit * b on, step after step along the row: of outputs r * b + i,
                                    i = 0 .. b - 1, the elements of a step, one output after the other

A step is what a warp reads of an output at once: 16 bytes where eight outputs side by side are a line of 128 bytes, and meet the
same 16 bytes of x; a line where tensor cores take rows of it. A row's last step may be shorter. Wide blocks have the whole row.

A weight without any pattern has b = 1, and c = 4 for int8 (an occupied word of four bytes is one dp4a) or c = 1 for floats. Its
rows follow each other, and begin anywhere.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rtaccel.formats import blocks
from rtaccel.kernels.sparse_linear.triton.rows import KernelConfig

WHOLE = 1 << 30
"""A step that no row reaches: rows of a block follow each other."""

BANKS = 32
"""Of shared memory, a word each, and lanes of a warp."""


def pack(weight: Tensor, config: KernelConfig, step: int = 0, each: int = 0) -> dict[str, Tensor]:
    """weight, columns and starts of a dense weight [N, K], as above. step: elements, 16 bytes where it is not given.

    each: blocks of a row that a lane takes in a step, where x is gathered from shared memory. Then a row's blocks are in an
    order in which few of the lanes that gather at once ask the same bank. Without it columns ascend."""
    b, c, unit, step = config.b, config.c, config.unit, step or config.piece
    tiles = blocks.tiled(weight, (b, c))
    kept = (tiles != 0).flatten(2).any(2)
    counts = kept.sum(1)
    units = -(-counts // (unit // c))
    if step < WHOLE:
        units = blocks.in_steps(units, max(step // unit, 1))
    starts = torch.zeros(counts.numel() + 1, dtype=torch.int64, device=weight.device)
    starts[1:] = units.cumsum(0)
    row, column = kept.nonzero(as_tuple=True)
    if each:
        row, column, place = _spread(row, column, starts, config, each)
    else:
        place = torch.arange(row.numel(), device=weight.device) - (counts.cumsum(0) - counts)[row]
    total = max(int(starts[-1]), 1)
    columns = torch.zeros(total * (unit // c), dtype=config.index, device=weight.device)
    columns[starts[row] * (unit // c) + place] = column.to(config.index)
    values = weight.new_zeros(total * unit * b)
    along = (place * c)[:, None] + torch.arange(c, device=weight.device)  # in the stream of an output
    begun = along // step * step
    apart = (units[row, None] * unit - begun).clamp(max=step)
    at = ((starts[row] * (unit * b))[:, None] + begun * b + along % step)[:, None, :]
    at = at + torch.arange(b, device=weight.device)[:, None] * apart[:, None, :]
    values[at] = tiles[row, column]
    return {"weight_ptr": values, "columns_ptr": columns, "starts_ptr": starts.to(torch.int32)}


def _spread(
    row: Tensor, column: Tensor, starts: Tensor, config: KernelConfig, each: int
) -> tuple[Tensor, Tensor, Tensor]:
    """(row, column, place) of single weights in another order: those of a row in rounds that take one of each bank. The places
    of a row are given away as lanes take them at once: element i of all lanes, then the next."""
    unit, rows = config.unit // config.c, starts.numel() - 1  # blocks of a unit
    bank = column % BANKS
    turn = _rank(row * BANKS + bank)
    order = torch.argsort(bank + BANKS * turn, stable=True)
    order = order[torch.argsort(row[order], stable=True)]
    row, column = row[order], column[order]
    sizes = (starts[1:] - starts[:-1]) * unit
    owner = torch.repeat_interleave(torch.arange(rows, device=row.device), sizes)
    place = torch.arange(owner.numel(), device=row.device) - starts[owner] * unit
    at = starts[owner] % config.lead * unit + place  # where a program sees it
    step = each * BANKS
    key = at // step * step + at % each * BANKS + at % step // each
    slots = torch.argsort(key, stable=True)
    slots = slots[torch.argsort(owner[slots], stable=True)]
    first = (torch.bincount(row, minlength=rows).cumsum(0) - torch.bincount(row, minlength=rows))[row]
    nth = torch.arange(row.numel(), device=row.device) - first
    return row, column, place[slots[starts[row] * unit + nth]]


def _rank(key: Tensor) -> Tensor:
    """Of each number, how many equal ones stand before it."""
    order = torch.argsort(key, stable=True)
    ordered = key[order]
    first = torch.searchsorted(ordered, ordered)
    rank = torch.empty_like(key)
    rank[order] = torch.arange(key.numel(), device=key.device) - first
    return rank
