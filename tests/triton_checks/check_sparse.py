"""The Triton kernels of sparse weights: blocks, 2:4 and single weights, of any size, with rows quantized in front and without.

As check_kernels.py, started by tests/gpu/test_triton_interpreter.py. Integers must be those of the CPU's kernels to the bit.
"""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

import rtaccel as rt
from rtaccel.backends import require
from rtaccel.core.errors import ShapeError
from rtaccel.core.registry import Impl, impls, operator
from rtaccel.core.stage import Problem
from rtaccel.core.weight_format import WeightFormat
from rtaccel.formats import blocks, int8
from rtaccel.kernels.fused_sparse_linear import contract as fused
from rtaccel.kernels.linear import contract as linear
from rtaccel.kernels.sparse_linear import contract
from rtaccel.kernels.sparse_linear.triton.pack import pack
from rtaccel.kernels.sparse_linear.triton.rows import KernelConfig, problem_of_size
from tests.triton_checks.support.sparse_stages import (  # noqa: F401
    DEVICE,
    assert_right,
    fresh_seed,
    nan_filled,
    taking,
    visible_sums,
    with_zeros,
)

require("triton")

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def contract_cases() -> Iterator[Any]:
    """A fifth of them, another each day: the interpreter takes a quarter of a second for one."""
    for op in ("sparse_linear", "fused_sparse_linear"):
        for case in itertools.islice(operator(op).cases(), datetime.date.today().toordinal() % 5, None, 5):
            for impl in taking(case.stage, case.make(0)[0].shape[0]):
                yield pytest.param(impl, case, id=f"{op}-{impl.name}-{case.id}")


@pytest.mark.parametrize(("impl", "case"), list(contract_cases()))
def test_contract_case(impl: Impl, case: Any) -> None:
    inputs = case.make(torch.randint(1 << 30, ()).item())
    assert_right(impl, case.stage, inputs[0].shape[0], inputs)


BLOCKS = ((1, 16), (3, 5), (4, 8), (6, 16), (16, 16), (32, 16), (64, 64), (128, 8), (48, 40))


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_blocks_of_any_size_that_do_not_divide_the_layer(block: tuple[int, int]) -> None:
    for kind in ("static", "dynamic", "w8a16")[: 1 if block in BLOCKS[4:] else 3]:
        stage = with_zeros(75, 84, kind, rt.BlockSparse(block, 0.6))
        for impl in taking(stage, 2):
            assert_right(impl, stage, 2, linear.make_inputs(stage, 2, torch.randint(1 << 30, ()).item()))


def unpacked(packed: dict[str, torch.Tensor], config: KernelConfig, rows: int) -> torch.Tensor:
    """The dense weight of single weights, from what a kernel reads."""
    weight = torch.zeros(rows, config.k)
    starts, each = packed["starts_ptr"].long(), config.unit // config.c
    for row in range(rows):
        first, end = int(starts[row]), int(starts[row + 1])
        values = packed["weight_ptr"][first * config.unit : end * config.unit].view(-1, config.c).float()
        for column, block in zip(packed["columns_ptr"][first * each : end * each].tolist(), values):
            weight[row, column * config.c : (column + 1) * config.c] += block
    return weight


def at_once(packed: dict[str, torch.Tensor], config: KernelConfig, each: int) -> float:
    """How many words of one bank a warp asks for in a gather, on average: lanes take `each` blocks, from where a line begins."""
    starts, columns, per = packed["starts_ptr"].tolist(), packed["columns_ptr"].long(), config.unit // config.c
    most: list[int] = []
    for first, end in itertools.pairwise(starts):
        at = first % config.lead * per + torch.arange((end - first) * per)
        gather = at // (32 * each) * each + at % each
        found = columns[first * per : end * per]
        for one in gather.unique():
            most.append(int((found[gather == one].unique() % 32).bincount().max()))
    return sum(most) / len(most)


@pytest.mark.parametrize(("kind", "c", "each"), [("static", 4, 4), ("float32", 1, 4), ("bfloat16", 1, 8)])
def test_lanes_that_gather_at_once_ask_different_banks(kind: str, c: int, each: int) -> None:
    """All weights are there, in another order, and about half as many words lie in one bank."""
    config = KernelConfig.of(problem_of_size(2048, 24, kind, "window", 1), 1, c)
    dtype = {"static": torch.int8, "float32": torch.float32, "bfloat16": torch.bfloat16}[kind]
    weight = (torch.randint(1, 100, (24, 2048)) * (torch.rand(24, 2048) < 0.1)).to(dtype)
    weight[3] = 0
    plain, spread = pack(weight, config), pack(weight, config, each=each)
    assert torch.equal(unpacked(spread, config, 24), weight.float())
    assert at_once(spread, config, each) < 0.75 * at_once(plain, config, each)


def test_a_last_step_is_a_power_of_two_where_that_adds_little() -> None:
    units = torch.tensor([0, 3, 8, 21, 30, 41])
    assert blocks.in_steps(units, 8).tolist() == [0, 4, 8, 24, 32, 41]
    assert blocks.in_steps(units[:2], 8).tolist() == [0, 3]


@pytest.mark.parametrize("kind", ["static", "bfloat16", "float32"])
def test_no_weight_at_all(kind: str) -> None:
    """The bias is left, and no block is looked for."""
    for layout in contract.LAYOUTS:
        stage = contract.make_stage(36, 19, kind, layout, 0.0)
        ran = taking(stage, 3)
        assert ran or (kind, layout) == ("float32", "2:4")
        for impl in ran:
            assert_right(impl, stage, 3, linear.make_inputs(stage, 3, 1))


@pytest.mark.parametrize("k", [4, 60, 64, 68, 516, linear.MAX_K])
def test_sums_are_exact_up_to_the_largest(k: int) -> None:
    weight = torch.randint(-127, 128, (17 if k < 1000 else 1, k), dtype=torch.int8) * (torch.arange(k) % 4 < 2)
    weight[0] = torch.where(torch.arange(k) % 4 < 2, 127, 0)
    rows = 3 if k < 1000 else 1
    x = torch.randint(-128, 128, (rows, k), dtype=torch.int8)
    x[0] = -128
    want = (x.long() - 127) @ weight.long().T
    for layout, block in (("blocks", (16, 32)), ("2:4", (1, 4)), ("window", (1, 1)))[: 3 if k < 1000 else 1]:
        stage = visible_sums(weight, 127, layout, block)
        ran = taking(stage, rows)
        assert len(ran) == 2 - (layout == "2:4"), [i.name for i in ran]
        for impl in ran[: 2 if k < 1000 else 1]:
            (got,) = impl.prepare(stage, Problem.of(stage, rows, DEVICE))(x.to(DEVICE))
            assert torch.equal(got.cpu(), want.float()), f"{impl.name} {layout}"


def test_a_block_like_no_other_is_at_its_place() -> None:
    """One weight alone, in each corner and in the middle: an index that is off by one shows."""
    for n, k in ((0, 63), (16, 0), (7, 36)):
        weight = torch.zeros(17, 64, dtype=torch.int8)
        weight[n, k] = 3
        x = torch.randint(-128, 128, (2, 64), dtype=torch.int8)
        for layout, block in (("window", (1, 1)), ("blocks", (16, 16)), ("2:4", (1, 4))):
            stage = visible_sums(weight, 0, layout, block)
            for impl in taking(stage, 2):
                (got,) = impl.prepare(stage, Problem.of(stage, 2, DEVICE))(x.to(DEVICE))
                want = torch.zeros(2, 17)
                want[:, n] = 3.0 * x[:, k]
                assert torch.equal(got.cpu(), want), f"{impl.name} {layout} [{n}, {k}]"


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
@pytest.mark.parametrize("layout", contract.LAYOUTS)
def test_a_row_that_is_not_finite_is_nan_and_alone(layout: str, value: float) -> None:
    """Even where the number that is not finite meets only zeros that are not stored."""
    for kind in ("float32", "w8a16"):
        stage = contract.make_stage(70, 20, kind, layout, 0.1, activation="relu")
        x = torch.randn(3, 70)
        unused = [k for k in range(70) if not contract.dense_weight(stage.tensors, 20, 70)[:, k].any()]
        x[1, unused[0] if unused else 69] = value
        for impl in taking(stage, 3):
            (y,) = impl.prepare(stage, Problem.of(stage, 3, DEVICE))(x.to(DEVICE))
            assert y[1].isnan().all()
            assert y[[0, 2]].isfinite().all()


def test_prepared_for_one_batch_runs_any_other() -> None:
    for layout in contract.LAYOUTS:
        stage = contract.make_stage(52, 21, "dynamic", layout, 0.3, activation="relu")
        for impl in taking(stage, 3):
            assert_right(impl, stage, 3, *(linear.make_inputs(stage, m, m) for m in (0, 6)))


@pytest.mark.parametrize("layout", contract.LAYOUTS)
def test_rows_quantized_in_front_are_those_of_two_launches(layout: str) -> None:
    """To the bit, with a row of zeros, one that is not finite, and K that is no multiple of anything."""
    for k in (37, 132):
        stage = fused.make_stage(k, 9, layout, 0.4, activation="relu")
        x = torch.randn(4, k)
        x[1], x[2, k // 2] = 0, float("inf")
        ran = taking(stage, 3)
        assert ran
        for impl in ran:
            (y,) = impl.prepare(stage, Problem.of(stage, 3, DEVICE))(x.to(DEVICE))
            (want,) = contract.reference(fused.inner(stage), *int8.dynamic(x))
            assert torch.equal(y[[0, 1, 3]].cpu(), want[[0, 1, 3]]), impl.name
            assert y[2].isnan().all()


@pytest.mark.parametrize("kind", ["static", "dynamic", "bfloat16", "float32"])
def test_single_weights_for_many_rows(kind: str) -> None:
    """More rows than a tile, and fewer; a row without weights, one with all of them."""
    dense = contract.dense_stage(contract.make_stage(41, 6, kind, "window", 0.2, activation="relu"))
    weight = dense.tensors["weight"].clone()
    weight[1] = 1
    stage = contract.sparse_stage(replace(dense, tensors={**dense.tensors, "weight": weight}), "window")
    (impl,) = [i for i in taking(stage, 6) if i.name == "triton_spmm"]
    assert_right(impl, stage, 6, *(linear.make_inputs(stage, m, m) for m in (6, 17)))


def test_2_4_in_more_rows_than_a_program_has() -> None:
    """Dense is faster then, but a stage that is there has a kernel."""
    for k, group in ((100, 32), (300, 96), (256, 128)):
        stage = contract.make_stage(k, 18, "w4a8-static", "2:4", 0.5, activation="relu", group_size=group)
        (impl,) = taking(stage, 5)
        assert impl.name == "triton_semi_int4"
        assert_right(impl, stage, 5, linear.make_inputs(stage, 5, k))
    for kind in ("static", "dynamic", "bfloat16"):
        stage = contract.make_stage(68, 18, kind, "2:4", 0.5)
        (impl,) = taking(stage, 9)
        assert impl.name == "triton_semi"
        assert_right(impl, stage, 9, linear.make_inputs(stage, 9, 1))


def test_wrong_inputs_are_refused() -> None:
    for layout in contract.LAYOUTS:
        stage = contract.make_stage(8, 4, "static", layout, 0.5)
        x = linear.make_inputs(stage, 2, seed=0)[0].to(DEVICE)
        for impl in taking(stage, 2):
            call = impl.prepare(stage, Problem.of(stage, 2, DEVICE))
            for wrong in (x[:, :4], x.float(), x[0], x.repeat(1, 2)[:, ::2]):
                with pytest.raises(ShapeError, match="contiguous"):
                    call(wrong)
            with pytest.raises(ShapeError, match="row_scale"):
                call(x, torch.ones(2, 1, device=DEVICE))
    stage = fused.make_stage(8, 4, "2:4", 0.5)
    for impl in taking(stage, 2):
        call = impl.prepare(stage, Problem.of(stage, 2, DEVICE))
        for given in ((torch.ones(2, 4),), (torch.ones(2, 8).half(),), (torch.ones(2, 8), torch.ones(2, 1))):
            with pytest.raises(ShapeError, match="fused_sparse_linear"):
                call(*(t.to(DEVICE) for t in given))


def test_why_a_kernel_does_not_take_a_problem() -> None:
    reasons = {i.name: i.supports for i in impls("triton", "sparse_linear")}
    tiles = Problem.of(contract.make_stage(16, 4, "static", "blocks", 0.5), 1)
    semi = Problem.of(contract.make_stage(16, 4, "static", "2:4", 0.5), 1)
    floats = Problem.of(contract.make_stage(16, 4, "float32", "blocks", 0.5), 1)
    int4 = Problem.of(contract.make_stage(64, 4, "w4a8-static", "2:4", 0.5, group_size=32), 8)
    for name in ("triton_gemv", "triton_dot"):
        assert "packed as 2:4" in (reasons[name](semi) or "")
    assert "packed as blocks" in (reasons["triton_semi"](tiles) or "")
    floats_in_semi = replace(semi, weight_format=WeightFormat.FLOAT32, in_dtypes=("float32",))
    assert "float32 values" in (reasons["triton_semi"](floats_in_semi) or "")
    assert "M = 5" in (reasons["triton_gemv"](replace(tiles, rows=5)) or "")
    assert "not 18" in (reasons["triton_gemv"](replace(tiles, in_widths=(18,))) or "")
    assert "65540" in (reasons["triton_dot"](replace(tiles, in_widths=(65_540,))) or "")
    assert "torch" in (reasons["triton_dot"](floats) or "")
    assert "float32" in (reasons["triton_gemv"](floats) or "")
    assert "int8" in (reasons["triton_gemv_float"](tiles) or "")
    window = Problem.of(contract.make_stage(16, 4, "static", "window", 0.5), 5)
    assert "more than 4 rows" in (reasons["triton_spmm"](replace(window, rows=4)) or "")
    assert "N = 65536" in (reasons["triton_spmm"](replace(window, out_widths=(65_536,))) or "")
    assert "packed as blocks" in (reasons["triton_spmm"](replace(tiles, rows=5)) or "")
    assert "65540" in (reasons["triton_semi_int4"](replace(int4, in_widths=(65_540,))) or "")
    assert "multiple of 32" in (reasons["triton_semi_int4"](replace(int4, attrs={**int4.attrs, "group_size": 8})) or "")
    whole = Problem.of(fused.make_stage(16, 8, "2:4", 0.5), 1)
    (semi_gemv,) = (i for i in impls("triton", "fused_sparse_linear") if i.name == "triton_semi")
    assert semi_gemv.supports(whole) is None
    assert "K <= 8192" in (semi_gemv.supports(replace(whole, in_widths=(8193,))) or "")
