"""Models that between them have every stage that `compile` makes on a CPU, for tests that go over all of them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.core.scheme import scheme_names
from tests.support.generators.layers import ROWS, normed
from tests.support.generators.streams import Causal, Recurrent

SCHEMES = (*scheme_names(), "w8a8 static", "w4a8 static")
"""Every scheme by its name; those with int8 activations in both forms."""


def scheme_of(name: str) -> rt.Float32 | Any:
    kind, _, form = name.partition(" ")
    cls = scheme_names()[kind]
    return cls(activation="static") if form else cls(activation="dynamic") if kind in ("w8a8", "w4a8") else cls()


class Mixed(nn.Module):
    """Several outputs, a residual, a table for each position, a concat, a torch call with a buffer."""

    def __init__(self, torch_step: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 6)
        self.register_buffer("table", torch.randn(5, 6))
        self.norm, self.torch_step = normed(nn.LayerNorm(6)), torch_step
        self.gain = nn.Parameter(torch.rand(6) + 0.5)

    def forward(self, x: Tensor) -> Any:
        y = self.norm(self.second(torch.relu(self.first(x))) + self.table + x)
        if self.torch_step:
            return torch.special.airy_ai(y * self.gain.abs()) * self.gain, y
        return torch.cat([torch.softmax(y, -1), y * self.gain], -1), y


class General(nn.Module):
    """Expressions by rows and by strides, a reduction, parts put together, a product of computed values, computed indices, a
    spectrum, values between others and at the points of a grid."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(6, 8), nn.GroupNorm(2, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.gate, self.slope = nn.Parameter(torch.rand(8) + 0.5), nn.PReLU()

    def forward(self, x: Tensor) -> Any:
        y = self.slope(1 - self.gate * torch.exp(-self.first(x).abs()))
        z = torch.cat([self.token.expand(x.shape[0], -1, -1), self.norm(y)], 1)
        places = x.argsort(1)
        moved = x.scatter_add(1, places, x.gather(1, (places + 1) % 4).cumsum(1))
        spectrum = torch.fft.rfft(y.flatten(1)).abs()
        moved = moved + nn.functional.interpolate(x, scale_factor=2, mode="linear")[..., :6]
        image, grid = y[:, :, None, :], torch.tanh(z[:, :2, :4]).reshape(-1, 2, 2, 2)
        moved = moved + nn.functional.grid_sample(image, grid, align_corners=False).flatten(2)[..., :1]
        return torch.softmax(z @ z.transpose(1, 2), 1) @ z - z.mean(1, keepdim=True), y + spectrum[:, None, :8], moved


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.memory = nn.Embedding(ROWS, 6), nn.LSTM(6, 5, batch_first=True)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.memory(self.table(x))[0][:, -1])


class Elman(nn.Module):
    """nn.RNN with tanh, then with relu; the state after the last step."""

    def __init__(self) -> None:
        super().__init__()
        self.tanh = nn.RNN(5, 7, batch_first=True)
        self.relu = nn.RNN(7, 4, batch_first=True, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.tanh(x)[0])[0][:, -1]


class Masked(nn.Module):
    """Attention with a mask of -inf, which is a tensor of its state that is not finite."""

    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.keys, self.values = nn.Linear(6, 6), nn.Linear(6, 5)
        self.register_buffer("mask", torch.full((4, 4), -torch.inf).triu(1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(self.keys(x) @ x.transpose(1, 2) + self.mask, -1) @ self.values(x)


def _sparse() -> nn.Module:
    """Its zeros are in the same places whatever the seed is: so many weights are in its state."""
    model, places = nn.Sequential(nn.Linear(96, 64), nn.ReLU(), nn.Linear(64, 48)), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.weight.mul_(torch.rand(layer.weight.shape, generator=places) > 0.9)
    return model


def _images() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, padding_mode="reflect"), normed(nn.BatchNorm2d(6)), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 6, 3, groups=6), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4),
    )  # fmt: skip


def encoder(first: bool) -> nn.Module:
    return nn.TransformerEncoder(
        nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, norm_first=first), 2, enable_nested_tensor=False
    )


class Averages(nn.Module):
    """A loop of Python over [batch, time, 6]: moving averages, how quickly each moves computed for every time step."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.gate, self.head = nn.Linear(6, 9), nn.Linear(6, 9), nn.Linear(9, 2)

    def forward(self, x: Tensor) -> Tensor:
        u, a = self.first(x), torch.sigmoid(self.gate(x))
        h, made = torch.zeros_like(u[:, 0]), []
        for t in range(x.shape[1]):
            h = a[:, t] * h + u[:, t]
            made.append(h)
        return self.head(torch.stack(made, 1))


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (
        lambda: nn.Sequential(nn.Linear(9, 16), nn.GELU(), nn.Linear(16, 16), normed(nn.RMSNorm(16)), nn.Linear(16, 4)),
        (9,),
    ),
    "mixed": (lambda: Mixed(False), (5, 6)),
    "with a torch call": (lambda: Mixed(True), (5, 6)),
    "sparse": (_sparse, (96,)),
    "images": (_images, (3, 8, 8)),
    "encoder, norm last": (lambda: encoder(False), (4, 8)),
    "masked": (Masked, (4, 6)),
    "lstm": (lambda: Recurrent("lstm", 6, 9, 2, True), (7, 6)),
    "gru": (lambda: Recurrent("gru", 6, 9, 1, True), (7, 6)),
    "gru, both ways": (lambda: nn.Sequential(nn.GRU(5, 4, batch_first=True, bidirectional=True)), (6, 5)),
    "rnn": (Elman, (6, 5)),
    "causal": (lambda: Causal(4, 6, (1, 2), True), (4, 9)),
    "loop": (Averages, (7, 6)),
    "tokens": (Tokens, (6,)),
    "general": (General, (4, 6)),
}


def inputs(name: str, seed: int, rows: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = MODELS[name][1]
    if name == "tokens":
        return torch.randint(0, ROWS, (rows, *shape), generator=generator)
    return torch.randn(rows, *shape, generator=generator) * (1 + seed % 3)


def original(name: str, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MODELS[name][0]().eval()


def build(name: str, scheme: str, seed: int, **options: Any) -> rt.CompiledModel:
    """The model with the weights of a seed, calibrated on data of that seed."""
    data = [inputs(name, 10 * seed + i, 16) for i in range(4)] if scheme.endswith("static") else None
    sparsity = rt.Unstructured() if name == "sparse" else None
    options.setdefault("verify", False)  # the tests themselves compare
    return rt.compile(
        original(name, seed), (inputs(name, 0, 2),), scheme_of(scheme), sparsity=sparsity, calibration=data, **options
    )


WEIGHTS_ALONE = ("bfloat16", "w8a16", "w4a16", "float8")
"""Schemes that are for linear layers; a model without them is computed as float32."""


def pairs() -> list[tuple[str, str]]:
    """(model, scheme) for all that differ."""
    linear = ("mlp", "sparse")
    return [
        (m, s)
        for m in MODELS
        for s in SCHEMES
        if m in linear or not (s in WEIGHTS_ALONE or (s == "w4a8" and m not in ("lstm", "gru")))
    ]


@functools.cache
def shared(name: str, scheme: str, seed: int) -> rt.CompiledModel:
    """Made once for a test session. Whoever changes it works on a copy."""
    return build(name, scheme, seed)
