"""A compiled model through a file: what `rt.load` gives must compute the same bits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

import rtaccel as rt


def through_a_file(model: Any) -> Any | None:
    """The model as `rt.load` gives it from its file; None where `rt.save` takes no such model, and says why."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.rta"
        try:
            rt.save(model, path)
        except rt.UnsupportedProblem:  # PyTorch calls inside, or a result that is no value of the plan
            return None
        return rt.load(path)


def same_bits(results: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    """NaN equals NaN."""
    return len(results) == len(others) and all(
        a.shape == b.shape and a.dtype == b.dtype and torch.equal(_bits(a), _bits(b)) for a, b in zip(results, others)
    )


def _bits(x: Tensor) -> Tensor:
    x = x.contiguous()
    return torch.where(x.isnan(), torch.nan, x).view(torch.int32) if x.dtype == torch.float32 else x
