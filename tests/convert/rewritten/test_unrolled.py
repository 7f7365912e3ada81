"""Recurrent layers beside LSTM and GRU: nn.RNN, LSTM with a projection as its time steps, and any first state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

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


class Given(nn.Module):
    """A loop over cells, or their layer, from states that are learned, zero, arguments or computed; it gives its last states."""

    def __init__(self, cell: type[nn.Module], first: tuple[str, ...], loop: bool) -> None:
        super().__init__()
        layer = {nn.LSTMCell: nn.LSTM, nn.GRUCell: nn.GRU, nn.RNNCell: nn.RNN}[cell]
        self.cell: Any = cell(4, 6) if loop else layer(4, 6, batch_first=True)
        self.first, self.loop = first, loop
        self.learned, self.computed = nn.Parameter(torch.randn(1, 6)), nn.Linear(4, 6)

    def begin(self, kind: str, x: Tensor, given: Tensor) -> Tensor:
        return {
            "learned": lambda: self.learned.expand(x.shape[0], -1), "zero": lambda: x.new_zeros(x.shape[0], 6),
            "given": lambda: given, "computed": lambda: torch.tanh(self.computed(x[:, 0])),
        }[kind]()  # fmt: skip

    def forward(self, x: Tensor, given: Tensor) -> tuple[Tensor, ...]:
        states = [self.begin(kind, x, given) for kind in self.first]
        if not self.loop:
            whole = [s.unsqueeze(0).contiguous() for s in states]
            y, last = self.cell(x, tuple(whole) if len(whole) > 1 else whole[0])
            return (y, *(s[0] for s in (last if isinstance(last, tuple) else (last,))))
        ys = []
        for t in range(x.shape[1]):
            found = self.cell(x[:, t], tuple(states) if len(states) > 1 else states[0])
            states = list(found) if isinstance(found, tuple) else [found]
            ys.append(states[0])
        return (torch.stack(ys, 1), *states)


@pytest.mark.parametrize("loop", [True, False], ids=["loop", "layer"])
@pytest.mark.parametrize("first", [
    ("learned",), ("given",), ("computed",), ("learned", "learned"), ("learned", "zero"), ("zero", "given"), ("computed", "zero"),
], ids="-".join)  # fmt: skip
def test_layers_begin_with_any_state(first: tuple[str, ...], loop: bool) -> None:
    """One stage, whatever the states are: not one for each time step."""
    torch.manual_seed(len(first))
    for cell in (nn.LSTMCell,) if len(first) == 2 else (nn.GRUCell, nn.RNNCell):
        model = Given(cell, first, loop).eval()
        fast = rt.compile(model, (torch.randn(2, 11, 4), torch.randn(2, 6)), strict=True)
        assert str(fast.explain(measure=False)).count("linear(") <= 1 and len(fast._program.stages) < 9
        for rows in (1, 2, 5):
            given = torch.randn(rows, 11, 4), torch.randn(rows, 6)
            torch.testing.assert_close(fast(*given), model(*given), rtol=1e-5, atol=1e-5)
