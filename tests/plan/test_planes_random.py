"""Random networks over signals and images of few channels: values that several operators read, in float32 and in W8A8."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt

F = nn.functional


class Step(nn.Module):
    """One operator over [N, C, L] or [N, C, H, W] and, for some, a value from before."""

    def __init__(self, rng: random.Random, shape: tuple[int, ...]) -> None:
        super().__init__()
        flat, channels = len(shape) == 2, shape[0]
        wide = rng.choice((1, 1, 2, 3, 5, 8, 9, 17))
        conv, self.kernel = (nn.Conv1d if flat else nn.Conv2d), rng.choice((1, 2, 3, 5))
        upright = (self.kernel, 1) if not flat and rng.random() < 0.3 else self.kernel
        self.kind = rng.choice(
            ("conv", "conv", "conv", "max", "avg", "adaptive_max", "adaptive_avg", "relu", "scale", "turn", "flip",
             "pad", "sum", "difference", "join", "depthwise", "residual", "residual", "leaky", "product", "gate", "grouped")
        )  # fmt: skip
        self.layer = conv(channels, wide, upright, stride=rng.choice((1, 1, 2)), padding=rng.choice((0, 1)))
        if self.kind == "depthwise":
            self.layer = conv(channels, channels * rng.choice((1, 2)), 3, padding=1, groups=channels)
        if self.kind == "grouped":
            wide = rng.choice([w for w in (1, 2, 4, 8) if channels % w == 0])
            self.layer = conv(channels, channels, 3, padding=1, groups=channels // wide)
        if self.kind == "residual":
            self.layer = conv(channels, channels, 3, padding=1)
        self.output = rng.randint(1, 3)
        self.factor = nn.Parameter(torch.randn(channels, *(1 for _ in shape[1:])))

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        flat, ends = x.dim() == 3, min(x.shape[2:])
        if self.kind in ("conv", "depthwise", "grouped"):
            return self.layer(x) if ends >= self.kernel else x * 2
        if self.kind in ("max", "avg"):
            pool = {"max": (F.max_pool2d, F.max_pool1d), "avg": (F.avg_pool2d, F.avg_pool1d)}[self.kind][flat]
            return pool(x, min(self.kernel, ends), 1 + (self.output == 3), min(self.kernel, ends) // 2)
        if self.kind.startswith("adaptive"):
            names = {"adaptive_max": "adaptive_max_pool", "adaptive_avg": "adaptive_avg_pool"}
            return getattr(F, f"{names[self.kind]}{1 if flat else 2}d")(x, self.output)
        if self.kind == "residual":
            y = self.layer(x) + before if before.shape == x.shape else self.layer(x) + x
            return y.relu() if self.output == 1 else y
        if self.kind == "leaky":
            return F.leaky_relu(x, 0.1)
        if self.kind in ("product", "gate") and before.shape == x.shape:
            return x * before if self.kind == "product" else torch.sigmoid(x) * before + x
        if self.kind == "turn":
            return x.transpose(-1, -2) * 1.5
        if self.kind == "flip":
            return x.flip(-1)
        if self.kind == "pad":
            return F.pad(x, (1, 1) if flat else (1, 1, 0, 1), mode="replicate")
        if self.kind in ("sum", "difference") and before.shape == x.shape:
            return x + before if self.kind == "sum" else x - before
        if self.kind == "join" and before.shape[2:] == x.shape[2:]:
            return torch.cat([x, before], 1)
        return x.relu() if self.kind == "relu" else x * self.factor


class Network(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        rng = random.Random(seed)
        torch.manual_seed(seed)
        channels = rng.choice((1, 1, 1, 2, 3, 4, 7, 8))
        signal = rng.random() < 0.5
        self.shape = (channels, rng.randint(20, 90)) if signal else (channels, rng.randint(7, 15), rng.randint(7, 20))
        self.steps = nn.ModuleList()
        self.reads: list[int] = []
        values = [torch.zeros(1, *self.shape)]
        for _ in range(rng.randint(2, 7)):
            step, other = Step(rng, tuple(values[-1].shape[1:])), rng.randrange(len(values))
            self.steps.append(step)
            self.reads.append(other)
            values.append(step(values[-1], values[other]))
        self.returned = rng.randrange(len(values)) if rng.random() < 0.3 else 0

    def forward(self, x: Tensor):
        values = [x]
        for step, other in zip(self.steps, self.reads):
            values.append(step(values[-1], values[other]))
        return (values[-1], values[self.returned]) if self.returned else values[-1]


@pytest.mark.parametrize("seed", range(240))
def test_equals_torch(seed: int) -> None:
    model = Network(seed).eval()
    data = [torch.randn(2, *model.shape) for _ in range(3)]
    fast = rt.compile(model, data[0], verify=False)
    int8 = rt.compile(model, data[0], "w8a8", calibration=data, verify=False)
    plain = rt.compile(model, data[0], "w8a8", calibration=data, backend="portable", verify=False)
    for rows in (1, 3):
        x = torch.randn(rows, *model.shape)
        wanted = model.double()(x.double())
        model.float()
        for found, exact, reference in zip(
            *(y if isinstance(y, tuple) else (y,) for y in (fast(x), int8(x), plain(x)))
        ):
            want = wanted[0] if isinstance(wanted, tuple) else wanted
            wanted = wanted[1:] if isinstance(wanted, tuple) else wanted
            scale = max(want.detach().abs().max().item(), 1e-3)
            torch.testing.assert_close(found, want.float(), rtol=2e-5, atol=1e-5 * scale)
            torch.testing.assert_close(
                exact, reference, rtol=1e-4, atol=0.04 * scale
            )  # a rounded half may go either way


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("columns", [1, 2, 3, 4, 5, 8])
def test_a_layer_over_positions_before_one_over_channels(channels: int, columns: int) -> None:
    """The copy between them turns planes into rows, and rows into planes where both are as many."""
    model = nn.Sequential(nn.Linear(9, columns), nn.Conv1d(channels, 6, 3, padding=1), nn.Linear(columns, 3)).eval()
    x = torch.randn(3, channels, 9)
    torch.testing.assert_close(rt.compile(model, x, verify=False)(x), model(x), rtol=1e-5, atol=1e-5)
