"""rt.stream over models that treat some dimension as a whole: it is refused, and never taken for the samples of another form."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt

FEATURES, STREAMS, TIME = 8, 3, 9
CAUSAL: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "linear": lambda m, x: torch.tanh(m.linear(x)),  # type: ignore[operator]
    "gru": lambda m, x: m.gru(x)[0],  # type: ignore[operator]
    "conv": lambda m, x: m.conv(nn.functional.pad(x.transpose(1, 2), (2, 0))).transpose(1, 2),  # type: ignore[operator]
    "cumsum": lambda m, x: x.cumsum(1) * 0.1,
    "norm": lambda m, x: m.norm(x),  # type: ignore[operator]
}
OF_ALL: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "softmax over time": lambda m, x: torch.softmax(x, 1),
    "mean over time": lambda m, x: x - x.mean(1, keepdim=True),
    "reversed": lambda m, x: x.flip(1) + 0.5,
    "largest over samples": lambda m, x: x / (x.abs().amax(0, keepdim=True) + 0.1),
    "mean over samples": lambda m, x: x - x.mean(0, keepdim=True),
    "softmax over samples": lambda m, x: torch.softmax(x, 0),
    "samples summed": lambda m, x: x + x.sum(0, keepdim=True),
}


class Drawn(nn.Module):
    """Windows [batch, time, features] through some of the pieces."""

    def __init__(self, pieces: list[Callable[[nn.Module, Tensor], Tensor]]) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(FEATURES, FEATURES), nn.LayerNorm(FEATURES)
        self.gru, self.conv = nn.GRU(FEATURES, FEATURES, batch_first=True), nn.Conv1d(FEATURES, FEATURES, 3)
        self.pieces = pieces

    def forward(self, x: Tensor) -> Tensor:
        for piece in self.pieces:
            x = piece(self, x)
        return x


@pytest.mark.parametrize("seed", range(8))
def test_causal_pieces_are_streamed(seed: int) -> None:
    torch.manual_seed(seed)
    model = Drawn(random.Random(seed).choices(list(CAUSAL.values()), k=3)).eval()
    live = rt.stream(model, torch.randn(STREAMS, FEATURES))
    x = torch.randn(STREAMS, TIME, FEATURES)
    for t in range(TIME):
        y = live.step(x[:, t].contiguous())
    torch.testing.assert_close(y, model(x)[:, -1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", OF_ALL)
@pytest.mark.parametrize("before", [False, True])
def test_what_needs_a_whole_dimension_is_refused(name: str, before: bool) -> None:
    """Alone it keeps nothing from one row of any dimension to the next, so that one form of windows shows nothing of it."""
    torch.manual_seed(0)
    rows = random.Random(name).choice([CAUSAL["linear"], CAUSAL["norm"]])
    model = Drawn([rows, OF_ALL[name]] if before else [OF_ALL[name], rows]).eval()
    for streams in (1, STREAMS):
        with pytest.raises(rt.UnsupportedProblem, match="stream"):
            rt.stream(model, torch.randn(streams, FEATURES))
