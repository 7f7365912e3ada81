"""as_strided counts in the strides of torch's storage, and a stored value has others: random bases, sizes and strides."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.core.errors import FallbackWarning

SHAPE = (4, 6, 5)


class Strided(nn.Module):
    """Of a permuted, and perhaps copied, result of a layer."""

    def __init__(self, order: tuple[int, ...], copied: bool, size: list[int], stride: list[int], start: int) -> None:
        super().__init__()
        self.layer, self.order, self.copied = nn.Linear(SHAPE[-1], SHAPE[-1]), order, copied
        self.size, self.stride, self.start = size, stride, start

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x).permute(self.order)
        y = y.contiguous() if self.copied else y
        return y.as_strided((y.shape[0], *self.size), (120, *self.stride), self.start) * 2


@pytest.mark.parametrize("seed", range(30))
def test_equals_torch(seed: int) -> None:
    rng = random.Random(seed)
    torch.manual_seed(seed)
    order = [1, 2, 3]
    rng.shuffle(order)
    size, stride, left = [], [], 119 - (start := rng.choice((0, 0, 1, 7)))
    for _ in range(rng.randint(1, 3)):
        stride.append(rng.choice((0, 1, 2, 5, 12)))
        size.append(rng.randint(1, min(7, left // max(stride[-1], 1) + 1)))
        left -= (size[-1] - 1) * stride[-1]
    model = Strided((0, *order), rng.random() < 0.5, size, stride, start).eval()
    x = torch.randn(2, *SHAPE)
    fast = rt.compile(model, x, verify=False, strict=True)
    for given in (x, torch.randn(5, *SHAPE)):
        torch.testing.assert_close(fast(given), model(given))


@pytest.mark.parametrize(
    "call",
    [
        lambda y: y.as_strided((4, 6), (12, 2), 1),  # samples that run into each other
        lambda y: y.as_strided_scatter(torch.ones(3, 2), (3, 2), (120, 7)),
    ],
)
def test_what_no_strides_of_a_sample_say_runs_in_torch(call) -> None:
    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return call(torch.relu(x)) * 2

    model, x = Model().eval(), torch.randn(3, *SHAPE)
    with pytest.warns(FallbackWarning, match="as_strided"):
        fast = rt.compile(model, x, verify=False)
    torch.testing.assert_close(fast(x), model(x))
