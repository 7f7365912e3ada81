"""float32 weights: as they are."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def stage_weights(weight: Tensor, scheme: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """See rtaccel.formats.weights."""
    return {"weight": weight}, {}
