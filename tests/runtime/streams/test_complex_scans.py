"""Diagonal complex recurrences (LRU, S5) by a parallel scan: a stream of them is near their window in float64."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from tests.convert.rewritten.test_parallel_scans import doubling, halves, no_factors, odd_and_even, one_level_less

pytestmark = pytest.mark.turns(3)


class Recurrence(nn.Module):
    """h_t = a h_(t-1) + B x_t in complex numbers, y_t = Re(C h_t) + D x_t; a is constant, or computed of x."""

    def __init__(self, scan: Callable[[Tensor, Tensor], Tensor], seed: int) -> None:
        super().__init__()
        draw = random.Random(seed)
        self.scan, self.states, self.computed = scan, draw.choice((4, 7)), draw.random() < 0.4
        self.size, self.turn = nn.Parameter(torch.rand(self.states)), nn.Parameter(3 * torch.rand(self.states))
        self.into = nn.Parameter(torch.randn(self.states, 5, 2))
        self.out = nn.Parameter(torch.randn(6, self.states, 2))
        self.direct, self.gate = nn.Linear(5, 6), nn.Linear(5, self.states)

    def forward(self, x: Tensor) -> Tensor:
        a = torch.polar(torch.exp(-self.size), self.turn)
        a = a * torch.sigmoid(self.gate(x)) if self.computed else a.expand(*x.shape[:2], self.states)
        b = x.to(a.dtype) @ torch.view_as_complex(self.into).T
        h = self.scan(a, b)
        return (h @ torch.view_as_complex(self.out).T).real + self.direct(x)


def stepped(model: nn.Module, x: Tensor) -> Tensor:
    live = rt.stream(model, x[:, 0])
    assert all(not line.is_fallback for line in live.explain_lines(False))
    assert len(live.explain_lines(False)) < 30
    return torch.stack([live.step(x[:, t].contiguous()) for t in range(x.shape[1])], 1)


@pytest.mark.parametrize("scan", [doubling, halves, odd_and_even], ids=lambda s: s.__name__)
@pytest.mark.parametrize("seed", range(3))
def test_steps_are_near_the_window(scan: Callable[[Tensor, Tensor], Tensor], seed: int) -> None:
    torch.manual_seed(seed)
    model = Recurrence(scan, seed).eval().requires_grad_(False)
    x = torch.randn(2, 24, 5)
    want = copy.deepcopy(model).double()(x.double())
    assert (stepped(model, x).double() - want).abs().max() < 3e-6 * (1 + want.abs().max())


@pytest.mark.parametrize("scan", [no_factors, one_level_less], ids=lambda s: s.__name__)
def test_what_is_no_recurrence_is_refused(scan: Callable[[Tensor, Tensor], Tensor]) -> None:
    torch.manual_seed(7)
    with pytest.raises(rt.UnsupportedProblem):
        rt.stream(Recurrence(scan, 7).eval().requires_grad_(False), torch.randn(1, 5))
