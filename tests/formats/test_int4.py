"""int4 groups: exact round trips, the search of the scale, and what is not this format."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import rtaccel as rt
from rtaccel.formats import bf16, int4

SIZES = [(1, 1), (3, 2), (2, 15), (5, 16), (4, 17), (7, 33), (2, 64), (3, 127), (1, 300)]


def uniform(n: int, k: int, seed: int = 0) -> Tensor:
    return (torch.rand(n, k, generator=torch.Generator().manual_seed(seed)) * 2 - 1) / k**0.5


def error(weight: Tensor, group_size: int) -> float:
    packed, scale = int4.quantize_weight(weight, group_size)
    restored = int4.dequantize(packed, scale, weight.shape[1], group_size)
    return float((restored - weight).square().mean().sqrt() / weight.square().mean().sqrt())


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 5), st.integers(0, 70), st.integers(0, 2**31))
def test_pack_and_unpack_are_exact(n: int, k: int, seed: int) -> None:
    q = torch.randint(-8, 8, (n, k), dtype=torch.int8, generator=torch.Generator().manual_seed(seed))
    packed = int4.pack(q)
    assert packed.dtype == torch.uint8
    assert packed.shape == (n, (k + 1) // 2)
    assert packed.is_contiguous()
    assert torch.equal(int4.unpack(packed, k), q)
    assert torch.equal(int4.pack(int4.unpack(packed, k)), packed)


def test_layout_is_what_it_says() -> None:
    packed = int4.pack(torch.tensor([[-8, 7, 0]], dtype=torch.int8))
    assert packed.tolist() == [[0xF0, 0x88]]


@pytest.mark.parametrize("group_size", [16, 32, 48, 256])
@pytest.mark.parametrize(("n", "k"), SIZES)
def test_a_weight_of_the_format_comes_back(n: int, k: int, group_size: int) -> None:
    """Numbers that are q * scale, with the step -8 in use in every group, are restored exactly."""
    g = torch.Generator().manual_seed(n + k)
    groups = int4.group_count(k, group_size)
    q = torch.randint(-8, 8, (n, k), generator=g)
    q[:, ::group_size] = -8
    scale = (torch.rand(n, groups, generator=g) + 0.5).bfloat16().float() * torch.tensor([1.0, -1.0])[
        torch.randint(0, 2, (n, groups), generator=g)
    ]
    weight = (q * scale.repeat_interleave(group_size, 1)[:, :k]).float()
    packed, found = int4.quantize_weight(weight, group_size)
    assert packed.shape == (n, (k + 1) // 2)
    assert found.shape == (n, groups)
    assert torch.equal(int4.dequantize(packed, found, k, group_size).float(), weight)


@pytest.mark.parametrize(("n", "k"), SIZES)
def test_scales_are_bfloat16_and_errors_are_bounded(n: int, k: int) -> None:
    weight = torch.randn(n, k, generator=torch.Generator().manual_seed(k))
    packed, scale = int4.quantize_weight(weight, 32)
    assert scale.dtype == torch.float32
    assert torch.equal(scale.bfloat16().float(), scale)
    # At worst the scale that clips nothing, max / 7.5, is rounded up by bfloat16: the search never does worse than
    # that in the squared error of a group.
    for first in range(0, k, 32):
        part = weight[:, first : first + 32]
        bound = part.shape[1] * (part.abs().amax(1) * (1 + 2.0**-8) / 7 / 2).square()
        lost = int4.dequantize(packed, scale, k, 32)[:, first : first + 32] - part
        assert (lost.square().sum(1) <= bound).all()


def test_no_scale_of_a_fine_grid_is_much_better() -> None:
    weight = torch.randn(40, 32, generator=torch.Generator().manual_seed(3))
    packed, scale = int4.quantize_weight(weight, 32)
    lost = (int4.dequantize(packed, scale, 32, 32) - weight).square().sum(1)
    best = torch.full((40,), torch.inf)
    for step in torch.linspace(0.5, 1.3, 400):
        for sign in (1, -1):
            s = (weight.abs().amax(1) * sign * step / 8)[:, None]
            q = (weight / s).round().clamp(-8, 7)
            best = torch.minimum(best, (q * s - weight).square().sum(1))
    assert (lost.mean() / best.mean()).item() < 1.04


@pytest.mark.parametrize(("group_size", "limit"), [(16, 0.060), (32, 0.066), (64, 0.069), (128, 0.071)])
def test_error_of_default_initialisation(group_size: int, limit: float) -> None:
    assert 0.04 < error(uniform(256, 1024), group_size) < limit


def test_zeros_tiny_and_huge() -> None:
    weight = torch.zeros(3, 40)
    weight[1] = 1e-35
    weight[2, 35] = 3e38
    packed, scale = int4.quantize_weight(weight, 32)
    assert torch.equal(scale[0], torch.ones(2))
    restored = int4.dequantize(packed, scale, 40, 32)
    assert (restored[:2] == 0).all()
    assert restored[2, 35] == pytest.approx(3e38, rel=0.01)
    assert int4.quantize_weight(torch.zeros(0, 5), 32)[1].shape == (0, 1)


@pytest.mark.parametrize("group_size", [0, -32, 8, 24, 33, 272, 32.0, "32", None, True])
def test_bad_group_sizes(group_size) -> None:
    for make in (rt.W4A8, rt.W4A16):
        with pytest.raises(rt.FormatError, match="multiple of 16") as caught:
            make(group_size=group_size)
        assert caught.value.op == make.__name__
    with pytest.raises(rt.FormatError, match="multiple of 16"):
        int4.quantize_weight(torch.zeros(2, 32), group_size)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite(value: float) -> None:
    weight = torch.zeros(2, 33)
    weight[1, 32] = value
    for quantize in (int4.quantize_weight, bf16.quantize_weight):
        with pytest.raises(rt.FormatError, match=r"weight\[1, 32\]"):
            quantize(weight)


def test_bfloat16() -> None:
    weight = torch.randn(5, 7)
    rounded = bf16.quantize_weight(weight)
    assert rounded.dtype == torch.bfloat16
    assert ((rounded.float() - weight).abs() <= weight.abs() * 2.0**-8).all()
    with pytest.raises(rt.FormatError, match="below"):
        bf16.quantize_weight(torch.full((1, 1), 3.402e38))


@pytest.mark.parametrize(
    "scale", [float("nan"), float("inf"), 0.0, 2.0**-130, 1.001], ids=["nan", "inf", "zero", "tiny", "not bfloat16"]
)
def test_scales_that_the_format_excludes(scale: float) -> None:
    with pytest.raises(rt.FormatError, match="group_scale"):
        int4.require_scales("test", "group_scale", torch.tensor([[1.0, scale]]))
