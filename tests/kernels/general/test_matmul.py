"""Matmul beyond conformance: products of computed tensors through compiled models."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

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


class WithParameter(nn.Module):
    def __init__(self, call: Callable[[Tensor, Tensor], Tensor], shape: tuple[int, ...]) -> None:
        super().__init__()
        self.call, self.p = call, nn.Parameter(torch.randn(shape))

    def forward(self, x: Tensor) -> Tensor:
        return self.call(x, self.p)


PARAMETERS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], tuple[int, ...]]] = {
    "on the left": (lambda x, p: p @ x, (5, 3)),
    "on the left, for each sample": (lambda x, p: p.expand(x.shape[0], -1, -1) @ x, (1, 4, 3)),
    "on the left, of three dimensions": (lambda x, p: p @ x[:, None], (4, 5, 3)),
    "one for each agent": (lambda x, p: torch.bmm(x.transpose(0, 1), p).transpose(0, 1), (3, 7, 5)),
    "of three dimensions": (lambda x, p: x[:, :, None] @ p, (3, 7, 5)),
    "a vector": (lambda x, p: x @ p, (7,)),
    "a vector on the left": (lambda x, p: p @ x, (3,)),
    "einsum, one for each": (lambda x, p: torch.einsum("bnd,nde->bne", x, p), (3, 7, 5)),
    "einsum, over the rows": (lambda x, p: torch.einsum("bnd,mn->bmd", x, p), (6, 3)),
    "einsum, heads": (lambda x, p: torch.einsum("bnd,hde->bhne", x, p), (2, 7, 5)),
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_parameter_that_no_linear_layer_has(name: str) -> None:
    call, shape = PARAMETERS[name]
    model = WithParameter(call, shape).eval()
    fast, exact = rt.compile(model, (torch.randn(2, 3, 7),), strict=True), copy.deepcopy(model).double()
    assert fast.batch.hi is None
    for rows in (1, 2, 5):
        x = torch.randn(rows, 3, 7)
        torch.testing.assert_close(fast(x).double(), exact(x.double()).detach(), rtol=1e-5, atol=1e-5)


LAYERS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], tuple[int, ...]]] = {
    "a vector": (lambda x, p: x @ p, (7,)),
    "a column": (lambda x, p: x @ p, (7, 1)),
    "einsum, a vector": (lambda x, p: torch.einsum("bnd,d->bn", x, p), (7,)),
    "einsum, a matrix": (lambda x, p: torch.einsum("bnd,de->bne", x, p), (7, 5)),
    "one of all samples": (lambda x, p: torch.bmm(x, p.expand(x.shape[0], -1, -1)), (1, 7, 5)),
    "of a part": (lambda x, p: x[:, 1:, 2:5] @ p, (3,)),
    "mv": (lambda x, p: torch.mv(x[:, 1], p)[:, None], (7,)),
}


@pytest.mark.parametrize("scheme", ["float32", "w8a8"])
@pytest.mark.parametrize("name", LAYERS)
def test_a_right_side_that_all_rows_share_is_a_linear_layer_s(name: str, scheme: str) -> None:
    call, shape = LAYERS[name]
    model = WithParameter(call, shape).eval()
    fast = rt.compile(model, (torch.randn(2, 3, 7),), scheme, calibration=[torch.randn(64, 3, 7)], strict=True)
    assert "matmul(" not in fast.explain()
    exact = copy.deepcopy(model).double()
    for rows in (1, 2, 5):
        x = torch.randn(rows, 3, 7)
        off = 1e-5 if scheme == "float32" else 0.2
        torch.testing.assert_close(fast(x).double(), exact(x.double()).detach(), rtol=off, atol=off)


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
