"""What `explain` says of the comparison with the model where the model's own float32 is far from float64."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.core.batch import BatchRange
from rtaccel.runtime.verification.verify import Verified, verified


class Cancels(nn.Module):
    """Its results are what is left of large numbers: float32 keeps few of their digits."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(24, 16)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(1e6 * self.linear(x))


def note(model: nn.Module) -> str:
    fast = rt.compile(model.eval(), torch.randn(2, 24))
    return next(line for line in fast.explain().splitlines() if "verified against" in line)


def told(line: str) -> float:
    found = re.search(r"largest difference (\S+) of the rms", line)
    assert found is not None
    return float(found[1])


def test_a_large_difference_is_told_and_whose_it_is() -> None:
    said = note(Cancels())
    assert told(said) > 1e-3 and "as far as the model's own float32 is from float64" in said


def test_a_small_one_is_told_alone() -> None:
    said = note(nn.Linear(24, 16))
    assert told(said) < 1e-5 and "own float32" not in said


@pytest.mark.parametrize("fault", [0.5, 3.0])
def test_a_fault_is_not_excused(fault: float) -> None:
    """Whatever float32 does to a model, results that are further off than its own are refuted."""
    model = Cancels().eval()
    x = torch.randn(2, 24)
    with torch.no_grad():
        exact = model.double()(x.double())
        own = float((model.float()(x).double() - exact).square().mean().sqrt())
    wrong = max(6 * own, fault)
    found = verified(model, lambda x: model(x).detach() + wrong, (x,), 2, BatchRange(0, None))
    assert isinstance(found, Verified) and set(found.failed) >= {2} and not found.rounding


@pytest.mark.parametrize("draw", [torch.bernoulli, torch.rand_like, nn.functional.dropout])
def test_a_seed_of_the_model_excuses_nothing(draw: Callable[[Tensor], Tensor]) -> None:
    """It draws the same numbers at each call, but others in float64: a compiled form that draws on is another model."""

    class Seeded(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            torch.manual_seed(3)
            return x * draw(torch.sigmoid(x))

    model, x = Seeded().eval(), torch.randn(2, 24)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rt.FallbackWarning)
        fast = rt.compile(model, x)
    again = torch.randn(2, 24)
    torch.testing.assert_close(fast(again), model(again))
