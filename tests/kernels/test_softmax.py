"""Softmax: against exact sums in Python, extremes and infinities, int8 of its own float, rows apart."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.core.stage import QParams
from rtaccel.formats.int8 import quantize
from rtaccel.kernels.softmax.contract import make_stage
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
SIZES = [(1, 1), (3, 2), (2, 17), (5, 64), (1, 131), (2, 1030)]


def exact(x: Tensor) -> Tensor:
    """float64; math.fsum rounds a sum once."""
    rows = []
    for row in x.tolist():
        powers = [math.exp(t - max(row)) for t in row]
        total = math.fsum(powers)
        rows.append([p / total for p in powers])
    return torch.tensor(rows, dtype=torch.float64)


def bound(x: Tensor, want: Tensor) -> Tensor:
    """exp within 2 units of x - max, whose rounding moves it by half a unit for each unit of distance; C terms in any
    order; 1 / sum and its product. A result below the normal numbers may be flushed to zero."""
    distance = x.double().amax(1, keepdim=True) - x.double()
    return EPS * (want.shape[1] + 5 + distance) * want + torch.finfo(torch.float32).tiny


@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
@pytest.mark.parametrize(("rows", "c"), SIZES)
def test_against_exact_sums(rows: int, c: int, scale: float) -> None:
    x = torch.randn(rows, c) * scale
    want = exact(x)
    for name, run in runs(make_stage(c), rows).items():
        y = run(x)[0]
        allowed = EPS / 2 * want + 2.0**-149 if name == "reference" else bound(x, want)
        assert ((y.double() - want).abs() <= allowed * 1.000001).all(), name
        assert ((y >= 0) & (y <= 1)).all(), name


def test_large_numbers_do_not_overflow() -> None:
    x = torch.tensor(
        [[1e4, -1e4, 1e4, 0.0], [3e38, -3e38, 0.0, 1.0], [-1e4, -1e4, -1e4, -1e4], [88.0, 89.0, 90.0, 0.0]]
    )
    for name, run in runs(make_stage(4), 4).items():
        y = run(x)[0]
        assert y[:3].tolist() == [[0.5, 0, 0.5, 0], [1, 0, 0, 0], [0.25] * 4], name
        assert ((y[3:].double() - exact(x[3:])).abs() <= bound(x[3:], exact(x[3:]))).all(), name


def test_infinities() -> None:
    """-inf is a masked column, which gets nothing. Rows without a finite maximum have no meaning."""
    x = torch.tensor([[-INF, 1.0, 1.0], [2.0, -INF, -INF], [-INF, -INF, -INF], [INF, 0.0, 1.0], [0.0, NAN, 1.0]])
    want = torch.tensor([[0, 0.5, 0.5], [1, 0, 0], [NAN] * 3, [NAN] * 3, [NAN] * 3])
    check_same(make_stage(3), (x,), (want,))


@pytest.mark.parametrize("c", [3, 65, 200])
def test_a_shift_changes_no_bit(c: int) -> None:
    """Multiples of 2^-10 are shifted exactly, so every x - max is the same."""
    x = torch.randint(-8000, 8000, (4, c)) / 1024
    for name, run in runs(make_stage(c), 4).items():
        assert torch.equal(run(x)[0], run(x + 64)[0]), name
        assert torch.equal(run(x)[0], run(x - 512)[0]), name


@pytest.mark.parametrize("quant", [QParams(1 / 255, -128), QParams(0.009, 3)], ids=str)
@pytest.mark.parametrize("c", [1, 19, 64, 131])
def test_int8_is_that_of_its_own_float(c: int, quant: QParams) -> None:
    x = torch.randn(4, c) * 5
    floats, ints = runs(make_stage(c), 4), runs(make_stage(c, quant), 4)
    assert floats.keys() == ints.keys()
    for name, run in floats.items():
        assert torch.equal(ints[name](x)[0], quantize(run(x)[0], quant)), name
    x[2, 0] = NAN
    for name, run in ints.items():
        assert (run(x)[0][2] == 0).all(), name


@pytest.mark.parametrize("quant", [None, QParams(1 / 255, -128)], ids=["float32", "int8"])
def test_samples_are_apart(quant: QParams | None) -> None:
    x = torch.randn(4, 33)
    check_samples_apart(make_stage(33, quant), (x,))
    check_no_samples(make_stage(33, quant))


class Weighted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Linear(9, 21)

    def forward(self, x: Tensor) -> Tensor:
        return self.scores(x).softmax(-1)


@pytest.mark.parametrize("shape", [(9,), (4, 9)], ids=str)
def test_compiled(shape: tuple[int, ...]) -> None:
    model = Weighted()
    native, plain, found = compiled_both(model, (torch.randn(2, *shape),))
    assert found == ["linear", "softmax"]
    for rows in (1, 2, 17):
        x = torch.randn(rows, *shape) * 4
        want = model(x).detach()
        for fast in (native, plain):
            torch.testing.assert_close(fast(x), want, rtol=1e-4, atol=1e-6)
            assert (fast(x).sum(-1) - 1).abs().max() <= 30 * EPS


def test_only_float32_comes_in() -> None:
    name, run = next(iter(kernels(make_stage(3)).items()))
    assert name.startswith("cpu_")
    for bad in (torch.ones(1, 3, dtype=torch.float64), torch.ones(1, 3, dtype=torch.int8), torch.ones(1, 4)):
        with pytest.raises(rt.UnsupportedProblem, match=r"softmax: got .*; expected contiguous matrices"):
            run(bad)


def test_over_samples_it_falls_back() -> None:
    """Only the columns have a kernel: a softmax over the batch mixes samples."""

    class Over(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.softmax(x, 0)

    fast = rt.compile(Over().eval(), (torch.randn(3, 4),), verify=False)
    assert all(line.kernel == "torch" for line in fast.explain_lines(measure=False))
    x = torch.randn(3, 4)
    assert torch.equal(fast(x), torch.softmax(x, 0))
