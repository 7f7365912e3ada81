"""Small networks that TorchScript takes, with the shape of a sample as `shape`."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


class Convolved(nn.Module):
    shape = (3, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.depthwise, self.act = nn.Conv2d(8, 8, 3, groups=8), nn.Hardswish()
        self.bound, self.head = nn.ReLU6(), nn.Linear(8, 4)
        self.gate = nn.Sequential(nn.Conv2d(8, 8, 1), nn.Hardsigmoid())

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv(x)))
        x = self.bound(x + self.act(self.conv(x[:, :3])))
        x = self.gate(x.mean((2, 3), keepdim=True)) * x
        return self.head(self.act(self.depthwise(x)).mean((2, 3)))


class Part(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x)))


class Listener(nn.Module):
    shape = (5, 4)

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.part = nn.GRU(4, 6, batch_first=True), Part()

    @torch.jit.export
    def twice(self, x: Tensor, by: float = 2.0) -> Tensor:
        return x * by

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.gru(x)
        return self.part(y[:, -1])


class Encoder(nn.Module):
    shape = (5, 8)

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu")
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.encoder(x)
        return self.attention(x, x, x, need_weights=False)[0]


class Sized(nn.Module):
    """Computes with sizes, the batch among them."""

    shape = (4, 6)

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.size(0) * x.size(1)
        y = self.lin(x.reshape(rows, -1)).view(x.size(0), x.size(1) // 2, 2 * x.size(2))
        zeros = torch.zeros(x.size(0), x.size(1) - 2, 12)
        return y + zeros + torch.arange(y.size(2)) / x.size(1)


class Resized(nn.Module):
    """Sizes that are scaled by real numbers."""

    shape = (2, 6, 6)

    def forward(self, x: Tensor) -> Tensor:
        half = functional.interpolate(x, size=(x.size(2) // 2, int(x.size(3) * 0.5)), mode="nearest")
        return (
            functional.interpolate(half, scale_factor=2.0, mode="nearest")
            + x.view(x.size(0), -1).mean(1)[:, None, None, None]
        )


class Padded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 4)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        return self.layer(x[:, : int(lengths.max())])


class Decides(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        if bool(y.sum() > 0):
            y = y * 2
        return y


class Nest(NamedTuple):
    result: Tensor
    more: dict[str, Tensor]


class Nested(nn.Module):
    """Optional and nested arguments, and results of every nesting."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 4, batch_first=True)

    def forward(
        self,
        x: Tensor,
        state: tuple[Tensor, Tensor] | None = None,
        more: dict[str, Tensor] | None = None,
        times: int = 2,
    ) -> tuple[Nest, list[Tensor], tuple[Tensor, Tensor]]:
        y, last = self.lstm(x, state)
        if more is not None:
            y = y + more["y"]
        return Nest(y * times, {"half": y / 2}), [y + 1, y - 1], last


class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 5, batch_first=True)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        y, h = self.gru(packed)
        return pad_packed_sequence(y, batch_first=True, total_length=x.size(1))[0], h


class Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * 2


class Applies(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return Twice.apply(self.layer(x))


class Ignores(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    @torch.jit.ignore
    def left(self, x: Tensor) -> Tensor:
        return x * 2

    @torch.jit.unused
    def never(self, x: Tensor) -> Tensor:
        return x / 0

    def forward(self, x: Tensor) -> Tensor:
        if x.size(1) > 100:
            x = self.never(x)
        return self.left(self.layer(x))


class Draws(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + torch.randn(x.size(0), 4) + torch.rand_like(x)
