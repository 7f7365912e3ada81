"""Matmul beyond conformance: products of computed tensors through compiled models."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import rtaccel as rt
from rtaccel.core.errors import ShapeError
from rtaccel.kernels.matmul import contract
from tests.support.networks.call import CallOfTwo

CALLS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "matmul": lambda a, b: a @ b.transpose(1, 2),
    "bmm": lambda a, b: torch.bmm(a.transpose(1, 2), b),
    "einsum": lambda a, b: torch.einsum("bik,bjk->bij", a, b),
    "heads": lambda a, b: (
        a.reshape(-1, 6, 2, 4).permute(0, 2, 1, 3) @ b.reshape(-1, 6, 2, 4).permute(0, 2, 3, 1)
    ).permute(0, 2, 1, 3),
    "outer": lambda a, b: a[:, 0, :, None] @ b[:, 0, None, :],
    "attention by hand": lambda a, b: torch.softmax(a @ b.mT / 3 + (a[:, :, :1] > 0).float(), -1) @ b,
    "baddbmm": lambda a, b: torch.baddbmm(a @ a.mT, a, b.mT, beta=0.5, alpha=2.0),
}


@pytest.mark.parametrize("name", CALLS)
def test_equals_torch_and_is_native(name: str) -> None:
    model = CallOfTwo(CALLS[name]).eval()
    fast = rt.compile(model, (torch.randn(2, 6, 8), torch.randn(2, 6, 8)), strict=True)
    for rows in (1, 2, 3):
        a, b = torch.randn(rows, 6, 8), torch.randn(rows, 6, 8)
        torch.testing.assert_close(fast(a, b).double(), model(a.double(), b.double()), rtol=1e-5, atol=2e-5)


def test_places_outside_are_refused() -> None:
    stage = contract.make_stage((2,), 3, 4, 5)
    for places in (((0, 15, 5, 2), (0, 20, 4, 1)), ((0, 15, 5, 1), (1, 20, 4, 1)), ((0, 15, 5), (0, 20, 4, 1))):
        wrong = type(stage)("matmul", "case", stage.inputs, stage.outputs, {}, {**stage.attrs, "places": places})
        with pytest.raises(ShapeError):
            contract.lower(wrong)


def test_samples_are_apart() -> None:
    """A NaN in one sample is in no other, and in its own row of the product alone."""
    fast = rt.compile(CallOfTwo(CALLS["matmul"]).eval(), (torch.randn(2, 6, 8), torch.randn(2, 6, 8)), strict=True)
    a, b = torch.randn(3, 6, 8), torch.randn(3, 6, 8)
    a[1, 2, 5] = float("nan")
    found = fast(a, b).isnan()
    assert bool(found[1, 2].all()) and int(found.sum()) == 6
