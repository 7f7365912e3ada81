"""Random recurrences as Python loops over time steps, as users write cells: any formula of what comes in and what is carried."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

READS: tuple[Callable[[Tensor], list[Tensor]], ...] = (
    lambda x: [x[:, t] for t in range(x.shape[1])],
    lambda x: list(x.unbind(1)),
    lambda x: [step.squeeze(1) for step in x.split(1, dim=1)],
    lambda x: [step[:, 0] for step in x.chunk(x.shape[1], dim=1)],
    lambda x: list(x.transpose(0, 1)),
    lambda x: [x[:, t : t + 1].flatten(1) for t in range(x.shape[1])],
)
JOINS: tuple[Callable[[list[Tensor]], Tensor], ...] = (
    lambda ys: torch.stack(ys, 1),
    lambda ys: torch.stack(ys).transpose(0, 1),
    lambda ys: torch.cat([y.unsqueeze(1) for y in ys], 1),
    lambda ys: torch.cat(ys, 1).view(len(ys[0]), len(ys), -1),
)
STARTS = ("zeros", "new_zeros", "constant", "weights", "number", "first")
KINDS = ("plain", "gated", "leaky", "liquid", "cell", "late", "swap", "window", "outer", "count", "prior")


class Cell(nn.Module):
    """A recurrence over [batch, time, features] that gives [batch, time, width], or the newest step alone."""

    def __init__(self, rng: random.Random, features: int, kinds: tuple[str, ...] = KINDS, newest: bool = False) -> None:
        super().__init__()
        self.kind, self.newest = rng.choice(kinds), newest
        self.width = rng.choice((1, 3, 5, 8, 17))
        self.start = (
            rng.choice(STARTS) if self.kind in ("plain", "gated", "leaky", "liquid") else rng.choice(STARTS[:4])
        )
        self.read, self.join = rng.choice(READS), rng.choice(JOINS)
        self.given = nn.Parameter(torch.randn(1, self.width) * 0.5)
        self.inner, self.outer = nn.Linear(self.width, self.width), nn.Linear(features, self.width)
        self.both, self.gate = (nn.Linear(features + self.width, self.width) for _ in range(2))
        self.lag, self.has_head = rng.choice((1, 2, 3, 5)), rng.random() < 0.4
        self.window = nn.Linear(features * self.lag, self.width)
        self.cell = rng.choice((nn.LSTMCell, nn.GRUCell, nn.RNNCell))(features, self.width)
        self.without_state = rng.random() < 0.3
        self.head = nn.Linear(self.width, self.width)
        self.read_out = nn.Linear(features, self.width)

    def initial(self, x: Tensor, steps: list[Tensor]) -> Tensor | float:
        made: dict[str, Callable[[], Tensor | float]] = {
            "zeros": lambda: torch.zeros(len(x), self.width, dtype=x.dtype),
            "new_zeros": lambda: x.new_zeros(len(x), self.width),
            "constant": lambda: torch.full((len(x), self.width), 0.4, dtype=x.dtype),
            "weights": lambda: torch.tanh(self.given).expand(len(x), -1),
            "number": lambda: 0.25,
            "first": lambda: torch.tanh(self.outer(steps[0])),
        }
        return made[self.start]()

    def forward(self, x: Tensor) -> Tensor:
        ys = getattr(self, f"_{self.kind}")(x, self.read(x))
        if self.has_head:
            ys = [torch.relu(self.head(y)) + y for y in ys]
        return ys[-1] if self.newest else self.join(ys)

    def _over(self, x: Tensor, steps: list[Tensor], step: Callable[[Tensor, Tensor], Tensor]) -> list[Tensor]:
        h, ys = self.initial(x, steps), []
        if isinstance(h, float):  # as a number that broadcasts
            h = torch.zeros_like(self.outer(steps[0])) + h
        for x_t in steps:
            h = step(x_t, h)
            ys.append(h)
        return ys

    def _plain(self, x: Tensor, steps: list[Tensor]) -> list[Tensor]:
        return self._over(x, steps, lambda x_t, h: torch.tanh(self.inner(h) + self.outer(x_t)))

    def _leaky(self, x: Tensor, steps: list[Tensor]) -> list[Tensor]:
        return self._over(x, steps, lambda x_t, h: 0.8 * h + 0.2 * torch.sin(self.outer(x_t) * (1 + h)))

    def _gated(self, x: Tensor, steps: list[Tensor]) -> list[Tensor]:
        def step(x_t: Tensor, h: Tensor) -> Tensor:
            both = torch.cat([x_t, h], 1)
            z = torch.sigmoid(self.gate(both))
            return z * h + (1 - z) * torch.tanh(self.both(both))

        return self._over(x, steps, step)

    def _liquid(self, x: Tensor, steps: list[Tensor]) -> list[Tensor]:
        """Three inner steps of a differential equation."""

        def step(x_t: Tensor, h: Tensor) -> Tensor:
            for _ in range(3):
                f = torch.sigmoid(self.both(torch.cat([x_t, h], 1)))
                h = (h + 0.3 * f * self.given) / (1 + 0.3 * (1 + f))
            return h

        return self._over(x, steps, step)

    def _cell(self, x: Tensor, steps: list[Tensor]) -> list[Tensor]:
        h = c = torch.zeros(len(x), self.width, dtype=x.dtype)
        state, ys = None if self.without_state else (h, c) if isinstance(self.cell, nn.LSTMCell) else h, []
        for x_t in steps:
            state = self.cell(x_t, state)
            ys.append(state[0] if isinstance(state, tuple) else state)
        return ys

    def _late(self, x: Tensor, steps: list[Tensor]) -> list[Tensor]:
        """A delay line of what was some steps before."""
        past, ys = [self.initial(x, steps)] * self.lag, []
        for x_t in steps:
            h = torch.tanh(self.inner(past[0]) - 0.3 * past[-1] + self.outer(x_t))
            past = [*past[1:], h]
            ys.append(h)
        return ys

    def _swap(self, x: Tensor, steps: list[Tensor]) -> list[Tensor]:
        a, b, ys = self.initial(x, steps), torch.zeros(len(x), self.width, dtype=x.dtype), []
        for x_t in steps:
            a, b = (
                (b, torch.tanh(self.inner(a) + self.outer(x_t)))
                if self.lag > 2
                else (b.cos() + self.outer(x_t), a.sin())
            )
            ys.append(a - 0.5 * b)
        return ys

    def _window(self, x: Tensor, steps: list[Tensor]) -> list[Tensor]:
        rows, ys = x.new_zeros(len(x), self.lag, x.shape[2]), []
        for x_t in steps:
            rows = torch.cat([rows[:, 1:], x_t.unsqueeze(1)], 1)
            ys.append(self.window(rows.flatten(1)) + rows.mean(1).sum(1, keepdim=True))
        return ys

    def _outer(self, x: Tensor, steps: list[Tensor]) -> list[Tensor]:
        """A matrix that is carried: fast weights."""
        memory, ys = x.new_zeros(len(x), self.width, x.shape[2]), []
        for x_t in steps:
            key = torch.softmax(x_t, 1)
            was = (memory @ key.unsqueeze(2)).squeeze(2)
            memory = memory + (torch.tanh(self.outer(x_t)) - was).unsqueeze(2) * key.unsqueeze(1)
            ys.append(torch.tanh((memory @ x_t.unsqueeze(2)).squeeze(2)))
        return ys

    def _count(self, x: Tensor, steps: list[Tensor]) -> list[Tensor]:
        """Truth values and whole numbers that are carried."""
        on = torch.zeros(len(x), x.shape[2], dtype=torch.bool)
        count, ys = torch.zeros(len(x), x.shape[2], dtype=torch.int64), []
        for x_t in steps:
            on = (on & (x_t > -1)) | (x_t > 1)
            count = torch.where(on, count + 1, count * 0)
            ys.append(self.read_out(count.to(x.dtype) * 0.1 + on.to(x.dtype)))
        return ys

    def _prior(self, x: Tensor, steps: list[Tensor]) -> list[Tensor]:
        """What is known before the step itself."""
        h, ys = self.initial(x, steps), []
        for x_t in steps:
            ys.append(h)
            h = torch.tanh(self.inner(h) + self.outer(x_t))
        return ys


FRONTS, BEHINDS = ("none", "linear", "conv", "lstm"), ("none", "linear", "norm", "loop", "gru", "conv")


class WrittenLoop(nn.Module):
    """Layers, a loop, and layers again, or another loop, over [batch, time, features], or [time, batch, features]."""

    def __init__(self, rng: random.Random, kinds: tuple[str, ...] = KINDS) -> None:
        super().__init__()
        self.features, self.time_first = rng.choice((1, 2, 4, 7)), rng.random() < 0.15
        self.front, self.behind = rng.choice(FRONTS), rng.choice(BEHINDS)
        made = self.features if self.front == "none" else rng.choice((3, 6))
        self.enter = nn.Linear(self.features, made)
        self.conv, self.lstm = nn.Conv1d(self.features, made, 3), nn.LSTM(self.features, made, batch_first=True)
        self.loop = Cell(rng, made, kinds, newest=self.behind in ("none", "linear") and rng.random() < 0.4)
        width = self.loop.width
        self.leave, self.norm = nn.Linear(width, 3), nn.LayerNorm(width)
        self.again, self.gru = Cell(rng, width, kinds), nn.GRU(width, 4, batch_first=True)
        self.after = nn.Conv1d(width, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(0, 1) if self.time_first else x
        if self.front == "linear":
            x = torch.relu(self.enter(x))
        elif self.front == "conv":
            x = torch.tanh(self.conv(pad(x.transpose(1, 2), (2, 0)))).transpose(1, 2)
        elif self.front == "lstm":
            x = self.lstm(x)[0]
        y = self.loop(x)
        if self.behind == "linear":
            y = self.leave(y)
        elif self.behind == "norm":
            y = self.norm(y) + y
        elif self.behind == "loop":
            y = self.again(y)
        elif self.behind == "gru":
            y = self.gru(y)[0]
        elif self.behind == "conv":
            y = torch.sin(self.after(pad(y.transpose(1, 2), (1, 0)))).transpose(1, 2)
        return y.transpose(0, 1) if self.time_first and y.dim() == 3 else y

    def newest(self, window: Tensor) -> Tensor:
        """The newest result for a window [batch, time, features], in float64. Leaves the model in float32."""
        with torch.no_grad():
            x = window.double()
            y = self.double()(x.transpose(0, 1) if self.time_first else x)
        self.float()
        if y.dim() == 2:
            return y
        return y[-1] if self.time_first else y[:, -1]

    def windows(self, batch: int, time: int) -> Tensor:
        """In the model's layout."""
        x = torch.randn(batch, time, self.features)
        return x.transpose(0, 1).contiguous() if self.time_first else x
