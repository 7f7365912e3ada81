"""A stage of a stream is timed with its states as states: by `explain`, and where a sparse form is chosen by its time."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import rtaccel as rt


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_zeros_in_a_streamed_layer(kind: str) -> None:
    layer = {"lstm": nn.LSTM, "gru": nn.GRU}[kind](24, 64, batch_first=True).eval()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(torch.rand_like(parameter) > 0.95)
    live = rt.stream(layer, torch.randn(2, 24))
    windows = torch.randn(2, 9, 24)
    for t in range(9):
        y = live.step(windows[:, t].contiguous())
    torch.testing.assert_close(y, layer(windows)[0][:, -1], rtol=1e-4, atol=1e-5)
    assert all(line.us is not None and line.us >= 0 for line in live.explain_lines())
