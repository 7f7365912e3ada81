"""Recurrent layers beside LSTM and GRU: nn.RNN, LSTM with a projection as its time steps, cells from the zero state."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import rtaccel as rt

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "tanh": lambda: nn.RNN(4, 6, batch_first=True),
    "relu, two layers, both directions": lambda: nn.RNN(
        4, 6, 2, nonlinearity="relu", bidirectional=True, batch_first=True
    ),
    "without biases": lambda: nn.RNN(4, 6, bias=False, batch_first=True),
    "projection": lambda: nn.LSTM(4, 6, 2, proj_size=3, batch_first=True),
    "projection in both directions": lambda: nn.LSTM(
        4, 6, proj_size=3, bidirectional=True, bias=False, batch_first=True
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_equals_torch_and_is_native(name: str) -> None:
    model = LAYERS[name]().eval()
    fast = rt.compile(model, torch.randn(2, 5, 4), strict=True)
    for rows in (1, 2, 5):
        x = torch.randn(rows, 5, 4)
        torch.testing.assert_close(fast(x), model(x), rtol=1e-5, atol=1e-5)


def test_a_layer_with_time_first_and_its_first_state() -> None:
    model = nn.RNN(4, 6).eval()
    fast = rt.compile(model, (torch.randn(5, 2, 4), torch.randn(1, 2, 6)), strict=True)
    x, h = torch.randn(5, 2, 4), torch.randn(1, 2, 6)
    torch.testing.assert_close(fast(x, h), model(x, h), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "cell", [nn.RNNCell(4, 6), nn.RNNCell(4, 6, nonlinearity="relu"), nn.GRUCell(4, 6), nn.LSTMCell(4, 6)], ids=repr
)
@pytest.mark.parametrize("given", [False, True])
def test_a_cell_equals_torch_and_is_native(cell: nn.Module, given: bool) -> None:
    """given: it starts from a state, not from zero."""

    def arguments(rows: int) -> tuple[object, ...]:
        state = torch.randn(rows, 6)
        return (torch.randn(rows, 4), *(((state, state) if isinstance(cell, nn.LSTMCell) else state,) if given else ()))

    fast = rt.compile(cell.eval(), arguments(2), strict=True)
    for rows in (1, 2, 5):
        x = arguments(rows)
        torch.testing.assert_close(fast(*x), cell(*x), rtol=1e-5, atol=1e-5)


def test_a_long_window_of_a_projection_stays_one_call_of_torch() -> None:
    model = nn.LSTM(2, 3, proj_size=2, batch_first=True).eval()
    with pytest.warns(UserWarning, match="lstm"):
        rt.compile(model, torch.randn(1, 300, 2))


def test_a_long_window_of_an_rnn_is_one_stage() -> None:
    model, x = nn.RNN(2, 5, 2, batch_first=True).eval(), torch.randn(3, 700, 2)
    fast = rt.compile(model, x[:1], strict=True)
    assert "1 of 1 stages native" in fast.explain()
    assert fast.weight_bytes == 4 * sum(p.numel() for p in model.parameters())
    torch.testing.assert_close(fast(x), model(x), rtol=1e-5, atol=1e-5)
