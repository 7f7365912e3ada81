"""Convolutions of one sample on several threads: the bits of one thread, whatever the form, and however odd the sizes."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt

CORES = sorted(os.sched_getaffinity(0))
counts = [pytest.param(n, marks=pytest.mark.skipif(len(CORES) < n, reason=f"needs {n} cores")) for n in (2, 3, 4)]


class Residual(nn.Module):
    """Two convolutions, and what went in before them added in the end."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.a = nn.Conv2d(channels, channels, kernel, padding=kernel // 2)
        self.b = nn.Conv2d(channels, channels, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.b(self.a(x).relu()) + x
        return y.relu()


def chain(*layers: nn.Module) -> nn.Module:
    """Between layers without weights, so that int8 stays int8 from one convolution to the next."""
    return nn.Sequential(*(part for layer in layers for part in (layer, nn.ReLU()))).eval()


# Name -> (model, shape of one sample). Few and odd columns, behind which whole vectors are written; numbers of positions that no
# group of them divides; and each form of convolution that threads share.
MODELS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "few columns": (chain(nn.Conv2d(16, 3, 5, padding=2), nn.Conv2d(3, 5, 5, padding=2)), (16, 61, 59)),
    "one column": (chain(nn.Conv2d(24, 1, 5), nn.Conv2d(1, 7, 3)), (24, 67, 61)),
    "odd columns": (chain(nn.Conv2d(33, 67, 3, stride=2), nn.Conv2d(67, 70, 1)), (33, 41, 43)),
    "narrow and wide tiles": (chain(nn.Conv2d(20, 145, 5, padding=2)), (20, 23, 29)),
    "dilated": (chain(nn.Conv2d(18, 22, 3, dilation=2), nn.Conv2d(22, 9, 3, dilation=(1, 3))), (18, 37, 41)),
    "groups": (chain(nn.Conv2d(48, 60, 5, groups=3)), (48, 31, 33)),
    "column kernels": (chain(nn.Conv2d(3, 40, (7, 1))), (3, 75, 131)),
    "3 x 3": (chain(nn.Conv2d(64, 64, 3, padding=1), nn.Conv2d(64, 40, 3, padding=1)), (64, 27, 29)),
    "3 x 3 of many columns": (chain(nn.Conv2d(96, 200, 3, padding=1)), (96, 13, 11)),
    "3 x 3 of odd columns": (chain(nn.Conv2d(70, 67, 3, padding=1), nn.Conv2d(67, 131, 3, padding=1)), (70, 21, 23)),
    "residual": (Residual(40, 5).eval(), (40, 25, 27)),
    "residual 3 x 3": (Residual(72, 3).eval(), (72, 22, 25)),
    "a signal": (chain(nn.Conv1d(12, 37, 9, padding=4), nn.Conv1d(37, 5, 3)), (12, 1501)),
    "deep": (chain(nn.Conv2d(520, 70, 3, stride=2)), (520, 19, 23)),
}


def compiled(model: nn.Module, x: Tensor, scheme: str, threads: int) -> Any:
    torch.manual_seed(5)
    batches = [torch.randn(2, *x.shape[1:])] if scheme == "w8a8" else None
    return rt.compile(model, x, scheme.split()[0], calibration=batches, threads=threads, verify=False)


def parts(fast: Any, samples: int = 1) -> dict[str, int]:
    step = fast._executor.steps[0]
    return {choice.stage.op: step.plan.parts(i, samples) for i, choice in enumerate(step.choices)}


@pytest.mark.parametrize("threads", counts)
@pytest.mark.parametrize("scheme", ["float32", "w8a8", "w8a8 dynamic"])
@pytest.mark.parametrize("name", MODELS)
def test_bits_do_not_depend_on_threads(name: str, scheme: str, threads: int) -> None:
    torch.manual_seed(7)
    model, shape = MODELS[name]
    x = torch.randn(1, *shape)
    one, several = compiled(model, x, scheme, 1), compiled(model, x, scheme, threads)
    want, found = one(x), torch.empty_like(one(x))
    call = several.bind(x, out=found)
    for _ in range(30):  # workers take their part or come too late
        found.fill_(float("nan"))
        call()
        assert torch.equal(found, want)
    for samples in (2, 5):
        x = torch.randn(samples, *shape)
        assert torch.equal(one(x), several(x))
    bad = x[:1].clone()
    bad[0, 1, 3] = float("nan")
    torch.testing.assert_close(several(bad), one(bad), rtol=0, atol=0, equal_nan=True)


@pytest.mark.skipif(len(CORES) < 2, reason="needs two cores")
@pytest.mark.parametrize("scheme", ["float32", "w8a8"])
def test_large_ones_are_shared_and_small_ones_are_not(scheme: str) -> None:
    large = nn.Conv2d(64, 64, 5, padding=2).eval()
    assert parts(compiled(large, torch.randn(1, 64, 40, 40), scheme, 2))["conv"] == 2
    small = nn.Conv2d(8, 8, 5, padding=2).eval()
    assert parts(compiled(small, torch.randn(1, 8, 6, 6), scheme, 2))["conv"] == 1


@pytest.mark.skipif(len(CORES) < 2, reason="needs two cores")
@pytest.mark.parametrize("scheme", ["float32", "w8a8"])
def test_streams(scheme: str) -> None:
    """A time step of a wide causal convolution is one position: its stream goes on as on one thread."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.ConstantPad1d((8, 0), 0.0), nn.Conv1d(96, 300, 9), nn.ReLU()).eval()
    batches = [torch.randn(2, 96, 20)] if scheme == "w8a8" else None
    one, several = (
        rt.stream(model, torch.randn(3, 96), scheme, calibration=batches, threads=threads) for threads in (1, 2)
    )
    for _ in range(30):
        x = torch.randn(3, 96)
        assert torch.equal(one.step(x), several.step(x))
