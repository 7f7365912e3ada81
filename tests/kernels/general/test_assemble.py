"""Assemble beyond conformance: the calls of torch that move elements, through compiled models, to the bit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.core.errors import ShapeError
from rtaccel.core.stage import Stage, Value
from rtaccel.kernels.assemble import contract
from tests.support.networks.call import Call

CALLS: dict[str, Callable[[Tensor], Tensor]] = {
    "cat channels": lambda x: torch.cat([x, x[:, :2] * 2, x], 1),
    "cat height": lambda x: torch.cat([x, x[:, :, 1:]], 2),
    "cat turned": lambda x: torch.cat([x.transpose(2, 3), x.transpose(2, 3)], 3),
    "stack": lambda x: torch.stack([x, -x, x + 1], 2),
    "pad": lambda x: F.pad(x, (1, 2, 0, 3), value=-1.5),
    "pad channels": lambda x: F.pad(x, (0, 0, 0, 0, 1, 2)),
    "pad reflect": lambda x: F.pad(x, (2, 1, 1, 1), mode="reflect"),
    "crop": lambda x: F.pad(x, (-1, -2, 1, -1)),
    "flip": lambda x: x.flip(2).flip(1) + 0.0,
    "roll": lambda x: torch.roll(x, (2, -1), (2, 3)),
    "repeat": lambda x: x.repeat(1, 2, 1, 3),
    "interleave": lambda x: x.repeat_interleave(2, dim=2),
    "shuffle": lambda x: F.pixel_shuffle(x, 2),
    "unshuffle": lambda x: F.pixel_unshuffle(x[:, :, :4, :6], 2),
    "channel shuffle": lambda x: F.channel_shuffle(x, 2),
    "nearest": lambda x: F.interpolate(x, scale_factor=2, mode="nearest"),
    "nearest size": lambda x: F.interpolate(x, size=(7, 11), mode="nearest"),
    "index": lambda x: x[:, :, torch.tensor([3, 0, 3]), :],
    "index select": lambda x: x.index_select(1, torch.tensor([2, 2, 0])),
    "windows": lambda x: x.unfold(3, 3, 2) * 1.0,
    "diagonal": lambda x: x.diagonal(dim1=2, dim2=3) * 1.0,
    "split": lambda x: torch.cat(x.split([1, 3], 1)[::-1], 1),
    "chunk": lambda x: torch.cat([c * 2 for c in x.chunk(2, 3)], 2),
    "narrow": lambda x: x.narrow(2, 1, 3).permute(0, 3, 1, 2).contiguous() * 1.0,
}


@pytest.mark.parametrize("name", CALLS)
def test_equals_torch_to_the_bit(name: str) -> None:
    model = Call(CALLS[name]).eval()
    fast = rt.compile(model, torch.randn(2, 4, 5, 6), strict=True)
    for rows in (1, 2, 3):
        x = torch.randn(rows, 4, 5, 6)
        torch.testing.assert_close(fast(x), model(x), rtol=0, atol=0)


@pytest.mark.parametrize("name", CALLS)
def test_between_convolutions(name: str) -> None:
    """The values lie channels last there."""

    class Between(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(CALLS[name](self.conv(x)))

    torch.manual_seed(1)
    model = Between().eval()
    fast = rt.compile(model, torch.randn(2, 3, 5, 6), strict=True)
    x = torch.randn(3, 3, 5, 6)
    with torch.no_grad():
        torch.testing.assert_close(fast(x), model(x))


def test_a_learned_token_in_front() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Parameter(torch.randn(1, 1, 8))

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)

    model = Tokens().eval()
    fast = rt.compile(model, torch.randn(2, 5, 8), strict=True)
    x = torch.randn(4, 5, 8)
    with torch.no_grad():
        torch.testing.assert_close(fast(x), model(x), rtol=0, atol=0)


@pytest.mark.parametrize(
    "part", [((2, 4), (0, 4, 1), (1, 4, 1)), ((2, 4), (0, 4, 2), (0, 4, 1)), ((2,), (0, 4, 1), (0, 1))]
)
def test_a_part_outside(part: tuple[tuple[int, ...], ...]) -> None:
    stage = Stage("assemble", "case", (Value("x", 4, steps=2),), (Value("y", 4, steps=2),), {}, {"parts": (part,)})
    with pytest.raises(ShapeError):
        contract.lower(stage)


READERS: dict[str, Callable[[int], Callable[[Tensor], Tensor]]] = {
    "itself": lambda n: lambda y: y,
    "sum": lambda n: lambda y: (y * y.flip(-1)).sum(-1),
    "softmax": lambda n: lambda y: y.softmax(-1),
    "norm": lambda n: nn.LayerNorm(n, eps=0.1),
    "linear": lambda n: nn.Linear(n, 5),
    "product": lambda n: lambda y: y @ y.transpose(-1, -2)[..., :3],
    "convolution": lambda n: nn.Sequential(_ChannelsFirst(), nn.Conv2d(n, 4, 3, padding=1)),
    "pooling": lambda n: nn.Sequential(_ChannelsFirst(), nn.MaxPool2d(2)),
    "turned": lambda n: lambda y: y.permute(0, 3, 2, 1).contiguous() + 1.0,
    "joined": lambda n: lambda y: torch.cat([y, y * 2.0], -1),
}


class _ChannelsFirst(nn.Module):
    def forward(self, y: Tensor) -> Tensor:
        return y.permute(0, 3, 1, 2)


class _Narrow(nn.Module):
    def __init__(self, count: int, reader: str) -> None:
        super().__init__()
        made = READERS[reader](count)
        self.count, self.layer, self.read = count, made if isinstance(made, nn.Module) else nn.Identity(), made

    def forward(self, x: Tensor) -> Tensor:
        y = torch.stack([torch.tanh(x + i) for i in range(self.count)], -1)
        return self.layer(y) if isinstance(self.read, nn.Module) else self.read(y)


@pytest.mark.parametrize("scheme", ["float32", "w8a8"])
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("count", [3, 4])
def test_rows_of_few_numbers_are_read_by_any_operator(count: int, reader: str, scheme: str) -> None:
    torch.manual_seed(count)
    model, x = _Narrow(count, reader).eval(), torch.randn(2, 96, 90)
    fast = rt.compile(model, (x,), scheme, strict=True)
    tolerance = 1e-5 if scheme == "float32" else 0.05
    with torch.no_grad():
        for own in (x, torch.randn(1, 96, 90)):
            torch.testing.assert_close(fast(own), model(own), rtol=tolerance, atol=tolerance)
