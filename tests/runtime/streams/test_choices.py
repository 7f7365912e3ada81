"""rt.stream of models whose heads choose, sort and look up, read the final state of their memory, or turn their results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt

F = nn.functional
STREAMS, STEPS = 2, 21


class Network(nn.Module):
    """A recurrent layer over [batch, time, 4], scores of each time step, and what `head` makes of them and of the final state."""

    def __init__(self, kind: type[nn.RNNBase], layers: int, first: bool, head: Callable[..., Any]) -> None:
        super().__init__()
        self.memory = kind(4, 12, layers, batch_first=not first)
        self.scores, self.table, self.first, self.head = nn.Linear(12, 6), nn.Embedding(6, 5), first, head

    def forward(self, x: Tensor) -> Any:
        y, h = self.memory(x.transpose(0, 1) if self.first else x)
        y = y.transpose(0, 1) if self.first else y
        return self.head(self, x, y, h[0] if isinstance(h, tuple) else h, self.scores(y))


def pairs(o: Tensor) -> Tensor:
    return o.view(*o.shape[:2], 2, 3)


HEADS: dict[str, Callable[..., Any]] = {
    "the class": lambda m, x, y, h, o: o[:, -1].argmax(-1),
    "the class of each step": lambda m, x, y, h, o: o.argmax(-1),
    "the best three": lambda m, x, y, h, o: o.topk(3, -1),
    "in order": lambda m, x, y, h, o: o[:, -1].sort(-1),
    "largest": lambda m, x, y, h, o: tuple(o.max(-1, keepdim=True)),
    "of each half": lambda m, x, y, h, o: pairs(o).argmax(-1),
    "each half in order": lambda m, x, y, h, o: pairs(o).sort(2)[0].flatten(2),
    "middle": lambda m, x, y, h, o: torch.median(o, -1, keepdim=True)[0],
    "margin": lambda m, x, y, h, o: o.softmax(-1).topk(2, -1)[0].diff(dim=-1),
    "looked up": lambda m, x, y, h, o: m.table(o.argmax(-1)),
    "looked up at the end": lambda m, x, y, h, o: m.table(o[:, -1].argmax(-1)),
    "two looked up": lambda m, x, y, h, o: m.table(pairs(o).argmax(-1)).flatten(2),
    "chosen": lambda m, x, y, h, o: o.gather(-1, o.topk(3, -1)[1]),
    "chosen of each half": lambda m, x, y, h, o: torch.take_along_dim(
        pairs(o), pairs(o).argmax(-1, keepdim=True), -1
    ).squeeze(-1),
    "a row of weights": lambda m, x, y, h, o: m.scores.weight[o.argmax(-1)] * 2 + y,
    "looked up by the input": lambda m, x, y, h, o: (
        m.table((x[..., 0] > 0).long()) + m.table((x[..., 1] > 0).long() + 1)
    ),
    "by bins": lambda m, x, y, h, o: m.table(torch.bucketize(x[..., 0], torch.tensor([-1.0, 0, 1]))),
    "one of six": lambda m, x, y, h, o: F.one_hot(o.argmax(-1), 6).float(),
    "quantile": lambda m, x, y, h, o: torch.quantile(o, 0.3, dim=-1, keepdim=True),
    "final state": lambda m, x, y, h, o: h[-1],
    "scores of the final state": lambda m, x, y, h, o: (m.scores(h[-1]).softmax(-1), h[-1].argmax(-1)),
    "both layers": lambda m, x, y, h, o: torch.cat([h[0], h[-1]], -1),
    "all layers, turned": lambda m, x, y, h, o: h.permute(1, 0, 2).flatten(1),
    "turned": lambda m, x, y, h, o: o[:, -1].view(-1, 2, 3).transpose(1, 2),
    "turned at each step": lambda m, x, y, h, o: pairs(o).transpose(2, 3),
    "turned and joined": lambda m, x, y, h, o: pairs(o).transpose(2, 3).flatten(2),
    "backwards": lambda m, x, y, h, o: (o[:, -1].flip(-1), o[..., 1::2], o[:, -1][:, [3, 1, 2]]),
}
KINDS = [nn.GRU, nn.LSTM, nn.RNN]


@pytest.mark.parametrize("name", HEADS)
def test_steps_are_those_of_the_window(name: str) -> None:
    torch.manual_seed(len(name))
    at = list(HEADS).index(name)
    model = Network(KINDS[at % 3], 1 + at % 2, at % 4 == 3, HEADS[name]).eval()
    live = rt.stream(model, torch.randn(STREAMS, 4))
    x = torch.randn(STREAMS, STEPS, 4)
    for t in range(STEPS):
        with torch.no_grad():
            want = model(x[:, : t + 1])
        got = live.step(x[:, t])
        for a, b in zip(_leaves(got), _leaves(want), strict=True):
            newest = b[:, -1] if b.dim() > a.dim() or (b.shape[1:2] == (t + 1,) and b.shape != a.shape) else b
            newest = newest if newest.shape == a.shape or b.dim() == 2 else newest.reshape(a.shape)
            assert a.dtype == newest.dtype
            torch.testing.assert_close(a, newest, rtol=1e-4, atol=1e-5)


def _leaves(result: Any) -> list[Tensor]:
    return list(result) if isinstance(result, (tuple, list)) else [result]


@pytest.mark.parametrize("kind", KINDS)
def test_the_final_state_in_int8(kind: type[nn.RNNBase]) -> None:
    """`h[-1]` in front of a layer: the bits of a model that reads its newest output."""
    torch.manual_seed(4)
    read = Network(kind, 2, False, HEADS["scores of the final state"]).eval()
    plain = Network(kind, 2, False, lambda m, x, y, h, o: (m.scores(y[:, -1]).softmax(-1), y[:, -1].argmax(-1))).eval()
    plain.load_state_dict(read.state_dict())
    windows, x = [torch.randn(8, 30, 4) for _ in range(3)], torch.randn(STREAMS, STEPS, 4)
    lives = [rt.stream(m, torch.randn(STREAMS, 4), scheme="w8a8", calibration=windows) for m in (read, plain)]
    for t in range(STEPS):
        a, b = (live.step(x[:, t]) for live in lives)
        assert all(torch.equal(*both) for both in zip(_leaves(a), _leaves(b), strict=True))


def test_a_state_that_is_returned_stays_the_streams_own() -> None:
    model = Network(nn.GRU, 1, False, lambda m, x, y, h, o: (o[:, -1], h)).eval()
    live, x = rt.stream(model, torch.randn(STREAMS, 4)), torch.randn(STREAMS, 5, 4)
    for t in range(5):
        got = live.step(x[:, t])
    torch.testing.assert_close(_leaves(got)[0], model(x)[0], rtol=1e-4, atol=1e-5)
