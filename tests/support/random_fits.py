"""Random networks with a task, and a metric on each of two halves of its data: one to fit with, one kept aside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Task:
    """metric: of the half to fit with; aside: the same of the other half."""

    model: nn.Module
    example: Tensor
    calibration: list[Tensor]
    metric: Callable[[Any], float]
    aside: Callable[[Any], float]
    max_drop: float


class Residual(nn.Module):
    """x + f(x): a value that two nodes read."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


def random_task(seed: int) -> Task:
    """Layers with outlier weights and columns of very different ranges now and then, as trained ones have."""
    g = torch.Generator().manual_seed(seed)

    def integer(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (1,), generator=g))

    torch.manual_seed(seed)
    width, features = integer(16, 96), integer(8, 48)
    layers: list[nn.Module] = [nn.Linear(features, width), nn.ReLU()]
    for _ in range(integer(1, 4)):
        kind = integer(0, 3)
        inner = nn.Sequential(nn.Linear(width, width), nn.Tanh() if kind == 1 else nn.ReLU())
        layers += [Residual(inner)] if kind == 2 else [*inner, nn.LayerNorm(width)] if kind == 3 else [*inner]
    outputs = integer(2, 8)
    layers.append(nn.Linear(width, outputs))
    model = nn.Sequential(*layers).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear) and integer(0, 2) == 0:
                module.weight[integer(0, len(module.weight) - 1)] *= 8
    spread = torch.exp(torch.randn(features, generator=g))
    data = torch.randn(1200, features, generator=g) * spread
    with torch.no_grad():
        clean = model(data)
    if integer(0, 1):
        metric, allowed = _accuracy(data, clean, g), (0.01, 0.03)
    else:
        metric, allowed = _fit(data, clean, g), (0.002, 0.02)
    low, high = allowed
    max_drop = low + (high - low) * float(torch.rand(1, generator=g))
    half = torch.arange(1200) % 3
    return Task(model, data[:1], [data[half == 0]], metric(half == 1), metric(half == 2), max_drop)


def _accuracy(data: Tensor, clean: Tensor, g: torch.Generator) -> Callable[[Tensor], Callable[[Any], float]]:
    noise = torch.randn(clean.shape, generator=g) * clean.std() * 0.3
    label = (clean + noise).argmax(1)

    def of(rows: Tensor) -> Callable[[Any], float]:
        return lambda model: float((model(data[rows]).argmax(1) == label[rows]).double().mean())

    return of


def _fit(data: Tensor, clean: Tensor, g: torch.Generator) -> Callable[[Tensor], Callable[[Any], float]]:
    target = clean + torch.randn(clean.shape, generator=g) * clean.std() * 0.2
    scale = float(target.var())

    def of(rows: Tensor) -> Callable[[Any], float]:
        """The share of the variance that is explained."""
        return lambda model: 1 - float((model(data[rows]) - target[rows]).double().square().mean()) / scale

    return of
