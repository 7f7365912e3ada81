"""bfloat16 weights: float32 numbers of which the upper 16 bits are kept, rounded to nearest, ties to even."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rtaccel.core.errors import FormatError
from rtaccel.formats.int8 import require_finite


def quantize_weight(weight: Tensor, op: str = "linear") -> Tensor:
    """bfloat16 [N, K]; each number loses at most 2^-8 of itself. FormatError where one is not finite, or would not be."""
    weight = weight.detach().float()
    require_finite(weight, op, "weight")
    rounded = weight.bfloat16()
    if not torch.isfinite(rounded).all():
        raise FormatError(
            op, f"a weight of {weight.abs().max().item():.4g}", "numbers below 3.39e38", "Scale the layer down."
        )
    return rounded


def stage_weights(weight: Tensor, scheme: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """See rtaccel.formats.weights."""
    return {"weight": quantize_weight(weight)}, {}
