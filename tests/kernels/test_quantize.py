"""Quantize: the formula of the contract in NumPy's float32, ties, clamps, tiny and bad rows, through a compiled layer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.core.stage import QParams
from rtaccel.kernels.quantize.contract import make_stage
from tests.support.networks.int8_layers import same
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

ONE = np.float32(1)
QUANTS = [QParams(0.021, 3), QParams(0.5, -128), QParams(1 / 3, 127), QParams(7e-5, 0), QParams(1e4, -1)]


def static_numbers(x: Tensor, quant: QParams) -> Tensor:
    """clamp(rint(x * float32(1 / scale)) + zero_point, -128, 127); NumPy's rint takes ties to even."""
    product = x.numpy() * (ONE / np.float32(quant.scale))
    return torch.from_numpy(np.clip(np.rint(product.astype(np.float64)) + quant.zero_point, -128, 127).astype(np.int8))


def dynamic_numbers(x: Tensor) -> tuple[Tensor, Tensor]:
    rows, scales = [], []
    for row in x.numpy():
        peak = np.abs(row).max()
        rows.append(np.clip(np.rint(row * (np.float32(127) / peak)), -127, 127).astype(np.int8))
        scales.append([peak / np.float32(127)])
    return torch.from_numpy(np.stack(rows)), torch.tensor(np.array(scales, dtype=np.float32))


@pytest.mark.parametrize(("rows", "k"), [(1, 1), (3, 7), (2, 67), (33, 130)])
@pytest.mark.parametrize("quant", QUANTS, ids=str)
def test_static_is_the_formula(quant: QParams, rows: int, k: int) -> None:
    x = torch.randn(rows, k) * quant.scale * 90
    check_same(make_stage(k, quant), (x,), (static_numbers(x, quant),))


@pytest.mark.parametrize(("rows", "k"), [(1, 1), (3, 7), (2, 67), (33, 130)])
def test_dynamic_is_the_formula(rows: int, k: int) -> None:
    x = torch.randn(rows, k) * 10.0 ** torch.randint(-20, 20, (rows, 1))
    check_same(make_stage(k, None), (x,), dynamic_numbers(x))


def test_ties_go_to_even_and_ends_are_clamped() -> None:
    x = torch.tensor([[-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 126.5, 127.5, -128.5, 3e38, -3e38, -0.0]])
    want = torch.tensor([[-2, -2, 0, 0, 2, 2, 126, 127, -128, 127, -128, 0]], dtype=torch.int8)
    check_same(make_stage(12, QParams(1.0, 0)), (x,), (want,))
    moved = torch.tensor([[-1, -1, 1, 1, 3, 3, 127, 127, -127, 127, -128, 1]], dtype=torch.int8)
    check_same(make_stage(12, QParams(1.0, 1)), (x,), (moved,))  # ties are of x * inv_scale, before the zero point


def test_dynamic_rows_use_both_ends_and_never_minus_128() -> None:
    x = torch.tensor([[-3.0, 3.0, 0.0], [-3e38, 1e38, 3e38], [0.0, 0.0, -1e-29]])
    for name, run in runs(make_stage(3, None), 3).items():
        q, scale = run(x)
        assert q.tolist() == [[-127, 127, 0], [-127, 42, 127], [0, 0, -127]], name
        assert torch.isfinite(scale).all() and (scale > 0).all(), name


def test_rows_that_count_as_zero() -> None:
    """Below 2^-100 everywhere: the scale is 1, and q is 0. One number at 2^-100 is enough for the formula."""
    small = 2.0**-100
    x = torch.tensor([[0.0, -0.0], [1e-45, -1e-40], [small * 0.99, 0.0], [small, -small / 2]])
    q = torch.tensor([[0, 0], [0, 0], [0, 0], [127, -64]], dtype=torch.int8)
    scale = torch.tensor([[1.0], [1.0], [1.0], [small / 127]])
    check_same(make_stage(2, None), (x,), (q, scale))


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("k", [1, 16, 37])
def test_a_bad_row_is_zero_and_says_so(bad: float, k: int) -> None:
    x = torch.randn(4, k)
    x[2, k - 1] = bad
    for name, run in runs(make_stage(k, None), 4).items():
        q, scale = run(x)
        assert (q[2] == 0).all() and scale[2].isnan().all(), name
        assert not scale[[0, 1, 3]].isnan().any(), name
    for name, run in runs(make_stage(k, QUANTS[0]), 4).items():
        assert (run(x)[0][2] == 0).all(), name


@pytest.mark.parametrize("quant", [QUANTS[0], None], ids=["static", "dynamic"])
def test_samples_are_apart(quant: QParams | None) -> None:
    check_samples_apart(make_stage(41, quant), (torch.randn(5, 41),))
    check_no_samples(make_stage(41, quant))


@pytest.mark.parametrize("activation", ["static", "dynamic"])
def test_compiled(activation: str) -> None:
    """Int8 in, integer sums, one product and one sum: the two backends have no choice of a bit."""
    model, data = nn.Sequential(nn.Linear(37, 5)), [torch.randn(64, 37)]
    calibration = data if activation == "static" else None
    native, plain, found = compiled_both(model, (data[0][:2],), rt.W8A8(activation), calibration=calibration)
    assert found == ["quantize", "linear"]
    for rows in (0, 1, 9):
        x = torch.randn(rows, 37) * 3
        assert same(native(x), plain(x))
    x[4, 36], x[6, 0] = NAN, INF
    for fast in (native, plain):
        assert fast(x)[[4, 6]].isnan().all() and not fast(x)[[0, 1, 2, 3, 5, 7, 8]].isnan().any()
    with pytest.raises(rt.ShapeError, match="float64"):
        native(x.double())


def test_other_types_are_refused() -> None:
    native = [run for name, run in kernels(make_stage(3, None)).items() if name.startswith("cpu_")]
    assert native
    for run in native:
        for bad in (torch.ones(1, 3, dtype=torch.float64), torch.ones(1, 4), torch.ones(3, 1).T[:, ::2]):
            with pytest.raises(rt.UnsupportedProblem, match=r"quantize: got .*float32\[1, 3\]"):
                run(bad)
