"""Attention beyond conformance: against F.scaled_dot_product_attention, masks, NaN, samples apart, bad shapes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import rtaccel as rt
from rtaccel._native import Bound
from rtaccel.core.registry import impls
from rtaccel.core.stage import GraphIO, Problem, QParams, Stage, Value
from rtaccel.formats.int8 import quantize
from rtaccel.kernels._core.cpu import build
from rtaccel.kernels.attention import contract

PROBLEM = Problem.of(contract.make_stage(2, 2, 1, 4), 1)
CPU = [i for i in impls("cpu", "attention") if i.supports(PROBLEM) is None]
KERNELS = CPU + impls("portable", "attention")
NAN = float("nan")


@pytest.fixture(params=KERNELS, ids=lambda i: i.name)
def kernel(request):
    return request.param


def packed(t: int, heads: int, head_dim: int, **attrs) -> Stage:
    """Self-attention of one value that holds q, k and v side by side."""
    c = heads * head_dim
    x = Value("x", 3 * c, steps=t)
    quant = attrs.pop("quant", None)
    tensors = {"mask": attrs.pop("mask")} if "mask" in attrs else {}
    attrs = {"heads": heads, "head_dim": head_dim, "k_column": c, "v_column": 2 * c, **attrs}
    y = Value("y", c, "int8" if quant else "float32", quant, t)
    return Stage("attention", "a", (x, x, x), (y,), tensors, attrs)


def call(kernel, stage: Stage, x: torch.Tensor) -> torch.Tensor:
    return kernel.prepare(stage, Problem.of(stage, x.shape[0]))(x, x, x)[0]


def torch_says(x: torch.Tensor, heads: int, **options) -> torch.Tensor:
    m, t, width = x.shape
    q, k, v = (p.view(m, t, heads, -1).transpose(1, 2) for p in x.split(width // 3, -1))
    return F.scaled_dot_product_attention(q, k, v, **options).transpose(1, 2).reshape(m, t, -1)


@pytest.mark.parametrize(("t", "heads", "head_dim"), [(5, 2, 8), (17, 3, 20), (32, 6, 64), (70, 1, 130)])
def test_against_torch(kernel, t: int, heads: int, head_dim: int) -> None:
    x = torch.randn(2, t, 3 * heads * head_dim)
    near = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(call(kernel, packed(t, heads, head_dim), x), torch_says(x, heads), **near)
    got = call(kernel, packed(t, heads, head_dim, causal=1), x)
    torch.testing.assert_close(got, torch_says(x, heads, is_causal=True), **near)
    mask = torch.randn(t, t)
    mask[0, 1:], mask[-1] = -float("inf"), -float("inf")  # one key left; no key left
    got = call(kernel, packed(t, heads, head_dim, mask=mask, scale=0.3), x)
    torch.testing.assert_close(got, torch_says(x, heads, attn_mask=mask, scale=0.3), **near)
    assert (got[:, -1] == 0).all()
    assert call(kernel, packed(t, heads, head_dim, mask=mask, empty_row="nan"), x)[:, -1].isnan().all()


def test_large_scores_do_not_overflow(kernel) -> None:
    x = torch.randn(1, 9, 3 * 16) * 300
    torch.testing.assert_close(call(kernel, packed(9, 1, 16), x), torch_says(x, 1), rtol=1e-3, atol=1e-2)


def test_fused_sets_give_the_same_bits() -> None:
    """Sums run down head_dim and the keys, whatever the width of a vector; only a set without fma rounds otherwise."""
    fused = [k for k in CPU if not k.name.endswith("portable")]
    x = torch.randn(2, 37, 3 * 2 * 24)
    for stage in (packed(37, 2, 24, causal=1), packed(37, 2, 24, quant=QParams(0.02, 3))):
        results = [call(k, stage, x) for k in fused]
        assert all(torch.equal(results[0], r) for r in results[1:])


@pytest.mark.parametrize("bad", [NAN, float("inf")])
def test_samples_stay_apart(kernel, bad: float) -> None:
    x = torch.randn(3, 6, 3 * 10)
    for quant in (None, QParams(0.03, -5)):
        stage = packed(6, 2, 5, quant=quant)
        clean = call(kernel, stage, x)
        with_nan = x.clone()
        with_nan[1, 2, 25] = bad  # in v
        got = call(kernel, stage, with_nan)
        assert torch.equal(got[[0, 2]], clean[[0, 2]])
        assert (got[1] == 0).all() if quant else not got[1].isfinite().all()


@pytest.mark.parametrize("cpu", CPU, ids=lambda i: i.name)
def test_a_marked_sample_is_nan_behind_an_int8_layer(cpu) -> None:
    stage = packed(4, 1, 8, quant=QParams(0.03, 0))
    q = stage.outputs[0]
    w = {"weight": torch.ones(3, 8, dtype=torch.int8), "weight_scale": torch.ones(3), "bias": torch.zeros(3)}
    linear = Stage("linear", "l", (q,), (Value("z", 3, steps=4),), w)
    isa = cpu.name.removeprefix("cpu_")
    names = {i.name for i in impls("cpu", "linear")}
    if f"cpu_{isa}" not in names:
        pytest.skip(f"linear has no kernel for {isa}")
    ports = [GraphIO.matrix(stage.inputs[0])], [GraphIO.matrix(linear.outputs[0])]
    plan = build([(stage, cpu.name), (linear, f"cpu_{isa}")], *ports)
    x = torch.randn(9, 4, 24)
    clean = plan.call((x,))
    x[3, 0, 0] = NAN
    got = plan.call((x,))
    rest = [i for i in range(9) if i != 3]
    assert got[3].isnan().all() and torch.equal(got[rest], clean[rest])


@pytest.mark.parametrize("cpu", CPU, ids=lambda i: i.name)
@pytest.mark.parametrize("head_dim", [3, 8, 16, 17])
def test_int8_is_that_of_its_float(cpu, head_dim: int) -> None:
    x, quant = torch.randn(2, 7, 9 * head_dim), QParams(0.02, 11)
    want = quantize(call(cpu, packed(7, 3, head_dim), x), quant)
    assert torch.equal(call(cpu, packed(7, 3, head_dim, quant=quant), x), want)


@pytest.mark.parametrize("cpu", CPU, ids=lambda i: i.name)
@pytest.mark.parametrize("head_dim", [1, 5, 16, 19])
def test_writes_only_its_output(cpu, head_dim: int) -> None:
    stage = packed(3, 2, head_dim)
    size = 2 * 3 * 2 * head_dim
    memory = torch.full((size + 64,), 5.0)
    y = memory[32 : 32 + size].view(2, 3, 2 * head_dim)
    x = torch.randn(2, 3, 6 * head_dim)
    Bound(build([(stage, cpu.name)], [GraphIO.matrix(stage.inputs[0])], [GraphIO.matrix(stage.outputs[0])]), (x,), y)()
    torch.testing.assert_close(y, torch_says(x, 2), rtol=1e-4, atol=1e-5)
    assert (memory[:32] == 5).all() and (memory[32 + size :] == 5).all()


WRONG = {
    "heads do not fill the width": {"heads": 3, "head_dim": 5},
    "columns beyond the value": {"v_column": 17},
    "negative column": {"q_column": -1},
    "kv_heads do not divide": {"kv_heads": 4, "heads": 6, "head_dim": 1},
    "no heads": {"heads": 0},
}


@pytest.mark.parametrize("name", WRONG)
def test_heads_that_do_not_fit(name: str) -> None:
    stage = packed(4, 2, 4)
    with pytest.raises(rt.ShapeError, match="attention") as caught:
        contract.lower(replace(stage, attrs={**stage.attrs, **WRONG[name]}))
    assert caught.value.next_step


def test_masks_that_do_not_fit() -> None:
    for shape in ((3, 4), (4, 5), (9, 4)):
        with pytest.raises(rt.ShapeError, match="mask"):
            contract.lower(packed(4, 2, 4, mask=torch.zeros(shape)))
    with pytest.raises(rt.FormatError, match="empty_row"):
        contract.lower(packed(4, 2, 4, empty_row="one"))
