"""Every function of an expression over all of float32, against float64: random bits, ends of intervals, denormals, infinities and
NaN. What is small keeps its digits.
"""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from rtaccel.core.stage import Stage, Value
from rtaccel.kernels._common import activations
from rtaccel.kernels._expression.functions import FUNCTIONS, call
from tests.support.one_stage import kernels

COUNT = 60_000
TINY, EPS = torch.finfo(torch.float32).tiny, torch.finfo(torch.float32).eps
EDGES = (
    0.0, 2.0**-149, TINY, 1e-30, 1e-20, 1e-8, EPS, EPS / 2, 0.3472, 0.4142, 0.5, 0.7071, 0.786, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5,
    4.25, 4.5, 7.9, 8.0, 9.2, 10.06, 17.3, 20.0, 88.0, 88.73, 89.4, 103.9, 1e9, 8192.0, 8388608.0, 1e19, 3.4028235e38,
    float("inf"),
)  # fmt: skip
"""Where an interval of some function begins or ends, or its results overflow, or have no digits left."""
RELATIVE = ("elu", "selu", "tanh", "relu", "leaky_relu")
"""The activation functions that hold their digits for whatever is small: 4 units in the last place."""


@cache
def numbers(seed: int) -> Tensor:
    """Of all sizes, of usual ones, and beside each edge, in an order of its own for each seed."""
    drawn = torch.Generator().manual_seed(seed)
    bits = torch.randint(-(2**31), 2**31, (COUNT,), generator=drawn).to(torch.int32).view(torch.float32)
    usual = torch.cat([torch.randn(COUNT, generator=drawn) * scale for scale in (0.3, 3.0, 30.0)])
    edges = torch.tensor(EDGES).view(torch.int32)
    beside = torch.cat([edges + step for step in range(-3, 4)]).clamp(min=0).view(torch.float32)
    every = torch.cat([bits, usual, beside, -beside, torch.full((9,), float("nan"))])
    return every[torch.randperm(every.numel(), generator=drawn)]


def check(name: str, got: Tensor, want: Tensor, allowed: Tensor, given: list[Tensor]) -> None:
    """`want` in float64. A result that float32 rounds to an infinity or from one may be either."""
    got = got.double()
    off = (got - want).abs()
    alike = (got == want) | (got.isnan() & want.isnan()) | ((got == want.float().double()) & ~got.isnan())
    wrong = ~((off <= allowed) & got.isfinite() | alike)
    overflow = want.abs().float().double() >= 3.402823e38
    wrong &= ~(overflow & (got.abs() >= 3.402823e38) & (got.sign() == want.sign()))
    first = int(wrong.float().argmax())
    assert not wrong.any(), (
        f"{name} of {[float(x[first]) for x in given]}: {got[first]} for {want[first]}, {wrong.sum()} wrong"
    )


@pytest.mark.parametrize("name", [name for name, f in FUNCTIONS.items() if f.operands < 3])
def test_within_its_bound(name: str) -> None:
    function = FUNCTIONS[name]
    given = [numbers(seed) for seed in range(function.operands)]
    want = call(name, [x.double() for x in given], 0.0)
    allowed = EPS * (function.ulps * want.abs() + function.absolute) + max(function.ulps, 1) * EPS * TINY
    width = given[0].numel()
    inputs = tuple(Value(f"x{i}", width) for i in range(len(given)))
    program = f"{name} {' '.join(v.name for v in inputs)}"
    stage = Stage("expression", "case", inputs, (Value("y", width),), {}, {"program": (program,)})
    for kernel, run in kernels(stage).items():
        check(f"{name}, {kernel}", run(*(x[None] for x in given))[0][0], want, allowed, given)


@pytest.mark.parametrize("name", RELATIVE)
def test_an_activation_keeps_the_digits_of_what_is_small(name: str) -> None:
    x = numbers(0)
    want = activations.apply(name, x.double(), 0.7)
    stage = Stage(
        "pointwise", "case", (Value("x", x.numel()),), (Value("y", x.numel()),), {},
        {"join": "add", "activation": name, "activation_parameter": 0.7},
    )  # fmt: skip
    for kernel, run in kernels(stage).items():
        check(f"{name}, {kernel}", run(x[None])[0][0], want, 4 * EPS * want.abs() + 4 * EPS * TINY, [x])
