"""rt.stream of models that weigh all time steps by a softmax: attention that pools, in every way that it is written."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt

F = nn.functional
STREAMS, FEATURES, HIDDEN = 2, 5, 8

Head = Callable[["Pooled", Tensor], Tensor]


def deviation(m: Pooled, y: Tensor) -> Tensor:
    """As attentive statistics have it: the mean beside the deviation, by the same weights."""
    w = torch.softmax(m.score(y), 1)
    mean = (w * y).sum(1)
    return torch.cat([mean, ((w * y * y).sum(1) - mean * mean).clamp(min=1e-4).sqrt()], -1)


def hidden(m: Pooled, y: Tensor) -> Tensor:
    """Steps that are masked out weigh nothing, the first among them."""
    s = m.score(y)
    s = s.masked_fill(y[..., :1] < -0.2, -torch.inf)
    w = torch.softmax(torch.cat([s, m.score(y) - 3], -1), 1)
    return (w[..., 1:] * y).sum(1) + torch.logsumexp(s, 1).clamp(min=-9)


HEADS: dict[str, Head] = {
    "sum": lambda m, y: (torch.softmax(m.score(torch.tanh(y)), 1) * y).sum(1),
    "sum, kept": lambda m, y: torch.sum(y * F.softmax(m.score(y), dim=1), dim=1, keepdim=True)[:, 0],
    "sum of all": lambda m, y: (torch.softmax(m.score(y), 1) * y).sum((1, 2))[:, None] + y[:, -1],
    "bmm": lambda m, y: torch.bmm(torch.softmax(m.score(y)[..., 0], -1).unsqueeze(1), y).squeeze(1),
    "bmm, turned": lambda m, y: torch.bmm(y.transpose(1, 2), torch.softmax(m.score(y), 1)).squeeze(-1),
    "several heads": lambda m, y: (torch.softmax(m.scores(y), 1).transpose(1, 2) @ y).flatten(1),
    "einsum": lambda m, y: torch.einsum("bt,btd->bd", torch.softmax(m.score(y)[..., 0], 1), y),
    "einsum, heads": lambda m, y: torch.einsum("bth,btd->bdh", torch.softmax(m.scores(y), 1), y).flatten(1),
    "a softmax for each channel": lambda m, y: (torch.softmax(m.gate(y), 1) * y).sum(1),
    "learned queries": lambda m, y: m.attention(m.asked(y), y, y)[0].mean(1),
    "learned queries, no weights": lambda m, y: m.attention(m.asked(y), y, y, need_weights=False)[0][:, 1],
    "attention by name": lambda m, y: F.scaled_dot_product_attention(m.asked(y), y, y, scale=0.7).flatten(1),
    "logarithm of a sum": lambda m, y: torch.logsumexp(2 * y, 1) / 2,
    "logarithm of a sum, kept": lambda m, y: (torch.logsumexp(y, 1, keepdim=True) - y[:, -1:])[:, 0],
    "deviation": deviation,
    "hidden steps": hidden,
}  # fmt: skip


NEWEST: dict[str, Head] = {
    "newest, attention by name": lambda m, y: F.scaled_dot_product_attention(y[:, -1:], m.gate(y), y)[:, 0],
    "newest, bmm": lambda m, y: (
        torch.bmm(torch.softmax(torch.bmm(m.gate(y[:, -1:]), y.transpose(1, 2)), -1), y)[:, 0] + y[:, -1]
    ),
    "newest, matmul, final state": lambda m, y: (torch.softmax(m.gate(y[:, -1])[:, None] @ m.gate(y).mT, -1) @ y)[:, 0],
    "newest, multi-head": lambda m, y: m.attention(y[:, -1:], y, y)[0][:, 0],
    "newest, multi-head, no weights": lambda m, y: m.attention(y[:, -1:], y, m.gate(y), need_weights=False)[0][:, 0],
}

ALL = HEADS | NEWEST


class Pooled(nn.Module):
    def __init__(self, name: str, steep: float) -> None:
        super().__init__()
        self.first, self.name, self.steep = nn.GRU(FEATURES, HIDDEN, batch_first=True), name, steep
        self.score, self.scores, self.gate = nn.Linear(HIDDEN, 1), nn.Linear(HIDDEN, 3), nn.Linear(HIDDEN, HIDDEN)
        self.attention = nn.MultiheadAttention(HIDDEN, 2, batch_first=True)
        self.queries = nn.Parameter(torch.randn(1, 2, HIDDEN))
        with torch.no_grad():
            for scores in (self.score, self.scores, self.gate):
                scores.weight *= steep
        self.last = nn.Linear(ALL[name](self, torch.zeros(1, 9, HIDDEN)).shape[1], 3)

    def asked(self, y: Tensor) -> Tensor:
        return self.queries.expand(len(y), -1, -1)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.last(ALL[self.name](self, self.first(x)[0]))
        return made


@pytest.mark.parametrize("steep", [1.0, 300.0])
@pytest.mark.parametrize("name", HEADS)
def test_steps_are_those_of_the_window(name: str, steep: float) -> None:
    """steep: scores far apart, so that the largest so far changes, and others weigh nothing."""
    torch.manual_seed(len(name))
    model = Pooled(name, steep).eval()
    live = rt.stream(model, torch.randn(STREAMS, FEATURES))
    x = torch.randn(STREAMS, 90, FEATURES) * torch.rand(90, 1) * 3  # longer than the windows that are traced
    for again in range(2):
        live.reset()
        for t in range(x.shape[1]):
            got = live.step(x[:, t])
            if t % 7 == 0 or t < 5:
                with torch.no_grad():
                    torch.testing.assert_close(got, model(x[:, : t + 1]), rtol=1e-4, atol=2e-5, msg=f"{again}, {t}")


@pytest.mark.parametrize("name", ["sum", "several heads", "einsum"])
def test_quantized_steps_are_those_of_the_quantized_window(name: str) -> None:
    torch.manual_seed(3)
    model, calibration = Pooled(name, 1.0).eval(), [torch.randn(4, 30, FEATURES)]
    live = rt.stream(model, torch.randn(STREAMS, FEATURES), scheme="w8a8", calibration=calibration)
    x = torch.randn(STREAMS, 30, FEATURES)
    for t in range(30):
        got = live.step(x[:, t])
    fast = rt.compile(model, (x,), scheme="w8a8", calibration=calibration)
    torch.testing.assert_close(got, fast(x), rtol=0, atol=0.01)  # a step of the last layer's input may round otherwise


class Attended(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Linear(FEATURES, 1)

    def forward(self, x: Tensor) -> Tensor:
        return (torch.softmax(self.score(x), 1) * x).sum(1)


def test_many_steps_keep_their_digits() -> None:
    """A sum in float32 would lose a millionth of itself at each of these steps."""
    torch.manual_seed(5)
    model = Attended().eval()
    live = rt.stream(model, torch.randn(1, FEATURES))
    x = torch.randn(64, FEATURES)
    count = 40_000
    bound, out = torch.empty(1, FEATURES), torch.empty(1, FEATURES)
    step = live.bind(bound, out=out)
    for t in range(count):
        bound.copy_(x[t % 64 : t % 64 + 1])
        step()
    with torch.no_grad():
        want = model.double()(x.double()[None].repeat(1, count // 64, 1))
    torch.testing.assert_close(out.double(), want, rtol=2e-6, atol=2e-7)


@pytest.mark.parametrize("name", NEWEST)
def test_the_newest_step_asks_all_of_them(name: str) -> None:
    """Attention of the last hidden state over all of them: the past is kept, so many steps as context= says."""
    torch.manual_seed(len(name))
    model = Pooled(name, 1.0).eval()
    with pytest.raises(rt.UnsupportedProblem, match="context="):
        rt.stream(model, torch.randn(STREAMS, FEATURES))
    live = rt.stream(model, torch.randn(STREAMS, FEATURES), context=40)
    x = torch.randn(STREAMS, 40, FEATURES)
    for t in range(40):
        got = live.step(x[:, t])
        if t % 5 == 0 or t == 39:
            with torch.no_grad():
                torch.testing.assert_close(got, model(x[:, : t + 1]), rtol=1e-4, atol=2e-5, msg=str(t))


def test_weights_that_are_given_are_refused() -> None:
    class Weights(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.score = nn.GRU(FEATURES, HIDDEN, batch_first=True), nn.Linear(HIDDEN, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = self.first(x)[0]
            w = torch.softmax(self.score(y), 1)
            return (w * y).sum(1), w

    with pytest.raises(rt.UnsupportedProblem):
        rt.stream(Weights().eval(), torch.randn(STREAMS, FEATURES))
