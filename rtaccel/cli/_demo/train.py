"""The detector: an autoencoder that has only ever seen normal readings, and rebuilds the others badly."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from rtaccel.cli._demo.data import normal_windows

HIDDEN = (128, 64, 16, 64, 128)

BATCH = 256
LEARNING_RATE = 4e-3


def autoencoder(width: int) -> nn.Sequential:
    """width-128-64-16-64-128-width, with BatchNorm and ReLU after every layer but the last."""
    layers: list[nn.Module] = []
    for k, n in itertools.pairwise((width, *HIDDEN)):
        layers += [nn.Linear(k, n), nn.BatchNorm1d(n), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(HIDDEN[-1], width))


def train(
    normal: Tensor, width: int, steps: int, generator: torch.Generator, advance: Callable[[float], None]
) -> nn.Sequential:
    """Trains on random windows of normal readings, mean squared error, Adam, one learning-rate cycle.

    normal: [R, sensors]. advance: called after each step with its loss. The result is in eval mode.
    """
    model = autoencoder(width)
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    for _ in range(steps):
        batch = normal_windows(normal, BATCH, generator)
        loss = (model(batch) - batch).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        advance(float(loss.detach()))
    return model.eval()


def scores(outputs: Tensor, windows: Tensor) -> Tensor:
    """Anomaly score of each window: mean squared reconstruction error, in float64. [T, width] twice -> [T]."""
    return (outputs.double() - windows.double()).square().mean(dim=1)
