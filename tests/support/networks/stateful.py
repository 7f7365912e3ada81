"""A policy as libraries of reinforcement learning export it, and other models that keep state."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

import rtaccel as rt


class Policy(nn.Module):
    """An LSTM with its states in buffers, and an actor behind it."""

    def __init__(self, batch: int = 1, inputs: int = 48, hidden: int = 64) -> None:
        super().__init__()
        self.rnn = nn.LSTM(inputs, hidden)
        self.actor = nn.Sequential(nn.Linear(hidden, 64), nn.ELU(), nn.Linear(64, 32), nn.ELU(), nn.Linear(32, 12))
        self.register_buffer("hidden_state", torch.zeros(1, batch, hidden))
        self.register_buffer("cell_state", torch.zeros(1, batch, hidden))

    def forward(self, x: Tensor) -> Tensor:
        y, (h, c) = self.rnn(x.unsqueeze(0), (self.hidden_state, self.cell_state))
        self.hidden_state[:] = h
        self.cell_state[:] = c
        return self.actor(y.squeeze(0))


class Drifting(nn.Module):
    """Three states: real numbers, a count, and a truth value."""

    def __init__(self, batch: int = 2) -> None:
        super().__init__()
        self.lin = nn.Linear(5, 5)
        self.register_buffer("level", torch.full((batch, 5), 0.25))
        self.register_buffer("count", torch.tensor(3))
        self.seen = torch.tensor([False])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.level.lerp_(self.lin(x), 0.3)
        self.count += 1
        self.seen = self.seen | (x.sum() > 2).reshape(1)
        return self.level * 2 + self.seen, self.count.float()


def made(model: nn.Module, seed: int = 0) -> nn.Module:
    """Ready for inference, with weights of a seed."""
    generator = torch.Generator().manual_seed(seed)
    model = model.eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * parameter.shape[-1] ** -0.5)
    return model


def compiled_beside(model: nn.Module, *args: Tensor, **options: Any) -> tuple[Any, nn.Module]:
    """The model compiled, all of it native, and a copy of it that can be called as often."""
    return rt.compile(model, args, strict=True, **options), copy.deepcopy(model)
