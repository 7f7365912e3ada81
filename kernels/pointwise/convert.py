"""What passes ask of `pointwise`: what it is made of, so that it can go into a neighbor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from rtaccel.core.traits import Folding


class Pointwise:
    """An rtaccel.core.traits.Elementwise."""

    def affine(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor] | None:
        return (tensors["scale"], tensors["shift"]) if "scale" in tensors else None

    def adds(self, inputs: int, tensors: Mapping[str, Tensor], attrs: Mapping[str, Any]) -> bool:
        return inputs == 2 and attrs.get("join", "add") == "add" and "scale" not in tensors


FOLDING = Folding()
"""An activation that follows. A scale and shift after it are rounded apart, so they stay a pass of their own."""
