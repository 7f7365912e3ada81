"""Columns of a layer in another order: channel shuffles and sorted projections become the order of weights."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from tests.support.against_torch import check_equals_torch


def shuffled(x: Tensor, groups: int) -> Tensor:
    """The channels of [N, C, ...] as a matrix of `groups` rows, turned."""
    return x.reshape(x.shape[0], groups, -1, *x.shape[2:]).transpose(1, 2).reshape(x.shape)


class Shuffles(nn.Module):
    """Grouped and depthwise convolutions with shuffled channels between them, over images or signals."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        rng = random.Random(seed)
        torch.manual_seed(seed)
        self.flat = rng.random() < 0.4
        conv, norm = (nn.Conv1d, nn.BatchNorm1d) if self.flat else (nn.Conv2d, nn.BatchNorm2d)
        channels = rng.choice((6, 12, 24, 48))
        self.shape = (channels, 9) if self.flat else (channels, 5, 7)
        self.layers, self.groups = nn.ModuleList(), []
        for _ in range(rng.randint(2, 4)):
            groups = rng.choice([g for g in (1, 2, 3, channels) if channels % g == 0])
            wide = channels if groups == channels else rng.choice((6, 12, 24, 36))
            kernel = rng.choice((1, 1, 3))
            act = rng.choice((nn.Identity(), nn.ReLU(), nn.ReLU6(), nn.GELU()))
            self.layers.append(
                nn.Sequential(conv(channels, wide, kernel, padding=kernel // 2, groups=groups), norm(wide), act)
            )
            self.groups.append(rng.choice([g for g in (1, 2, 3, 6) if wide % g == 0]))
            channels = wide
        self.kept = rng.choice((channels, channels // 2))
        for module in self.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        for layer, groups in zip(self.layers, self.groups):
            x = shuffled(layer(x), groups)
        return x[:, : self.kept].flatten(1)


class Sorted(nn.Module):
    """A joined projection whose columns are sorted by what they are for, by head, or in part, before a norm reads them."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        rng = random.Random(seed)
        torch.manual_seed(seed)
        self.heads, self.size, self.way = (
            rng.choice((1, 2, 3)),
            rng.choice((4, 8, 16)),
            rng.choice(("heads", "parts", "cut")),
        )
        width = 3 * self.heads * self.size
        self.shape = (rng.choice((1, 6)), 10)
        self.project, self.norm = nn.Linear(10, width), nn.LayerNorm(width if self.way != "cut" else width // 2)
        self.out = nn.Linear(self.norm.normalized_shape[0], 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(x)
        n, t = y.shape[:2]
        if self.way == "heads":
            y = y.reshape(n, t, self.heads, self.size, 3).permute(0, 1, 4, 2, 3)
        elif self.way == "parts":
            y = y.reshape(n, t, 3, self.heads, self.size).transpose(-1, -2).flip(2)
        else:
            y = y[..., 1::2][..., : y.shape[-1] // 2]
        return self.out(self.norm(y.reshape(n, t, -1)))


@pytest.mark.parametrize("kind", [Shuffles, Sorted])
@pytest.mark.parametrize("seed", range(24))
def test_equals_torch(kind: type[nn.Module], seed: int) -> None:
    model = kind(seed).eval()
    check_equals_torch(model, [torch.randn(2, *model.shape) for _ in range(4)])


class Mixed(nn.Module):
    """As IGCV3: channels are shuffled between a grouped expansion and a depthwise convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.each = nn.Conv2d(6, 36, 1, groups=2), nn.Conv2d(36, 36, 3, padding=1, groups=36)

    def forward(self, x: Tensor) -> Tensor:
        return self.each(shuffled(self.wide(x), 2))


def test_nothing_is_copied_and_other_weights_fit() -> None:
    torch.manual_seed(1)
    first, second, x = Mixed().eval(), Mixed().eval(), torch.randn(2, 6, 8, 8)
    fast, other = rt.compile(first, x), rt.compile(second, x)
    inner = [line.what for line in fast.explain_lines(measure=False)]
    assert not any(what.startswith("rearrange") and "64, 36] -> float32[2, 64, 36]" in what for what in inner)
    fast.load_state_dict(other.state_dict())
    torch.testing.assert_close(fast(x), second(x), rtol=1e-5, atol=1e-5)
