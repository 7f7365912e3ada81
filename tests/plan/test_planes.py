"""Images of few channels as planes: which copies go, what stays, and that nothing else changes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.core.registry import operator
from rtaccel.core.stage import Stage, Value
from tests.support.one_stage import compiled_both, operators_of

F = nn.functional


def conv(c: int, n: int, k: int = 3, **options) -> nn.Conv2d:
    return nn.Conv2d(c, n, k, **options)


NETWORKS = {
    "one": (lambda: conv(1, 1, padding=1), (1, 13, 19), ["conv"]),
    "signal": (lambda: nn.Conv1d(8, 1, 9, padding=4), (8, 203), ["conv"]),
    "first": (lambda: conv(3, 16, stride=2, padding=1), (3, 21, 30), ["conv", "rearrange"]),
    "chain": (
        lambda: nn.Sequential(conv(1, 2), nn.ReLU(), nn.MaxPool2d(2), conv(2, 3), nn.Tanh(), nn.AvgPool2d(2, 1)),
        (1, 17, 23), ["conv", "pool", "conv", "pool"],
    ),
    "pool": (lambda: nn.MaxPool2d(3, 1, 1), (1, 12, 17), ["pool"]),
    "pool-many": (lambda: nn.AvgPool2d(2), (19, 12, 17), ["pool"]),
    "pool-signal": (lambda: nn.MaxPool1d(3, 2, 1), (2, 51), ["pool"]),
    "then-rows": (lambda: nn.Sequential(conv(1, 1), conv(1, 24), nn.ReLU(), conv(24, 20)), (1, 12, 14),
                  ["conv", "conv", "conv", "rearrange"]),
    "pool-of-rows": (lambda: nn.Sequential(conv(3, 20), nn.MaxPool2d(2), conv(20, 4)), (3, 16, 14), ["conv", "pool", "conv"]),
    "volume": (lambda: nn.Conv3d(1, 1, (2, 3, 3)), (1, 4, 9, 12), None),
    "separable": (lambda: nn.Sequential(conv(3, 3, padding=1, groups=3), conv(3, 8, 1)), (3, 9, 11), None),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_copies_go(name: str) -> None:
    make, shape, operators = NETWORKS[name]
    model = nn.Sequential(make()).eval()
    native, plain, found = compiled_both(model, (torch.randn(2, *shape),))
    assert operators is None or found == operators
    for rows in (1, 2, 5):
        x = torch.randn(rows, *shape)
        want = model.double()(x.double()).float()
        model.float()
        for fast in (native, plain):
            torch.testing.assert_close(fast(x), want, rtol=2e-5, atol=3e-6)


@pytest.mark.parametrize("name", [n for n in NETWORKS if n != "volume"])
def test_int8_is_the_same_to_the_bit(name: str) -> None:
    make, shape, _ = NETWORKS[name]
    model = nn.Sequential(make()).eval()
    data = [torch.randn(2, *shape) for _ in range(4)]
    native, plain = (
        rt.compile(model, data[0], "w8a8", calibration=data, backend=b, verify=False) for b in ("cpu", "portable")
    )
    for rows in (1, 3):
        x = torch.randn(rows, *shape)
        assert torch.equal(native(x), plain(x)) or name in ("chain", "pool", "pool-many", "pool-signal")
        torch.testing.assert_close(native(x), plain(x), rtol=0, atol=0.05)


class Shared(nn.Module):
    """Values that something else reads, too."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.a, self.b = kind, conv(1, 2, padding=1), conv(2, 2, padding=1)

    def forward(self, x: Tensor):
        y = self.a(x).relu()
        if self.kind == "sum":
            return y + self.b(y)
        if self.kind == "returned":
            return self.b(y), y
        if self.kind == "joined":
            return torch.cat([y, F.max_pool2d(y, 3, 1, 1)], 1)
        if self.kind == "rows":
            return self.b(y), y.permute(0, 2, 3, 1) * 2
        return F.max_pool2d(y, 2), F.avg_pool2d(y, 3, 2, 1), y.mean((2, 3))


@pytest.mark.parametrize("kind", ["sum", "returned", "joined", "rows", "pooled"])
def test_other_readers(kind: str) -> None:
    model = Shared(kind).eval()
    x = torch.randn(3, 1, 9, 21)
    fast, want = rt.compile(model, x, verify=False), model(x)
    got = fast(x)
    for a, b in zip((got,) if isinstance(got, Tensor) else got, (want,) if isinstance(want, Tensor) else want):
        torch.testing.assert_close(a, b, rtol=2e-5, atol=3e-6)


def test_new_weights() -> None:
    """Weights are exchanged in a plan over planes, between two calls."""
    model = nn.Sequential(nn.Conv1d(1, 1, 5), nn.ReLU(), nn.Conv1d(1, 2, 3)).eval()
    x = torch.randn(1, 1, 40)
    fast = rt.compile(model, x)
    assert operators_of(fast) == ["conv", "conv"]
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(-0.5).add_(0.1)
    fast.swap(rt.compile(model, x))
    torch.testing.assert_close(fast(x), model(x), rtol=2e-5, atol=3e-6)


class Call(nn.Module):
    def __init__(self, call) -> None:
        super().__init__()
        self.call = call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(x)


COPIES = {
    "joined": (lambda x: torch.cat([x, x.flip(-1)], 1), (1, 7, 9), ["assemble"]),
    "joined-rows": (lambda x: torch.cat([x, x[:, :, 2:5]], 2).transpose(1, 2) + 0, (3, 7, 9), None),
    "windows": (lambda x: F.unfold(x, 3, padding=1), (4, 6, 5), ["assemble", "rearrange"]),
    "reflected": (lambda x: F.pad(x, (3, 1, 2, 2), mode="reflect"), (3, 9, 17), ["rearrange"]),
    "turned": (lambda x: x.permute(0, 2, 3, 1) * 2, (3, 8, 9), ["pointwise", "rearrange"]),
    "turned-back": (lambda x: x.permute(0, 3, 1, 2) * 2, (8, 9, 3), ["pointwise", "rearrange"]),
    "by-channel": (lambda x: x.permute(0, 3, 1, 2) * torch.tensor([2.0, 3.0, 5.0]).view(3, 1, 1), (8, 9, 3), None),
    "positions": (lambda x: F.linear(x.flatten(2).transpose(1, 2), torch.ones(2, 3)).transpose(1, 2), (3, 7, 9), None),
}  # fmt: skip


@pytest.mark.parametrize("name", COPIES)
def test_chains_of_copies(name: str) -> None:
    call, shape, operators = COPIES[name]
    native, plain, found = compiled_both(Call(call), (torch.randn(2, *shape),))
    assert operators is None or found == operators
    x = torch.randn(3, *shape)
    for fast in (native, plain):
        torch.testing.assert_close(fast(x), call(x), rtol=1e-6, atol=1e-6)


def stage(**attrs) -> Stage:
    sizes = {"in_size": (5, 6), "kernel": (3, 3), "out_size": (3, 4)}
    weight = {"weight": torch.randn(2, 1, 3, 3), "bias": torch.randn(2)}
    return Stage(
        "conv", "case", (Value("x", 30),), (Value("y", 24),), weight, {**sizes, "x_planes": 1, "y_planes": 1, **attrs}
    )


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (replace(stage(), inputs=(Value("x", 29),)), r"x\[1, 29\]; expected 1 planes of 5 x 6"),
        (replace(stage(), outputs=(Value("y", 12),)), r"y\[1, 12\]; expected 2 planes of 3 x 4"),
        (replace(stage(), inputs=(Value("x", 30), Value("other", 12))), r"other\[1, 12\]; expected 2 planes of 3 x 4"),
        (stage(out_steps=(0, 3)), "planes of a part of an image"),
    ],
)
def test_what_is_refused(wrong: Stage, words: str) -> None:
    with pytest.raises(rt.ShapeError, match=words):
        operator("conv").lower(wrong)
