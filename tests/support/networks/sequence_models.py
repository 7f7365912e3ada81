"""Models over sequences and images, as people write them: for tests of compile and of stream."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LastTimeStep(nn.Module):
    """A recurrent layer and a head on its newest time step."""

    def __init__(
        self, layer: type[nn.LSTM] | type[nn.GRU] = nn.LSTM, batch_first: bool = True, both: bool = False
    ) -> None:
        super().__init__()
        self.batch_first = batch_first
        self.memory = layer(10, 17, 2, batch_first=batch_first, bidirectional=both)
        self.head = nn.Linear(17 * (1 + both), 3)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.memory(x)
        return self.head(y[:, -1] if self.batch_first else y[-1])


class Step(nn.Module):
    """One step with its states in and out."""

    def __init__(self) -> None:
        super().__init__()
        self.memory, self.head = nn.LSTM(10, 17, 2), nn.Linear(17, 3)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        y, state = self.memory(x, state)
        return self.head(y), state


class Tcn(nn.Module):
    """Causal dilated convolutions, padded as both idioms do it, with residuals; the head reads the newest time step."""

    def __init__(self, channels: int = 5, filters: int = 12, newest: bool = True) -> None:
        super().__init__()
        self.newest = newest
        self.first, self.second, self.down = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for level, dilation in enumerate((1, 2, 4)):
            width = channels if level == 0 else filters
            self.first.append(nn.Conv1d(width, filters, 3, dilation=dilation, padding=2 * dilation))
            self.second.append(nn.Conv1d(filters, filters, 3, dilation=dilation))
            self.down.append(nn.Conv1d(width, filters, 1) if level == 0 else nn.Identity())
        self.head = nn.Linear(filters, 2)

    def forward(self, x: Tensor) -> Tensor:
        for first, second, down, cut in zip(self.first, self.second, self.down, (2, 4, 8)):
            y = F.relu(first(x)[:, :, :-cut])
            y = F.relu(second(F.pad(y, (cut, 0))))
            x = F.relu(y + down(x))
        return self.head(x[:, :, -1] if self.newest else x.transpose(1, 2))


class DepthwiseSeparable(nn.Module):
    """A keyword-spotting network in small."""

    def __init__(self, filters: int = 20) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.Conv2d(1, filters, (10, 4), 2, (5, 1), bias=False),
            nn.BatchNorm2d(filters),
            nn.ReLU(),
        ]
        for _ in range(2):
            layers += [nn.Conv2d(filters, filters, 3, padding=1, groups=filters), nn.BatchNorm2d(filters), nn.ReLU()]
            layers += [nn.Conv2d(filters, filters, 1), nn.BatchNorm2d(filters), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(filters, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Attention(nn.Module):
    """Causal attention written by hand, with a residual and a norm."""

    def __init__(self, fused: bool = False) -> None:
        super().__init__()
        self.fused = fused
        self.qkv, self.out, self.norm = nn.Linear(24, 72), nn.Linear(24, 24), nn.LayerNorm(24)
        self.register_buffer("mask", torch.full((7, 7), float("-inf")).triu(1))

    def forward(self, x: Tensor) -> Tensor:
        batch, time, width = x.shape
        q, k, v = (part.view(batch, time, 3, 8).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            y = (q @ k.transpose(-2, -1) / 8**0.5 + self.mask).softmax(-1) @ v
        return self.norm(x + self.out(y.transpose(1, 2).reshape(batch, time, width)))


class Branches(nn.Module):
    """Two inputs, joined columns, pooled tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.place = nn.Embedding(9, 8), nn.Parameter(torch.randn(1, 20, 8))
        self.conv, self.params, self.head = nn.Conv1d(8, 12, 3, padding="same"), nn.Linear(5, 7), nn.Linear(19, 2)

    def forward(self, tokens: Tensor, numbers: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.place
        x = F.relu(self.conv(x.transpose(1, 2))).mean(-1)
        return self.head(torch.cat([x, self.params(numbers)], -1))


def randomised(model: nn.Module) -> nn.Module:
    """BatchNorm statistics that fold into something."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.weight, 1, 0.3)
            nn.init.normal_(module.bias)
    return model.eval()
