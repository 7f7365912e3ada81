"""Random networks of layers, to be quantized: linear layers with norms and residuals, convolutions, recurrent layers."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.core.scheme import Scheme

Shape = tuple[int, ...]

ACTIVATIONS: tuple[Callable[[], nn.Module], ...] = (
    nn.ReLU, nn.GELU, nn.Tanh, nn.Sigmoid, nn.SiLU, nn.ELU, nn.LeakyReLU, nn.Hardswish, nn.Softplus, nn.Mish, nn.ReLU6,
    nn.Identity,
)  # fmt: skip
WIDTHS = (1, 2, 3, 5, 7, 8, 16, 17, 31, 32, 33, 48, 64, 65, 96, 129)
MAX_RESULTS = 2000


class Residual(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class Hidden(nn.Module):
    """What a recurrent layer gives: of every step, of the last, or the state behind it."""

    def __init__(self, layer: nn.RNNBase, what: int) -> None:
        super().__init__()
        self.layer, self.what = layer, what

    def forward(self, x: Tensor) -> Tensor:
        y, state = self.layer(x)
        if self.what < 2:
            return y if self.what == 0 else y[:, -1]
        return (state[0] if isinstance(state, tuple) else state)[-1]


def linear_layers(draw: random.Random) -> tuple[nn.Module, Shape]:
    widths = [draw.choice(WIDTHS) for _ in range(draw.randint(2, 5))]
    layers: list[nn.Module] = []
    for k, n in pairwise(widths):
        bias = draw.random() < 0.8
        part: list[nn.Module] = [nn.Linear(k, n, bias), draw.choice(ACTIVATIONS)()]
        form = draw.random()
        if form < 0.3:
            layers.append(Residual(nn.Sequential(*part, nn.Linear(n, k), draw.choice(ACTIVATIONS)())))
            part = [nn.Linear(k, n)]
        layers += part + [nn.LayerNorm(n)] * (form > 0.8)
    return nn.Sequential(*layers, *[nn.Softmax(-1)] * (draw.random() < 0.3)), (widths[0],)


def convolutions(draw: random.Random) -> tuple[nn.Module, Shape]:
    rank = draw.choice([1, 1, 2])
    plain, turned = (nn.Conv1d, nn.ConvTranspose1d) if rank == 1 else (nn.Conv2d, nn.ConvTranspose2d)
    norm = nn.BatchNorm1d if rank == 1 else nn.BatchNorm2d
    first = width = draw.choice([1, 2, 3, 4, 6, 8, 16, 33])
    layers: list[nn.Module] = []
    for _ in range(draw.randint(1, 3)):
        groups = draw.choice([g for g in (1, 1, 2, 3, width) if width % g == 0])
        out = groups * draw.choice([1, 2, 3, 5])
        kernel, stride, dilation = draw.choice([1, 2, 3, 4]), draw.choice([1, 1, 2, 3]), draw.choice([1, 1, 2])
        more = {"groups": groups, "dilation": dilation, "bias": draw.random() < 0.8}
        if draw.random() < 0.25:
            layers.append(turned(width, out, kernel, stride, padding=min(draw.choice([0, 1]), kernel - 1), **more))
        else:
            padding = draw.choice([0, 1, 2]) + dilation * (kernel - 1) // 2
            layers.append(plain(width, out, kernel, stride, padding=padding, **more))
        layers += [norm(out)] * (draw.random() < 0.3)
        layers.append(draw.choice(ACTIVATIONS)())
        width = out
    if draw.random() < 0.5:
        layers += [nn.Flatten(), nn.LazyLinear(draw.choice([1, 3, 17]))]
    return nn.Sequential(*layers), (first, *(draw.choice([5, 7, 8, 9]) for _ in range(rank)))


def recurrent_layers(draw: random.Random) -> tuple[nn.Module, Shape]:
    kind: type[nn.RNNBase] = draw.choice([nn.LSTM, nn.GRU, nn.RNN])
    features, hidden, both = draw.choice([1, 3, 4, 8, 17]), draw.choice([1, 3, 8, 16, 20, 33]), draw.random() < 0.3
    bias = draw.random() < 0.8
    layer = kind(features, hidden, draw.choice([1, 2]), batch_first=True, bidirectional=both, bias=bias)
    what = draw.choice([0, 1] if both else [0, 1, 2])
    head = [nn.Linear(hidden * (1 + both), draw.choice([1, 5]))] * (draw.random() < 0.6)
    return nn.Sequential(Hidden(layer, what), *head), (draw.choice([1, 2, 5]), features)


KINDS = (linear_layers, convolutions, recurrent_layers)


def scheme(draw: random.Random) -> Scheme:
    size = draw.choice([16, 32, 64, 128])
    return draw.choice(
        [
            rt.W8A8("static"), rt.W8A8("static", "absmax"), rt.W8A8("dynamic"), rt.W4A8(group_size=size, activation="static"),
            rt.W4A8(group_size=size, activation="dynamic"), rt.W4A16(group_size=size), rt.W8A16(), rt.BFloat16(),
            rt.Float8(), rt.Float32(),
        ]
    )  # fmt: skip


def network(seed: int) -> tuple[nn.Module, Shape, Scheme]:
    """Another one for each seed, with weights of its own and statistics of norms that were not left as they begin."""
    draw = random.Random(seed)
    while True:
        torch.manual_seed(seed)
        model, shape = draw.choice(KINDS)(draw)
        try:
            with torch.no_grad():
                small = 0 < model.eval()(torch.randn(2, *shape)).numel() <= MAX_RESULTS
        except (RuntimeError, ValueError):  # windows larger than what they go over, a norm of nothing
            continue
        if not small:
            continue
        for norm in (m for m in model.modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d))):
            assert norm.running_mean is not None and norm.running_var is not None
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.3, 3)
        return model, shape, scheme(draw)
