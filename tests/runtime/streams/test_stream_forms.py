"""rt.stream: which models over windows have a step, in which form of their windows, and what the others are told."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.runtime.streaming.verify_stream import STEPS, window_of
from tests.support.networks.sequence_models import LastTimeStep

TIME, STREAMS = 29, 3


def error(got: Tensor, want: Tensor) -> float:
    return float((got - want).square().mean().sqrt() / want.square().mean().sqrt())


def test_what_cannot_be_streamed_says_why() -> None:
    future = nn.Sequential(nn.Conv1d(5, 8, 3, padding=1))
    with pytest.raises(rt.UnsupportedProblem, match="still to come"):
        rt.stream(future.eval(), torch.randn(1, 5))
    with pytest.raises(rt.UnsupportedProblem, match="backwards"):
        rt.stream(LastTimeStep(both=True).eval(), torch.randn(1, 10))
    pooled = nn.Sequential(nn.Conv1d(5, 8, 1), nn.AdaptiveAvgPool1d(2))
    with pytest.raises(rt.UnsupportedProblem, match="pooling of stride"):
        rt.stream(pooled.eval(), torch.randn(1, 5))


class Weighed(nn.Module):
    """Time first, with a factor for each feature."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = nn.LSTM(5, 6)
        self.register_buffer("factor", torch.rand(5) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.memory(x * self.factor)[0]


def test_forms_that_do_not_fit_are_tried_in_silence() -> None:
    records: list[logging.LogRecord] = []
    handler, log = logging.Handler(), logging.getLogger("torch._subclasses.fake_tensor")
    handler.emit = records.append  # type: ignore[method-assign]
    log.addHandler(handler)
    try:
        rt.stream(Weighed().eval(), torch.randn(1, 5))
    finally:
        log.removeHandler(handler)
    assert records == []


def test_one_calibration_window_of_time_first() -> None:
    """Its batch of one is no length: the range that it shows is that of the states after all its time steps."""
    torch.manual_seed(10)
    model, x = nn.LSTM(6, 9).eval(), torch.randn(40, 1, 6)
    scheme = rt.W8A8(observer="absmax")
    one = rt.stream(model, x[0], scheme, calibration=[x])
    both = rt.stream(model, x[0], scheme, calibration=[x.expand(40, 2, 6).contiguous()])
    for t in range(40):
        assert torch.equal(one.step(x[t]), both.step(x[t]))


@pytest.mark.parametrize("streams", [2, 4, 0])
def test_another_number_of_streams(streams: int) -> None:
    live = rt.stream(nn.GRU(5, 4, batch_first=True).eval(), torch.randn(3, 5))
    with pytest.raises(rt.ShapeError):
        live.step(torch.randn(streams, 5))
    for bad in ([3], [-1], 3, ["a"]):
        with pytest.raises(rt.ShapeError):
            live.reset(bad)


class Unpadded(nn.Module):
    """Channels first, without padding: the residual is the part of the input that the outputs stand for."""

    def __init__(self, newest: int) -> None:
        super().__init__()
        self.conv, self.newest = nn.Conv1d(5, 5, 3), newest

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + x[:, :, self.newest : x.shape[2] - 2 + self.newest]


@pytest.mark.parametrize("newest", [0, 1, 2])
def test_a_residual_of_the_input_that_is_cut(newest: int) -> None:
    """Of the same time step, or of an earlier one, which is kept."""
    model = Unpadded(newest).eval()
    live = rt.stream(model, torch.randn(STREAMS, 5))
    x = torch.randn(STREAMS, 5, TIME)
    with torch.no_grad():
        want = model(nn.functional.pad(x, (2, 0)))  # zeros stand before the first time step
    for t in range(TIME):
        assert error(live.step(x[:, :, t].contiguous()), want[:, :, t]) < 1e-5


def test_explain_says_what_a_call_takes() -> None:
    live = rt.stream(nn.GRU(5, 4, batch_first=True).eval(), torch.randn(3, 5))
    assert "3 streams, one time step of each a call" in live.explain(measure=False)
    fixed = rt.compile(nn.GRU(5, 4).eval(), torch.randn(7, 3, 5))
    assert "batch size: fixed to 7" in fixed.explain(measure=False)


PICKS = {
    "a slice": lambda y: y[:, :, 1:4],
    "every other": lambda y: y[..., ::2],
    "of the newest": lambda y: y[:, -1, 1::2],
    "reversed newest": lambda y: y[:, -1].flip(-1)[:, :3],
    "repeated": lambda y: y[..., [1, 0, 1, 5]],
}


@pytest.mark.parametrize("name", PICKS)
def test_features_of_a_time_step_are_picked(name: str) -> None:
    class Picked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.memory = nn.GRU(8, 6, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            y, _ = self.memory(x[..., [3, 2, 0, 1, 4, 5, 6, 7]])
            return torch.relu(PICKS[name](y)) * 2

    torch.manual_seed(0)
    model = Picked().eval()
    live = rt.stream(model, torch.randn(3, 8))
    x = torch.randn(3, 19, 8)
    for t in range(19):
        y = live.step(x[:, t].contiguous())
    want = model(x)
    torch.testing.assert_close(y, want if want.dim() == 2 else want[:, -1], rtol=1e-5, atol=1e-6)


def test_features_of_the_newest_time_steps_are_read_together() -> None:
    class Mixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([x[:, -1, 0], x[:, -2, 1]], 1) * 2

    live, x = rt.stream(Mixed().eval(), torch.randn(3, 8)), torch.randn(3, 9, 8)
    for t in range(9):
        y = live.step(x[:, t])
        if t:
            torch.testing.assert_close(y, Mixed()(x[:, : t + 1]))


@pytest.mark.parametrize("length", STEPS)
def test_one_number_that_happens_to_be_zero_verifies(length: int) -> None:
    """A head of one number whose bias takes away what the compared window gives: its error is not to be held to its own size."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.GRU(14, 128, batch_first=True), Newest(), nn.Linear(128, 1)).eval()
    generator = torch.Generator().manual_seed(11)
    longest = window_of(torch.randn(3, 14), ("batch", "time", "features"), max(STEPS), generator)
    with torch.no_grad():
        model[2].bias -= model(longest[:, :length])[0]
        assert float(model(longest[:, :length]).abs()) < 1e-6
    assert "verified against" in rt.stream(model, torch.randn(3, 14)).explain(measure=False)
    wrong = nn.Sequential(nn.GRU(14, 128, batch_first=True), Newest(back=2), nn.Linear(128, 1)).eval()
    with pytest.raises(rt.UnsupportedProblem):
        rt.stream(wrong, torch.randn(3, 14))


class Newest(nn.Module):
    """The output of the newest time step, or of one before."""

    def __init__(self, back: int = 1) -> None:
        super().__init__()
        self.back = back

    def forward(self, found: tuple[Tensor, Tensor]) -> Tensor:
        return found[0][:, -self.back]


MIXED: dict[str, Callable[[Tensor], Tensor]] = {
    "off the mean": lambda x: x - x.mean(1, keepdim=True),
    "softmax": lambda x: torch.softmax(x, 1),
    "norm": lambda x: nn.functional.normalize(x, dim=1),
    "off the largest": lambda x: x - x.amax(1, keepdim=True),
    "sorted": lambda x: x.sort(1).values,
}


@pytest.mark.parametrize("scheme", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", MIXED)
def test_time_steps_are_not_taken_for_channels(name: str, scheme: str) -> None:
    """What meets all time steps, and keeps nothing, is no model over the one channel of an audio signal."""

    class Mixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return MIXED[name](x)

    try:
        live = rt.stream(Mixed().eval(), torch.randn(2, 6), scheme)
    except rt.UnsupportedProblem:
        return
    x = torch.randn(2, 7, 6)
    for t in range(7):
        y = live.step(x[:, t])
    torch.testing.assert_close(y, Mixed()(x)[:, -1])
