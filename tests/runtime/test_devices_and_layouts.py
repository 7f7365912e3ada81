"""A device as torch has it, and results that are sparse tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu"), torch.device("cpu", 0)])
def test_a_device_may_be_one_of_torch(device: object) -> None:
    model, x = nn.Linear(4, 3).eval(), torch.randn(2, 4)
    assert torch.equal(rt.compile(model, x, device=device)(x), rt.compile(model, x)(x))  # type: ignore[arg-type]
    assert rt.stream(model, x, device=device).step(x).shape == (2, 3)  # type: ignore[arg-type]


@pytest.mark.parametrize("sparse", [Tensor.to_sparse, Tensor.to_sparse_csr])
@pytest.mark.parametrize("alone", [True, False])
def test_a_result_that_is_sparse_stays_one(sparse: Any, alone: bool) -> None:
    class Sparse(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Any:
            y = self.layer(x).relu()
            return sparse(y) if alone else (y, sparse(y))

    model, x = Sparse().eval(), torch.randn(2, 4)
    got, want = rt.compile(model, x)(x), model(x)
    for a, b in ((got, want),) if alone else zip(got, want):
        assert a.layout == b.layout
        torch.testing.assert_close(a.to_dense(), b.to_dense())
