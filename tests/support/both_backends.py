"""A model with a batch of one dimension, compiled in float32 and W8A8, against float64 and the portable backend."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

import rtaccel as rt


def check_equals_torch(model: nn.Module, data: Sequence[Tensor]) -> rt.CompiledModel:
    """data: batches to calibrate W8A8 with, of samples as the model has them. Gives the model in W8A8."""
    fast = rt.compile(model, data[0], strict=True)
    int8 = rt.compile(model, data[0], "w8a8", calibration=data, verify=False)
    plain = rt.compile(model, data[0], "w8a8", calibration=data, backend="portable", verify=False)
    for rows in (1, 2, 5):
        x = torch.randn(rows, *data[0].shape[1:])
        with torch.no_grad():
            want = model.double()(x.double()).float()
            model.float()
        scale = max(want.abs().max().item(), 1e-3)
        torch.testing.assert_close(fast(x), want, rtol=2e-5, atol=1e-5 * scale)
        torch.testing.assert_close(int8(x), plain(x), rtol=1e-4, atol=0.04 * scale)
    return int8
