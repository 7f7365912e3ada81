"""Whether a kernel's inputs may be looked at before it is launched."""

from __future__ import annotations

import torch
from torch import Tensor


def can_look(tensor: Tensor) -> bool:
    """Whether its numbers may be read here: not while a graph is being captured, and not where there are none."""
    return tensor.device.type != "meta" and not (tensor.is_cuda and torch.cuda.is_current_stream_capturing())
