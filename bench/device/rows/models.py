"""The networks that are measured, by name, so that a row can name one and the process that measures it can make it."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.device.table import AUTOENCODER, MLPS, STEPS
from bench.networks import autoencoder


def mlp(widths: tuple[int, ...]) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for k, n in itertools.pairwise(widths):
        layers += [nn.Linear(k, n), nn.ReLU()]
    return nn.Sequential(*layers[:-1]).eval()


def network(name: str) -> tuple[nn.Module, int]:
    """(model, inputs) of a network of linear layers."""
    return (autoencoder(), 640) if name == AUTOENCODER else (mlp(MLPS[name]), MLPS[name][0])


def linear(k: int, n: int, bias: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(k, n, bias=bias)).eval()


class Newest(nn.Module):
    """A stack with one number of its newest time step, as the models of STAC-ML end."""

    def __init__(self, stack: nn.RNNBase) -> None:
        super().__init__()
        self.stack, self.head = stack, nn.Linear(stack.hidden_size, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.stack(x)[0][:, -1])
        return y


class Tcn(nn.Module):
    """Causal convolutions with ReLU; x [batch, channels, steps], y [batch, channels] of the newest step."""

    def __init__(self, widths: tuple[int, ...], taps: int, dilations: tuple[int, ...] = ()) -> None:
        super().__init__()
        spread = dilations or (1,) * (len(widths) - 1)
        self.convs = nn.ModuleList(nn.Conv1d(c, n, taps, dilation=d) for (c, n), d in zip(pairwise(widths), spread))
        self.pads = tuple((taps - 1) * d for d in spread)

    def forward(self, x: Tensor) -> Tensor:
        for conv, pad in zip(self.convs, self.pads):
            x = F.relu(conv(F.pad(x, (pad, 0))))
        return x[:, :, -1]


@dataclass(frozen=True)
class Sequence:
    """steps: of a window; what a TCN reads, or what its benchmark has."""

    name: str
    model: nn.Module
    inputs: int
    steps: int

    def window(self, batch: int, device: str = "cpu") -> Tensor:
        size = (self.inputs, self.steps) if isinstance(self.model, Tcn) else (self.steps, self.inputs)
        return torch.randn(batch, *size, device=device)


MAKERS: dict[str, Callable[[], tuple[nn.Module, int]]] = {
    "gru 64-128": lambda: (Newest(nn.GRU(64, 128, batch_first=True)), 64),
    "LSTM_A 2x100": lambda: (Newest(nn.LSTM(100, 100, 2, batch_first=True)), 100),
    "LSTM_B 3x200": lambda: (Newest(nn.LSTM(250, 200, 3, batch_first=True)), 250),
    "LSTM_C 4x1000": lambda: (Newest(nn.LSTM(500, 1000, 4, batch_first=True)), 500),
    "TCN 3x128 k8": lambda: (Tcn((128,) * 4, 8), 128),
    "TCN 9x128 k3": lambda: (Tcn((128,) * 10, 3, (1, 2, 4) * 3), 128),
}
"""The shapes of STAC-ML Markets (Inference), with random weights, a GRU, and TCNs whose weights no register file holds."""


def sequence(name: str) -> Sequence:
    torch.manual_seed(0)
    model, inputs = MAKERS[name]()
    return Sequence(name, model.eval(), inputs, STEPS[name])


class TimeStep(nn.Module):
    """One time step in plain torch: a recurrent stack with its states, or a TCN over its last steps, which move by one."""

    past: Tensor
    h: Tensor
    c: Tensor

    def __init__(self, given: Sequence) -> None:
        super().__init__()
        self.model = copy.deepcopy(given.model)
        if isinstance(self.model, Tcn):
            self.register_buffer("past", torch.zeros(1, given.inputs, given.steps))
        else:
            stack = self.model.stack
            for name in ("h", "c"):
                self.register_buffer(name, torch.zeros(stack.num_layers, 1, stack.hidden_size))  # type: ignore[union-attr,arg-type]

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.model, Tcn):
            self.past.copy_(torch.cat([self.past[:, :, 1:], x[:, :, None]], 2))
            y: Tensor = self.model(self.past)
            return y
        assert isinstance(self.model, Newest)
        if isinstance(self.model.stack, nn.LSTM):
            out, (h, c) = self.model.stack(x[:, None], (self.h, self.c))
            self.c.copy_(c)
        else:
            out, h = self.model.stack(x[:, None], self.h)
        self.h.copy_(h)
        newest: Tensor = self.model.head(out[:, -1])
        return newest
