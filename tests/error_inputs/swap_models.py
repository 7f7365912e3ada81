"""Models, layers and data of the wrong inputs of the swapping part of the library."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

import rtaccel as rt


def model(width: int = 12) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 16), nn.ReLU(), nn.Linear(16, 4)).eval()


def rows(*shape: int) -> Tensor:
    return torch.randn(*(shape or (8, 12)))


def labelled() -> Iterator[tuple[Tensor, Tensor]]:
    return iter([(rows(), torch.zeros(8))])


def failing() -> Iterator[Tensor]:
    yield rows()
    raise KeyError("file 7 is gone")


def with_nan(layer: nn.Module, name: str = "weight", value: float = float("nan")) -> nn.Module:
    with torch.no_grad():
        layer.get_parameter(name).flatten()[0] = value
    return layer


def part_in_training() -> nn.Module:
    net = nn.Sequential(nn.Linear(12, 16), nn.BatchNorm1d(16), nn.Linear(16, 4)).eval()
    net[1].train()
    return net


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(12, 4), nn.Linear(3, 4)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.a(x) + self.b(y)


class Packed(nn.Module):
    """Feeds its LSTM sequences of several lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = nn.LSTM(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.memory(nn.utils.rnn.pack_sequence([x, x[:2]], enforce_sorted=True))[1][0]


def swapped() -> nn.Module:
    net = model()
    rt.quantize_(net, "w8a8", calibration=[rows()], force=True)
    return net


def changed(**other: Any) -> dict[str, Any]:
    """The state of a swapped model with some entries other; None: without that one. __ stands for a dot."""
    state: dict[str, Any] = dict(swapped().state_dict())
    for key, value in other.items():
        name = key.replace("__", ".", 1).lstrip("_")
        state[name] = value(state.get(name)) if callable(value) else value
        if value is None:
            del state[name]
    return state


def load(state: Any, into: nn.Module | None = None) -> object:
    return rt.load_quantized_(model() if into is None else into, state)


def words(text: bytes) -> Tensor:
    return torch.tensor(list(text), dtype=torch.uint8)


def linear(scheme: Any = "w8a16", k: int = 12, n: int = 5) -> rt.nn.QuantLinear:
    return rt.nn.QuantLinear.from_float(nn.Linear(k, n), scheme)


def loaded() -> nn.Module:
    net = model()
    rt.load_quantized_(net, swapped().state_dict())
    return net


def without_originals() -> nn.Module:
    net = model()
    rt.quantize_(net, "w8a8", force=True, keep_original=False)
    return net
