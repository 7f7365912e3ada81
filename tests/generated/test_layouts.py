"""Random modules that turn, join and divide dimensions around layers, against float64, at batches beside the traced one."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

import rtaccel as rt
from tests.support.generators.count import case, examples
from tests.support.generators.layouts import Drawing

BATCHES = (1, 2, 3, 5)
CLOSE, LOOSE = 2e-4, 0.5
"""Of the largest number of a result, in float32; and of the rms in W8A8, of what is not another number altogether."""


@pytest.mark.parametrize("seed", range(examples(300)))
def test_equals_torch(seed: int) -> None:
    """Half of the modules take samples for what they are, half have a number of them that other dimensions have too."""
    by_chance = (0, 2, 0, 3)[seed % 4]
    drawing = Drawing(seed, by_chance)
    model, shape = drawing.module(), drawing.shape
    example = by_chance or (1, 2, 3)[seed % 3]
    scheme = "w8a8" if seed % 5 == 4 else "float32"
    torch.manual_seed(seed)
    data = [torch.randn(example, *shape) for _ in range(1 if scheme == "float32" else 24)]
    with torch.no_grad():
        try:
            want = model(data[0])
        except RuntimeError:  # drawn with sizes that do not fit
            return
        if not torch.isfinite(want).all() or not want.numel():
            return
        fast = rt.compile(model, data[0], scheme, calibration=data if scheme != "float32" else None, verify=False)
        for batch in (by_chance,) if by_chance else BATCHES:
            x = torch.randn(batch, *shape)
            try:
                got = fast(x)
            except rt.ShapeError:
                assert batch != example, drawing.text
                continue
            check(got, model(x), copy.deepcopy(model).double()(x.double()), scheme, drawing.text)


def check(got: Tensor, want: Tensor, exact: Tensor, scheme: str, text: str) -> None:
    """exact: of float64; where float32 of torch is far from it, as behind equal numbers that are sorted, nothing is held."""
    case("layouts")
    assert got.shape == want.shape, f"{list(got.shape)} instead of {list(want.shape)}:\n{text}"
    most = float(exact.abs().max()) + 1e-2
    if float((want - exact).abs().max()) > CLOSE / 10 * most:
        return
    if scheme == "float32":
        assert float((got - exact).abs().max()) <= CLOSE * most, text
    elif "arg" not in text and "sort" not in text:
        assert float((got - exact).norm()) <= LOOSE * (float(exact.norm()) + 1.0), text
