"""torch's `scan` and `map` over a dimension: random functions, compiled and streamed, equal to torch's own in float64."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._higher_order_ops.map import map as torch_map
from torch._higher_order_ops.scan import scan

import rtaccel as rt


class Steps(nn.Module):
    """A cell over [batch, time, 5], by torch's scan."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        draw = random.Random(seed)
        self.kind, self.reverse = draw.choice(("tanh", "gated", "linear", "two states")), draw.random() < 0.3
        self.x, self.h, self.gate = nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(5, 6)
        self.every = draw.random() < 0.7
        self.head = nn.Linear(6, 2)

    def step(self, states: tuple[Tensor, ...], x: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        h = states[0]
        if self.kind == "two states":
            c = torch.sigmoid(self.gate(x)) * states[1] + torch.tanh(self.x(x))
            h = torch.tanh(c + self.h(h))
            return (h, c), h * 2
        new = {
            "tanh": lambda: torch.tanh(self.x(x) + self.h(h)),
            "gated": lambda: h + torch.sigmoid(self.gate(x)) * (torch.tanh(self.x(x) + self.h(h)) - h),
            "linear": lambda: torch.sigmoid(self.gate(x)) * h + self.x(x),
        }[self.kind]()
        return (new,), new.clone()

    def forward(self, x: Tensor) -> Tensor:
        zeros = x.new_zeros(x.shape[0], 6)
        states = (zeros, zeros.clone()) if self.kind == "two states" else (zeros,)
        states, made = scan(self.step, states, x.transpose(0, 1), dim=0, reverse=self.reverse)
        return self.head(made.transpose(0, 1) if self.every else states[0])


@pytest.mark.turns(2)
@pytest.mark.parametrize("seed", range(6))
def test_random_steps(seed: int) -> None:
    torch.manual_seed(seed)
    model = Steps(seed).eval().requires_grad_(False)
    time = random.Random(seed).randint(2, 14)
    fast = rt.compile(model, (torch.randn(2, time, 5),), strict=True)
    x = torch.randn(3, time, 5)
    want = copy.deepcopy(model).double()(x.double())
    assert (fast(x).double() - want).abs().max() < 1e-5


def test_a_scan_streams() -> None:
    model = next(m for seed in range(50) if (m := Steps(seed)).kind == "gated" and not m.reverse and m.every)
    model.eval().requires_grad_(False)
    stream = rt.stream(model, torch.randn(1, 5))
    x = torch.randn(1, 20, 5)
    got = torch.stack([stream(x[:, t]) for t in range(20)], 1)
    want = copy.deepcopy(model).double()(x.double())
    assert (got.double() - want).abs().max() < 1e-5


def test_a_linear_scan_is_one_call() -> None:
    model = next(m for seed in range(50) if (m := Steps(seed)).kind == "linear" and not m.reverse and m.every).eval()
    assert " linear_scan(" in rt.compile(model, (torch.randn(2, 9, 5),), strict=True).explain()


def test_map_over_the_first_dimension() -> None:
    class Each(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x: Tensor, y: Tensor) -> Any:
            return torch_map(lambda pair: torch.tanh(self.layer(pair[0])) * pair[1], (x, y))

    model = Each().eval().requires_grad_(False)
    given = torch.randn(5, 7, 4), torch.randn(5, 7, 3)
    fast = rt.compile(model, given, strict=True)
    fresh = torch.randn(5, 7, 4), torch.randn(5, 7, 3)
    torch.testing.assert_close(fast(*fresh), model(*fresh), rtol=1e-5, atol=1e-6)
