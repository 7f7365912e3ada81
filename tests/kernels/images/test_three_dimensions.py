"""Convolutions over three dimensions, and of images side by side in one sample, through compiled models."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.core.registry import operator
from rtaccel.kernels.conv.cases import SHAPES, make_stage
from tests.support.against_torch import check_native

FORMS: list[dict[str, Any]] = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": (3, 2, 3), "stride": (2, 1, 2), "padding": (1, 0, 2), "dilation": (1, 2, 1)},
    {"kernel_size": 1},
    {"kernel_size": 1, "stride": 2},
    {"kernel_size": (3, 1, 1), "padding": (1, 0, 0)},
    {"kernel_size": 3, "padding": "same", "groups": 3},
    {"kernel_size": 2, "groups": 6},
]


@pytest.mark.parametrize("channels", [6, 3])
@pytest.mark.parametrize("form", FORMS, ids=lambda f: "-".join(f"{k[:3]}{v}" for k, v in f.items()))
def test_conv3d(form: dict[str, Any], channels: int) -> None:
    form = {**form, "groups": min(form.get("groups", 1), channels)}
    check_native(nn.Conv3d(channels, 12, **form), channels, 5, 6, 7, terms=170)


def test_a_network_of_volumes() -> None:
    model = nn.Sequential(
        nn.Conv3d(3, 8, 3, padding=1), nn.BatchNorm3d(8), nn.ReLU(), nn.MaxPool3d(2), nn.Conv3d(8, 12, 3, stride=2, padding=1),
        nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(12, 4),
    )  # fmt: skip
    check_native(model, 3, 6, 8, 8, terms=250)


class OfFrames(nn.Module):
    def __init__(self, inner: nn.Module, turned: bool = False) -> None:
        super().__init__()
        self.inner, self.turned = inner, turned

    def forward(self, x: Tensor) -> Tensor:
        frames = x.shape[1]
        x = x.transpose(0, 1).flatten(0, 1) if self.turned else x.flatten(0, 1)
        y = self.inner(x)
        return y.unflatten(0, (frames, -1)).transpose(0, 1) if self.turned else y.unflatten(0, (-1, frames))


INNER = {
    "conv": lambda: nn.Sequential(nn.Conv2d(3, 7, 3, 2, 1), nn.ReLU(), nn.Conv2d(7, 5, 1), nn.MaxPool2d(2)),
    "no padding": lambda: nn.Sequential(nn.Conv2d(3, 7, (3, 2)), nn.Conv2d(7, 7, 3, groups=7)),
    "transposed": lambda: nn.ConvTranspose2d(3, 6, 4, 2, 1),
    "bilinear": lambda: nn.Sequential(nn.Conv2d(3, 9, 1), nn.Upsample(scale_factor=2, mode="bilinear")),
    "average": lambda: nn.AdaptiveAvgPool2d((3, 2)),
    "nearest": lambda: nn.Upsample(size=(11, 5)),
}


@pytest.mark.parametrize("name", INNER)
@pytest.mark.parametrize("turned", [False, True])
def test_images_side_by_side(name: str, turned: bool) -> None:
    """Frames of a sample beside one another; turned: the samples of a frame."""
    check_native(OfFrames(INNER[name](), turned), 4, 3, 9, 8, terms=100)


@pytest.mark.parametrize("name", INNER)
def test_with_a_fixed_batch(name: str) -> None:
    check_native(INNER[name](), 3, 9, 8, terms=100, fixed=True)


INT8 = {
    "volumes": (
        lambda: nn.Sequential(nn.Conv3d(4, 8, 3, padding=1), nn.ReLU(), nn.MaxPool3d(2), nn.Conv3d(8, 6, 3, padding=1)),
        (4, 5, 6, 7),
    ),
    "transposed": (
        lambda: nn.Sequential(
            nn.Conv2d(4, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 6, 4, 2, 1), nn.ReLU(), nn.Conv2d(6, 5, 3)
        ),
        (4, 6, 7),
    ),
    "pooled": (
        lambda: nn.Sequential(
            nn.Conv2d(4, 8, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(5, 1, 2),
            nn.Conv2d(8, 6, 1),
            nn.AvgPool2d(5, 1, 2),
            nn.Conv2d(6, 5, 3),
        ),
        (4, 8, 7),
    ),
    "larger": (
        lambda: nn.Sequential(
            nn.Conv2d(4, 8, 1),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(8, 6, 1),
            nn.Upsample(scale_factor=2, mode="bilinear"),
            nn.Conv2d(6, 5, 3),
        ),
        (4, 6, 7),
    ),
}


@pytest.mark.parametrize("name", INT8)
@pytest.mark.parametrize("static", [False, True])
def test_int8(name: str, static: bool) -> None:
    """What lies between layers has a range of its own: that of what it holds."""
    make, shape = INT8[name]
    model, x = make().eval(), torch.randn(8, *shape)
    fast = rt.compile(model, x[:2], scheme="w8a8", strict=True, calibration=[x] if static else None)
    with torch.no_grad():
        want = model(x)
    assert float((fast(x) - want).pow(2).mean().sqrt()) < 0.03 * float(want.std())


@pytest.mark.parametrize(
    ("attrs", "words"),
    [
        ({"out_rows": None}, "both or none"),
        ({"tap_rows": (0, 1)}, "4 numbers of at least 0"),
        ({"out_rows": (0, 1, 8, 9, -1)}, "5 numbers of at least 0"),
    ],
)
def test_rows_that_do_not_fit_are_refused(attrs: dict[str, Any], words: str) -> None:
    stage = make_stage(SHAPES["deep"], "float32")
    stage = replace(stage, attrs={**stage.attrs, **attrs})
    with pytest.raises(rt.ShapeError, match=words):
        operator("conv").lower(stage)
