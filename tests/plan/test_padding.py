"""Values whose rows fill no cache lines: joined where nobody looks at rows, and as they are where somebody does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rtaccel.core.stage import Value
from rtaccel.plan.padding import LINE, MAX_ROW, _dense
from tests.support.generators.model_files import same_bits, through_a_file
from tests.support.networks.call import Call
from tests.support.one_stage import compiled_both

conv = nn.Conv2d(5, 5, 3, padding=1)
CALLS: dict[str, Callable[[Tensor], object]] = {
    "of elements of the input": lambda x: F.pad(x.exp(), (1, 2, 1, 0)),
    "of parts of the input": lambda x: F.pad(x[:, :, 1:, 2:9].exp(), (1, 2, 1, 0)) * 2,
    "joined": lambda x: (x.exp() * 2 - x).sum(3) + x.abs().sqrt().amax(3),
    "in one row": lambda x: (x[..., :7].exp() + 1).flip(2).cumsum(3).sum(2),
    "read by rows": lambda x: (x.exp() - 1).softmax(3).amax(2),
    "of a layer": lambda x: conv(x).exp().sum((2, 3)) + conv(x).amax((2, 3)),
    "a result": lambda x: ((y := x.exp() * 3), y.sum(3)),
    "of two": lambda x: ((x.exp() + x.flip(3)) * x.roll(1, 2)).prod(2),
    "whole numbers": lambda x: (x * 3).round().long().sum(3),
    "counted": lambda x: x.exp().argmax(3).float() + x.exp().sum(3),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_same_numbers(name: str) -> None:
    model = Call(CALLS[name]).eval()
    native, plain, _ = compiled_both(model, (torch.randn(2, 5, 12, 36),))
    filed = through_a_file(native)
    for rows in (1, 2, 5):
        x = torch.randn(rows, 5, 12, 36)
        want = model(x)
        assert filed is not None and same_bits(native(x), filed(x))
        for fast in (native, plain):
            got = fast(x)
            for a, b in zip(got, want) if isinstance(got, (tuple, list)) else [(got, want)]:
                torch.testing.assert_close(a, b, rtol=2e-5, atol=2e-5)


def test_rows_of_an_image_fill_lines() -> None:
    """24 channels of each position leave 8 of 32 floats empty; two positions fill three lines."""
    model = nn.Sequential(nn.Conv2d(24, 24, 1), nn.GroupNorm(4, 24)).eval()
    fast, _, _ = compiled_both(model, (torch.randn(1, 24, 40, 36),))
    lines = [line.what for line in fast.explain_lines(measure=False)]
    assert lines[-1].endswith("(float32[1, 720, 48]) -> float32[1, 960, 36]"), lines
    assert any(line.endswith("-> float32[1, 1440, 24]") for line in lines), "the layer works on rows"


@pytest.mark.parametrize("width", [1, 3, 7, 12, 15, 16, 20, 36, 48, 100])
@pytest.mark.parametrize("steps", [1, 4, 9, 16, 240, 12345])
def test_dense(width: int, steps: int) -> None:
    made = _dense(Value("x", width, steps=steps))
    assert made.width * made.steps == width * steps
    fills = made.width % LINE == 0 or made.steps == 1
    assert fills or (made.width == width and (steps * width > MAX_ROW) and steps % LINE)
