"""The logic of a cascade in plain Python, over the same compiled stages: rows that go on are brought together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import rtaccel as rt

SCORES: dict[str, Callable[[Tensor], Tensor]] = {
    "confidence": lambda y: y.softmax(1).amax(1),
    "margin": lambda y: y.softmax(1).topk(2, 1).values @ torch.tensor([1.0, -1.0], dtype=torch.float64),
    "entropy": lambda y: -(y.softmax(1) * y.log_softmax(1)).sum(1),
    "energy": lambda y: y.logsumexp(1),
}
"""Scores of answers float64 [rows, outputs]."""


def mlp(inputs: int, hidden: int, outputs: int, seed: int, gain: float = 3.0) -> nn.Module:
    """A network whose answers are sure of some rows and unsure of others."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs)).eval()
    with torch.no_grad():
        model[2].weight *= gain
    return model


def compiled(inputs: int, hidden: int, outputs: int, seed: int, **options: Any) -> rt.CompiledModel:
    return rt.compile(mlp(inputs, hidden, outputs, seed), (torch.randn(1, inputs),), **options)


def reference(
    stages: Sequence[Any], passes: Sequence[Callable[[Tensor], Tensor]], x: Tensor, heads: Sequence[Any] | None = None
) -> tuple[Tensor, Tensor]:
    """(answers, exits). passes: after each stage but the last, which of answers leave."""
    going, out, exits, given = torch.arange(len(x)), None, torch.full((len(x),), -1), x
    for index, stage in enumerate(stages):
        if index and not len(going):
            break
        y = features = stage(given)
        if heads is not None:
            y = heads[index](features)
        out = torch.empty((len(x), *y.shape[1:])) if out is None else out
        out[going] = y
        left = torch.ones(len(y), dtype=torch.bool) if index == len(stages) - 1 else passes[index](y)
        exits[going[left]] = index
        going = going[~left]
        given = features[~left] if heads is not None else x[going]
    assert out is not None
    return out, exits


def exits_of(cascade: Any) -> Tensor:
    return torch.as_tensor(cascade.last_exit).reshape(-1).long()
