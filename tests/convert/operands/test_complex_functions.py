"""Functions of complex numbers, and complex tensors that a model makes itself: native, against torch in float64."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt

Call = Callable[[Tensor], Tensor]
FUNCTIONS: dict[str, Call] = {
    "square": torch.square, "sgn": torch.sgn, "sqrt": torch.sqrt, "log": torch.log, "sin": torch.sin, "cos": torch.cos,
    "sinh": torch.sinh, "cosh": torch.cosh, "tanh": torch.tanh, "exp": torch.exp, "reciprocal": torch.reciprocal,
    "norm": lambda z: torch.linalg.vector_norm(z, dim=-1, keepdim=True) * z,
    "largest": lambda z: torch.linalg.vector_norm(z, float("inf"), dim=(1, 2)).to(z.dtype)[:, None, None] * z,
    "lower": torch.tril, "upper": lambda z: z.triu(1), "equal": lambda z: z * (z == z.flip(-1)), "other": lambda z: z * (z != 0),
    "prod": lambda z: z.prod(-1, keepdim=True) * z, "prod of rows": lambda z: z.prod(1), "cube": lambda z: z.square() * z,
    "full": lambda z: z * torch.full(z.shape, 1.5 - 0.5j, dtype=z.dtype), "full_real": lambda z: z + torch.full_like(z, 2.0),
    "ones": lambda z: torch.ones_like(z) - z, "zeros": lambda z: torch.zeros_like(z) + z.sum(-1, keepdim=True),
    "new": lambda z: z.new_full(z.shape, 0.5j) * z + z.new_ones(z.shape),
    "started": lambda z: z * torch.ones(1, 1, dtype=z.dtype),
    "outer": lambda z: z[..., :, None] @ z.conj()[..., None, :],
}  # fmt: skip


class Functions(nn.Module):
    """A function, or two of them, of numbers in the whole plane."""

    def __init__(self, *calls: Call) -> None:
        super().__init__()
        self.calls = calls

    def forward(self, x: Tensor) -> Tensor:
        z = torch.complex(x[..., 0], x[..., 1])
        for call in self.calls:
            z = call(z)
        return torch.view_as_real(z)


def inputs(seed: int, samples: int) -> Tensor:
    """Some on the axes, and on the negative real one, where a root and a logarithm have their cut."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    x = torch.randn(samples, rng.randint(1, 6), rng.randint(1, 7), 2)
    on_axis = torch.rand(x.shape[:-1]) < 0.2
    x[..., 1] = torch.where(on_axis, 0.0, x[..., 1])
    return x


def check(model: Functions, seed: int) -> None:
    x = inputs(seed, 3)
    fast = rt.compile(model, x, verify=False, strict=True)  # strict: nothing is left to PyTorch
    for given in (x, torch.cat([inputs(seed, 3), x])[:5] * 0.7):
        want, eager = copy.deepcopy(model).double()(given.double()), model(given)
        own = (eager.double() - want).abs().max()
        torch.testing.assert_close(
            fast(given).double(), want, atol=float(20 * own) + 3e-6 * float(want.abs().max()), rtol=1e-5
        )


@pytest.mark.parametrize("name", FUNCTIONS)
def test_is_torchs(name: str) -> None:
    for seed in range(4):
        check(Functions(FUNCTIONS[name]).eval(), seed)


@pytest.mark.parametrize("seed", range(20))
def test_one_after_the_other(seed: int) -> None:
    rng = random.Random(seed)
    smooth = [
        FUNCTIONS[n] for n in ("square", "sin", "cos", "tanh", "full", "ones", "lower", "started", "norm", "zeros")
    ]
    check(Functions(rng.choice(smooth), torch.tanh, rng.choice(smooth)).eval(), seed)


@pytest.mark.parametrize(
    ("call", "near"), [(torch.sqrt, 1e-20), (lambda z: torch.tanh(z / z.abs().clamp(min=1e-30) * 60), 1e-6)]
)
def test_large_and_small_numbers(call: Call, near: float) -> None:
    """A root and a hyperbolic tangent stay finite where squares and exponentials do not."""
    x = torch.tensor([[[[1e25, 3e24], [-1e25, 1e-3], [0.0, 0.0], [1e-25, -2e-25], [-4.0, 0.0]]]])
    model = Functions(call).eval()
    torch.testing.assert_close(rt.compile(model, x, verify=False, strict=True)(x), model(x), rtol=1e-5, atol=near)


@pytest.mark.parametrize("seed", range(6))
def test_quotients_of_all_sizes(seed: int) -> None:
    """Parts of any size, zero and infinity among them, where squares of the divisor are not finite or are nothing."""

    class Quotient(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            a, b = torch.view_as_complex(x), torch.view_as_complex(y)
            return torch.view_as_real(a / b), torch.view_as_real(1.0 / b)

    torch.manual_seed(seed)
    x, y = (torch.randn(4, 64, 2) * 10.0 ** torch.randint(-17, 18, (4, 64, 2)) for _ in range(2))
    y *= torch.tensor([1e20, 1.0, 1e-18])[seed % 3]
    special = torch.tensor([0.0, -0.0, float("inf"), -float("inf")])[torch.randint(0, 4, y.shape)]
    y = torch.where(torch.rand(y.shape) < 0.2, special, y)
    model = Quotient().eval()
    fast = rt.compile(model, (x, y), verify=False, strict=True)
    for got, want in zip(fast(x, y), model(x, y)):
        assert torch.equal(got.isnan(), want.isnan())
        size = torch.view_as_complex(want).abs()[..., None]  # a part may be what rounding leaves of the other
        close = (got - want).abs() <= 1e-6 * size.where(size.isfinite(), 0.0) + 1e-44
        assert (close | (got == want) | want.isnan()).all()


def test_phases_found_again() -> None:
    """Griffin and Lim's rounds: a spectrum of given sizes, its phases from the signal that it would be."""

    class Rounds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("window", torch.hann_window(32))

        def forward(self, size: Tensor) -> Tensor:
            phases = torch.full(
                size.shape, 1, dtype=torch.complex64 if size.dtype == torch.float32 else torch.complex128
            )
            for _ in range(3):
                signal = torch.istft(size * phases, 32, 8, window=self.window)
                phases = torch.stft(signal, 32, 8, window=self.window, return_complex=True)
                phases = phases / (phases.abs() + 1e-8)
            return torch.istft(size * phases, 32, 8, window=self.window)

    model = Rounds().eval()
    fast = rt.compile(model, torch.rand(1, 17, 12), strict=True)
    size = torch.rand(2, 17, 12) + 0.1
    want, eager = copy.deepcopy(model).double()(size.double()), model(size)
    limit = 20 * float((eager.double() - want).abs().max())
    torch.testing.assert_close(fast(size).double(), want, rtol=0, atol=limit)
