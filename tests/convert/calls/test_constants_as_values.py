"""Constants where operators read activations, and numbers that a model reads of constants or computes by gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import rtaccel as rt
from rtaccel.core.errors import ShapeError


class Queries(nn.Module):
    """Learned queries, the same for every sample."""

    def __init__(self) -> None:
        super().__init__()
        self.queries, self.out = nn.Parameter(torch.randn(1, 2, 3, 8)), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        keys = x.reshape(x.shape[0], -1, 2, 8).transpose(1, 2)
        y = F.scaled_dot_product_attention(self.queries.expand(x.shape[0], -1, -1, -1), keys, keys)
        return self.out(y.transpose(1, 2).flatten(2))


class State(nn.Module):
    """A learned first state of cells that several objects of a sample have."""

    def __init__(self) -> None:
        super().__init__()
        self.slots, self.cell = nn.Parameter(torch.randn(1, 4, 6)), nn.GRUCell(5, 6)

    def forward(self, x: Tensor) -> Tensor:
        state = self.slots.expand(x.shape[0], -1, -1).reshape(-1, 6)
        return self.cell(x.reshape(-1, 5), state).reshape(x.shape[0], 4, 6)


class Bias(nn.Module):
    """A bias of attention that is repeated for the heads of all samples, as bloom has it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("slopes", torch.randn(3, 1, 5))

    def forward(self, x: Tensor) -> Tensor:
        heads = x.reshape(-1, 5, 5)
        return torch.baddbmm(self.slopes.repeat(x.shape[0], 1, 1), heads, heads, alpha=0.3).reshape(x.shape)


@pytest.mark.parametrize(
    ("model", "shape"), [(Queries(), (6, 16)), (State(), (4, 5)), (Bias(), (3, 5, 5))], ids=["queries", "state", "bias"]
)
def test_native_for_any_batch(model: nn.Module, shape: tuple[int, ...]) -> None:
    model.eval()
    fast = rt.compile(model, torch.randn(2, *shape), strict=True)
    for rows in (1, 2, 5):
        x = torch.randn(rows, *shape)
        torch.testing.assert_close(fast(x), model(x), rtol=1e-5, atol=1e-5)


class Bins(nn.Module):
    """Reads numbers of a tensor that it makes itself: torch.export keeps a question for each, asked at every call."""

    def forward(self, x: Tensor) -> Tensor:
        edges = torch.arange(-1, 1, 0.5).tolist()
        return torch.stack([((x >= e) & (x < e + 0.5)).float().mean(1) for e in edges], 1)


def test_numbers_of_constants_are_numbers() -> None:
    model = Bins().eval()
    x = torch.randn(1, 40)
    torch.testing.assert_close(rt.compile(model, x, strict=True)(x), model(x))


class Energy(nn.Module):
    """The motion that an energy gives: its gradient, by one way or the other."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.net = way, nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))

    def forward(self, x: Tensor) -> Tensor:
        if self.way == "autograd":
            with torch.enable_grad():
                x = x.detach().requires_grad_(True)
                gradient = torch.autograd.grad(self.net(x).sum(), x)[0]
        elif self.way == "grad":
            gradient = torch.func.grad(lambda z: self.net(z).sum())(x)
        else:
            gradient = torch.func.vmap(torch.func.jacrev(self.net))(x)[:, 0]
        q, p = gradient.chunk(2, -1)
        return torch.cat([p, -q], -1)


@pytest.mark.parametrize("way", ["autograd", "grad", "jacrev"])
def test_gradients_in_forward(way: str) -> None:
    model = Energy(way).eval()
    fast = rt.compile(model, torch.randn(1, 4), strict=True)
    for _ in range(3):
        x = torch.randn(1, 4)
        torch.testing.assert_close(fast(x), model(x).detach(), rtol=1e-5, atol=1e-6)


class Camera(nn.Module):
    """Bytes as a camera gives them, channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.table = nn.Conv2d(3, 4, 3, 2), nn.Embedding(256, 2)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x = image.permute(0, 3, 1, 2).float().div(255).sub(0.5)
        marks = self.table(image[:, 0, :, 0].long())
        return self.conv(x).relu().mean((2, 3)), (image > 128).float().mean((1, 2)), image / 2, marks


def test_images_of_bytes() -> None:
    model = Camera().eval()
    fast = rt.compile(model, torch.randint(0, 256, (1, 9, 7, 3), dtype=torch.uint8), strict=True)
    for rows in (1, 3):
        image = torch.randint(0, 256, (rows, 9, 7, 3), dtype=torch.uint8)
        for got, want in zip(fast(image), model(image)):
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    with pytest.raises(ShapeError, match="uint8"):
        fast(torch.randn(1, 9, 7, 3))


class Step(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return self.layer(x * torch.exp(-t)), t + 0.1


def test_a_number_of_time_as_an_input() -> None:
    model = Step().eval()
    fast = rt.compile(model, (torch.randn(1, 6), torch.tensor(0.3)), strict=True)
    for t in (0.0, 1.5):
        x, time = torch.randn(1, 6), torch.tensor(t)
        for got, want in zip(fast(x, time), model(x, time)):
            assert got.shape == want.shape
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


def test_texts_among_results_are_not_names_of_values() -> None:
    class Named(nn.Module):
        def forward(self, x: Tensor) -> tuple[object, ...]:
            return torch.relu(x), "relu", "x", None, {"linear": "text"}

    x = torch.randn(3, 4)
    for verify in (True, False):
        fast = rt.compile(Named().eval(), (x,), verify=verify)
        got = fast(x)
        assert got[1:] == ("relu", "x", None, {"linear": "text"})
        torch.testing.assert_close(got[0], torch.relu(x))
