"""Small models for error inputs, made once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import rtaccel as rt

X = torch.linspace(-1, 1, 24).reshape(2, 12)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 5)).eval()


class Function(nn.Module):
    """A model that is one function, with a layer or without."""

    def __init__(self, function: Callable[..., Any], layer: nn.Module | None = None) -> None:
        super().__init__()
        self.function, self.layer = function, layer

    def forward(self, *inputs: Any) -> Any:
        return self.function(*inputs) if self.layer is None else self.function(self.layer, *inputs)


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(12, 5), nn.Linear(3, 5)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return self.a(x) + self.b(y), self.b(y)


class Sorted(nn.Module):
    """A torch call between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(12, 7), nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.special.airy_ai(self.a(x)))


class First(nn.Module):
    """A torch call before all else."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(torch.special.airy_ai(x))


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(12, 5)

    def forward(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"y": self.a(data["x"])}


@functools.cache
def fast(kind: str = "mlp", scheme: str = "float32", **options: Any) -> Any:
    torch.manual_seed(1)
    example: Any = (X, torch.ones(2, 3)) if kind == "two" else ({"x": X},) if kind == "named" else (X,)
    model = {"mlp": mlp, "two": Two, "sorted": Sorted, "first": First, "named": Named}[kind]().eval()
    return rt.compile(model, example, scheme, **options)


@functools.cache
def live(kind: str = "gru", streams: int = 2) -> Any:
    torch.manual_seed(1)
    model = {"gru": lambda: nn.GRU(4, 6, batch_first=True), "tokens": Tokens}[kind]().eval()
    return rt.stream(model, torch.zeros(streams, dtype=torch.int64) if kind == "tokens" else torch.randn(streams, 4))


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.memory = nn.Embedding(9, 4), nn.GRU(4, 6, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.memory(self.table(x))[0]
