"""Detectors: a forecaster that is streamed, an autoencoder and statistics over windows, and a small transformer to compare."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from examples.telemetry.channels import F32, WIDTH, Channel

HIDDEN = 32
SPAN = 30
"""Values of a window."""

SEQUENCE = 100
"""Time steps that the forecaster is trained on at once."""


class Forecaster(nn.Module):
    """[batch, time, 55] to the next value at each time step, [batch, time, 1]: as a change of the newest one."""

    def __init__(self) -> None:
        super().__init__()
        self.memory, self.head = nn.GRU(WIDTH, HIDDEN, batch_first=True), nn.Linear(HIDDEN, 1)
        self.pick = nn.Linear(WIDTH, 1, bias=False)
        with torch.no_grad():
            self.pick.weight.zero_()[0, 0] = 1
        self.pick.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.pick(x) + self.head(self.memory(x)[0])
        return y


class Autoencoder(nn.Module):
    """Windows [batch, 30] to themselves through four numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(SPAN, 32), nn.ReLU(), nn.Linear(32, 4), nn.ReLU(), nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, SPAN)
        )  # fmt: skip

    def forward(self, x: Tensor) -> Any:
        return self.layers(x)


class Transformer(nn.Module):
    """Windows [batch, 30] to two reconstructions: the second sees where the first was wrong.

    The two phases are the idea of Tuli, Casale and Jennings, TranAD, VLDB 2022. Its size, training and code are not theirs.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.enter = nn.Linear(2, width)
        self.place = nn.Parameter(0.1 * torch.randn(SPAN, width))
        layer = nn.TransformerEncoderLayer(width, 2, 32, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.first, self.second = nn.Linear(width, 1), nn.Linear(width, 1)

    def phase(self, x: Tensor, focus: Tensor, head: nn.Module) -> Tensor:
        y: Tensor = head(self.encoder(self.enter(torch.stack([x, focus], 2)) + self.place))
        return y[:, :, 0]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        one = self.phase(x, torch.zeros_like(x), self.first)
        return one, self.phase(x, (one - x).square(), self.second)


class Unusual(nn.Module):
    """How far five statistics of a window are from those of training: Mahalanobis distance squared, [batch].

    x [batch, 30], mean [batch, 5] and inverse [batch, 5, 5] of the covariance are those of each row's channel. The statistics
    are mean, log of the deviation, log of the mean step, least and largest. Both a channel that jumps and one that stands
    still are unusual.
    """

    def statistics(self, x: Tensor) -> Tensor:
        mean, steps = x.mean(1), (x[:, 1:] - x[:, :-1]).abs().mean(1)
        deviation = (x - mean[:, None]).square().mean(1).sqrt()
        return torch.stack([mean, (deviation + 0.01).log(), (steps + 0.01).log(), x.amin(1), x.amax(1)], 1)

    def forward(self, x: Tensor, mean: Tensor, inverse: Tensor) -> Tensor:
        off = self.statistics(x) - mean
        return (torch.matmul(off[:, None], inverse)[:, 0] * off).sum(1)

    def seen(self, values: F32) -> tuple[Tensor, Tensor]:
        """mean [1, 5] and inverse covariance [1, 5, 5] of the windows of a channel's training."""
        found = self.statistics(windows(values)).double()
        spread = torch.cov(found.T) + 1e-3 * torch.eye(found.shape[1], dtype=torch.float64)
        return found.mean(0)[None].float(), torch.linalg.inv(spread)[None].float()


def windows(values: F32) -> Tensor:
    """[n, 30]: each value with the 29 before it, the first one repeated where there are none."""
    padded = np.concatenate([np.full(SPAN - 1, values[0], np.float32), values])
    return torch.from_numpy(np.lib.stride_tricks.sliding_window_view(padded, SPAN).copy())


def fit(model: nn.Module, samples: Tensor, loss: Any, epochs: int, rate: float, batch: int) -> nn.Module:
    """Adam with one cycle, over shuffled samples."""
    steps = epochs * max(len(samples) // batch, 1)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    done = 0
    while done < steps:
        for rows in torch.randperm(len(samples)).split(batch):
            if (len(rows) < batch and len(samples) >= batch) or done == steps:
                continue
            optimizer.zero_grad()
            loss(model, samples[rows]).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            done += 1
    return model.eval()


def forecaster(channels: Sequence[Channel], seed: int = 0, epochs: int = 40) -> Forecaster:
    """One for all channels, so that all of them are one call."""
    torch.manual_seed(seed)
    parts = [
        c.train[at : at + SEQUENCE + 1] for c in channels for at in range(0, len(c.train) - SEQUENCE, SEQUENCE // 2)
    ]

    def loss(model: nn.Module, x: Tensor) -> Tensor:
        return nn.functional.smooth_l1_loss(model(x[:, :-1])[:, 10:, 0], x[:, 11:, 0], beta=0.1)

    made = fit(Forecaster(), torch.from_numpy(np.stack(parts)), loss, epochs, 1e-2, 32)
    assert isinstance(made, Forecaster)
    return made


def autoencoder(channels: Sequence[Channel], seed: int = 0, epochs: int = 20) -> Autoencoder:
    """One for all channels."""
    torch.manual_seed(seed)
    samples = torch.cat([windows(c.train[:, 0]) for c in channels])

    def loss(model: nn.Module, x: Tensor) -> Tensor:
        return nn.functional.mse_loss(model(x), x)

    made = fit(Autoencoder(), samples, loss, epochs, 5e-3, 128)
    assert isinstance(made, Autoencoder)
    return made


def transformer(channels: Sequence[Channel], seed: int = 0, epochs: int = 4) -> Transformer:
    """One for all channels too."""
    torch.manual_seed(seed)
    samples = torch.cat([windows(c.train[:, 0]) for c in channels])

    def loss(model: nn.Module, x: Tensor) -> Tensor:
        one, two = model(x)
        return nn.functional.mse_loss(one, x) + nn.functional.mse_loss(two, x)

    made = fit(Transformer(), samples, loss, epochs, 5e-3, 128)
    assert isinstance(made, Transformer)
    return made
