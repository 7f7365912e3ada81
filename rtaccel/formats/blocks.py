"""Block-sparse weights: the b x c blocks that hold a number other than zero, by rows of blocks (BSR).

A state dict stores `weight` [blocks, b, c] (float32 or int8), `columns` [blocks] in int16 or int32, counted in blocks, and
`row_starts` int32 [rows of blocks + 1]. Where b or c does not divide the layer, the last blocks reach over its edge and
hold zeros there: padded inside, exact outside.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rtaccel.core.errors import FormatError
from rtaccel.formats import csr

STEP = "Pack the weight with rtaccel.formats.blocks, or save it again."


def grid(n: int, k: int, block: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of blocks."""
    return -(-n // block[0]), -(-k // block[1])


def tiled(weight: Tensor, block: tuple[int, int]) -> Tensor:
    """[rows of blocks, columns of blocks, b, c] of a weight [N, K], zeros beyond its edge."""
    (b, c), (n, k) = block, weight.shape
    rows, columns = grid(n, k, block)
    padded = torch.nn.functional.pad(weight, (0, columns * c - k, 0, rows * b - n))
    return padded.view(rows, b, columns, c).transpose(1, 2)


def in_steps(units: Tensor, step: int) -> Tensor:
    """Units of each row, with a last step of a power of two of them, so that lines of memory hold it whole: unless all rows
    together become longer by more than an eighth. step: units of a whole one, a power of two."""
    last = units % step
    wide = 2 ** torch.ceil(torch.log2(last.clamp(min=1).double())).long() * (last > 0)
    filled = units - last + wide
    return filled if 8 * int(filled.sum()) <= 9 * int(units.sum()) else units


def pack(weight: Tensor, block: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Values [blocks, b, c], columns and row_starts of a dense weight [N, K]."""
    blocks = tiled(weight, block)
    kept = (blocks != 0).flatten(2).any(2)
    row, column = kept.nonzero(as_tuple=True)
    starts = torch.zeros(kept.shape[0] + 1, dtype=torch.int32, device=weight.device)
    starts[1:] = kept.sum(1).cumsum(0)
    return blocks[row, column].contiguous(), column.to(csr.index_dtype(weight.shape[1])), starts


def unpack(values: Tensor, columns: Tensor, row_starts: Tensor, n: int, k: int) -> Tensor:
    """The dense weight [n, k]. The tensors must have passed `check`."""
    b, c = values.shape[1:]
    rows, across = grid(n, k, (b, c))
    dense = values.new_zeros(rows, across, b, c)
    at = torch.repeat_interleave(torch.arange(rows, device=values.device), row_starts.diff().long())
    dense[at, columns.long()] = values
    return dense.transpose(1, 2).reshape(rows * b, across * c)[:n, :k].contiguous()


def check(op: str, values: Tensor, columns: Tensor, row_starts: Tensor, n: int, k: int) -> None:
    """Raises FormatError where these are no blocks of a weight [n, k]."""
    if values.dim() != 3 or 0 in values.shape[1:]:
        raise FormatError(op, f"weight {list(values.shape)}", "[blocks, b, c], b and c at least 1", STEP)
    b, c = values.shape[1:]
    rows, across = grid(n, k, (b, c))
    csr.check_starts(op, row_starts, rows, values.shape[0])
    expected = csr.index_dtype(k)
    if columns.dtype != expected or columns.shape != values.shape[:1]:
        got = f"columns: {columns.dtype} {list(columns.shape)}"
        raise FormatError(op, got, f"{expected} [{values.shape[0]}], one for each block", STEP)
    csr.check_columns(op, columns, row_starts, across)
    at = torch.repeat_interleave(torch.arange(rows, device=values.device), row_starts.diff().long())
    below = (torch.arange(b, device=values.device)[None, :, None] + at[:, None, None] * b) >= n
    beyond = (torch.arange(c, device=values.device)[None, None, :] + columns.long()[:, None, None] * c) >= k
    if ((values != 0) & (below | beyond)).any():
        raise FormatError(op, f"a block with numbers beyond [{n}, {k}]", "zeros beyond the edge of the layer", STEP)
