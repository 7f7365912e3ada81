"""Indices that a kernel reads, and what becomes of one that is outside.

A card can raise nothing. Where a call is not captured, indices are looked at before the launch, which waits for them, and one
outside is a FormatError as everywhere. In a graph that is replayed nobody can wait: what such an index selects is NaN, and memory
outside is never read. int64 has no NaN: there it is the least number, which is what x86 makes of a NaN that becomes int64, and
which is outside as an index.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from rtaccel.core.errors import FormatError
from rtaccel.kernels._gpu.capture import can_look

OUTSIDE = {"float32": 'float("nan")', "int64": "-9223372036854775807 - 1"}
"""dtype -> what is in the place of a number that an index outside would have selected, as the text of a kernel."""


def check(op: str, indices: Sequence[Tensor], sizes: Sequence[int], negative: bool) -> None:
    """Raises FormatError for an index outside, naming the first; nothing where a graph is being captured."""
    for index, size in zip(indices, sizes):
        if not can_look(index):
            continue
        low = -size if negative else 0
        bad = (index < low) | (index >= size)
        if bad.any():
            raise FormatError(op, f"index {index[bad][0].item()}", f"indices in {low}..{size - 1}",
                              "Nothing was computed; mend what the indices are computed from.")  # fmt: skip
