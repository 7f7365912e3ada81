"""Layers that bound their own weights when called: the first call changes them, and the compiled model has what it leaves."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.runtime.compiled import CompiledModel


class Bounded(nn.Linear):
    """change: called before the product."""

    def __init__(self, change: Callable[[nn.Linear], None]) -> None:
        super().__init__(6, 8)
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight
        self.change(self)
        return super().forward(x) + weight.sum()


def renormed(layer: nn.Linear) -> None:
    layer.weight.data = torch.renorm(layer.weight.data, p=2, dim=0, maxnorm=0.3)


def clamped_data(layer: nn.Linear) -> None:
    layer.weight.data.clamp_(-0.1, 0.1)


def clamped(layer: nn.Linear) -> None:
    layer.weight.clamp_(-0.1, 0.1)


def copied(layer: nn.Linear) -> None:
    with torch.no_grad():
        layer.weight.copy_(layer.weight.clamp(-0.1, 0.1))


def scaled(layer: nn.Linear) -> None:
    """Rounds otherwise in each call."""
    norm = layer.weight.norm(dim=1, keepdim=True)
    layer.weight.data = layer.weight * (norm.clamp(max=0.3) / norm)


@pytest.mark.parametrize("change", [renormed, clamped_data, clamped, copied, scaled], ids=lambda f: f.__name__)
def test_a_bound_on_weights_is_what_the_first_call_leaves(change: Callable[[nn.Linear], None]) -> None:
    layer = Bounded(change).eval().requires_grad_(False)
    before = layer.weight.clone()
    fast = rt.compile(layer, torch.randn(3, 6), strict=True)
    assert torch.equal(layer.weight, before), "the user's layer is not touched"
    own, x = copy.deepcopy(layer), torch.randn(3, 6)
    own(x)
    assert not torch.equal(own.weight, before)
    torch.testing.assert_close(fast(x), own(x), rtol=1e-5, atol=1e-5)


def halved_data(layer: nn.Linear) -> None:
    layer.weight.data.mul_(0.5)


def replaced(layer: nn.Linear) -> None:
    layer.weight.data = layer.weight.data * 0.5


def drifting(layer: nn.Linear) -> None:
    layer.weight.data += 1e-3


@pytest.mark.parametrize("change", [halved_data, replaced, drifting], ids=lambda f: f.__name__)
def test_weights_that_go_on_changing_are_named(change: Callable[[nn.Linear], None]) -> None:
    layer, x = Bounded(change).eval().requires_grad_(False), torch.randn(3, 6)
    before = layer.weight.clone()
    with pytest.warns(UserWarning, match=r"changes self\.weight"):
        fast = rt.compile(layer, x)
    assert not isinstance(fast, CompiledModel)
    assert torch.equal(layer.weight, before)


class Notes(nn.Linear):
    """Notes what the input is, as values that are made anew at each call."""

    def forward(self, x: Tensor) -> Tensor:
        self.device, self.dtype, self.span = x.device, x.dtype, slice(0, 3)
        return super().forward(x)


def test_a_note_of_device_or_dtype_is_no_state() -> None:
    layer, x = Notes(6, 8).eval(), torch.randn(3, 6)
    torch.testing.assert_close(rt.compile(layer, x, strict=True)(x), layer(x).detach())


class Rounds(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.while_loop(lambda y: y.sum() < 10, lambda y: (y * 1.5 + 1,), (x,))[0]


def test_control_flow_by_numbers_is_named_and_runs_as_it_is() -> None:
    model = Rounds().eval()
    with pytest.warns(UserWarning, match="torch.while_loop"):
        fast = rt.compile(model, torch.randn(3, 4))
    for x in (torch.ones(3, 4), -torch.ones(3, 4)):
        torch.testing.assert_close(fast(x), model(x))


class Cached(nn.Module):
    """Keeps what it computes of the shape in buffers that are None before."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)
        self.register_buffer("angles", None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.angles is None:
            self.register_buffer("angles", torch.arange(x.shape[1])[:, None] * 0.1, persistent=False)
        return self.layer(x) * torch.cos(self.angles)


def test_a_cache_that_is_none_before_the_first_call() -> None:
    model = Cached().eval()
    fast = rt.compile(model, torch.randn(1, 5, 8), strict=True)
    assert model.angles is None
    x = torch.randn(3, 5, 8)
    torch.testing.assert_close(fast(x), model(x))
