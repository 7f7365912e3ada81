"""Pointwise: affine, joins and activations against NumPy's float32 and formulas in Python; int8 in and out; samples apart."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.core.registry import operator
from rtaccel.core.stage import QParams, Stage, Value
from tests.support.networks.call import Call
from tests.support.one_stage import (
    INF,
    NAN,
    check_no_samples,
    check_same,
    check_samples_apart,
    compiled_both,
    kernels,
    runs,
)

EPS = torch.finfo(torch.float32).eps
PARAMETER = 0.3

FORMULAS: dict[str, Callable[[float], float]] = {
    "none": lambda t: t,
    "relu": lambda t: max(t, 0.0),
    "leaky_relu": lambda t: t if t > 0 else t * PARAMETER,
    "elu": lambda t: t if t > 0 else PARAMETER * math.expm1(t),
    "gelu": lambda t: 0.5 * t * math.erfc(-t / math.sqrt(2)),
    "gelu_tanh": lambda t: 0.5 * t * (1 + math.tanh(math.sqrt(2 / math.pi) * (t + 0.044715 * t**3))),
    "silu": lambda t: t / (1 + math.exp(-t)),
    "sigmoid": lambda t: 1 / (1 + math.exp(-t)),
    "tanh": math.tanh,
}

JOINS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "add": lambda t, other: t + other,
    "mul": lambda t, other: t * other,
    "hypot": lambda t, other: np.sqrt(t * t + other * other),
}
"""Each operation of NumPy rounds once."""


def stage_of(c: int, join: str | None = None, activation: str = "none", affine: bool = False, *quants: QParams | None):
    """quants: of x, other and y, in this order; None for float32."""
    names = ("x", "r", "y") if join else ("x", "y")
    given = quants or (None,) * len(names)
    values = [Value(n, c, "int8" if q else "float32", q) for n, q in zip(names, given, strict=True)]
    tensors = {"scale": torch.randn(c), "shift": torch.randn(c)} if affine else {}
    attrs = {"join": join or "add", "activation": activation, "activation_parameter": PARAMETER}
    return Stage("pointwise", "p", tuple(values[:-1]), (values[-1],), tensors, attrs)


def before_activation(stage: Stage, *inputs: Tensor) -> np.ndarray:
    """float32 in NumPy."""
    real = [
        t.numpy()
        if v.quant is None
        else (t.numpy().astype(np.float32) - np.float32(v.quant.zero_point)) * np.float32(v.quant.scale)
        for t, v in zip(inputs, stage.inputs)
    ]
    t = real[0]
    if stage.tensors:
        t = t * stage.tensors["scale"].numpy() + stage.tensors["shift"].numpy()
    t = JOINS[stage.attrs["join"]](t, real[1]) if len(real) > 1 else t
    assert t.dtype == np.float32
    return t


@pytest.mark.parametrize("activation", ["none", "relu"])
@pytest.mark.parametrize("affine", [False, True], ids=["", "affine"])
@pytest.mark.parametrize("join", [None, *JOINS])
@pytest.mark.parametrize(("rows", "c"), [(1, 1), (3, 17), (2, 133)])
def test_to_the_bit(rows: int, c: int, join: str | None, affine: bool, activation: str) -> None:
    """Each product, sum and root rounds once: no fused multiply-add."""
    stage = stage_of(c, join, activation, affine)
    inputs = tuple(torch.randn(rows, c) * 5 for _ in stage.inputs)
    t = torch.from_numpy(before_activation(stage, *inputs))
    check_same(stage, inputs, (t if activation == "none" else torch.where(t > 0, t, torch.zeros_like(t)),))


@pytest.mark.parametrize("activation", FORMULAS)
def test_activations_are_their_formulas(activation: str) -> None:
    x = torch.cat((torch.linspace(-12, 12, 601), torch.tensor([0.0, -1e-20, 1e-20, -60.0, 60.0])))[None]
    want = torch.tensor([[FORMULAS[activation](t) for t in x[0].tolist()]], dtype=torch.float64)
    for name, run in runs(stage_of(x.shape[1], None, activation)).items():
        error = (run(x)[0].double() - want).abs()
        unit = EPS / 2 * want.abs() + 1e-45
        assert (error <= (unit + 1e-15 if name == "reference" else 8 * EPS * x.abs().clamp(min=1))).all(), name


@pytest.mark.parametrize("activation", FORMULAS)
def test_nan_stays_nan_and_large_numbers_finite(activation: str) -> None:
    x = torch.tensor([[NAN, 1e4, -1e4, 1e37]])
    for name, run in runs(stage_of(4, None, activation)).items():
        y = run(x)[0][0]
        assert y[0].isnan() and torch.isfinite(y[1:]).all(), name
        assert abs(y[1].item() - FORMULAS[activation](1e4)) <= 8 * EPS * 1e4, name


def test_tanh_ends_at_one() -> None:
    """And is nowhere more: a quotient of polynomials comes close to its limit by chance alone."""
    near = torch.linspace(7.5, 9.5, 20001)
    x = torch.cat((near, torch.tensor([10.0, 1e30, INF])))[None]
    for name, run in runs(stage_of(x.shape[1], None, "tanh")).items():
        y = run(x)[0][0]
        assert (y <= 1).all() and (y[x[0] > 9.1] == 1).all(), name
        assert ((y - x[0].double().tanh()).abs() <= 4 * EPS).all(), name
        assert torch.equal(run(-x)[0][0], -y), name


@pytest.mark.parametrize("join", [None, "add", "mul", "hypot"])
@pytest.mark.parametrize("types", ["xry", "x", "ry", "y"])
def test_int8_is_a_scale_and_a_zero_point(types: str, join: str | None) -> None:
    c, named = 37, {"x": QParams(0.031, 5), "r": QParams(0.022, -128), "y": QParams(0.043, -9)}
    quants = [named[n] if n in types else None for n in (("x", "r", "y") if join else ("x", "y"))]
    stage = stage_of(c, join, "none", True, *quants)
    inputs = tuple(
        torch.randint(-128, 128, (3, c), dtype=torch.int8) if v.quant else torch.randn(3, c) for v in stage.inputs
    )
    want = before_activation(stage, *inputs)
    if "y" in types:
        steps = np.rint((want * (np.float32(1) / np.float32(0.043))).astype(np.float64)) - 9
        want = np.clip(steps, -128, 127).astype(np.int8)
    check_same(stage, inputs, (torch.from_numpy(want),))


def test_int8_ends_and_ties() -> None:
    """A copy of int8 at its ends, a sum that is clamped, and a half that goes to the even step."""
    one = QParams(1.0, 0)
    q = torch.tensor([[-128, -127, -1, 0, 126, 127]], dtype=torch.int8)
    check_same(stage_of(6, None, "none", False, one, one), (q,), (q,))
    check_same(
        stage_of(6, "add", "none", False, one, one, one), (q, q), ((q.int() * 2).clamp(-128, 127).to(torch.int8),)
    )
    halves = torch.tensor([[-64, -64, 0, 0, 63, 64]], dtype=torch.int8)  # 63.5 becomes 64, -63.5 becomes -64
    check_same(stage_of(6, None, "none", False, one, QParams(2.0, 0)), (q,), (halves,))


def test_magnitudes_overflow_as_in_torch() -> None:
    x, r = torch.tensor([[3.0, 1e30, 1e-30, -0.0]]), torch.tensor([[-4.0, 1.0, 1e-30, 0.0]])
    check_same(stage_of(4, "hypot"), (x, r), (torch.tensor([[5.0, INF, 0.0, 0.0]]),))


@pytest.mark.parametrize("join", [None, *JOINS])
def test_samples_are_apart(join: str | None) -> None:
    stage = stage_of(19, join, "silu", True)
    check_samples_apart(stage, tuple(torch.randn(4, 19) for _ in stage.inputs))
    check_no_samples(stage)


class Gated(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.relu(x * y)


def test_compiled() -> None:
    native, plain, found = compiled_both(Gated(), (torch.randn(2, 9), torch.randn(2, 9)))
    assert found == ["pointwise"]
    for rows in (0, 1, 2, 33):
        x, y = torch.randn(rows, 9), torch.randn(rows, 9)
        assert torch.equal(native(x, y), Gated()(x, y)) and torch.equal(plain(x, y), Gated()(x, y))
    with pytest.raises(rt.ShapeError, match="9"):
        native(torch.randn(2, 9), torch.randn(2, 8))


def test_what_is_refused() -> None:
    wrong = Stage("pointwise", "p", (Value("x", 3), Value("r", 3)), (Value("y", 3),), {}, {"join": "sub"})
    with pytest.raises(rt.FormatError, match="pointwise: got join 'sub'; expected one of add, mul, hypot"):
        operator("pointwise").lower(wrong)
    with pytest.raises(rt.UnsupportedProblem, match="no activation 'cosine'"):
        kernels(stage_of(3, None, "cosine"))
    short = Stage(
        "pointwise", "p", (Value("x", 3),), (Value("y", 3),), {"scale": torch.ones(2), "shift": torch.ones(3)}
    )
    with pytest.raises(rt.UnsupportedProblem, match=r"'scale' has .*2 elements.*, expected .*3"):
        kernels(short)


STEPS: dict[str, Callable[[Tensor], Tensor]] = {
    "+ 0": lambda x: x + 0.0,
    "+ -0": lambda x: x + -0.0,
    "- 0": lambda x: x - 0.0,
    "0 -": lambda x: 0.0 - x,
    "* 1": lambda x: x * 1.0,
    "* -1": lambda x: x * -1.0,
    "* 0": lambda x: x * 0.0,
    "/ 1": lambda x: x / 1.0,
    "/ -2": lambda x: x / -2.0,
    "* c": lambda x: x * torch.tensor([1.0, -1.0, 0.0, -0.0, 2.0]),
    "+ c": lambda x: x + torch.tensor([0.0, -0.0, 0.0, -0.0, 0.0]),
    "round": torch.round,
    "sqrt": lambda x: x.abs().sqrt() * x.sign(),
    "relu": torch.relu,
    "clamp min": lambda x: x.clamp(min=0.0),
    "clamp max": lambda x: x.clamp(max=0.0),
}


@pytest.mark.parametrize("seed", range(60))
def test_zeros_have_the_sign_that_torch_gives_them(seed: int) -> None:
    """After one step to three, alone or where an expression goes on and 1 / x tells the zeros apart."""
    draw = random.Random(seed)
    steps = [draw.choice(list(STEPS.values())) for _ in range(draw.randint(1, 3))]

    def function(x: Tensor) -> Tensor:
        for step in steps:
            x = step(x)
        return x if seed % 2 else torch.where(x == 0, 1 / x, x)

    model = Call(function).eval()
    fast = rt.compile(model, torch.randn(2, 5), strict=True)
    x = torch.tensor([0.0, -0.0, 1.5, -1.5, 0.25]).repeat(5).reshape(5, 5)
    x = torch.stack([row.roll(i) for i, row in enumerate(x)])
    want, got = model(x), fast(x)
    assert torch.equal(got, want) and torch.equal(got.signbit(), want.signbit())
