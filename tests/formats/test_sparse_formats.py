"""Sparse formats and masks: exact round trips at any size, sizes in bytes, and refusals of what is no such weight."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import rtaccel as rt
from rtaccel.core.sparsity import SparsityMap, parse_sparsity
from rtaccel.formats import bitmap, blocks, csr, int4, masks, semi

SIZES = ((1, 1), (3, 5), (16, 16), (17, 33), (40, 130), (64, 257), (5, 0))
DTYPES = (torch.float32, torch.float16, torch.int8)


def sparse(n: int, k: int, dtype: torch.dtype, density: float = 0.3) -> Tensor:
    weight = torch.randint(-9, 10, (n, k)) * (torch.rand(n, k) < density)
    if n > 2:
        weight[n // 2] = 0
    return weight.to(dtype)


def semi_structured(n: int, k: int, dtype: torch.dtype) -> Tensor:
    weight = torch.randint(-9, 10, (n, k))
    return (weight * masks.n_of_m(torch.rand(n, k), 2, 4)).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "k"), SIZES)
def test_round_trips(n: int, k: int, dtype: torch.dtype) -> None:
    weight = sparse(n, k, dtype)
    values, columns, starts = csr.pack(weight)
    csr.check("test", values, columns, starts, n, k)
    assert torch.equal(csr.unpack(values, columns, starts, k), weight)
    assert values.numel() == int(torch.count_nonzero(weight))
    for block in ((16, 16), (8, 8), (1, 16), (5, 3)):
        values, columns, starts = blocks.pack(weight, block)
        blocks.check("test", values, columns, starts, n, k)
        assert values.shape[1:] == block
        assert torch.equal(blocks.unpack(values, columns, starts, n, k), weight)
    weight = semi_structured(n, k, dtype)
    values, positions = semi.pack(weight)
    semi.check("test", values, positions, n, k)
    assert torch.equal(semi.unpack(values, positions, k), weight)


def test_sizes_in_bytes() -> None:
    weight = torch.zeros(1024, 1024, dtype=torch.int8)
    weight.view(-1)[torch.randperm(1 << 20)[: 1 << 17]] = 5

    def total(tensors: tuple[Tensor, ...]) -> int:
        return sum(t.numel() * t.element_size() for t in tensors)

    assert total(csr.pack(weight)) == 3 * (1 << 17) + 4 * 1025
    assert total(semi.pack(semi_structured(1024, 1024, torch.int8))) == 512 * 1024 + 128 * 1024
    kept = torch.rand(64, 64) < 0.2
    whole = masks.spread(kept, (16, 16), weight.shape).to(torch.int8)
    assert total(blocks.pack(whole, (16, 16))) == int(kept.sum()) * (256 + 2) + 4 * 65


def test_int4_values_compose() -> None:
    """2:4 with int4 values: a group of four weights is one byte and four bits."""
    weight = torch.randn(24, 96)
    weight *= masks.n_of_m(weight.abs(), 2, 4)
    packed, scale = int4.quantize_weight(weight)
    q = int4.unpack(packed, 96)
    assert not q[weight == 0].any()
    values, positions = semi.pack(q)
    stored = int4.pack(values)
    assert stored.shape == (24, 24)
    back = semi.unpack(int4.unpack(stored, values.shape[1]), positions, 96)
    assert torch.equal(int4.dequantize(int4.pack(back), scale, 96, 32), int4.dequantize(packed, scale, 96, 32))


def test_indices_out_of_range_are_refused() -> None:
    values, columns, starts = csr.pack(sparse(8, 20, torch.float32, 0.9))
    broken = columns.clone()
    broken[3] = 20
    with pytest.raises(rt.FormatError, match=r"columns\[3\] = 20.*0\.\.19"):
        csr.check("test", values, broken, starts, 8, 20)
    broken[3] = -1
    with pytest.raises(rt.FormatError, match="-1"):
        csr.check("test", values, broken, starts, 8, 20)
    broken[3] = broken[2]
    with pytest.raises(rt.FormatError, match="ascend"):
        csr.check("test", values, broken, starts, 8, 20)
    for bad in (starts + 1, starts.flip(0), starts[:-1], starts.long()):
        with pytest.raises(rt.FormatError, match="row_starts"):
            csr.check("test", values, columns, bad, 8, 20)
    with pytest.raises(rt.FormatError, match="columns"):
        csr.check("test", values, columns.int(), starts, 8, 20)
    packed = blocks.pack(sparse(20, 20, torch.float32, 0.9), (16, 16))
    with pytest.raises(rt.FormatError, match=r"0\.\.1"):
        blocks.check("test", packed[0], packed[1] + 1, packed[2], 20, 20)
    with pytest.raises(rt.FormatError, match="beyond"):
        blocks.check("test", torch.ones_like(packed[0]), packed[1], packed[2], 20, 20)


def test_what_is_not_2_4_is_refused() -> None:
    weight = semi_structured(8, 16, torch.float32)
    weight[3, 4:8] = 1
    with pytest.raises(rt.FormatError, match=r"weight\[3, 4:8\]"):
        semi.pack(weight)
    values, positions = semi.pack(semi_structured(8, 16, torch.float32))
    with pytest.raises(rt.FormatError, match="ascend"):
        semi.check("test", values, torch.zeros_like(positions), 8, 16)
    with pytest.raises(rt.FormatError, match="positions"):
        semi.check("test", values, positions[:, :1], 8, 16)


@pytest.mark.parametrize("sparsity", [0.0, 0.37, 0.9, 1.0])
def test_masks_keep_what_they_should(sparsity: float) -> None:
    scores = torch.rand(30, 50)
    kept = masks.keep(scores, rt.Unstructured(sparsity))
    assert int(kept.sum()) == masks.kept_of(1500, sparsity)
    assert not kept.any() or scores[kept].min() >= (scores[~kept].max() if (~kept).any() else 0)
    by_row = masks.keep(scores, rt.Unstructured(sparsity), by_row=True)
    assert (by_row.sum(1) == masks.kept_of(50, sparsity)).all()
    pattern = rt.BlockSparse((8, 8), sparsity)
    kept = masks.keep(scores, pattern)
    masks.check("test", kept, pattern)
    assert blocks.tiled(kept, (8, 8)).flatten(2).any(2).sum() == masks.kept_of(4 * 7, sparsity)
    assert int(masks.keep(torch.ones(4, 4), rt.Unstructured(sparsity)).sum()) == masks.kept_of(16, sparsity)  # all ties


def test_masks_that_do_not_fit_are_refused() -> None:
    with pytest.raises(rt.FormatError, match="3 of 4"):
        masks.check("test", torch.tensor([[True, True, True, False]]), rt.SemiStructured())
    mask = torch.ones(16, 16, dtype=torch.bool)
    mask[3, 3] = False
    with pytest.raises(rt.FormatError, match="part of the block"):
        masks.check("test", mask, rt.BlockSparse((8, 8)))
    with pytest.raises(rt.FormatError, match="bool"):
        masks.check("test", mask.float(), rt.Unstructured())


@pytest.mark.parametrize("bad", [-0.1, 1.5, float("nan"), "0.5", True])
def test_a_sparsity_outside_0_to_1_is_refused(bad: object) -> None:
    for pattern in (rt.Unstructured, lambda s: rt.BlockSparse((4, 4), s), rt.SemiStructured):
        with pytest.raises(rt.FormatError, match="sparsity="):
            pattern(bad)


def test_names_and_maps_of_patterns() -> None:
    assert parse_sparsity("2:4") == rt.SemiStructured()
    assert parse_sparsity("unstructured") == rt.Unstructured()
    with pytest.raises(rt.FormatError, match="one of unstructured, blocks, 2:4"):
        parse_sparsity("3:4")
    for bad in ((0, 4), (4,), 16, (4.0, 4)):
        with pytest.raises(rt.FormatError, match="block="):
            rt.BlockSparse(bad)  # type: ignore[arg-type]
    chosen = SparsityMap({"head": None, "b*": "2:4", "*": rt.Unstructured(0.9)})
    assert (chosen("head"), chosen("body"), chosen("x")) == (None, rt.SemiStructured(), rt.Unstructured(0.9))


@pytest.mark.parametrize("dtype", [*DTYPES, torch.bfloat16])
@pytest.mark.parametrize(("n", "k"), SIZES)
def test_bitmaps_round_trip(n: int, k: int, dtype: torch.dtype) -> None:
    weight = sparse(n, k, dtype)
    values, bits, starts = bitmap.pack(weight)
    bitmap.check("test", values, bits, starts, n, k)
    assert torch.equal(bitmap.unpack(values, bits, k), weight)
    assert torch.equal(bitmap.mask(bits, k), weight != 0)
    size = sum(t.numel() * t.element_size() for t in (values, bits, starts))
    assert size == bitmap.bytes_of(n, k, int(torch.count_nonzero(weight)), 8 * weight.element_size())


def test_a_bitmap_of_int4_values_with_their_scales() -> None:
    """Two values a byte; smaller than columns, and than the dense weight."""
    weight = torch.randn(64, 96) * (torch.rand(64, 96) < 0.3)
    packed, scale = int4.quantize_weight(weight)
    q = int4.unpack(packed, 96)
    values, bits, starts = bitmap.pack(q)
    stored = int4.pack(values[None])
    back = bitmap.unpack(int4.unpack(stored, values.numel())[0], bits, 96)
    assert torch.equal(int4.dequantize(int4.pack(back), scale, 96, 32), int4.dequantize(packed, scale, 96, 32))
    whole = stored.numel() + bits.numel() + 4 * starts.numel()
    assert whole == bitmap.bytes_of(64, 96, values.numel(), 4)
    assert whole < packed.numel() < sum(t.numel() * t.element_size() for t in csr.pack(q))


def test_broken_bitmaps_are_refused() -> None:
    values, bits, starts = bitmap.pack(sparse(8, 20, torch.float32, 0.6))
    for wrong, match in (
        ((values, bits.int(), starts), "bits"),
        ((values, bits[:, :2], starts), "bits"),
        ((values[None], bits, starts), "entries"),
        ((values[:-1], bits, starts), "row_starts"),
        ((values, bits, starts.flip(0)), "row_starts"),
    ):
        with pytest.raises(rt.FormatError, match=match):
            bitmap.check("test", *wrong, 8, 20)
    beyond, more = bits.clone(), bits.clone()
    beyond[3, 2] |= 16
    with pytest.raises(rt.FormatError, match="beyond K = 20"):
        bitmap.check("test", values, beyond, starts, 8, 20)
    more[5, 0] ^= 2
    with pytest.raises(rt.FormatError, match="bits in row 5"):
        bitmap.check("test", values, more, starts, 8, 20)
