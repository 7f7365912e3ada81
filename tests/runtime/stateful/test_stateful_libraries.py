"""State as libraries keep it: exported policies, voice detectors, spiking networks, filters, caches of attention."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt


class Exporter(nn.Module):
    """As exporters of policies do it: `forward` is another method, put in its place."""

    def __init__(self, rnn: nn.LSTM | nn.GRU) -> None:
        super().__init__()
        self.rnn, self.actor = rnn, nn.Linear(rnn.hidden_size, 3)
        self.register_buffer("hidden_state", torch.zeros(rnn.num_layers, 1, rnn.hidden_size))
        self.forward = self.forward_gru
        if isinstance(rnn, nn.LSTM):
            self.register_buffer("cell_state", torch.zeros(rnn.num_layers, 1, rnn.hidden_size))
            self.forward, self.reset = self.forward_lstm, self.reset_memory

    def forward_lstm(self, x: Tensor) -> Tensor:
        x, (h, c) = self.rnn(x.unsqueeze(0), (self.hidden_state, self.cell_state))
        self.hidden_state[:] = h
        self.cell_state[:] = c
        return self.actor(x.squeeze(0))

    def forward_gru(self, x: Tensor) -> Tensor:
        x, h = self.rnn(x.unsqueeze(0), self.hidden_state)
        self.hidden_state[:] = h
        return self.actor(x.squeeze(0))

    def reset_memory(self) -> None:
        self.hidden_state[:] = 0.0


class Voice(nn.Module):
    """As voice detectors do it: state and context are made when the first chunk comes, and again for another batch or rate."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.rnn, self.out = nn.Conv1d(1, 16, 8, stride=4), nn.LSTMCell(16, 16), nn.Linear(16, 1)
        self.reset_states()

    def reset_states(self) -> None:
        self._state, self._context, self._last = torch.zeros(0), torch.zeros(0), (0, 0)

    def forward(self, x: Tensor, rate: int = 16000) -> Tensor:
        if self._last not in ((0, 0), (rate, x.shape[0])):
            self.reset_states()
        if not len(self._context):
            self._context = torch.zeros(x.shape[0], 8)
        if not len(self._state):
            self._state = torch.zeros(2, x.shape[0], 16)
        x = torch.cat([self._context, x], 1)
        h, c = self.rnn(torch.relu(self.conv(x.unsqueeze(1))).mean(2), (self._state[0], self._state[1]))
        self._state, self._context, self._last = torch.stack([h, c]), x[..., -8:], (rate, len(x))
        return torch.sigmoid(self.out(h))


class Neuron(nn.Module):
    """As spiking layers do it: a dict of memories behind the attributes, and a number until the first tensor comes."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self._memories: dict[str, Any] = {"v": start}

    def __getattr__(self, name: str) -> Any:
        memories = self.__dict__.get("_memories", {})
        return memories[name] if name in memories else super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.__dict__.get("_memories", {}):
            self._memories[name] = value
        else:
            super().__setattr__(name, value)

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.v, float):
            self.v = torch.full_like(x, self.v)
        self.v = self.v + (x - self.v) / 2.0
        spike = torch.sigmoid(20 * (self.v - 0.3))
        self.v = self.v * (1 - spike)
        return spike


class Kalman(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("x", torch.zeros(4, 1))
        self.register_buffer("P", torch.eye(4))
        self.register_buffer("F", torch.eye(4) + 0.1 * torch.diag(torch.ones(3), 1))
        self.register_buffer("H", torch.tensor([[1.0, 0, 0, 0]]))

    def forward(self, z: Tensor) -> Tensor:
        x, covariance = self.F @ self.x, self.F @ self.P @ self.F.T + 0.01 * torch.eye(4)
        gain = covariance @ self.H.T / (self.H @ covariance @ self.H.T + 0.1)
        self.x, self.P = x + gain @ (z.view(1, 1) - self.H @ x), (torch.eye(4) - gain @ self.H) @ covariance
        return self.x.view(-1)


class Cache(nn.Module):
    """Attention over the newest 16 keys and values, in a ring."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.kv = nn.Linear(8, 8), nn.Linear(8, 16)
        self.register_buffer("keys", torch.zeros(1, 16, 8))
        self.register_buffer("values", torch.zeros(1, 16, 8))
        self.register_buffer("at", torch.zeros(1, dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        k, v = self.kv(x).chunk(2, -1)
        self.keys.index_copy_(1, self.at % 16, k.unsqueeze(1))
        self.values.index_copy_(1, self.at % 16, v.unsqueeze(1))
        seen = torch.arange(16) <= self.at
        self.at += 1
        scores = (self.q(x).unsqueeze(1) @ self.keys.transpose(1, 2)).masked_fill(~seen, float("-inf"))
        return (scores.softmax(-1) @ self.values).squeeze(1)


class Images(nn.Module):
    """A convolution over an image and its own last result, for several cameras."""

    def __init__(self) -> None:
        super().__init__()
        self.see, self.join, self.out = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(16, 8, 3, padding=1), nn.Linear(8, 2)
        self.register_buffer("h", torch.zeros(4, 8, 12, 12))

    def forward(self, x: Tensor) -> Tensor:
        self.h = torch.tanh(self.join(torch.cat([torch.relu(self.see(x)), self.h], 1)))
        return self.out(self.h.mean((2, 3)))


class OfAllBuffers(nn.Module):
    """As spiking layers do it: state is read out of a dict of all buffers, and its shape is made when the first call comes."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kept", torch.zeros(()))
        self.register_buffer("v", torch.zeros(0))
        self.register_buffer("leak", torch.tensor(0.8))

    def forward(self, x: Tensor) -> Tensor:
        if 0 in self.v.shape:
            self.register_buffer("v", torch.zeros(x.shape[0], x.shape[2]))
        held, spikes = dict(self.named_buffers()), []
        assert [*held] == [*self._buffers] and self._buffers.get("v") is self.state_dict(keep_vars=True)["v"]
        for step in range(x.shape[1]):
            held["v"] = held["leak"] * held["v"] + x[:, step]
            spikes.append(torch.sigmoid(9 * (held["v"] - 0.5)))
        self.v = held["v"]
        self._buffers["kept"] = spikes[-1].mean()
        return torch.stack(spikes, 1) + self._buffers["kept"]


class InADict(nn.Module):
    """Results in a dict, and a reset that is an argument."""

    def __init__(self) -> None:
        super().__init__()
        self.lin, self.of_h, self.h = nn.Linear(3, 8), nn.Linear(8, 8), None

    def forward(self, x: Tensor, reset: Tensor) -> dict[str, Tensor]:
        if self.h is None:
            self.h = torch.zeros(x.shape[0], 8)
        self.h = torch.tanh(self.lin(x) + self.of_h(self.h * (1 - reset)))
        return {"h": self.h, "y": self.h.sum(1)}


MODELS = {
    "lstm policy": (lambda: Exporter(nn.LSTM(10, 16, 2)), ((1, 10),)),
    "gru policy": (lambda: Exporter(nn.GRU(10, 16)), ((1, 10),)),
    "voice": (Voice, ((1, 64),)),
    "voices": (Voice, ((3, 64),)),
    "spiking": (lambda: nn.Sequential(nn.Linear(6, 16), Neuron(0.0), nn.Linear(16, 4), Neuron(0.7)), ((5, 6),)),
    "kalman": (Kalman, ((1,),)),
    "cache": (Cache, ((1, 8),)),
    "images": (Images, ((4, 3, 12, 12),)),
    "of all buffers": (lambda: nn.Sequential(nn.Linear(6, 8), OfAllBuffers(), nn.Linear(8, 4)), ((2, 5, 6),)),
    "its own buffers": (OfAllBuffers, ((2, 5, 6),)),
    "dict": (InADict, ((2, 3), (2, 1))),
}


@pytest.mark.parametrize("name", MODELS)
def test_calls_in_a_row_are_the_model_s(name: str) -> None:
    make, shapes = MODELS[name]
    model = make().eval().requires_grad_(False)
    fast, twin = rt.compile(model, tuple(torch.randn(s) for s in shapes), strict=True), copy.deepcopy(model)
    for call in range(45):  # the ring goes round
        args = [torch.randn(s) for s in shapes]
        if name == "dict":
            args[1] = torch.full((2, 1), float(call % 7 == 3))
        torch.testing.assert_close(fast(*args), twin(*args), rtol=1e-3, atol=1e-4)
    fast.reset()
    args = [torch.randn(s) for s in shapes]
    torch.testing.assert_close(fast(*args), model(*args), rtol=1e-3, atol=1e-4)
