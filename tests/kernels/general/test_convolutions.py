"""Convolutions of geometries drawn from a seed, of each channel or all, with taps that read padding alone, against float64."""

from __future__ import annotations

import random

import pytest
import torch
from torch import nn

import rtaccel as rt


def drawn(seed: int) -> tuple[nn.Module, tuple[int, ...]]:
    """A layer and the shape of its images."""
    rng = random.Random(seed)
    rank = rng.choice([1, 2, 2, 2, 3])
    sizes = [rng.choice([1, 3, 5, 7, 9, 14, 23][: 7 - 2 * (rank > 2)]) for _ in range(rank)]
    apart = rng.random() < 0.3  # taps as far from each other as the image is wide
    kernel = [rng.choice([1, 2, 3, 3, 5, 7]) for _ in range(rank)]
    dilation = [rng.choice([1, 2, size, size + 2]) if apart else rng.choice([1, 1, 1, 2]) for size in sizes]
    stride = [rng.choice([1, 1, 1, 2, 3]) for _ in range(rank)]
    around = [0] * rank
    for d, (size, k, far) in enumerate(zip(sizes, kernel, dilation)):
        reach = (k - 1) * far + 1
        around[d] = max(rng.choice([0, reach // 2, reach - 1]), -(-(reach - size) // 2), 0)
    groups = rng.choice(["one", "each", "each", "several"])
    each = rng.choice([1, 3, 16, 19, 32, 70, 80, 150])
    channels, filters = (
        (each, rng.choice([1, 5, 33, 64])) if groups == "one" else (each, each) if groups == "each" else (2 * each, 6)
    )
    made = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[rank]
    torch.manual_seed(seed)
    layer = made(
        channels, filters, tuple(kernel), tuple(stride), tuple(around), tuple(dilation),
        {"one": 1, "each": each, "several": 2}[groups],
    )  # fmt: skip
    ends = [nn.Identity(), nn.ReLU(), nn.ReLU6(), nn.GELU(), nn.Hardswish()]
    return nn.Sequential(layer, rng.choice(ends)).eval(), (channels, *sizes)


@pytest.mark.parametrize("seed", range(160))
@torch.inference_mode()
def test_equals_torch(seed: int) -> None:
    model, shape = drawn(seed)
    fast = rt.compile(model, torch.randn(1, *shape), strict=True, verify=False)
    for batch in (1, 3):
        x = torch.randn(batch, *shape)
        want = model.double()(x.double())
        got = fast(x)
        model.float()
        assert got.shape == want.shape
        assert float((got - want).abs().max()) <= 1e-5 * (1 + float(want.abs().max())), model


@pytest.mark.parametrize("seed", range(0, 160, 4))
@torch.inference_mode()
def test_w8a8_is_near(seed: int) -> None:
    model, shape = drawn(seed)
    data = [torch.randn(2, *shape) for _ in range(4)]
    fast = rt.compile(model, data[0], "w8a8", calibration=data, strict=True, verify=False)
    for x in data:
        want = model(x)
        assert float((fast(x) - want).norm()) <= 0.05 * float(want.norm()) + 1e-3 * want.numel() ** 0.5, model
