"""Second moments of the inputs of layers, from calibration data: what pruning goes by."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from rtaccel.convert.prune import Moments
from rtaccel.core.errors import FormatError
from rtaccel.formats.observe import RangeObserver


class MomentWatch:
    """Sums x x^T and x over the rows that one layer is fed, in float64. A hook for `watch_inputs`."""

    def __init__(self, name: str, width: int) -> None:
        self.name, self.rows = name, 0
        self.second = torch.zeros(width, width, dtype=torch.float64, device="cpu")
        self.total = torch.zeros(width, dtype=torch.float64, device="cpu")
        self.observer = RangeObserver(f"the input of {name}")

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = args[0] if args else kwargs["input"]
        rows = x.detach().reshape(-1, x.shape[-1]).double().cpu()
        if not torch.isfinite(rows).all():
            got = f"a NaN or infinity in the input of {self.name}"
            raise FormatError("calibration", got, "finite activations", "Leave that sample out.")
        self.second += rows.T @ rows
        self.total += rows.sum(0)
        self.rows += rows.shape[0]
        with torch.device("cpu"):
            self.observer.see(x)

    def moments(self) -> Moments:
        count = max(self.rows, 1)
        return Moments(self.second / count, self.total / count, self.rows)
