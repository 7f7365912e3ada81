"""A network in the manner of DeepLOB: convolutions over the levels and the last ticks, an LSTM, three classes.

Zhang, Zohren and Roberts, DeepLOB: Deep Convolutional Neural Networks for Limit Order Books, IEEE Transactions on Signal
Processing, 2019. Here the convolutions are causal, so that a tick costs one step, and each tick of a window is learned from.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from examples.order_book import book

WIDTH, HIDDEN = 32, 32
WINDOW, WARM_UP = 120, 40
"""Ticks of a window, and those at its beginning that are not learned from."""

BATCH, RATE, EPOCHS = 32, 6e-3, 3
CLAMP = 5.0


class Network(nn.Module):
    """[batch, time, 41] to scores of down, still, up, [batch, time, 3]. Standardizes prices and logs of sizes itself."""

    mean: Tensor
    scale: Tensor

    def __init__(self, mean: book.F32, std: book.F32) -> None:
        super().__init__()
        self.register_buffer("mean", torch.from_numpy(mean))
        self.register_buffer("scale", torch.from_numpy(1 / std))
        self.book = nn.Conv1d(book.FEATURES, WIDTH, 1)
        self.short = nn.Conv1d(WIDTH, WIDTH // 2, 2)
        self.long = nn.Conv1d(WIDTH, WIDTH // 2, 5, dilation=2)
        self.memory = nn.LSTM(WIDTH, HIDDEN, batch_first=True)
        self.head = nn.Linear(HIDDEN, 3)
        with torch.no_grad():  # memories of 2 to 100 ticks to begin with, which training would have to find
            bias = torch.log(torch.logspace(0.3, 2, HIDDEN) - 1)
            self.memory.bias_ih_l0.zero_()
            self.memory.bias_hh_l0.zero_()
            self.memory.bias_ih_l0[:HIDDEN], self.memory.bias_ih_l0[HIDDEN : 2 * HIDDEN] = -bias, bias

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))

    def features(self, x: Tensor) -> Tensor:
        """[batch, time, 32]: what the head reads."""
        x = torch.clamp((x - self.mean) * self.scale, -CLAMP, CLAMP).transpose(1, 2)
        x = F.relu(self.book(x))
        x = F.relu(torch.cat([self.short(F.pad(x, (1, 0))), self.long(F.pad(x, (8, 0)))], dim=1))
        memory: Tensor = self.memory(x.transpose(1, 2))[0]
        return memory


class Tapped(nn.Module):
    """Probabilities and features of each tick in one tensor, [batch, time, 3 + 32]: for a head that goes on learning."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        features = self.network.features(x)
        return torch.cat([F.softmax(self.network.head(features), dim=2), features], dim=2)


class Step(nn.Module):
    """One tick for a runtime that keeps no past.

    (x [1, 41], past [1, 32, 8], h [1, 32], c [1, 32]) to (scores [1, 3], past, h, c)."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network, memory = network, network.memory
        self.cell = nn.LSTMCell(WIDTH, HIDDEN)
        self.cell.load_state_dict({key.removesuffix("_l0"): value for key, value in memory.state_dict().items()})

    def forward(self, x: Tensor, past: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        own = self.network
        x = torch.clamp((x - own.mean) * own.scale, -CLAMP, CLAMP)[:, :, None]
        window = torch.cat([past, F.relu(own.book(x))], dim=2)
        x = F.relu(torch.cat([own.short(window[:, :, -2:]), own.long(window)], dim=1))[:, :, 0]
        h, c = self.cell(x, (h, c))
        return own.head(h), window[:, :, 1:], h, c


def windows(session: book.Session, threshold: float) -> tuple[Tensor, Tensor]:
    """Inputs [n, 120, 41] and classes [n, 120] of a session, cut into windows that overlap by the warm-up."""
    classes = book.labels(session.mid, threshold)
    starts = range(0, len(classes) - WINDOW + 1, WINDOW - WARM_UP)
    x = np.stack([session.ticks[at : at + WINDOW] for at in starts])
    return torch.from_numpy(x), torch.from_numpy(np.stack([classes[at : at + WINDOW] for at in starts]))


def train(session: book.Session, threshold: float, seed: int = 0, epochs: int = EPOCHS) -> Network:
    """The same weights for the same seed, on the same machine and version of torch."""
    torch.manual_seed(seed)
    x, y = windows(session, threshold)
    network = Network(session.ticks.mean(0), session.ticks.std(0) + 1e-6)
    steps = epochs * (len(x) // BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(x))[: len(x) // BATCH * BATCH].split(BATCH):
            scores = network(x[rows])[:, WARM_UP:].flatten(0, 1)
            loss = F.cross_entropy(scores, y[rows, WARM_UP:].flatten())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    return network.eval()


def snapshot_baseline(session: book.Session, threshold: float) -> nn.Module:
    """Logistic regression on the newest tick alone: what there is to tell without a past."""
    classes = torch.from_numpy(book.labels(session.mid, threshold))
    x = torch.from_numpy(session.ticks[: len(classes)])
    mean, std = x.mean(0), x.std(0) + 1e-6
    linear = nn.Linear(x.shape[1], 3)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    given = (x - mean) / std
    optimizer = torch.optim.LBFGS(linear.parameters(), max_iter=40)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(linear(given), classes)
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        linear.weight /= std
        linear.bias -= linear.weight @ mean
    return linear.eval()
