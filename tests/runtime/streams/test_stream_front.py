"""A front before a stream: one plan, equal to the front and then the window of the model."""

from __future__ import annotations

import copy
import io
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt


class Spectrum(nn.Module):
    """Chunks [n, 33] to log energies [n, 9]."""

    def forward(self, x: Tensor) -> Tensor:
        z = torch.fft.rfft(x[:, 1:] - 0.5 * x[:, :-1], n=16)
        return torch.log(z.real.square() + z.imag.square() + 1e-3)


class Images(nn.Module):
    """Chunks [n, 2, 5, 7] to [n, 3, 2]: rows that are not those of the model."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, (5, 3), stride=(1, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).squeeze(2)


class Recurrent(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.memory, self.head = nn.LSTM(features, 12, batch_first=True), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.memory(x)[0][:, -1])


class Convolutions(nn.Module):
    """[batch, features, time]"""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv1d(features, 8, 3, dilation=2), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.conv(nn.functional.pad(x, (4, 0)))[:, :, -1]))


CASES = {
    "spectrum, lstm": (Spectrum, (33,), lambda: Recurrent(9)),
    "spectrum, convolutions": (Spectrum, (33,), lambda: Convolutions(9)),
    "images, lstm": (Images, (2, 5, 7), lambda: Recurrent(6)),
    "images, convolutions": (Images, (2, 5, 7), lambda: Convolutions(6)),
}


def made(name: str) -> tuple[nn.Module, tuple[int, ...], nn.Module]:
    torch.manual_seed(0)
    front, shape, model = CASES[name]
    return front().eval(), shape, model().eval()


def window_of(front: nn.Module, model: nn.Module, x: Tensor) -> Tensor:
    """In float64, of raw windows [batch, time, ...]."""
    front, model = copy.deepcopy(front).double(), copy.deepcopy(model).double()
    with torch.no_grad():
        features = front(x.double().flatten(0, 1)).reshape(*x.shape[:2], -1)
        return model(features.transpose(1, 2) if isinstance(model, Convolutions) else features)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("streams", [1, 37])
def test_steps_are_the_window_of_front_and_model(name: str, streams: int) -> None:
    front, shape, model = made(name)
    live = rt.stream(model, torch.randn(streams, *shape), front=front)
    assert live.native[0] == live.native[1]
    assert "verified against windows" in live.explain(measure=False)
    x = torch.randn(streams, 13, *shape)
    for t in range(13):
        y = live.step(x[:, t].contiguous())
    want = window_of(front, model, x)
    assert (y - want).abs().max() <= 1e-5 * want.abs().max()


def test_some_streams_and_a_reset() -> None:
    front, shape, model = made("spectrum, lstm")
    live = rt.stream(model, torch.randn(5, *shape), front=front)
    x = torch.randn(5, 9, *shape)
    for t in range(9):  # stream 3 stands still in every other step
        chosen = [4, 0, 2, 1] if t % 2 else [0, 3, 1, 4, 2]
        y = live.step(x[chosen, t].contiguous(), streams=chosen)
    want = window_of(front, model, x[:, ::2])[3]
    assert (y[1] - want).abs().max() <= 1e-5
    live.reset(3)
    again = rt.stream(model, torch.randn(5, *shape), front=front)
    first = x[3:4, 0].contiguous()
    assert torch.equal(live.step(first, streams=[3]), again.step(first, streams=[3]))


@pytest.mark.parametrize("name", ["spectrum, lstm", "images, convolutions"])
def test_int8_is_calibrated_on_windows_of_the_raw_input(name: str) -> None:
    front, shape, model = made(name)
    windows = [torch.randn(4, 20, *shape) for _ in range(3)]
    live = rt.stream(model, windows[0][:, 0], "w8a8", calibration=windows, front=front)
    lines = live.explain_lines(measure=False)
    assert not any(
        "int8" in line.what for line in lines if line.name.startswith("front.") and "quantize" not in line.what
    )
    assert any("int8" in line.what for line in lines)
    for t in range(20):
        y = live.step(windows[1][:, t].contiguous())
    want = window_of(front, model, windows[1])
    assert (y - want).norm() <= 0.05 * want.norm()


def test_state_dict_artefact_and_copy(tmp_path: Path) -> None:
    front, shape, model = made("images, convolutions")
    x = torch.randn(6, 2, *shape)
    live = rt.stream(model, x[0], front=front)
    assert any(key.startswith("params.front.conv") for key in live.state_dict())
    for t in range(3):
        live.step(x[t])
    stored = io.BytesIO()
    torch.save(live.state_dict(), stored)
    stored.seek(0)
    other = rt.stream(copy.deepcopy(model), x[0], front=Images().eval())
    other.load_state_dict(torch.load(stored, weights_only=True))
    copied = copy.deepcopy(live)
    rt.save(live, tmp_path / "live.rta", states=True)
    loaded = rt.load(tmp_path / "live.rta")
    for t in range(3, 6):
        y = live.step(x[t])
        assert torch.equal(other.step(x[t]), y)
        assert torch.equal(copied.step(x[t]), y)
        assert torch.equal(torch.as_tensor(loaded.step(x[t])), y)


def test_a_state_of_another_scheme_loads() -> None:
    front, shape, model = made("spectrum, lstm")
    windows = [torch.randn(4, 20, *shape)]
    int8 = rt.stream(model, windows[0][:, 0], "w8a8", calibration=windows, front=front)
    other = rt.stream(model, windows[0][:, 0], rt.W8A8("dynamic"), front=front)
    other.load_state_dict(int8.state_dict())
    for t in range(5):
        assert torch.equal(other.step(windows[0][:, t].contiguous()), int8.step(windows[0][:, t].contiguous()))


def test_a_stage_of_a_cascade() -> None:
    front, shape, model = made("spectrum, lstm")
    torch.manual_seed(1)
    live = rt.stream(model, torch.randn(4, *shape), front=front)
    alone = rt.stream(model, torch.randn(4, *shape), front=front)
    gate = rt.compile(nn.Linear(shape[0], 3).eval(), (torch.randn(4, *shape),))
    cascade = rt.Cascade([gate, live], exit=[rt.Exit("value", below=0.0, index=0)])
    for _ in range(10):
        x = torch.randn(4, *shape)
        y = cascade(x)
        went_on = torch.nonzero(gate(x)[:, 0] > 0)[:, 0]
        if len(went_on):
            want = alone.step(x[went_on].contiguous(), streams=went_on)
            torch.testing.assert_close(y[went_on], want, rtol=1e-5, atol=1e-6)


class Turned(nn.Module):
    """Looks at all rows at once."""

    def forward(self, x: Tensor) -> Tensor:
        return x.cumsum(0)


class Untaken(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.eigh(x).eigenvectors[:, :9, 0]


@pytest.mark.parametrize(
    ("front", "shape", "error", "words"),
    [
        (nn.Linear(5, 8), (5,), rt.UnsupportedProblem, "Expected 9, got 8"),
        (Untaken(), (9, 9), rt.UnsupportedProblem, "eigh|native"),
        (Turned(), (9,), rt.UnsupportedProblem, "any number of rows|whole|native"),
        (nn.Linear(5, 9).train(), (5,), rt.UnsupportedProblem, "training mode"),
        (nn.Linear(5, 9), (), rt.ShapeError, "expected float32"),
    ],
)
def test_fronts_that_are_refused(front: nn.Module, shape: tuple[int, ...], error: type, words: str) -> None:
    model = Recurrent(9).eval()
    front = front if front.training and words == "training mode" else front.eval()
    with pytest.raises(error, match=words):
        rt.stream(model, torch.randn(2, *shape), front=front, calibration=None, scheme="float32")


def test_no_front_on_a_gpu_and_no_flat_calibration() -> None:
    front, shape, model = made("spectrum, lstm")
    with pytest.raises(rt.RtaccelError):
        rt.stream(model, torch.randn(1, *shape), front=front, device="cuda")
    with pytest.raises(rt.ShapeError, match="for a front"):
        rt.stream(model, torch.zeros(2, dtype=torch.int64), front=front)
    with pytest.raises(rt.ShapeError, match="as the front"):
        rt.stream(model, torch.randn(2, *shape), "w8a8", calibration=[torch.randn(20, *shape)], front=front)
