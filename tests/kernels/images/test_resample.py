"""Resample: interpolation of torch through compiled models, and what the operator refuses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import rtaccel as rt
from rtaccel.core.stage import Stage
from rtaccel.kernels.resample import contract
from tests.support.against_torch import check_native
from tests.support.networks.call import Call
from tests.support.one_stage import check_no_samples, check_same, check_samples_apart

FORMS: dict[str, dict[str, Any]] = {
    "twice": {"scale_factor": 2, "mode": "bilinear"},
    "corners": {"scale_factor": 2, "mode": "bilinear", "align_corners": True},
    "smaller and larger": {"size": (11, 4), "mode": "bilinear"},
    "odd factors": {"scale_factor": (1.7, 0.6), "mode": "bilinear"},
    "recomputed": {"scale_factor": (1.7, 0.6), "mode": "bilinear", "recompute_scale_factor": True},
    "one dimension": {"size": (9, 7), "mode": "bilinear"},
    "the other": {"size": (6, 9), "mode": "bilinear"},
    "one position": {"size": (1, 1), "mode": "bilinear", "align_corners": True},
    "as it is": {"size": (6, 7), "mode": "bilinear"},
    "cubic": {"scale_factor": 2, "mode": "bicubic"},
    "cubic corners": {"size": (3, 13), "mode": "bicubic", "align_corners": True},
    "antialias": {"size": (3, 4), "mode": "bilinear", "antialias": True},
    "antialias cubic": {"size": (13, 4), "mode": "bicubic", "antialias": True},
    "nearest": {"size": (11, 4), "mode": "nearest"},
    "nearest twice": {"scale_factor": 2, "mode": "nearest"},
    "nearest by a factor": {"scale_factor": 1.3, "mode": "nearest"},
    "nearest-exact": {"size": (11, 4), "mode": "nearest-exact"},
}


@pytest.mark.parametrize("name", FORMS)
def test_images(name: str) -> None:
    """Returned, and between convolutions, where the image lies channels last."""
    form = FORMS[name]
    check_native(Call(lambda x: F.interpolate(x, **form)), 3, 6, 7, terms=24)
    check_native(
        nn.Sequential(nn.Conv2d(3, 12, 1), Call(lambda x: F.interpolate(x, **form)), nn.Conv2d(12, 5, 1)),
        3,
        6,
        7,
        terms=60,
    )


@pytest.mark.parametrize("mode", ["linear", "nearest", "nearest-exact"])
@pytest.mark.parametrize("channels", [1, 9])
def test_sequences(mode: str, channels: int) -> None:
    check_native(
        Call(lambda x: F.interpolate(x, size=13, mode=mode) + F.interpolate(x, scale_factor=13 / 6, mode=mode)),
        channels,
        6,
    )


@pytest.mark.parametrize("mode", ["trilinear", "nearest", "nearest-exact"])
def test_volumes(mode: str) -> None:
    check_native(Call(lambda x: F.interpolate(x, scale_factor=2, mode=mode)), 3, 4, 5, 6, terms=24)
    check_native(Call(lambda x: F.interpolate(x * 2, size=(3, 5, 11), mode=mode)), 9, 4, 5, 6, terms=24)


def test_a_whole_factor_repeats_without_a_table() -> None:
    model = Call(lambda x: F.interpolate(x, scale_factor=2).relu()).eval()
    assert "assemble" in rt.compile(model, torch.randn(1, 9, 6, 7)).explain()


def test_nan_and_infinity_are_where_they_are_in_torch() -> None:
    model = Call(lambda x: F.interpolate(x, scale_factor=2, mode="bilinear")).eval()
    x = torch.randn(2, 3, 5, 6)
    x[0, 1, 2, 3], x[1, 2, 0, 0] = float("nan"), float("inf")
    got, want = rt.compile(model, x, strict=True)(x), model(x)
    assert torch.equal(got.isnan(), want.isnan()) and torch.equal(got.isfinite(), want.isfinite())


def _stage(**attrs: Any) -> Stage:
    stage = contract.make_stage(2, 3, 2, 5, ((0, 1), (1, 2), (2,), (0, 2)), 0)
    return replace(stage, attrs={**stage.attrs, **attrs})


def test_weights_of_one_copy() -> None:
    stage = contract.make_stage(1, 4, 1, 6, ((3,), (0,), (0,)), 0)
    stage = replace(stage, tensors={"weight": torch.ones(3, 1)})
    x = torch.randn(2, 4, 6)
    check_same(stage, (x,), (x[:, [3, 0, 0]],))


def test_samples_are_apart() -> None:
    check_samples_apart(_stage(), (torch.randn(3, 12, 5),))
    check_no_samples(_stage())


@pytest.mark.parametrize(
    ("attrs", "words"),
    [
        ({"outer": 5}, "a position and a weight for each output"),
        ({"index": ((0, 1), (1, 2), (2,))}, "a position and a weight for each output"),
        ({"index": ((0, 1), (1, 2), (2,), ())}, "a position and a weight for each output"),
        ({"index": ((0, 1), (1, 2), (2,), (0, 3))}, r"positions 0\.\.2"),
    ],
)
def test_what_does_not_fit_is_refused(attrs: dict[str, Any], words: str) -> None:
    with pytest.raises(rt.ShapeError, match=f"resample: .*{words}"):
        contract.lower(_stage(**attrs))
