"""Whole numbers and truth values that a rounding decides are no difference from the model. Every other one is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from rtaccel.core.batch import BatchRange
from rtaccel.runtime.verification.verify import Verified, verified

DECIDED: dict[str, Callable[[Tensor], Tensor]] = {
    "cut to samples of sound": lambda y: (y * 20_000).clamp(-32768, 32767).to(torch.int16),
    "rounded": lambda y: (y * 500).round().long(),
    "compared": lambda y: y > y.mean(1, keepdim=True),
    "compared with itself in another order": lambda y: y.sum(1, keepdim=True) > y.flip(1).cumsum(1)[:, -1:],
    "the largest of nearly equal ones": lambda y: torch.cat([y, y.flip(0).flip(0) + y * 0], 1).argmax(1),
    "classes": lambda y: torch.bucketize(y, torch.linspace(-2, 2, 40)),
}


class Decides(nn.Module):
    """Of whole numbers, so that every call has the same ones."""

    def __init__(self, decide: Callable[[Tensor], Tensor], width: int = 100) -> None:
        super().__init__()
        self.layer, self.decide = nn.Linear(width, width), decide

    def real(self, x: Tensor) -> Tensor:
        return self.layer(x / 100)

    def forward(self, x: Tensor) -> Tensor:
        return self.decide(self.real(x))


def judged(model: nn.Module, candidate: Callable[[Tensor], Tensor]) -> Verified:
    found = verified(model, candidate, (torch.randint(-300, 300, (40, 100)),), 40, BatchRange(40, 40))
    assert isinstance(found, Verified)
    return found


def rounded_otherwise(model: Decides) -> Callable[[Tensor], Tensor]:
    """Its real numbers as float32 gives them in another order of sums."""

    def call(x: Tensor) -> Tensor:
        with torch.no_grad():
            y = model.real(x)
            return model.decide(y + (torch.rand(y.shape) - 0.5) * 4e-7 * y.abs().mean())

    return call


@pytest.mark.parametrize("name", DECIDED)
def test_a_rounding_is_excused(name: str) -> None:
    for seed in range(5):
        torch.manual_seed(seed)
        model = Decides(DECIDED[name]).eval()
        assert not judged(model, rounded_otherwise(model)).failed


@pytest.mark.parametrize("name", [name for name in DECIDED if "itself" not in name])
def test_one_wrong_element_is_not(name: str) -> None:
    """Far from where it is decided."""
    torch.manual_seed(3)
    model = Decides(DECIDED[name]).eval()

    def wrong(x: Tensor) -> Tensor:
        with torch.no_grad():
            y, got = model.real(x), model(x).clone()
        first = got.reshape(len(got), -1)[0]
        far = int((y[0] - y[0].mean()).abs().argmax()) if len(first) > 1 else 0
        first[far] = ~first[far] if got.dtype == torch.bool else first[far] + 2
        return got

    assert judged(model, wrong).failed


def test_the_next_whole_number_everywhere_is_not() -> None:
    model = Decides(DECIDED["cut to samples of sound"]).eval()
    assert judged(model, lambda x: model(x) + 1).failed
    assert judged(model, lambda x: model.layer(x / 100).detach().mul(20_000).floor().to(torch.int16)).failed
