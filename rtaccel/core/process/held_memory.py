"""Memory of tensors that is read or written by its address, for as long as somebody holds it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def held(tensor: Tensor) -> Any:
    """Keeps the memory that a CPU tensor has now, where it is. The tensor itself may get other memory (`tensor.data = ...`); but
    torch resizes this memory no more, and raises where it would have to: an array of NumPy lies over all of it."""
    return torch.empty(0, dtype=torch.uint8, device="cpu").set_(tensor.untyped_storage()).numpy()
