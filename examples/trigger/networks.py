"""The jet tagger of hls4ml's first paper, a small deep-sets network, their training and pruning."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import rtaccel as rt
from examples.trigger.jets import FEATURES, KINDS, Jets

BATCH, RATE = 256, 4e-3
CLAMP = 6.0


class Tagger(nn.Module):
    """Features [batch, 16] to scores of five kinds, [batch, 5], by 64, 32 and 32 units. Standardizes itself.

    The sizes are those of Duarte et al., Fast inference of deep neural networks in FPGAs for particle physics, JINST 2018.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, jets: Jets) -> None:
        super().__init__()
        self.register_buffer("mean", torch.from_numpy(jets.features.mean(0)))
        self.register_buffer("scale", torch.from_numpy(1 / (jets.features.std(0) + 1e-6)))
        self.layers = nn.Sequential(
            nn.Linear(FEATURES, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(),
            nn.Linear(32, len(KINDS)),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Any:
        return self.layers(torch.clamp((x - self.mean) * self.scale, -CLAMP, CLAMP))


class DeepSets(nn.Module):
    """Particles [batch, 16, 3] to scores of five kinds, [batch, 5], whatever their order: a network for each particle, the mean,
    another network (Zaheer et al., Deep Sets, NeurIPS 2017; on triggers: Odagiu et al., 2024)."""

    scale: Tensor

    def __init__(self, jets: Jets) -> None:
        super().__init__()
        self.register_buffer("scale", torch.from_numpy(1 / jets.particles.std((0, 1))))
        self.each = nn.Sequential(nn.Linear(3, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
        self.all = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, len(KINDS)))

    def forward(self, x: Tensor) -> Any:
        return self.all(self.each(torch.clamp(x * self.scale, -CLAMP, CLAMP)).mean(1))


def inputs(network: nn.Module, jets: Jets) -> Tensor:
    """What this network reads of them."""
    return torch.from_numpy(jets.particles if isinstance(network, DeepSets) else jets.features)


def train(network: nn.Module, jets: Jets, epochs: int, seed: int = 0, rate: float = RATE) -> nn.Module:
    """Cross entropy, Adam with one cycle."""
    torch.manual_seed(seed)
    x, kind = inputs(network, jets), torch.from_numpy(jets.kind)
    network.train()
    optimizer = torch.optim.Adam(network.parameters(), rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=epochs * (len(x) // BATCH))
    for _ in range(epochs):
        for rows in torch.randperm(len(x))[: len(x) // BATCH * BATCH].split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(x[rows]), kind[rows]).backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def made(kind: Callable[[Jets], nn.Module], jets: Jets, epochs: int, seed: int = 0) -> nn.Module:
    """A trained network, the same for the same seed on the same machine and version of torch."""
    torch.manual_seed(seed)
    return train(kind(jets), jets, epochs, seed)


def pruned(network: nn.Module, jets: Jets, sparsity: float, epochs: int) -> nn.Module:
    """A copy with so many of all weights zero, chosen by their effect on the outputs, then trained on with the zeros kept."""
    own = copy.deepcopy(network)
    rt.sparsify_(own, rt.Unstructured(sparsity), calibration=calibration(own, jets), allocation="global", swap=False)
    with rt.keep_zeros(own):
        train(own, jets, epochs)
    return own.eval()


def zeros(network: nn.Module) -> float:
    """Share of the weights of linear layers that are zero."""
    weights = [m.weight for m in network.modules() if isinstance(m, nn.Linear)]
    return float(sum((w == 0).sum() for w in weights) / sum(w.numel() for w in weights))


def calibration(network: nn.Module, jets: Jets) -> list[Tensor]:
    """Batches of training jets."""
    return [part.contiguous() for part in inputs(network, jets)[:2048].split(256)]


def accuracy(model: Any, x: Tensor, kind: np.ndarray) -> float:
    with torch.no_grad():
        return float((np.asarray(model(x)).argmax(1) == kind).mean())
