"""Quantiles as sorts. torch 2.10 and 2.11 take them apart where they export them, and ask for numbers as they do so."""

from __future__ import annotations

from typing import Any

from torch.overrides import TorchFunctionMode

from rtaccel.convert.frontend.decompositions.distances import quantile
from rtaccel.convert.frontend.decompositions.statistics import nanquantile

NAMES = ("aten.equal.default", "Cannot call numel() on tensor with symbolic sizes")
"""What such an export cannot answer, with a fixed and with an open batch."""
_CALLS = {"quantile": quantile, "nanquantile": nanquantile}


class Quantiles(TorchFunctionMode):
    """While this is open, quantiles are what the graph would make of them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        call = _CALLS.get(getattr(func, "__name__", ""))
        if call is not None:
            try:
                return call(*args, **(kwargs or {}))
            except NotImplementedError:
                pass
        return func(*args, **(kwargs or {}))
