"""Depthwise convolutions of images: any size, stride and padding equals torch; int8 has the bits of the portable backend."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt

ACTIVATIONS = (nn.Identity, nn.ReLU, nn.ReLU6, nn.SiLU)


def drawn(seed: int) -> tuple[nn.Module, Tensor]:
    """A network around a depthwise layer, so that its input and output lie as the kernels like them."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    c, height, width = draw.choice((1, 3, 7, 8, 9, 16, 31, 33, 40)), draw.randrange(1, 15), draw.randrange(1, 15)
    kernel = draw.choice((3, 3, 3, (1, 3), (3, 1), (5, 3), 5))
    k = (kernel, kernel) if isinstance(kernel, int) else kernel
    padding = tuple(draw.randrange(0, size // 2 + 2) for size in k)
    padding = tuple(max(p, (size - side + 1) // 2) for p, size, side in zip(padding, k, (height, width)))
    stride = draw.choice((1, 1, 2, (2, 1), (1, 2), 3))
    dilation = draw.choice((1, 1, 1, (2, 1)))
    if dilation != 1:
        padding = (padding[0] + k[0], padding[1])
    layer = nn.Conv2d(c, c, k, stride, padding, dilation, groups=c)
    model = nn.Sequential(nn.Conv2d(2, c, 1), layer, draw.choice(ACTIVATIONS)(), nn.Conv2d(c, 3, 1)).eval()
    return model, torch.randn(draw.randrange(1, 4), 2, height, width)


@pytest.mark.parametrize("first", range(0, 120, 20))
def test_float32_equals_torch(first: int) -> None:
    for seed in range(first, first + 20):
        model, x = drawn(seed)
        want = model.double()(x.double())
        got = rt.compile(model.float(), (x,), verify=False, strict=True)(x)
        torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=2e-5, msg=lambda m, s=seed: f"seed {s}: {m}")


@pytest.mark.parametrize("first", range(0, 60, 20))
def test_int8_has_the_bits_of_the_portable_backend(first: int) -> None:
    for seed in range(first, first + 20):
        model, x = drawn(seed)
        options = {
            "scheme": rt.W8A8(activation="static"),
            "calibration": [torch.randn(16, *x.shape[1:])],
            "verify": False,
        }
        native, plain = (rt.compile(model, (x,), backend=backend, **options) for backend in (None, "portable"))
        if any(isinstance(part, nn.SiLU) for part in model):  # its float32 results may differ in the last bit
            torch.testing.assert_close(native(x), plain(x), rtol=0.02, atol=0.02)
        else:
            assert torch.equal(native(x), plain(x)), seed


def test_a_nan_reaches_its_neighbors_alone() -> None:
    model = nn.Conv2d(9, 9, 3, padding=1, groups=9).eval()
    x = torch.randn(1, 9, 11, 13)
    x[0, 4, 5, 6] = torch.nan
    got = rt.compile(model, (torch.randn(1, 9, 11, 13),))(x)
    assert torch.equal(got.isnan(), model(x).isnan())
