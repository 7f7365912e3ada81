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
