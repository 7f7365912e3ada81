"""Products, squares and magnitudes of computed tensors: gates compile, and what has no kernel falls back to PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rtaccel as rt

WIDTHS = (1, 17, 131)


class Two(nn.Module):
    """f(x, y) of two inputs."""

    def __init__(self, f: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.f = f

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.f(x, y)


class Between(nn.Module):
    """f of what two linear layers make of x, read by a third."""

    def __init__(self, width: int, f: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(19, width), nn.Linear(19, width), nn.Linear(width, 5)
        self.f = f

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.f(self.a(x), self.b(x)))


class Glu(nn.Module):
    """One product makes values and gates, side by side."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.both, self.out = nn.Linear(19, 2 * width), nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.both(x).chunk(2, -1)
        return self.out(value * gate.sigmoid())


class FunctionalGlu(Glu):
    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.glu(self.both(x), -1))


TAKEN: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "product": lambda x, y: x * y,
    "gate": lambda x, y: x * torch.sigmoid(y),
    "gate first": lambda x, y: torch.tanh(y) * x,
    "swiglu": lambda x, y: F.silu(x) * y,
    "activated product": lambda x, y: F.relu(x * y),
    "gate and residual": lambda x, y: x * torch.sigmoid(y) + x,
    "scaled product": lambda x, y: (2 * x + 1) * y * 0.5,
    "square": lambda x, y: x**2 + y,
    "square by product": lambda x, y: x * x + y,
    "hypot": torch.hypot,
    "magnitude": lambda x, y: torch.sqrt(x**2 + y**2),
    "magnitude by products": lambda x, y: (x * x + y * y).sqrt(),
    "magnitude and square": lambda x, y: torch.sqrt(x * x + y * y) + x * x,
    "product of squares": lambda x, y: x**2 * y**2,
}
GENERAL: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cube": lambda x, y: x**3 + y,
    "inverse": lambda x, y: (x.abs() + 1) ** -2 + y,
    "power": lambda x, y: x.abs() ** y,
    "root": lambda x, y: torch.sqrt(x.abs()) + y,
    "root of a sum": lambda x, y: torch.sqrt(x * x + y.abs()),
    "root of a product": lambda x, y: torch.sqrt(x * x * (y * y)),
    "root of a weighted sum": lambda x, y: torch.sqrt(torch.add(x * x, y * y, alpha=3)),
    "root of a shifted square": lambda x, y: torch.sqrt(x * x + 1) + y,
    "quotient": lambda x, y: x / (y.abs() + 1),
    "broadcast": lambda x, y: x * y[..., :1],
}


def operators(fast: nn.Module) -> list[str]:
    return [line.what.split("(")[0] for line in fast.explain_lines(measure=False) if line.kernel != "torch"]


def left(fast: nn.Module) -> list[str]:
    return [line.name for line in fast.explain_lines(measure=False) if line.kernel == "torch"]


def close(got: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(got, want, rtol=5e-7, atol=1e-6)  # a few roundings of float32


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("f", TAKEN.values(), ids=TAKEN)
def test_of_two_inputs(f: Callable[[Tensor, Tensor], Tensor], width: int) -> None:
    model = Two(f).eval()
    fast = rt.compile(model, (torch.randn(3, width), torch.randn(3, width)))
    assert not left(fast)
    assert fast._direct is not None  # one native call
    for rows in (3, 1, 40, 0):
        x, y = torch.randn(rows, width) * 3, torch.randn(rows, width) * 3
        close(fast(x, y), model(x, y))


@pytest.mark.parametrize("shape", [(1, 3, 4, 5), (17,)], ids=str)
@pytest.mark.parametrize("f", TAKEN.values(), ids=TAKEN)
def test_of_tensors_of_any_rank(f: Callable[[Tensor, Tensor], Tensor], shape: tuple[int, ...]) -> None:
    model = Two(f).eval()
    x, y = torch.randn(shape), torch.randn(shape)
    fast = rt.compile(model, (x, y))
    assert not left(fast)
    close(fast(x, y), model(x, y))


@pytest.mark.parametrize("f", TAKEN.values(), ids=TAKEN)
def test_between_layers(f: Callable[[Tensor, Tensor], Tensor]) -> None:
    width = 33
    torch.manual_seed(width)
    model = Between(width, f).eval()
    fast = rt.compile(model, (torch.randn(1, 19),))
    assert not left(fast)
    for rows in (1, 3, 40):
        x = torch.randn(rows, 19)
        torch.testing.assert_close(fast(x), model(x).detach(), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("scheme", [rt.W8A8("static"), rt.W8A8("dynamic")], ids=["static", "dynamic"])
@pytest.mark.parametrize("f", TAKEN.values(), ids=TAKEN)
def test_int8_between_layers(f: Callable[[Tensor, Tensor], Tensor], scheme: rt.W8A8) -> None:
    torch.manual_seed(0)
    model = Between(17, f).eval()
    calibration = [torch.randn(256, 19)] if scheme.activation == "static" else None
    fast = rt.compile(model, (torch.randn(1, 19),), scheme, calibration=calibration)
    assert not left(fast)
    x = torch.randn(64, 19)
    want = model(x).detach()
    assert (fast(x) - want).square().mean().sqrt() < 0.1 * want.std(0).mean()


@pytest.mark.parametrize("module", [Glu, FunctionalGlu])
@pytest.mark.parametrize("width", WIDTHS)
def test_gated_linear_unit(module: type[Glu], width: int) -> None:
    torch.manual_seed(width)
    model = module(width).eval()
    x = torch.randn(40, 19)
    want = model(x).detach()
    fast = rt.compile(model, (x[:1],))
    torch.testing.assert_close(fast(x), want, rtol=2e-5, atol=2e-5)
    int8 = rt.compile(model, (x[:1],), "w8a8", calibration=[torch.randn(256, 19)])
    assert (int8(x) - want).square().mean().sqrt() < 0.1 * want.std(0).mean()
    if module is Glu:
        assert not left(fast) and not left(int8)


def test_the_squares_of_a_magnitude_go_away() -> None:
    fast = rt.compile(Two(TAKEN["magnitude"]).eval(), (torch.randn(2, 9), torch.randn(2, 9)))
    assert operators(fast) == ["pointwise"]


def test_real_and_imaginary_parts_side_by_side() -> None:
    """As a spectrum has them: halves of the columns of one tensor."""

    class Magnitude(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return torch.sqrt(z[..., :33] ** 2 + z[..., 33:] ** 2)

    fast = rt.compile(Magnitude().eval(), (torch.randn(2, 4, 66),))
    assert not left(fast)
    for rows in (1, 2, 9):
        z = torch.randn(rows, 4, 66)
        close(fast(z), Magnitude()(z))


@pytest.mark.parametrize("f", GENERAL.values(), ids=GENERAL)
def test_what_has_no_kernel_of_its_own_is_an_expression(f: Callable[[Tensor, Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    model = Between(17, f).eval()
    fast = rt.compile(model, (torch.randn(1, 19),))
    assert not left(fast)
    for rows in (1, 5):
        x = torch.randn(rows, 19)
        torch.testing.assert_close(fast(x), model(x).detach(), rtol=2e-5, atol=2e-5)
