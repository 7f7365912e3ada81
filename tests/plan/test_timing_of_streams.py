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


def test_a_stage_that_has_states_alone() -> None:
    class Begins(nn.Module):
        """A loop from a state that is not zeros: the stream marks that it has begun."""

        def __init__(self) -> None:
            super().__init__()
            self.x, self.h, self.first = nn.Linear(4, 6), nn.Linear(6, 6), nn.Parameter(torch.randn(6))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.first.expand(x.shape[0], 6)
            made = []
            for t in range(x.shape[1]):
                h = torch.tanh(self.x(x[:, t]) + self.h(h) * torch.sigmoid(h))
                made.append(h)
            return torch.stack(made, 1)

    live = rt.stream(Begins().eval(), torch.randn(1, 4))
    assert all(line.us is not None and line.us >= 0 for line in live.explain_lines())
