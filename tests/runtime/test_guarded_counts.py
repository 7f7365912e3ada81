"""`bincount` with a least number of counts: native where no number needs more of them, and else the model's own."""

from __future__ import annotations

import random
import warnings

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt

BINS = 6


class Counted(nn.Module):
    def __init__(self, weighted: bool, layer: bool) -> None:
        super().__init__()
        self.weighted, self.layer = weighted, nn.Linear(BINS, 3) if layer else None

    def forward(self, k: Tensor, w: Tensor) -> Tensor:
        found = torch.bincount(k, w if self.weighted else None, minlength=BINS)
        return found * 2 if self.layer is None else torch.tanh(self.layer(found.float() / k.shape[0])) * w.sum()


@pytest.mark.parametrize("seed", range(6))
def test_counts_are_the_models(seed: int) -> None:
    draw = random.Random(seed)
    model = Counted(draw.random() < 0.5, draw.random() < 0.5).eval()
    size = draw.randint(1, 30)
    fast = rt.compile(model, (torch.randint(0, BINS, (size,)), torch.randn(size)))
    assert isinstance(fast, rt.GuardedModel) and "torch call" not in fast.explain()
    for _ in range(4):
        k, w = torch.randint(0, BINS, (size,)), torch.randn(size)
        torch.testing.assert_close(fast(k, w), model(k, w).detach(), rtol=1e-5, atol=1e-5)
    answered = fast.calls
    assert answered[1] == 0
    if model.layer is None:
        k[0] = 3 * BINS  # more counts than the least number of them
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", rt.FallbackWarning)
            found = fast(k, w)
        torch.testing.assert_close(found, model(k, w), rtol=1e-5, atol=1e-5)
        assert fast.calls[1] == answered[1] + 1


def test_an_example_that_needs_more_counts_stays_pytorchs() -> None:
    model, w = Counted(False, False).eval(), torch.randn(3)
    with pytest.warns(rt.FallbackWarning, match="bincount"):
        fast = rt.compile(model, (torch.tensor([0, 9, 1]), w))
    for k in (torch.tensor([0, 9, 1]), torch.tensor([0, 2, 1]), torch.tensor([20, 2, 1])):
        assert torch.equal(fast(k, w), model(k, w))
