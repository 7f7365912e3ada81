"""Fused sparse linear: the bits of quantize and sparse linear one after another, and of the dense layer; NaN rows; refusals."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import rtaccel as rt
from rtaccel.core.registry import impls, operator
from rtaccel.core.stage import Stage, Value
from rtaccel.kernels.fused_sparse_linear.contract import fused, make_inputs, make_stage
from rtaccel.kernels.sparse_linear import contract as sparse
from tests.support import decoded
from tests.support.one_stage import INF, NAN, check_no_samples, check_same, check_samples_apart, runs

LAYOUTS = ("window", "blocks", "2:4")
SIZES = [(1, 1, 1), (2, 5, 35), (3, 17, 130), (6, 70, 64)]
FUSED, SPARSE, QUANTIZE = (operator(name) for name in ("fused_sparse_linear", "sparse_linear", "quantize"))


def rows_of(k: int) -> tuple[Value, Value]:
    return Value("q", k, "int8"), Value("s", 1)


@pytest.mark.parametrize("out", ["float32", "int8"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("rows", "n", "k"), SIZES)
def test_is_its_operators_one_after_another(rows: int, n: int, k: int, layout: str, out: str) -> None:
    stage = make_stage(k, n, layout, 0.4, activation="relu", out=out)
    (x,) = make_inputs(stage, rows, seed=k)
    q = QUANTIZE.reference(Stage("quantize", "q", stage.inputs, rows_of(k)), x)
    apart = replace(stage, op="sparse_linear", inputs=rows_of(k))
    check_same(stage, (x,), SPARSE.reference(apart, *q))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("rows", "n", "k"), SIZES)
def test_is_the_formula_of_the_dense_layer(rows: int, n: int, k: int, layout: str) -> None:
    """A weight is given with its zeros, so that its form plays no part in what is expected."""
    dense = decoded_stage(n, k)
    stage = fused(sparse.sparse_stage(dense, layout, (3, 5)), Value("x", k))
    x = torch.randn(rows, k) * 5
    peak = x.abs().amax(1, keepdim=True)
    q = torch.round(x * (torch.full_like(peak, 127.0) / peak)).to(torch.int8)
    want = decoded.int8_layer(dense, dense.tensors["weight"], q, peak / torch.full_like(peak, 127.0))
    check_same(stage, (x,), (want,))


def decoded_stage(n: int, k: int) -> Stage:
    weight = torch.randint(-127, 128, (n, k), dtype=torch.int8)
    weight[:, 0::4] = 0
    weight[:, 3::4] = 0
    tensors = {"weight": weight, "weight_scale": torch.rand(n) + 0.01, "bias": torch.randn(n)}
    return Stage("linear", "l", rows_of(k), (Value("y", n),), tensors, {"activation": "none"})


def test_int4_in_two_of_four() -> None:
    stage = make_stage(132, 21, "2:4", 0.5, "w4a8-dynamic", activation="relu", group_size=32)
    (x,) = make_inputs(stage, 3, seed=1)
    q = QUANTIZE.reference(Stage("quantize", "q", stage.inputs, rows_of(132)), x)
    (want,) = SPARSE.reference(replace(stage, op="sparse_linear", inputs=rows_of(132)), *q)
    for name, run in runs(stage, 3).items():
        torch.testing.assert_close(run(x)[0], want, rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_bad_row_is_nan(layout: str, bad: float) -> None:
    stage = make_stage(35, 12, layout, 0.1)
    (x,) = make_inputs(stage, 4, seed=2)
    x[2, 0] = bad
    for name, run in runs(stage, 4).items():
        y = run(x)[0]
        assert y[2].isnan().all() and torch.isfinite(y[[0, 1, 3]]).all(), name


@pytest.mark.parametrize("layout", LAYOUTS)
def test_zeros_leave_the_bias_and_samples_are_apart(layout: str) -> None:
    stage = make_stage(35, 12, layout, 0.3)
    check_same(stage, (torch.zeros(2, 35),), (stage.tensors["bias"].expand(2, 12),))
    check_samples_apart(stage, make_inputs(stage, 4, seed=3))
    check_no_samples(stage)


def test_structure_that_stores_no_weight_is_refused() -> None:
    """By the rules of sparse_linear, which are tested there."""
    for layout, name, words in (
        ("window", "row_starts", r"torch.int32 \[9\]"),
        ("blocks", "columns", "one for each block"),
        ("2:4", "positions", r"torch.uint8 \[8, 2\]"),
    ):
        good = make_stage(12, 8, layout, 1.0)
        tensors = {**good.tensors, name: good.tensors[name][..., :-1]}
        for refuse in (FUSED.lower, lambda stage: FUSED.reference(stage, torch.ones(1, 12))):
            with pytest.raises(rt.FormatError, match=f"sparse_linear: .*{words}"):
                refuse(replace(good, tensors=tensors))
    wide = make_stage(12, 8, "window", 0.6)
    with pytest.raises(rt.UnsupportedProblem, match="K = 70000; expected K <= 65536"):
        FUSED.lower(replace(wide, inputs=(Value("x", 70_000),)))


def test_triton_kernels_are_named_after_their_backend() -> None:
    """<backend>_<idea>, as `explain()` shows them; those here take the idea from the file of sparse_linear."""
    pytest.importorskip("triton")
    assert {i.name for i in impls("triton", "fused_sparse_linear")} == {
        "triton_gemv", "triton_marked", "triton_semi", "triton_semi_int4",
    }  # fmt: skip
    others = {i.name for i in impls("triton") if not i.name.startswith("triton_")}
    assert others == {"cuda_float32", "cuda_window"}  # CUDA C++, in the same graphs
