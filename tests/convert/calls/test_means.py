"""Means over positions: read where they lie, by whichever stage needs no copy of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from tests.support.networks.call import Call

SIDE_BY_SIDE = {
    "image": (lambda x: x.mean((2, 3)), (3, 5, 7, 9)),
    "image that keeps": (lambda x: x.mean((2, 3), keepdim=True), (3, 5, 7, 9)),
    "pool of an image": (nn.AdaptiveAvgPool2d(1), (3, 5, 7, 9)),
    "pool of a sequence": (nn.AdaptiveAvgPool1d(1), (2, 6, 33)),
    "pool of a volume": (nn.AdaptiveAvgPool3d((1, 1, 1)), (2, 6, 3, 4, 5)),
    "lines": (lambda x: x.mean(-1), (2, 6, 33)),
    "groups": (nn.GroupNorm(3, 12), (2, 12, 5, 8)),
    "instances": (nn.InstanceNorm1d(7), (2, 7, 40)),
    "around the channels": (lambda x: x.transpose(1, 2).mean((2, 3)), (2, 9, 5, 12)),
    "scaled": (lambda x: x * x.mean((2, 3), keepdim=True).sigmoid(), (2, 6, 4, 9)),
}
APART = {
    "channels last": (lambda x: x.mean(1), (3, 33, 6)),
    "after a convolution": (nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1)), (2, 3, 9, 8)),
    "mean after a convolution": (lambda x: nn.functional.conv1d(x, torch.ones(4, 3, 5)).mean(2), (2, 3, 40)),
}


def stages(fast: rt.CompiledModel) -> list[str]:
    return [stage.op for step in fast._program.steps for stage in step.group.stages]  # type: ignore[union-attr]


def checked(function: Callable[[Tensor], Tensor], shape: tuple[int, ...], scheme: str) -> rt.CompiledModel:
    model = (function if isinstance(function, nn.Module) else Call(function)).eval()
    calibration = {"calibration": [torch.randn(16, *shape[1:])]} if scheme != "float32" else {}
    fast = rt.compile(model, (torch.randn(shape),), scheme, strict=True, **calibration)
    for rows in (shape[0], 1, 5):
        x = torch.randn(rows, *shape[1:])
        want = model(x).detach()
        limit = 2e-6 if scheme == "float32" else 0.1
        assert (fast(x) - want).abs().max() <= limit * max(1.0, float(want.abs().max()))
    x = torch.randn(shape)
    x[0].view(-1)[3] = float("nan")
    got, want = fast(x), model(x)
    assert torch.equal(got[1:].isnan(), want[1:].isnan())
    assert got[0].isnan().any()
    return fast


@pytest.mark.parametrize("scheme", ["float32", "w8a8"])
@pytest.mark.parametrize("name", SIDE_BY_SIDE)
def test_channels_first(name: str, scheme: str) -> None:
    function, shape = SIDE_BY_SIDE[name]
    fast = checked(function, shape, scheme)
    # Numbers of groups, one for each channel.
    copied = [s.outputs[0] for s in fast._program.stages if s.op == "rearrange"]
    assert all(v.steps * v.width <= shape[1] for v in copied)


@pytest.mark.parametrize("scheme", ["float32", "w8a8"])
@pytest.mark.parametrize("name", APART)
def test_channels_last(name: str, scheme: str) -> None:
    fast = checked(*APART[name], scheme)
    assert stages(fast).count("rearrange") <= 1
    assert "pool" in stages(fast)
