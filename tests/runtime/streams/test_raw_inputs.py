"""rt.stream of models that do something to their raw input, in both orders of its dimensions, and of those that take either."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt

F = nn.functional
STREAMS, FEATURES, HIDDEN, STEPS = 2, 4, 7, 22


class Front(nn.Module):
    """What is done to x [batch, features, time] before the first layer, and how many features there are then."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.scale, self.shift = nn.Parameter(torch.rand(FEATURES, 1) + 0.5), nn.Parameter(torch.randn(1, FEATURES, 1))
        self.weight, self.norm = nn.Parameter(torch.randn(6, FEATURES)), nn.BatchNorm1d(FEATURES)
        self.norm.running_mean, self.norm.running_var = torch.randn(FEATURES), torch.rand(FEATURES) + 0.5

    def forward(self, x: Tensor) -> Tensor:
        return FRONTS[self.name][0](self, x)


FRONTS: dict[str, tuple[Callable[[Any, Tensor], Tensor], int]] = {
    "standardized": (lambda m, x: (x - m.shift) / m.scale, FEATURES),
    "shifted": (lambda m, x: x + m.shift, FEATURES),
    "batch norm": (lambda m, x: m.norm(x), FEATURES),
    "clamped": (lambda m, x: x.clamp(-1, 1), FEATURES),
    "softmax": (lambda m, x: x.softmax(1), FEATURES),
    "by the largest": (lambda m, x: x / (1 + x.abs().amax(1, keepdim=True)), FEATURES),
    "off the mean": (lambda m, x: x * m.scale - x.mean(1, keepdim=True), FEATURES),
    "joined": (lambda m, x: torch.cat([x * m.scale, x.mean(1, keepdim=True), x**2], 1), 2 * FEATURES + 1),
    "matrix": (lambda m, x: m.weight @ x, 6),
    "einsum": (lambda m, x: torch.einsum("oc,bct->bot", m.weight, x), 6),
    "weighted sum": (lambda m, x: (x * m.scale).sum(1, keepdim=True), 1),
    "product": (lambda m, x: ((x * m.scale)[:, 0] * x[:, 1]).unsqueeze(1), 1),
    "size": (lambda m, x: (x * m.scale).square()[:, :3].sum(1, keepdim=True).sqrt(), 1),
    "product of slices": (lambda m, x: (x * m.scale)[:, :2] * x[:, 2:], 2),
    "some of them": (lambda m, x: (x * m.scale)[:, 1:3], 2),
}


class Model(nn.Module):
    """layout: "[batch, features, time]" or "[batch, time, features]"; recurrent: or a causal convolution."""

    def __init__(self, name: str, layout: str, recurrent: bool, newest: bool) -> None:
        super().__init__()
        self.front, self.turn, self.newest = Front(name), layout == "[batch, time, features]", newest
        count = FRONTS[name][1]
        self.layer = nn.GRU(count, HIDDEN, batch_first=True) if recurrent else nn.Conv1d(count, HIDDEN, 3)
        self.head = nn.Linear(HIDDEN, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.front(x.transpose(1, 2) if self.turn else x)
        if isinstance(self.layer, nn.GRU):
            y = self.layer(x.transpose(1, 2))[0]
        else:
            y = torch.relu(self.layer(F.pad(x, (2, 0)))).transpose(1, 2)
        made: Tensor = self.head(y[:, -1] if self.newest else y)
        return made


def check_steps(model: nn.Module, live: rt.StreamModel, turn: bool) -> None:
    """turn: windows are [batch, time, features]."""
    x = torch.randn(STREAMS, FEATURES, STEPS)
    for t in range(STEPS):
        got = live.step(x[:, :, t].contiguous())
        with torch.no_grad():
            want = model(x[:, :, : t + 1].transpose(1, 2) if turn else x[:, :, : t + 1])
        torch.testing.assert_close(got, want if want.dim() == 2 else want[:, -1], rtol=1e-4, atol=1e-5, msg=str(t))


@pytest.mark.parametrize("layout", ["[batch, features, time]", "[batch, time, features]"])
@pytest.mark.parametrize("name", FRONTS)
def test_raw_inputs_are_changed_step_by_step(name: str, layout: str) -> None:
    torch.manual_seed(len(name))
    for recurrent in (True, False):
        for newest in (True, False):
            model = Model(name, layout, recurrent, newest).eval()
            live = rt.stream(model, torch.randn(STREAMS, FEATURES))
            assert f"windows of the model are {layout}" in live.explain(measure=False)
            check_steps(model, live, layout == "[batch, time, features]")


@pytest.mark.parametrize("length", [4, 8, 20, 61])
@pytest.mark.parametrize("name", ["standardized", "shifted", "off the mean", "product", "joined"])
def test_calibration_windows_may_have_any_length(name: str, length: int) -> None:
    """Windows whose time steps and features may be cut into each other, as 20 into 4."""
    torch.manual_seed(length)
    model = Model(name, "[batch, features, time]", False, True).eval()
    calibration = [torch.randn(3, FEATURES, length)]
    check_steps(model, rt.stream(model, torch.randn(STREAMS, FEATURES), calibration=calibration), False)
    live = rt.stream(model, torch.randn(STREAMS, FEATURES), "w8a8", calibration=calibration)
    x = calibration[0][:STREAMS]
    for t in range(length):
        got = live.step(x[:, :, t].contiguous())
    fast = rt.compile(model, (x,), scheme="w8a8", calibration=calibration)
    torch.testing.assert_close(got, fast(x), rtol=0, atol=0.02)


SHAPELESS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda x: x.mean(2),
    "largest": lambda x: x.amax(2),
    "difference": lambda x: torch.diff(x, dim=2, prepend=torch.zeros_like(x[:, :, :1])),
    "running sum": lambda x: x.cumsum(2),
    "off the mean of features": lambda x: x - x.mean(1, keepdim=True),
}


class Shapeless(nn.Module):
    """Over [batch, features, time], without a layer that says how many features there are."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        y = SHAPELESS[self.name](x)
        return y if y.dim() == 2 else y.transpose(1, 2)


@pytest.mark.parametrize("name", SHAPELESS)
def test_the_layout_can_be_named(name: str) -> None:
    """Nothing in such a model says what its dimensions are, so it is asked for."""
    model = Shapeless(name).eval()
    with pytest.raises(rt.UnsupportedProblem, match="layout="):
        rt.stream(model, torch.randn(STREAMS, FEATURES))
    live = rt.stream(model, torch.randn(STREAMS, FEATURES), layout="[batch, features, time]")
    check_steps(model, live, False)


def test_elements_alike_need_no_layout() -> None:
    live = rt.stream(nn.Sequential(nn.Tanh(), nn.Softplus()).eval(), torch.randn(STREAMS, FEATURES))
    x = torch.randn(STREAMS, FEATURES)
    torch.testing.assert_close(live.step(x), F.softplus(torch.tanh(x)))


@pytest.mark.parametrize("name", ["scaled", "standardized", "sum"])
def test_features_are_not_taken_for_samples(name: str) -> None:
    """By broadcasting such a model takes one channel of samples, too. That is not tried, also where the right form is refused."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.conv = (
                nn.Parameter(torch.rand(FEATURES, 1)),
                nn.Conv1d(FEATURES if name != "sum" else 1, 5, 3),
            )

        def forward(self, x: Tensor) -> Tensor:
            x = x * self.scale if name != "standardized" else (x - self.scale) / (self.scale + 1)
            x = x.sum(1, keepdim=True) if name == "sum" else x
            y: Tensor = torch.relu(self.conv(F.pad(x, (2, 0))))
            return torch.softmax(y, 2)[:, :, -1]  # over all time steps, which no stream gives

    with pytest.raises(rt.UnsupportedProblem) as raised:
        rt.stream(Model().eval(), torch.randn(STREAMS, FEATURES))
    assert "[batch, 1, samples]: not tried" in raised.value.got


@pytest.mark.parametrize("scheme", ["float32", "w8a8"])
@pytest.mark.parametrize("newest", [True, False])
@pytest.mark.parametrize("turn", [True, False])
def test_all_steps_of_the_traced_window_are_no_window(turn: bool, newest: bool, scheme: str) -> None:
    """A softmax over time reads as many steps as the trace has, or the calibration windows: that is no window of the model."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(FEATURES, 5, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(F.pad(x, (2, 0)))
            y = torch.softmax(y.transpose(1, 2), 1).transpose(1, 2) if turn else torch.softmax(y, 2)
            return y[:, :, -1] if newest else y

    calibration = None if scheme == "float32" else [torch.randn(2, FEATURES, 30)]
    with pytest.raises(rt.UnsupportedProblem, match="time steps"):
        rt.stream(Model().eval(), torch.randn(STREAMS, FEATURES), scheme, calibration=calibration)


def test_a_layout_that_is_not_known_is_refused() -> None:
    with pytest.raises(rt.FormatError, match=r"layout='\[time, features\]'"):
        rt.stream(nn.Linear(4, 2).eval(), torch.randn(1, 4), layout="[time, features]")


class Projected(nn.Module):
    def __init__(self, layers: int, batch_first: bool, bias: bool, read: str) -> None:
        super().__init__()
        self.layer = nn.LSTM(FEATURES, 8, layers, batch_first=batch_first, proj_size=3, bias=bias)
        self.read, self.head = read, nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Any:
        y, (h, c) = self.layer(x)
        if self.read == "states":
            return y, (h, c)
        newest = y[:, -1] if self.layer.batch_first else y[-1]
        return self.head({"all": y, "h": h[-1], "newest": newest}[self.read])


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("read", ["all", "h", "newest", "states"])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("layers", [1, 2])
def test_projected_lstms(layers: int, batch_first: bool, read: str) -> None:
    torch.manual_seed(layers)
    model = Projected(layers, batch_first, layers == 1, read).eval()
    live = rt.stream(model, torch.randn(STREAMS, FEATURES))
    x = torch.randn(STREAMS, STEPS, FEATURES)
    for t in range(STEPS):
        got = live.step(x[:, t])
        with torch.no_grad():
            made = model(x[:, : t + 1] if batch_first else x[:, : t + 1].transpose(0, 1))
        want = made[0] if isinstance(made, tuple) else made
        if read in ("all", "states"):
            want = want[:, -1] if batch_first else want[-1]
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5, msg=str(t))
