"""Unstructured sparse weights as a bitmap: one bit a weight, and the values that are not zero, row after row.

Three tensors: `weight` [entries] (float32, bfloat16, int8, or int4 two a byte by rtaccel.formats.int4), `bits` uint8 [N, (K +
7) // 8], the lowest bit of a byte for the least k, and `row_starts` int32 [N + 1] as in rtaccel.formats.csr. Scales are beside
it, as of a dense weight.

An eighth of a byte a weight is less than columns of 16 bits where more than a sixteenth of the weights are stored: with int8
values a bitmap is smaller than compressed rows and than the dense weight between 6.25 % and 87.5 % entries, with int4 values
between 6.25 % and 75 %. It is for files and transfers: a kernel that walks the bits pays for the zeros too, so none here does.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rtaccel.core.errors import FormatError
from rtaccel.formats import csr

STEP = "Pack the weight with rtaccel.formats.bitmap, or save it again."


def bytes_of(n: int, k: int, entries: int, bits: int) -> int:
    """Size of a weight [n, k] with so many entries of so many bits each: map, row starts and values."""
    return n * (-(-k // 8)) + 4 * (n + 1) + -(-entries * bits // 8)


def _places(device: torch.device) -> Tensor:
    return torch.arange(8, dtype=torch.uint8, device=device)


def pack(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Values, bits and row_starts of a dense weight [N, K]: its numbers that are not zero, as they are."""
    n, k = weight.shape
    kept = weight != 0
    padded = torch.nn.functional.pad(kept, (0, -k % 8)).view(n, -1, 8)
    bits = (padded.to(torch.uint8) << _places(weight.device)).sum(2, dtype=torch.uint8)
    starts = torch.zeros(n + 1, dtype=torch.int32, device=weight.device)
    starts[1:] = kept.sum(1).cumsum(0)
    return weight[kept], bits, starts


def mask(bits: Tensor, k: int) -> Tensor:
    """bool [N, k] of bits uint8 [N, (k + 7) // 8]."""
    return ((bits[:, :, None] >> _places(bits.device)) & 1).flatten(1)[:, :k].bool()


def unpack(values: Tensor, bits: Tensor, k: int) -> Tensor:
    """The dense weight [N, k]. The tensors must have passed `check`."""
    kept = mask(bits, k)
    dense = values.new_zeros(kept.shape)
    dense[kept] = values
    return dense


def check(op: str, values: Tensor, bits: Tensor, row_starts: Tensor, n: int, k: int) -> None:
    """Raises FormatError where these are no weight [n, k]: bits for more or fewer values than there are, or beyond K."""
    if values.dim() != 1:
        raise FormatError(op, f"weight {list(values.shape)}", "[entries]", STEP)
    if bits.dtype != torch.uint8 or bits.shape != (n, -(-k // 8)):
        got = f"bits: {bits.dtype} {list(bits.shape)}"
        raise FormatError(op, got, f"torch.uint8 [{n}, {-(-k // 8)}]", STEP)
    csr.check_starts(op, row_starts, n, values.shape[0])
    if k % 8 and n and (bits[:, -1] >> (k % 8)).any():
        raise FormatError(op, f"a bit beyond K = {k}", "zeros there", STEP)
    counts = mask(bits, k).sum(1)
    wrong = counts != row_starts.diff()
    if wrong.any():
        row = int(wrong.nonzero()[0])
        got = f"{int(counts[row])} bits in row {row}"
        raise FormatError(op, got, f"{int(row_starts[row + 1] - row_starts[row])}, as row_starts has it", STEP)
