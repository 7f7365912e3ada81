"""Transposed convolutions through compiled models: strides, dilations, groups, what folds into them, and what no tap reaches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import rtaccel as rt
from tests.support.against_torch import check_native

KINDS = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
SIZES = {1: (7,), 2: (5, 6), 3: (3, 4, 5)}
FORMS: list[dict[str, Any]] = [
    {"kernel_size": 2, "stride": 2},
    {"kernel_size": 4, "stride": 2, "padding": 1},
    {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1},
    {"kernel_size": 3, "stride": 1, "padding": 1, "bias": False},
    {"kernel_size": 5, "stride": 3, "padding": 2, "dilation": 2, "output_padding": 1},
    {"kernel_size": 2, "stride": 2, "padding": 1},
    {"kernel_size": 3, "stride": 2, "dilation": 2},
    {"kernel_size": 2, "stride": 4},
    {"kernel_size": 4, "stride": 2, "groups": 3},
    {"kernel_size": 3, "stride": 2, "groups": 6},
]


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("form", FORMS, ids=lambda f: "-".join(f"{k[:3]}{v}" for k, v in f.items()))
def test_equals_torch(form: dict[str, Any], rank: int) -> None:
    outputs = 6 if form.get("groups", 1) == 6 else 9
    check_native(KINDS[rank](6, outputs, **form), 6, *SIZES[rank], terms=6 * 5**rank)


@pytest.mark.parametrize("form", FORMS[:5])
def test_with_a_fixed_batch(form: dict[str, Any]) -> None:
    check_native(nn.ConvTranspose2d(6, 9, **form), 6, 5, 4, terms=150, fixed=True)


def test_a_norm_and_an_activation_go_into_its_convolutions() -> None:
    """What follows costs no pass of its own: convolutions and copies are all there is."""
    norm = nn.BatchNorm2d(8)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    norm.running_mean.normal_()
    model = nn.Sequential(
        nn.ConvTranspose2d(5, 8, 4, 2, 1, bias=False), norm, nn.SiLU(), nn.ConvTranspose2d(8, 12, 2, 2), nn.Tanh()
    )
    check_native(model, 5, 4, 6, terms=160)
    fast = rt.compile(model, torch.randn(2, 5, 4, 6))
    found = [line for line in fast.explain().splitlines() if " -> float32" in line]
    assert all("conv(" in line or "linear(" in line or "assemble(" in line or "rearrange(" in line for line in found)
    assert sum("+ silu" in line for line in found) == 4


def test_few_channels_come_out_as_planes() -> None:
    model = nn.ConvTranspose2d(16, 3, 4, 2, 1)
    check_native(model, 16, 5, 6, terms=80)
    assert "rearrange" not in rt.compile(model, torch.randn(2, 16, 5, 6)).explain().split("conv", 1)[1]


def test_what_reads_nothing_of_its_input_stays() -> None:
    model = nn.ConvTranspose1d(3, 4, 1, stride=4, padding=2, output_padding=1).eval()
    fast = rt.compile(model, torch.randn(2, 3, 2))
    assert "reads nothing of its input" in fast.explain()
    x = torch.randn(3, 3, 2)
    assert torch.equal(fast(x), model(x))


def test_an_infinity_reaches_what_it_reaches_in_torch() -> None:
    model = nn.ConvTranspose2d(2, 3, 3, 2, 1, 1).eval()
    x = torch.randn(2, 2, 4, 4)
    x[0, 1, 2, 1], x[1, 0, 0, 0] = float("inf"), float("nan")
    got, want = rt.compile(model, x, strict=True)(x), model(x)
    assert torch.equal(got.isfinite(), want.isfinite())


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_many_channels_come_out_as_planes(rank: int) -> None:
    """Pixels of all channels are put together, and turned then. One by one they took 7 times as long as PyTorch."""
    model, size = KINDS[rank](16, 32, 2, 2), {1: 256, 2: 16, 3: 6}[rank]
    check_native(model, 16, *[size] * rank, terms=32)
    lines = rt.compile(model, torch.randn(1, 16, *[size] * rank)).explain().splitlines()
    found = [line.split("(")[0].split()[-1] for line in lines if " -> float32" in line]
    assert found[-1] == "rearrange" and found[-2] in ("assemble", "linear")  # of signals one layer makes the runs
