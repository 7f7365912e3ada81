"""Random models that keep state from call to call: cells with a buffer or an attribute each, one behind the other.

Each cell takes and gives [batch, width]. It reads its state before or after it writes it, and writes it in a way of its own.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def write(module: nn.Module, name: str, new: Tensor, way: str) -> None:
    """A state becomes `new`."""
    old = getattr(module, name)
    if way == "copy_":
        old.copy_(new)
    elif way == "slice":
        old[:] = new
    elif way == "rows":
        for row in range(old.shape[0]):
            old[row] = new[row]
    elif way == "add_":
        old.add_(new - old)
    elif way == "data":
        old.mul_(0.0).add_(new)
    else:
        setattr(module, name, new)


WAYS = ("copy_", "slice", "rows", "add_", "data", "assign")


class Cell(nn.Module):
    def __init__(self, r: random.Random, batch: int, width: int) -> None:
        super().__init__()
        self.batch, self.width = batch, width
        self.way, self.late = r.choice(WAYS), r.random() < 0.5
        self.make(r)

    def make(self, r: random.Random) -> None:
        raise NotImplementedError

    def keep(self, name: str, tensor: Tensor, attribute: bool = False) -> None:
        if attribute:
            setattr(self, name, tensor)
        else:
            self.register_buffer(name, tensor)


class Elman(Cell):
    def make(self, r: random.Random) -> None:
        self.of_x, self.of_h = nn.Linear(self.width, self.width), nn.Linear(self.width, self.width, bias=False)
        self.keep("h", torch.randn(self.batch, self.width) * r.choice((0.0, 0.5)), r.random() < 0.4)

    def forward(self, x: Tensor) -> Tensor:
        new = torch.tanh(self.of_x(x) + self.of_h(self.h))
        if self.late:
            y = self.h + new
            write(self, "h", new, self.way)
            return y
        write(self, "h", new, self.way)
        return self.h * 2 - x


class Recurrent(Cell):
    """nn.LSTM or nn.GRU as policies have them: [layers, batch, hidden]."""

    def make(self, r: random.Random) -> None:
        layers = r.choice((1, 2))
        self.rnn = r.choice((nn.LSTM, nn.GRU))(self.width, self.width, num_layers=layers)
        self.keep("hidden", torch.randn(layers, self.batch, self.width) * 0.3)
        if isinstance(self.rnn, nn.LSTM):
            self.keep("cell", torch.zeros(layers, self.batch, self.width))

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.rnn, nn.LSTM):
            y, (h, c) = self.rnn(x.unsqueeze(0), (self.hidden, self.cell))
            write(self, "cell", c, self.way)
        else:
            y, h = self.rnn(x.unsqueeze(0), self.hidden)
        write(self, "hidden", h, self.way)
        return y.squeeze(0)


class CellModule(Cell):
    """nn.LSTMCell with its states in a tuple, nn.GRUCell with one in an attribute that is None at first."""

    def make(self, r: random.Random) -> None:
        self.cell = r.choice((nn.LSTMCell, nn.GRUCell))(self.width, self.width)
        shape = self.batch, self.width
        self.state: Any = (torch.zeros(shape), torch.randn(shape)) if isinstance(self.cell, nn.LSTMCell) else None

    def forward(self, x: Tensor) -> Tensor:
        self.state = self.cell(x, self.state)
        return self.state[0] if isinstance(self.state, tuple) else self.state


class Window(Cell):
    """The newest rows, shifted by one at each call, and a convolution over them."""

    def make(self, r: random.Random) -> None:
        self.length, self.shift = r.choice((2, 3, 7)), r.choice(("cat", "roll", "in place"))
        self.conv = nn.Conv1d(self.width, self.width, self.length)
        self.keep("past", torch.zeros(self.batch, self.width, self.length))

    def forward(self, x: Tensor) -> Tensor:
        if self.shift == "cat":
            write(self, "past", torch.cat([self.past[:, :, 1:], x[:, :, None]], 2), self.way)
        elif self.shift == "roll":
            self.past = torch.roll(self.past, -1, 2)
            self.past[:, :, -1] = x
        else:
            self.past[:, :, :-1] = self.past[:, :, 1:].clone()
            self.past[:, :, -1] = x
        return self.conv(self.past).squeeze(2)


class Frames(Cell):
    def make(self, r: random.Random) -> None:
        self.mix = nn.Linear(3 * self.width, self.width)
        rows = [torch.zeros(self.batch, self.width) for _ in range(3)]
        self.frames: Any = deque(rows, maxlen=3) if r.random() < 0.5 else rows

    def forward(self, x: Tensor) -> Tensor:
        self.frames.append(x)
        if isinstance(self.frames, list):
            self.frames.pop(0)
        return self.mix(torch.cat(list(self.frames), 1))


class Normalizer(Cell):
    """Running mean and variance, with a count in int64."""

    def make(self, r: random.Random) -> None:
        self.keep("mean", torch.zeros(self.width))
        self.keep("var", torch.ones(self.width))
        self.keep("count", torch.tensor(r.choice((0, 5))))

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        gain = 1.0 / self.count.float()
        step = x.mean(0) - self.mean
        self.mean += step * gain
        self.var.lerp_(step * step, 0.1) if self.late else self.var.copy_(self.var * 0.9 + step * step * 0.1)
        return (x - self.mean) / torch.sqrt(self.var + 1e-2)


class Spiking(Cell):
    def make(self, r: random.Random) -> None:
        self.of_x, self.reset_by = nn.Linear(self.width, self.width), r.choice(("zero", "subtract"))
        self.keep("v", torch.zeros(self.batch, self.width), r.random() < 0.4)

    def forward(self, x: Tensor) -> Tensor:
        v = 0.8 * self.v + self.of_x(x)
        spike = torch.sigmoid(20 * (v - 0.3))  # no threshold: a sum in another order would make another spike
        write(self, "v", v * (1 - spike) if self.reset_by == "zero" else v - 0.3 * spike, self.way)
        return spike + 0.1 * v


class Biquad(Cell):
    """An IIR filter of the second order: two states, each of which becomes what reads the other."""

    def make(self, r: random.Random) -> None:
        self.keep("z", torch.zeros(2, self.batch, self.width), r.random() < 0.3)

    def forward(self, x: Tensor) -> Tensor:
        y = 0.2 * x + self.z[0]
        new = torch.stack([0.3 * x + 0.5 * y + self.z[1], 0.1 * x - 0.2 * y])
        write(self, "z", new, self.way)
        return y


class Swaps(Cell):
    """Two states that change places, one of them scaled."""

    def make(self, r: random.Random) -> None:
        self.a, self.b = torch.randn(self.batch, self.width), torch.randn(self.batch, self.width)

    def forward(self, x: Tensor) -> Tensor:
        self.a, self.b = self.b, (self.a + x) * 0.5
        return self.a - x


class Difference(Cell):
    """The input of the call before, and whether there was one."""

    def make(self, r: random.Random) -> None:
        self.keep("last", torch.zeros(self.batch, self.width))
        self.keep("started", torch.tensor(False))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.where(self.started, x - self.last, torch.zeros_like(x))
        write(self, "last", x, self.way)
        self.started.fill_(True)
        return y + 0.1 * x


class Ring(Cell):
    """A ring that is written where a count says."""

    def make(self, r: random.Random) -> None:
        self.length = r.choice((3, 4))
        self.keep("ring", torch.zeros(self.length, self.batch, self.width))
        self.keep("at", torch.zeros(1, dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        self.ring.index_copy_(0, self.at, x.unsqueeze(0))
        self.at.copy_((self.at + 1) % self.length)
        return self.ring.mean(0) + self.ring.amax(0)


class Peak(Cell):
    def make(self, r: random.Random) -> None:
        self.state = {"high": torch.zeros(self.batch, self.width), "low": torch.zeros(self.batch, self.width)}

    def forward(self, x: Tensor) -> Tensor:
        high = torch.maximum(self.state["high"] * 0.95, x)
        self.state = {"high": high, "low": torch.minimum(self.state["low"], x)}
        return x / (1 + high - self.state["low"])


class Aliases(Cell):
    """One tensor under several names, each call another: states that it reads, and notes that nothing does."""

    def make(self, r: random.Random) -> None:
        self.of_x, self.views = nn.Linear(self.width, self.width), r.random() < 0.5
        self.of_h, self.noted = nn.Linear(self.width, self.width, bias=False), r.choice((0, 1, 2))
        self.h = torch.randn(self.batch, self.width) * 0.5
        self.other = self.h.view(-1) if self.views else self.h
        self.notes: list[Tensor] = [self.h] * self.noted

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.of_x(x) + self.of_h(self.h) + 0.1 * self.other.view(self.h.shape))
        self.h, self.other = y, y.view(-1) if self.views else y
        self.notes = [x, y][: self.noted]
        return y


CELLS: tuple[Callable[..., Cell], ...] = (
    Elman, Recurrent, CellModule, Window, Frames, Normalizer, Spiking, Biquad, Swaps, Difference, Ring, Peak,
    Aliases,
)  # fmt: skip


class Stateful(nn.Module):
    def __init__(self, seed: int, cells: tuple[Callable[..., Cell], ...] | None = None) -> None:
        super().__init__()
        r = random.Random(seed)
        torch.manual_seed(seed)
        self.batch, self.inputs, width = r.choice((1, 1, 2, 4)), r.choice((3, 8)), r.choice((4, 5, 16))
        chosen = cells or tuple(r.choice(CELLS) for _ in range(r.choice((1, 2, 3))))
        self.first, self.last = nn.Linear(self.inputs, width), nn.Linear(width, r.choice((2, 6)))
        self.cells = nn.ModuleList(cell(r, self.batch, width) for cell in chosen)
        self.also = r.random() < 0.3

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        y = F.elu(self.first(x))
        for cell in self.cells:
            y = cell(y)
        return (self.last(y), y) if self.also else self.last(y)

    def example(self) -> Tensor:
        return torch.randn(self.batch, self.inputs)
