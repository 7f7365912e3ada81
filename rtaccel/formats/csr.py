"""Unstructured sparse weights as compressed rows (CSR): the values that are not zero, row after row, and their columns.

A state dict stores `weight` [entries] (float32 or int8), `columns` [entries] in int16 (int32 where K > 32768), ascending
within a row, and `row_starts` int32 [N + 1]: row n holds entries row_starts[n] .. row_starts[n + 1] - 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rtaccel.core.errors import FormatError

STEP = "Pack the weight with rtaccel.formats.csr, or save it again."


def index_dtype(k: int) -> torch.dtype:
    return torch.int16 if k <= 32_768 else torch.int32


def pack(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Values, columns and row_starts of a dense weight [N, K]: its numbers that are not zero, as they are."""
    kept = weight != 0
    row, column = kept.nonzero(as_tuple=True)
    starts = torch.zeros(weight.shape[0] + 1, dtype=torch.int32, device=weight.device)
    starts[1:] = kept.sum(1).cumsum(0)
    return weight[row, column].contiguous(), column.to(index_dtype(weight.shape[1])), starts


def unpack(values: Tensor, columns: Tensor, row_starts: Tensor, k: int) -> Tensor:
    """The dense weight [N, k]. The tensors must have passed `check`."""
    n = row_starts.numel() - 1
    dense = values.new_zeros(n, k)
    rows = torch.repeat_interleave(torch.arange(n, device=values.device), row_starts.diff().long())
    dense[rows, columns.long()] = values
    return dense


def check(op: str, values: Tensor, columns: Tensor, row_starts: Tensor, n: int, k: int) -> None:
    """Raises FormatError where these are no rows of a weight [n, k]: nothing may be read by an index that does not fit."""
    check_starts(op, row_starts, n, values.shape[0] if values.dim() else -1)
    expected = index_dtype(k)
    if columns.dtype != expected or columns.shape != values.shape[:1]:
        got = f"columns: {columns.dtype} {list(columns.shape)}"
        raise FormatError(op, got, f"{expected} [{values.shape[0]}], one for each value", STEP)
    check_columns(op, columns, row_starts, k)


def check_starts(op: str, row_starts: Tensor, n: int, entries: int) -> None:
    if row_starts.dtype != torch.int32 or row_starts.shape != (n + 1,):
        got = f"row_starts: {row_starts.dtype} {list(row_starts.shape)}"
        raise FormatError(op, got, f"torch.int32 [{n + 1}]", STEP)
    if n and (int(row_starts[0]) != 0 or int(row_starts[-1]) != entries or (row_starts.diff() < 0).any()):
        got = f"row_starts from {int(row_starts[0])} to {int(row_starts[-1])}, or descending"
        raise FormatError(op, got, f"ascending from 0 to {entries}, the number of entries", STEP)


def check_columns(op: str, columns: Tensor, row_starts: Tensor, width: int) -> None:
    """Columns lie within 0..width - 1 and ascend within each row."""
    if not columns.numel():
        return
    bad = (columns < 0) | (columns >= width)
    if bad.any():
        where = int(bad.nonzero()[0])
        raise FormatError(op, f"columns[{where}] = {int(columns[where])}", f"an index in 0..{width - 1}", STEP)
    first = torch.zeros(columns.numel() + 1, dtype=torch.bool, device=columns.device)
    first[row_starts.long()] = True
    if ((columns[1:] <= columns[:-1]) & ~first[1:-1]).any():
        raise FormatError(op, "columns that do not ascend within a row", "ascending columns, each once", STEP)
