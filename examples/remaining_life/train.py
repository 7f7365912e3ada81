"""Trains the network of one seed: 86-64-32-1, with noise on its inputs and dropout. Settings were cross-validated."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2]))

import rtaccel as rt
from examples._shared.data import folder
from examples._shared.outcome import Missing
from examples.remaining_life.engines import CAP, F32, FILES, SOURCE, WARM_UP, features, read, targets

EPOCHS, BATCH, RATE, DECAY, NOISE, DROPOUT = 40, 256, 2e-3, 0.01, 0.1, 0.1


CLAMP = 8.0
"""Standard deviations at which features are clamped: int8 has a range, and a broken sensor has none."""


class Network(nn.Module):
    """Standardizes and clamps [batch, 86], and gives remaining life / 125, [batch, 1]."""

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, mean: F32, std: F32) -> None:
        super().__init__()
        self.register_buffer("mean", torch.from_numpy(mean))
        self.register_buffer("scale", torch.from_numpy(1 / std))
        self.layers = nn.Sequential(
            nn.Linear(len(mean), 64), nn.ReLU(), nn.Dropout(DROPOUT),
            nn.Linear(64, 32), nn.ReLU(), nn.Dropout(DROPOUT), nn.Linear(32, 1),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> Any:
        return self.layers(self.standardized(x))

    def standardized(self, x: torch.Tensor) -> torch.Tensor:
        return torch.clamp((x - self.mean) * self.scale, -CLAMP, CLAMP)


def samples(train: list[F32]) -> tuple[F32, F32]:
    """Features [n, 86] and targets [n] of all cycles after the warm-up."""
    x = np.concatenate([features(engine)[WARM_UP:] for engine in train])
    return x, np.concatenate([targets(len(engine))[WARM_UP:] for engine in train])


def train(x: F32, y: F32, seed: int, epochs: int = EPOCHS) -> Network:
    """The same weights for the same seed, on the same machine and version of torch."""
    torch.manual_seed(seed)
    network = Network(x.mean(0), x.std(0) + 1e-6)
    inputs, wanted = network.standardized(torch.from_numpy(x)), torch.from_numpy(y)[:, None]
    steps = epochs * (len(x) // BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(x))[: len(x) // BATCH * BATCH].split(BATCH):
            noisy = inputs[rows] + NOISE * torch.randn(len(rows), inputs.shape[1])
            loss = nn.functional.mse_loss(network.layers(noisy), wanted[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def calibration(x: F32, batches: int = 8) -> list[torch.Tensor]:
    """Batches of training features, for int8."""
    rng = np.random.default_rng(0)
    return [torch.from_numpy(x[rng.integers(0, len(x), 256)]) for _ in range(batches)]


def cross_validated(engines: list[F32], folds: int = 5, epochs: int = EPOCHS) -> float:
    """RMSE in cycles on engines that the network did not see, one random cut of each: what settings are chosen by, without
    any test engine."""
    rng, errors = np.random.default_rng(0), []
    for fold in range(folds):
        network = train(*samples([e for i, e in enumerate(engines) if i % folds != fold]), seed=fold, epochs=epochs)
        for engine in engines[fold::folds]:
            cut = int(rng.integers(30, len(engine)))
            with torch.no_grad():
                said = float(network(torch.from_numpy(features(engine[: cut + 1])[-1:])))
            errors.append((said - targets(len(engine))[cut]) * CAP)
    return float(np.sqrt(np.mean(np.square(errors))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, nargs="?", help="file to write, for rt.load and for C")
    parser.add_argument("--cross-validate", action="store_true", help="print the RMSE on left-out training engines")
    parser.add_argument("--data", type=Path, help="folder of C-MAPSS FD001")
    parser.add_argument("--scheme", default="w8a8", choices=("float32", "w8a8"))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    engines = read(folder(args.data, "cmapss_fd001", FILES, SOURCE)).train
    if args.cross_validate:
        print(f"RMSE on left-out training engines: {cross_validated(engines):.2f} cycles")
    if args.out is None:
        return
    x, y = samples(engines)
    network = train(x, y, args.seed)
    example = (torch.from_numpy(x[:1]),)
    rt.save(rt.compile(network, example, args.scheme, calibration=calibration(x)), args.out)
    print(f"wrote {args.out}: {args.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    try:
        main()
    except Missing as error:
        sys.exit(f"train.py: {error}")
