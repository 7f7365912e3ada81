"""Whole numbers of one or two bytes: images, sound, what a sensor's converter gives. float32 holds them exactly."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, fx

SMALL = {torch.uint8: (0, 255), torch.int8: (-128, 127), torch.int16: (-32768, 32767)}
"""dtype -> its least and its largest number."""


def holds(dtype: torch.dtype, dtypes: Iterable[torch.dtype], numbers: Iterable[float]) -> bool:
    """Whether a small dtype holds all that tensors of these dtypes hold, and these numbers."""
    low, high = SMALL[dtype]
    ranges = [(0, 1) if d == torch.bool else SMALL.get(d, (-float("inf"), 0)) for d in dtypes]
    return all(low <= a and b <= high for a, b in ranges) and all(low <= n <= high and n == int(n) for n in numbers)


def held(number: Any, dtype: torch.dtype) -> Any:
    """A plain number as a tensor of that dtype keeps it: cut to a whole number that wraps; as a truth value, 1 for all but 0."""
    if dtype.is_floating_point or not isinstance(number, (bool, int, float)):
        return number
    return int(bool(number)) if dtype == torch.bool else torch.tensor(int(number)).to(dtype).item()


def common(*operands: Any) -> torch.dtype | None:
    """The dtype that torch computes two operands in, to which it first casts a number that has no dimensions. None where one of
    them is neither a tensor nor a whole number."""
    found: list[Any] = [given.meta.get("val") if isinstance(given, fx.Node) else given for given in operands]
    if len(found) != 2 or not all(isinstance(v, (Tensor, bool, int)) for v in found):
        return None
    like: list[Any] = [
        torch.empty((0,) * min(v.dim(), 1), dtype=v.dtype) if isinstance(v, Tensor) else v for v in found
    ]
    return torch.result_type(like[0], like[1])


def narrows(*operands: Any) -> bool:
    """Whether that cast may change a number: `x > -1` compares bytes with 255."""
    dtype = common(*operands)
    if dtype not in SMALL:
        return False
    tensors = [given.meta["val"].dtype for given in operands if isinstance(given, fx.Node)]
    return not holds(dtype, tensors, [given for given in operands if not isinstance(given, fx.Node)])
