"""The scale of the int8 h of recurrent layers: from calibration where that shows it, else that of the bound."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt

DEFAULT = 1 / 127


def scale_of(fast: rt.CompiledModel) -> float | None:
    return next(s for s in fast._program.stages if s.op in ("lstm", "gru")).attrs.get("h_scale")


def largest_h(model: nn.LSTM, x: Tensor) -> float:
    """Over all layers, one nn.LSTM of one layer after the other."""
    found = []
    with torch.no_grad():
        for layer in range(model.num_layers):
            one = nn.LSTM(x.shape[-1], model.hidden_size, batch_first=True)
            one.load_state_dict(
                {n.replace(f"_l{layer}", "_l0"): p for n, p in model.state_dict().items() if n.endswith(f"_l{layer}")}
            )
            x = one(x)[0]
            found.append(float(x.abs().max()))
    return max(found)


def test_of_all_layers_of_a_window() -> None:
    model = nn.LSTM(7, 20, 3, batch_first=True).eval()
    windows = torch.randn(16, 12, 7)
    fast = rt.compile(model, (windows[:1],), "w8a8", calibration=windows)
    assert scale_of(fast) == pytest.approx(1.05 * largest_h(model, windows) / 127, rel=1e-6)
    assert not [n for n in fast._program.notes if "scale of its bound" in n]


@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU])
def test_a_step_is_trusted_where_its_states_move(cell: type[nn.LSTM] | type[nn.GRU]) -> None:
    model = cell(7, 20, 2, batch_first=True).eval()

    def call(size: float) -> tuple[Tensor, Tensor | tuple[Tensor, Tensor]]:
        h, c = torch.randn(2, 1, 20).tanh() * size, torch.randn(2, 1, 20) * size
        return torch.randn(1, 1, 7), (h, c) if cell is nn.LSTM else h

    moved = rt.compile(model, call(0.3), "w8a8", calibration=[call(0.3) for _ in range(8)])
    assert scale_of(moved) is not None and scale_of(moved) < DEFAULT
    still = rt.compile(model, call(0.3), "w8a8", calibration=[call(0.0) for _ in range(8)])
    assert scale_of(still) is None
    assert any("scale of its bound" in note for note in still._program.notes)


def test_less_error_than_with_the_bound() -> None:
    torch.manual_seed(3)
    model = nn.LSTM(32, 64, 3, batch_first=True).eval()
    windows = torch.randn(24, 20, 32)
    with torch.no_grad():
        want = model(windows)[0]
    error = {}
    for name, calibration in (("calibrated", windows), ("bound", None)):
        got = rt.compile(model, (windows[:1],), "w8a8", calibration=calibration)(windows)[0]
        error[name] = float((got - want).norm() / want.norm())
    assert error["calibrated"] < 0.75 * error["bound"]


@pytest.mark.parametrize("scheme", ["w8a8", "w4a8"])
def test_a_stream_takes_it_from_windows(scheme: str) -> None:
    model = nn.GRU(6, 24, batch_first=True).eval()
    windows = torch.randn(8, 30, 6)
    live = rt.stream(model, windows[:1, 0], scheme, calibration=windows)
    with torch.no_grad():
        want = model(windows[:1])[0][0, -1]
    for t in range(30):
        y = live.step(windows[:1, t])
    assert scale_of(live) < DEFAULT
    assert float((y[0] - want).norm() / want.norm()) < {"w8a8": 0.03, "w4a8": 0.2}[scheme]


@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU])
def test_states_beyond_the_bound(cell: type[nn.LSTM] | type[nn.GRU]) -> None:
    """What a layer computes is below 1; what is given may be anything."""
    model = cell(5, 12, batch_first=True).eval()

    def call() -> tuple[Tensor, Tensor | tuple[Tensor, Tensor]]:
        h, c = torch.randn(1, 1, 12).clamp(-3, 3), torch.randn(1, 1, 12)
        return torch.randn(1, 1, 5), (h, c) if cell is nn.LSTM else h

    calls = [call() for _ in range(16)]
    fast = rt.compile(model, calls[0], "w8a8", calibration=calls)
    largest = max(float((c[1][0] if isinstance(c[1], tuple) else c[1]).abs().max()) for c in calls)
    assert scale_of(fast) == pytest.approx(1.05 * largest / 127, rel=1e-6)
    for given in calls:
        with torch.no_grad():
            want, got = model(*given)[0], fast(*given)[0]
        assert float((got - want).abs().max()) < 0.1  # a clamp at 1 is off by more than half of what it clips
    assert any("given states beyond it are clipped" in n for n in rt.compile(model, calls[0], "w8a8")._program.notes)
