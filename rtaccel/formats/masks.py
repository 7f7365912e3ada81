"""Which weights a pattern keeps: masks from scores, where a larger score is a weight that matters more.

mask [N, K] of bool, True where a weight stays. Ties are broken by position, so that a mask keeps just as many weights as
it should.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rtaccel.core.errors import FormatError
from rtaccel.core.sparsity import BlockSparse, SemiStructured, Sparsity
from rtaccel.formats.blocks import grid, tiled


def keep(scores: Tensor, sparsity: Sparsity, by_row: bool = False) -> Tensor:
    """The mask of a pattern. by_row: the same number of weights in every row, where the pattern is unstructured.

    Blocks are judged by the sum of their scores. Without a sparsity, all that is not zero is kept.
    """
    if isinstance(sparsity, SemiStructured):
        return n_of_m(scores, 2, 4)
    if sparsity.sparsity is None:
        return scores != 0
    if isinstance(sparsity, BlockSparse):
        return spread(
            largest(tiled(scores, sparsity.block).sum((2, 3)), sparsity.sparsity), sparsity.block, scores.shape
        )
    if by_row:
        count = kept_of(scores.shape[1], sparsity.sparsity)
        order = scores.sort(dim=1, descending=True, stable=True).indices[:, :count]
        return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, order, True)
    return largest(scores, sparsity.sparsity)


def kept_of(count: int, sparsity: float) -> int:
    """How many of `count` weights stay: at least 1 - sparsity of them."""
    return count - int(count * sparsity + 1e-9)


def largest(scores: Tensor, sparsity: float) -> Tensor:
    """The 1 - sparsity with the largest scores, over the whole tensor."""
    flat = scores.flatten()
    order = flat.sort(descending=True, stable=True).indices[: kept_of(flat.numel(), sparsity)]
    return torch.zeros_like(flat, dtype=torch.bool).index_fill_(0, order, True).view(scores.shape)


def spread(blocks: Tensor, block: tuple[int, int], shape: torch.Size) -> Tensor:
    """A mask of blocks as one of weights [N, K]."""
    return blocks.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)[: shape[0], : shape[1]]


def n_of_m(scores: Tensor, n: int, m: int) -> Tensor:
    """The n largest of every m neighboring inputs. A last group that is shorter keeps its n largest too."""
    rows, k = scores.shape
    padded = torch.nn.functional.pad(scores, (0, -k % m), value=float("-inf")).view(rows, -1, m)
    order = padded.sort(dim=2, descending=True, stable=True).indices[:, :, :n]
    return torch.zeros_like(padded, dtype=torch.bool).scatter_(2, order, True).flatten(1)[:, :k]


def check(op: str, mask: Tensor, sparsity: Sparsity) -> None:
    """Raises FormatError where a mask is not one of the pattern."""
    if mask.dtype != torch.bool or mask.dim() != 2:
        raise FormatError(
            op, f"mask: {mask.dtype} {list(mask.shape)}", "torch.bool [N, K]", "Pass a mask of the weight."
        )
    if isinstance(sparsity, SemiStructured):
        per = torch.nn.functional.pad(mask, (0, -mask.shape[1] % 4)).view(mask.shape[0], -1, 4).sum(2)
        if (per > 2).any():
            row, group = (per > 2).nonzero()[0].tolist()
            got = f"a mask with {int(per[row, group])} of 4 in row {row}, inputs {4 * group} to {4 * group + 3}"
            raise FormatError(op, got, "at most 2 of 4", "Make it with rtaccel.formats.masks.n_of_m.")
    if isinstance(sparsity, BlockSparse):
        rows, columns = grid(mask.shape[0], mask.shape[1], sparsity.block)
        whole = spread(tiled(mask, sparsity.block).flatten(2).any(2), sparsity.block, mask.shape)
        if not torch.equal(whole, mask):
            row, column = (whole != mask).nonzero()[0].tolist()
            got = f"a mask that keeps a part of the block around [{row}, {column}] of {rows} x {columns}"
            raise FormatError(op, got, f"whole blocks of {sparsity.block}", "Keep or drop blocks as a whole.")
