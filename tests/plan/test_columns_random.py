"""Parts of the columns of a value, which plans see where they lie: random networks whose layers are split."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt

F = nn.functional
WIDTHS = (1, 3, 8, 15, 16, 17, 32, 48, 64, 70)


class Reader(nn.Module):
    """One operator over [N, T, width]; `other` is the part before, of any width."""

    KINDS = (
        "linear",
        "norm",
        "softmax",
        "relu",
        "conv",
        "lstm",
        "product",
        "cumsum",
        "mean",
        "flip",
        "sorted",
        "sum",
        "split",
        "same",
    )

    def __init__(self, rng: random.Random, width: int) -> None:
        super().__init__()
        self.kind, self.width = rng.choice(self.KINDS), width
        self.layer: nn.Module = {
            "linear": lambda: nn.Linear(width, 12),
            "norm": lambda: nn.LayerNorm(width),
            "conv": lambda: nn.Conv1d(width, 9, 3, padding=1),
            "lstm": lambda: nn.LSTM(width, 8, batch_first=True),
        }.get(self.kind, nn.Identity)()

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        kind = self.kind
        if kind in ("linear", "norm"):
            return self.layer(x)
        if kind == "conv":
            return self.layer(x.transpose(1, 2)).transpose(1, 2)
        if kind == "lstm":
            return self.layer(x)[0]
        if kind == "product":
            return (x @ x.transpose(1, 2)).softmax(-1) @ x
        if kind == "sum":
            return x * other.mean(-1, keepdim=True) + (other if other.shape == x.shape else 0)
        if kind == "split":
            half = x.shape[-1] // 2
            return torch.sigmoid(x[..., :half]) * x[..., half : 2 * half] if half else x
        return {
            "softmax": lambda: x.softmax(-1),
            "relu": lambda: x.relu(),
            "cumsum": lambda: x.cumsum(1),
            "mean": lambda: x.mean(1, keepdim=True).expand_as(x) - x,
            "flip": lambda: x.flip(1),
            "sorted": lambda: x.sort(-1).values,
            "same": lambda: x,
        }[kind]()


class Network(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        rng = random.Random(seed)
        torch.manual_seed(seed)
        self.widths = [rng.choice(WIDTHS) for _ in range(rng.randint(2, 4))]
        self.steps = rng.choice((1, 2, 5, 9))
        total = sum(self.widths)
        self.first = nn.Linear(10, total)
        self.act = rng.choice((nn.Identity(), nn.ReLU(), nn.GELU(), nn.LayerNorm(total)))
        self.readers = nn.ModuleList(Reader(rng, width) for width in self.widths)
        self.whole = rng.random() < 0.3
        self.returns = rng.randrange(len(self.widths)) if rng.random() < 0.3 else -1

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        y = self.act(self.first(x))
        parts = list(y.split(self.widths, -1))
        made = [reader(part, parts[i - 1]) for i, (reader, part) in enumerate(zip(self.readers, parts))]
        result = torch.cat([*made, y] if self.whole else made, -1)
        return (result, parts[self.returns]) if self.returns >= 0 else result


@pytest.mark.parametrize("seed", range(80))
def test_equals_torch(seed: int) -> None:
    model = Network(seed).eval()
    data = [torch.randn(2, model.steps, 10) for _ in range(3)]
    fast = rt.compile(model, data[0], verify=False)
    int8 = rt.compile(model, data[0], "w8a8", calibration=data, verify=False)
    plain = rt.compile(model, data[0], "w8a8", calibration=data, backend="portable", verify=False)
    for rows in (1, 2, 5):
        x = torch.randn(rows, model.steps, 10)
        for found, want, tolerance in ((fast(x), model(x), 1e-5), (int8(x), plain(x), 0.05)):
            for a, b in zip(_all(found), _all(want), strict=True):
                torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * (1 + b.detach().abs().max().item()))


def _all(found: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return found if isinstance(found, tuple) else (found,)


class Halves(nn.Module):
    def __init__(self, first: int, second: int) -> None:
        super().__init__()
        self.widths, self.layer = (first, second), nn.Linear(8, first + second)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in self.widths)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.layer(x).split(self.widths, -1)
        return self.norms[0](parts[0]).mean(-1) + self.norms[1](parts[1]).mean(-1)


def test_columns_are_not_copied() -> None:
    """Of a layer that is split, a part from a cache line on is read where it was written."""
    for widths, seen in (((64, 48), 2), ((60, 52), 1), ((63, 17), 1)):
        model, x = Halves(*widths).eval(), torch.randn(3, 5, 8)
        fast = rt.compile(model, x)
        torch.testing.assert_close(fast(x), model(x), rtol=1e-5, atol=1e-5)
        assert sum(line.kernel == "in place" for line in fast.explain_lines()) == seen
