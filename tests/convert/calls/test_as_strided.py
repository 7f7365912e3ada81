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


class Windows(nn.Module):
    """Windows that lie half over one another, of heads that are joined with the samples, as Longformer has them."""

    def __init__(self, heads: int, window: int, time_first: bool) -> None:
        super().__init__()
        self.layer, self.heads, self.window, self.time_first = (
            nn.Linear(SHAPE[-1], heads * 3),
            heads,
            window,
            time_first,
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x.transpose(0, 1) if self.time_first else x).unflatten(-1, (self.heads, 3))
        y = (
            (y.transpose(0, 1) if self.time_first else y)
            .transpose(1, 2)
            .reshape(x.shape[0] * self.heads, x.shape[1], 3)
        )
        y = y.view(y.shape[0], y.shape[1] // (2 * self.window), 2 * self.window, 3)
        size, stride = list(y.size()), list(y.stride())
        size[1], stride[1] = size[1] * 2 - 1, stride[1] // 2
        return torch.einsum("bwid,bwjd->bwij", (z := y.as_strided(size, stride)), z).unflatten(
            0, (x.shape[0], self.heads)
        )


@pytest.mark.parametrize("time_first", [False, True])
@pytest.mark.parametrize(("heads", "window"), [(1, 2), (2, 1), (4, 3), (3, 2)])
def test_windows_of_heads(heads: int, window: int, time_first: bool) -> None:
    torch.manual_seed(heads)
    model, x = Windows(heads, window, time_first).eval(), torch.randn(2, 12, SHAPE[-1])
    fast = rt.compile(model, x, strict=True)
    for given in (x, torch.randn(5, 12, SHAPE[-1]), torch.randn(1, 12, SHAPE[-1])):
        torch.testing.assert_close(fast(given), model(given))


@pytest.mark.parametrize("own", [True, False])
def test_of_a_slice(own: bool) -> None:
    """From where the slice begins, or from where its storage does: then it sees what lies before."""

    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = torch.relu(x)[:, 1:]
            offset = None if own else 0
            return y.as_strided((y.shape[0], 2, 6, 5), (120, 30, 5, 1), offset) * 2

    model, x = Model().eval(), torch.randn(3, *SHAPE)
    fast = rt.compile(model, x, strict=True) if own else rt.compile(model, x)
    torch.testing.assert_close(fast(x), model(x))


def test_samples_that_run_into_each_other() -> None:
    """No sample has such windows of its own: all of the example is taken as one."""

    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x).as_strided((4, 6), (12, 2), 1) * 2

    model = Model().eval()
    fast = rt.compile(model, torch.randn(3, *SHAPE), strict=True)
    for _ in range(3):
        x = torch.randn(3, *SHAPE)
        torch.testing.assert_close(fast(x), model(x))


def test_what_no_strides_of_a_sample_say_runs_in_torch() -> None:
    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x).as_strided_scatter(torch.ones(3, 2), (3, 2), (120, 7)) * 2

    model, x = Model().eval(), torch.randn(3, *SHAPE)
    with pytest.warns(FallbackWarning, match="as_strided"):
        fast = rt.compile(model, x, verify=False)
    torch.testing.assert_close(fast(x), model(x))
