"""C-MAPSS FD001 as tests use it: engines, the 86 streaming features of a Bank, targets, and a small network."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from rtaccel.online import Bank
from rtaccel.online.features import Count, Ewma, First, LogCount, Mean

SENSORS = [2, 3, 4, 7, 8, 9, 11, 12, 13, 14, 15, 17, 20, 21]
CAP = 125.0
FEATURES = [
    Ewma(0.2), Ewma(0.1), Ewma(0.05), Ewma(0.1) - Ewma(0.02), Ewma(0.05) - First(10), Mean(), Count(1 / 200), LogCount(1 / 5),
]  # fmt: skip

F32 = NDArray[np.float32]


def engines() -> list[F32]:
    """The sensors of each training engine, [cycles, 14]; skips where the data is not there."""
    file = Path(os.environ.get("RTACCEL_TEST_DATA", "/nowhere")) / "cmapss_fd001" / "train_FD001.csv"
    if not file.exists():
        pytest.skip(f"no {file}: set RTACCEL_TEST_DATA")
    rows = np.genfromtxt(file, delimiter=",", names=True)
    sensors = np.stack([rows[f"s{i}"] for i in SENSORS], axis=1).astype(np.float32)
    return [sensors[rows["unit"] == unit] for unit in np.unique(rows["unit"])]


def bank() -> Bank:
    return Bank([f"s{i}" for i in SENSORS], FEATURES)


def features(sensors: F32) -> F32:
    return bank().run(sensors)[:, 0]


def targets(cycles: int) -> F32:
    """min(remaining life, 125) / 125 of each cycle."""
    return np.minimum(np.arange(cycles - 1, -1, -1), CAP).astype(np.float32) / np.float32(CAP)


class Network(nn.Module):
    """Standardizes, then 86-64-32-1 with ReLU."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, mean: F32, std: F32) -> None:
        super().__init__()
        self.register_buffer("mean", torch.from_numpy(mean))
        self.register_buffer("scale", torch.from_numpy(1 / std))
        self.layers = nn.Sequential(nn.Linear(len(mean), 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, x: torch.Tensor) -> Any:
        return self.layers((x - self.mean) * self.scale)


def trained(train: list[F32], epochs: int = 40, seed: int = 0) -> Network:
    torch.manual_seed(seed)
    x = np.concatenate([features(engine)[10:] for engine in train])
    y = np.concatenate([targets(len(engine))[10:] for engine in train])
    network = Network(x.mean(0), x.std(0) + 1e-6)
    inputs, wanted = (torch.from_numpy(x) - network.mean) * network.scale, torch.from_numpy(y)[:, None]
    steps = epochs * (len(x) // 256)
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(x))[: len(x) // 256 * 256].split(256):
            noisy = inputs[rows] + 0.1 * torch.randn(len(rows), inputs.shape[1])
            loss = nn.functional.mse_loss(network.layers(noisy), wanted[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()
