"""How the compiler makes int8 of a float32 value."""

from __future__ import annotations

import torch
from torch import Tensor

from rtaccel.core.stage import Stage, Value


def make_int8(name: str, x: Value, wanted: tuple[Value, ...], factor: Tensor | None) -> Stage:
    """The stage for x: (int8 value,) with a static scale, or (int8 value, scale of each row). Each column is multiplied by its
    factor [K] first where there is one, by `pointwise`, which writes int8 as well."""
    if factor is None:
        return Stage("quantize", name, (x,), wanted)
    return Stage("pointwise", name, (x,), wanted, {"scale": factor, "shift": torch.zeros_like(factor)})
