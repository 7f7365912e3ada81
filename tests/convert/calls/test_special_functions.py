"""Special functions natively: near float64 over the range of float32, and as torch has them where they end."""

from __future__ import annotations

from collections.abc import Callable
from math import inf, nan

import pytest
import torch
from torch import Tensor

import rtaccel as rt
from tests.support.against_torch import EPS
from tests.support.networks.call import Call, CallOfTwo

S = torch.special
Range = tuple[float, float]

FUNCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], Range, Range | None]] = {
    "erfcx": (S.erfcx, (-9.3, 40), (-30, 30)),
    "log_ndtr": (S.log_ndtr, (-40, 13), None),
    "ndtr": (lambda x: 0.5 * torch.erfc(x * -(0.5**0.5)) if x.dtype == torch.float64 else S.ndtr(x), (-12.5, 9), None),
    "ndtri": (S.ndtri, (0, 1), (-37, -0.01)),
    "erfinv": (torch.erfinv, (-1, 1), (-37, -0.01)),
    "i0": (torch.i0, (-88, 88), None),
    "i0e": (S.i0e, (-150, 150), (-20, 30)),
    "i1": (S.i1, (-88, 88), (-20, 1)),
    "i1e": (S.i1e, (-150, 150), (-20, 30)),
    "k0": (S.modified_bessel_k0, (0, 85), (-30, 1)),
    "k1": (S.modified_bessel_k1, (0, 85), (-30, 1)),
    "scaled k0": (S.scaled_modified_bessel_k0, (0, 85), (-30, 30)),
    "scaled k1": (S.scaled_modified_bessel_k1, (0, 85), (-30, 30)),
    "trigamma": (lambda x: torch.polygamma(1, x), (0, 60), (-10, 10)),
}
"""By name: the function, a range of numbers, and one of powers of ten, of which the positive ones are taken too."""

WAVES: dict[str, tuple[Callable[[Tensor], Tensor], Range]] = {
    "j0": (S.bessel_j0, (-1, 1)),
    "j1": (S.bessel_j1, (-1, 1)),
    "y0": (S.bessel_y0, (0, 1)),
    "y1": (S.bessel_y1, (0, 1)),
    "spherical j0": (S.spherical_bessel_j0, (-1, 1)),
    "trigamma of both signs": (lambda x: torch.polygamma(1, x) / (1 + torch.polygamma(1, x)), (-0.02, 1)),
}
"""Functions with zeros, near which float32 is as near as it is to 1: of these ranges times 1, 10, ... 10,000."""

PLAIN = [0.0, -0.0, 1.0, -1.0, 0.5, 2.0, 5.0, -5.0, 1e-30, 1e30, inf, -inf, nan, 1e-45, 3e38]


def bound_of(want: Tensor, terms: float) -> Tensor:
    return EPS * terms * want.abs()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_near_float64(name: str) -> None:
    """A dozen roundings: a polynomial, a root, an exponential and their products."""
    function, (low, high), powers = FUNCTIONS[name]
    parts = [low + (high - low) * torch.rand(4000)]
    if powers is not None:
        parts.append(10 ** (powers[0] + (powers[1] - powers[0]) * torch.rand(4000, dtype=torch.float64)))
    x = torch.cat([part.float() for part in parts])
    x = x[x > low] if low == 0 else x
    x = x[: len(x) // 5 * 5].reshape(-1, 5)
    fast = rt.compile(Call(function).eval(), torch.rand(2, 5) * 0.5 + 0.25, strict=True)
    want, got = function(x.double()), fast(x).double()
    inside = (want.abs() < 3e38) & (want.abs() > 2e-38)
    off = (got - want).abs() / bound_of(want, 12)
    assert float(off[inside].max()) <= 1, (x[inside][off[inside].argmax()], float(off[inside].max()))
    assert inside.float().mean() > 0.8


@pytest.mark.parametrize("name", WAVES)
def test_waves_are_as_near_as_float32_is_to_one(name: str) -> None:
    function, (low, high) = WAVES[name]
    fast = rt.compile(Call(function).eval(), torch.rand(2, 5) * 0.5 + 0.25, strict=True)
    for scale in (1, 10, 100, 1000, 10_000):
        x = scale * (low + (high - low) * torch.rand(800, 5))
        x = x[(x - x.round()).abs().amin(1) > 1e-3] if name.startswith("trigamma") else x  # away from its poles
        want, got = function(x.double()), fast(x).double()
        off = (got - want).abs() / (EPS * 12 * want.abs().clamp(min=1.0))
        assert float(off.max()) <= 1, (x.reshape(-1)[off.argmax()], float(off.max()))


@pytest.mark.parametrize("name", [*FUNCTIONS, *list(WAVES)[:-1]])
def test_where_they_end(name: str) -> None:
    function = FUNCTIONS[name][0] if name in FUNCTIONS else WAVES[name][0]
    x = torch.tensor(PLAIN).reshape(-1, 3)
    fast = rt.compile(Call(function).eval(), torch.rand(2, 3) * 0.5 + 0.25, strict=True)
    want, got = function(x.double()).float(), fast(x)
    if name.startswith(("j", "y")):  # of 1e30 the phase of torch's float64 has no digit
        want = torch.where(x.abs() == inf, nan, torch.where(x.abs() > 1e9, got, want))
    if name == "trigamma":  # torch takes the sine of pi times a whole number, which is not 0
        want = torch.where((x < 0) & (x == x.round()) & x.isfinite(), inf, want)
    torch.testing.assert_close(got, want, rtol=12 * EPS, atol=2e-38, equal_nan=True)


@pytest.mark.parametrize("name", ["chebyshev_polynomial_t", "chebyshev_polynomial_u", "chebyshev_polynomial_v",
                                  "chebyshev_polynomial_w", "hermite_polynomial_h", "hermite_polynomial_he",
                                  "laguerre_polynomial_l", "legendre_polynomial_p"])  # fmt: skip
@pytest.mark.parametrize("degree", [-1, 0, 1, 2, 5, 12])
def test_orthogonal_polynomials(name: str, degree: int) -> None:
    function = getattr(S, name)
    fast = rt.compile(Call(lambda x: function(x, degree)).eval(), torch.randn(2, 5), strict=True)
    x = torch.rand(400, 5) * 2 - 1
    want = function(x.double(), degree)
    size = want.abs().amax().clamp(min=1.0)  # terms of the recurrence cancel
    assert float((fast(x).double() - want).abs().max() / size) <= EPS * 8 * (degree + 2)


@pytest.mark.parametrize("function", [torch.erfinv, S.ndtri])
def test_inverses_at_each_number_next_to_one(function: Callable[[Tensor], Tensor]) -> None:
    fast = rt.compile(Call(function).eval(), torch.rand(2, 5) * 0.5 + 0.25, strict=True)
    x = (1 - torch.arange(1, 5001).double() * 2**-24).float().reshape(-1, 5)
    want = function(x.double())
    assert float(((fast(x) - want).abs() / bound_of(want, 12)).max()) <= 1


def test_the_error_function_ends_at_one() -> None:
    fast = rt.compile(Call(torch.erf).eval(), torch.randn(2, 5), strict=True)
    x = torch.cat([torch.linspace(4.25, 40, 200), 10 ** torch.linspace(1, 38, 200)]).reshape(-1, 5)
    assert torch.equal(fast(x), torch.ones_like(x)) and torch.equal(fast(-x), -torch.ones_like(x))
    x = torch.linspace(-4.3, 4.3, 5000).reshape(-1, 5)
    off = (fast(x).double() - torch.erf(x.double())).abs()
    assert float((off / (EPS * 3 * torch.erf(x.double()).abs())).max()) <= 1


@pytest.mark.parametrize("alpha", [inf, -inf, nan, 1e-30, 1e30, -2.0, 0.5])
@pytest.mark.parametrize("function", [torch.nn.functional.elu, torch.nn.functional.celu])
def test_exponential_units_of_any_number(function: Callable[..., Tensor], alpha: float) -> None:
    model = Call(lambda x: function(x, alpha)).eval()
    fast = rt.compile(model, torch.randn(2, 5))
    x = torch.cat([torch.randn(40), torch.tensor([0.0, -0.0, inf, -inf, nan, 1e-30, -1e-3, 1e20, -1e20, -100.0])])
    x = x.reshape(-1, 5)
    torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-30, equal_nan=True)


@pytest.mark.parametrize("beta", [1.0, 0.5, -3.0, 0.0])
@pytest.mark.parametrize("threshold", [inf, 1e30, 88.0, 89.0, 20.0, 0.0, -5.0, nan])
def test_softplus_of_any_threshold(beta: float, threshold: float) -> None:
    model = Call(lambda x: torch.nn.functional.softplus(x, beta, threshold)).eval()
    fast = rt.compile(model, torch.randn(2, 5))
    x = torch.cat([torch.linspace(-200, 200, 71), torch.tensor([0.0, -0.0, inf, -inf, nan, 1e-30, 88.7, 88.73, 1e20])])
    x = x.reshape(-1, 5)
    torch.testing.assert_close(fast(x), model(x), rtol=1e-5, atol=1e-30, equal_nan=True)


def bits(count: int) -> Tensor:
    """Numbers of any sign, exponent and fraction."""
    return torch.randint(-(2**31), 2**31, (count, 4), dtype=torch.int64).int().view(torch.float32)


def test_fractions_and_exponents_are_exact() -> None:
    fast = rt.compile(Call(torch.frexp).eval(), torch.randn(2, 4), strict=True)
    x = torch.cat(
        [bits(3000), torch.tensor(PLAIN[:12]).reshape(-1, 4), 2.0 ** torch.arange(-149, 127).float().reshape(-1, 4)]
    )
    fraction, power = fast(x)
    plain = x.isfinite()
    want = torch.frexp(x)
    assert power.dtype == want[1].dtype and torch.equal(power[plain], want[1][plain])
    assert torch.equal(fraction[plain], want[0][plain])
    assert torch.equal(fraction.nan_to_num(), torch.where(plain, want[0], x).nan_to_num())


def test_neighbors_are_exact() -> None:
    fast = rt.compile(CallOfTwo(torch.nextafter).eval(), (torch.randn(2, 4), torch.randn(2, 4)), strict=True)
    powers = 2.0 ** torch.arange(-149, 127).float().reshape(-1, 4)
    ends = torch.tensor([0.0, inf, -inf, 1e-45, torch.finfo(torch.float32).max, -1e-45, 1.0, nan]).reshape(-1, 4)
    x = torch.cat([bits(3000), powers, -powers, ends, ends])
    to = torch.cat([bits(3000), -powers, powers * 0.5, ends.flip(0), ends.flip(1)])
    for y in (to, torch.full_like(x, inf), torch.full_like(x, -inf), torch.zeros_like(x), x.clone()):
        want, got = torch.nextafter(x, y), fast(x, y)
        assert torch.equal(got.isnan(), want.isnan())
        assert torch.equal(got.nan_to_num(), want.nan_to_num()), (x[got != want][:4], y[got != want][:4])
