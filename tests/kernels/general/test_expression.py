"""Expressions beyond conformance: torch's functions through a compiled model, neighbors joined, what is refused."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.core.errors import FallbackWarning, FormatError, ShapeError
from rtaccel.core.stage import Stage, Value
from rtaccel.kernels._common import activations
from rtaccel.kernels._expression import operator
from rtaccel.kernels._expression.chain import schedule
from rtaccel.kernels._expression.functions import FUNCTIONS
from rtaccel.kernels._expression.program import parse
from tests.support.networks.call import Call

SIGNED_ZEROS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "where": lambda x, z: torch.where(x > 0, x, z) / torch.where(x < 0, x, -z), "threshold": lambda x, z: F.threshold(x, z, -z),
    "softshrink": lambda x, z: F.softshrink(x, z), "hardshrink": lambda x, z: F.hardshrink(x, z),
    "fmax": lambda x, z: torch.fmax(x, torch.tensor(z)), "heaviside": lambda x, z: torch.heaviside(x, torch.tensor(z)),
    "copysign": lambda x, z: torch.copysign(x, torch.tensor(z)) * torch.where(x > 1, z, -z), "clamp": lambda x, z: x.clamp(z, -z),
    "nan_to_num": lambda x, z: x.nan_to_num(z, -z, z),
    "several": lambda x, z: torch.where(x > 1, z, torch.where(x < -1, -z, torch.where(x > 0, float("nan"), z))),
}  # fmt: skip
"""Of a zero, where the program also has the one of the other sign."""


@pytest.mark.parametrize("zero", [0.0, -0.0])
@pytest.mark.parametrize("name", SIGNED_ZEROS)
def test_zeros_of_both_signs_are_two_numbers(name: str, zero: float) -> None:
    model = Call(lambda x: SIGNED_ZEROS[name](x, zero)).eval()
    fast = rt.compile(model, torch.randn(2, 9), strict=True)
    for rows in (1, 2, 5):
        x = torch.randn(rows, 9) * 2
        x[:, 0], x[:, 1] = 0.0, -0.0
        got, want = fast(x), model(x)
        torch.testing.assert_close(got, want, equal_nan=True)
        if name not in ("fmax", "clamp", "softshrink"):  # where both are right, torch itself gives either
            assert torch.equal(got.signbit() & ~got.isnan(), want.signbit() & ~want.isnan())


CALLS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "arithmetic": lambda a, b: (1 - a) * b + a / (b.abs() + 1) - 2 * a,
    "powers": lambda a, b: a**2 + b**3 + a.abs() ** 0.5 + (b.abs() + 1) ** -1.5,
    "exponents": lambda a, b: torch.exp(-a.abs()) + torch.expm1(b * 0.3) + torch.log1p(a.abs()) + torch.log(b.abs() + 0.1),
    "logarithms": lambda a, b: torch.log2(a.abs() + 0.2) + torch.log10(b.abs() + 0.2),
    "waves": lambda a, b: torch.sin(a * 3) * torch.cos(b * 5) + torch.tan(a * 0.3),
    "inverse waves": lambda a, b: torch.atan(a) + torch.asin(torch.tanh(b)) + torch.acos(torch.tanh(a)) + torch.atan2(a, b),
    "hyperbolic": lambda a, b: torch.sinh(a * 0.4) + torch.cosh(b * 0.4) + torch.asinh(a) + torch.atanh(torch.tanh(b) * 0.9),
    "roots": lambda a, b: torch.sqrt(a.abs()) + torch.rsqrt(b.abs() + 0.5) + torch.hypot(a, b),
    "special": lambda a, b: torch.erf(a) + torch.erfc(b),
    "rounding": lambda a, b: torch.floor(a * 3) + torch.ceil(b * 3) + torch.round(a * 2) + torch.trunc(b * 4) + torch.sign(a),
    "comparisons": lambda a, b: (a > b).float() + (a <= 0.2).float() * 2 + (b != a).float() * 4 + (a >= b).float() * 8,
    "logic": lambda a, b: ((a > 0) & (b > 0)).float() + ((a > 0) | ~(b > 0.5)).float() * 2 + ((a > 0) ^ (b > 0)).float(),
    "choice": lambda a, b: torch.where(a > b, a, -b).masked_fill(a > 1, 0.5),
    "limits": lambda a, b: a.clamp(-0.5, 0.7) + b.clamp(min=0.1) + torch.maximum(a, b) - torch.minimum(a, b) + b.clamp(max=-0.1),
    "remainders": lambda a, b: torch.fmod(a * 5, 1.5) + torch.remainder(b * 5, -1.5),
    "gelu by hand": lambda a, b: a * 0.5 * (1 + torch.erf(a / 2**0.5)) + b,
    "softplus": lambda a, b: F.softplus(a) + F.softplus(b, beta=2.0, threshold=5.0),
    "units": lambda a, b: F.mish(a) + F.hardswish(b) + F.hardsigmoid(a) + F.relu6(b * 4) + F.selu(a),
    "elus": lambda a, b: F.celu(a, 1.3) + F.elu(b, 0.7) + F.leaky_relu(a, 0.2),
    "shrinking": lambda a, b: F.softshrink(a, 0.3) + F.hardshrink(b, 0.4) + F.tanhshrink(a) + F.threshold(b, 0.1, -2.0),
    "soft": lambda a, b: F.softsign(a) + F.logsigmoid(b) + F.hardtanh(a, -0.2, 0.9) + F.hardtanh(b, 0.0, 3.0),
    "gated": lambda a, b: F.glu(torch.cat([a, b], -1)) + F.silu(a) * b,
    "lerp": lambda a, b: torch.lerp(a, b, 0.3) + torch.addcmul(a, a, b, value=0.5) + torch.addcdiv(b, a, b.abs() + 1),
}  # fmt: skip


class Two(nn.Module):
    """f of two layers' results."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], width: int) -> None:
        super().__init__()
        self.first, self.second, self.function = nn.Linear(7, width), nn.Linear(7, width), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.first(x), self.second(x))


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("width", [5, 70])
def test_equals_torch_and_is_native(name: str, width: int) -> None:
    torch.manual_seed(len(name) + width)
    model = Two(CALLS[name], width).eval()
    fast = rt.compile(model, torch.randn(2, 7), strict=True)
    for rows in (1, 2, 5):
        x = torch.randn(rows, 7)
        with torch.no_grad():
            got, want, exact = fast(x), model(x), model.double()(x.double())
            model.float()
        assert got.shape == want.shape
        off = 4 * (want.double() - exact).abs().max() + 4e-6 * exact.abs().clamp(min=1)
        jumps = name in (
            "rounding",
            "comparisons",
            "logic",
            "choice",
        )  # a rounding of the layer may fall to the other side
        assert ((got.double() - exact).abs() <= off).float().mean() >= (0.98 if jumps else 1.0), name


def test_neighbors_are_one_stage() -> None:
    def long(a: Tensor, b: Tensor) -> Tensor:
        t = (a - b) * 2
        u = torch.tanh(t) / (1 + t.abs())
        return torch.where(u > 0, u * a, torch.exp(u) - b)

    fast = rt.compile(Two(long, 40).eval(), torch.randn(1, 7))
    assert [line.kernel.startswith("cpu") for line in fast.explain_lines(measure=False)] == [True] * 3


def test_a_value_that_others_read_is_kept() -> None:
    class Both(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            t = torch.exp(x) - 1.5
            return t, t * t + 1

    x = torch.randn(3, 9)
    for got, want in zip(rt.compile(Both().eval(), x, strict=True)(x), Both()(x)):
        torch.testing.assert_close(got, want)


def test_nan_and_infinity_go_through_as_in_torch() -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.maximum(x * 2, -x) + torch.where(x > 0, x, x - 1).clamp(-3.0, 4.0)

    x = torch.tensor([[float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1e-42, 3e38, -2.0]])
    torch.testing.assert_close(rt.compile(Net().eval(), x)(x), Net()(x), equal_nan=True, rtol=0, atol=0)


TRUTHS: dict[str, Callable[[Tensor], Any]] = {
    "returned": lambda x: x > 0,
    "returned as a view": lambda x: (x > 0).reshape(-1, 3, 2).transpose(1, 2),
    "returned beside a number": lambda x: (x > 0.5, x * 2),
    "read by torch": lambda x: torch.cumsum(x > 0, -1),
    "read by torch and by an operator": lambda x: (torch.cumsum(x > 0, -1), torch.where(x > 0, x, -x), x > 0),
    "of any": lambda x: (x > 1).any(1),
    "negated": lambda x: ~((x > 0) & (x < 1)),
}


@pytest.mark.parametrize("name", TRUTHS)
def test_truth_values_are_bool_for_torch_and_for_the_caller(name: str) -> None:
    model = Call(TRUTHS[name]).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)
        fast = rt.compile(model, torch.randn(2, 6))
    assert isinstance(fast, rt.CompiledModel)
    for rows in (1, 3):
        x = torch.randn(rows, 6)
        torch.testing.assert_close(fast(x), model(x), rtol=0, atol=0)


def stage(program: tuple[str, ...], widths: tuple[int, ...] = (4, 4), **attrs: object) -> Stage:
    inputs = tuple(Value(f"x{i}", w) for i, w in enumerate(widths))
    return Stage("expression", "case", inputs, (Value("y", 4),), {}, {"program": program, **attrs})


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (("frobnicate x0",), "frobnicate"),
        (("add x0",), "2 operands of add"),
        (("add x0 x2",), "x0 up to 1"),
        (("add x0 t0",), "t0 up to -1"),
        (("add x0 one",), "'one'"),
        (("exp x0 1.0",), "1 operands of exp"),
        ((), "an empty program"),
    ],
)
def test_a_program_that_is_none(program: tuple[str, ...], words: str) -> None:
    with pytest.raises(FormatError, match=words):
        operator.lower(stage(program))


def test_operands_of_another_width() -> None:
    with pytest.raises(ShapeError, match=r"1 or 4"):
        operator.lower(stage(("add x0 x1",), (4, 3)))


def test_the_table_of_c_and_of_python_are_the_same() -> None:
    from pathlib import Path

    text = (Path(operator.__file__).parent / "functions.def").read_text()
    named = {line.split("(")[1].split(",")[0] for line in text.splitlines() if line.startswith("RTA_")}
    assert named | {"where"} == set(FUNCTIONS)


def test_shared_results_lie_aside_and_are_read_again() -> None:
    chain = schedule(parse(("sub x0 x1", "mul t0 t0", "add t0 t1", "div t2 t0"), 2, 0), 2, 0)
    assert [link.name for link in chain.links] == ["load", "sub", "store", "mul", "add", "div"]
    assert chain.stored == 1


def test_random_programs_are_scheduled_right() -> None:
    """Every function of a random program, each result of which may be read many times."""
    g = torch.Generator().manual_seed(5)
    names = ["add", "sub", "mul", "maximum", "tanh", "abs", "where", "lt", "neg", "sigmoid"]
    for _ in range(60):
        lines: list[str] = []
        for i in range(int(torch.randint(1, 24, (1,), generator=g))):
            name = names[int(torch.randint(len(names), (1,), generator=g))]
            known = ["x0", "x1", "0.75", "-2.0", *(f"t{k}" for k in range(max(0, i - 6), i))]
            count = 1 if name in activations.ROWS else FUNCTIONS[name].operands
            picks = torch.randint(len(known), (count,), generator=g).tolist()
            lines.append(" ".join((name, *(known[p] for p in picks))))
        made = stage(tuple(lines), (33, 33))
        made = Stage("expression", "case", made.inputs, (Value("y", 33),), {}, made.attrs)
        x = [torch.randn(3, 33, generator=g) for _ in range(2)]
        from rtaccel.core.registry import impls
        from rtaccel.core.stage import Problem

        for impl in impls("cpu", "expression"):
            if impl.supports(Problem.of(made, 3)) is not None:
                continue
            got, want = impl.prepare(made, Problem.of(made, 3))(*x)[0], operator.reference(made, *x)[0]
            atol = operator.tolerance(made, *x).atol
            assert bool(((got.double() - want.double()).abs() <= torch.as_tensor(atol) + 1e-6).all()), lines
