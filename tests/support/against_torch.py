"""A model compiled whole against itself in float64, at several batches and with one fixed."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

import rtaccel as rt

EPS = torch.finfo(torch.float32).eps


class FixedBatch(nn.Module):
    """A model that takes two samples, and no other number of them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.unflatten(0, (2, 1)).flatten(0, 1))


def check_native(model: nn.Module, *shape: int, terms: int = 8, fixed: bool = False) -> None:
    """shape: of one sample. terms: additions behind one result; each rounds at most the size of a partial sum, for which the
    largest result stands. fixed: the model takes two samples."""
    model = FixedBatch(model).eval() if fixed else model.eval()
    exact = copy.deepcopy(model).double()
    fast = rt.compile(model, (torch.randn(2, *shape),), strict=True)
    for rows in (2,) if fixed else (1, 2, 5):
        x = torch.randn(rows, *shape)
        with torch.no_grad():
            want, got = exact(x.double()), fast(x)
        assert got.dtype == torch.float32 and got.shape == want.shape
        bound = EPS * terms * max(1.0, float(want.abs().max()))
        assert float((got.double() - want).abs().max()) <= bound


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
