"""Every stage can be timed alone: on random inputs that it does not refuse."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.core.registry import operators
from rtaccel.plan.choose import choose
from rtaccel.plan.timing import time_stage

AT_MOST = 12  # cases of an operator: each takes some milliseconds


@pytest.mark.parametrize("op", sorted(operators()))
def test_cases_are_timed(op: str) -> None:
    cases = list(operators()[op].cases())
    for case in islice(cases, 0, None, max(1, len(cases) // AT_MOST)):
        rows = case.make(1)[0].shape[0]
        assert time_stage(choose(case.stage, rows)) >= 0


class Whitened(nn.Module):
    """As filters and Gaussian processes have it: a factor of a computed covariance, and a system with it."""

    def forward(self, x: Tensor) -> Tensor:
        covariance = x.mT @ x + torch.eye(x.shape[-1])
        return torch.linalg.solve(covariance, torch.linalg.cholesky(covariance))


def test_explain_of_a_factor() -> None:
    fast = rt.compile(Whitened().eval(), (torch.randn(1, 9, 4),))
    assert "solve" in str(fast.explain())


class Steps(nn.Module):
    """A loop whose results are put together by one stage, which reads more values than a plan has inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.x, self.h = nn.Linear(4, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        h, made = x.new_zeros(x.shape[0], 6), []
        for t in range(x.shape[1]):
            h = torch.tanh(self.x(x[:, t]) + self.h(h) * torch.sigmoid(h))
            made.append(h)
        return torch.stack(made, 1)


def test_explain_of_a_long_loop() -> None:
    model = Steps().eval()
    fast = rt.compile(model, (torch.randn(1, 140, 4),))
    told = fast.explain()
    assert "assemble(140 x float32[1, 6])" in told
    x = torch.randn(2, 140, 4)
    torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)


def test_a_stage_that_reads_a_value_twice() -> None:
    class Square(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = torch.relu(x)
            return y @ y

    assert " matmul(" in rt.compile(Square().eval(), (torch.randn(1, 5, 5),)).explain()
