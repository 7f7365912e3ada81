"""The Triton kernels of every weight format, on sizes around their tiles, groups and parts of K.

As check_kernels.py, which has the cases of the contracts: started by tests/gpu/test_triton_interpreter.py. Here outputs and the
parts of split sums are nan_filled, kernels prepared for one batch run others, and repeated calls must give the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

from rtaccel.backends import require
from rtaccel.core import settings
from rtaccel.core.errors import ShapeError
from rtaccel.core.registry import Impl, Operator, Tolerance, impls, operator
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels._gpu.triton_device import dot4, multiply_rn
from rtaccel.kernels._gpu.triton_nan_propagation import nan_propagator
from rtaccel.kernels.fused_linear import contract as fused
from rtaccel.kernels.linear import contract, contract_weights
from rtaccel.kernels.linear.triton import gemv_float, gemv_int4, wide_config
from rtaccel.kernels.linear.triton.mixed_config import KernelConfig, split_of
from rtaccel.kernels.linear.triton.split import parts_of
from tests.triton_checks.support.exchanged import exchanged

require("triton")
DEVICE = "cpu" if settings.triton_interpret() else "cuda"

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def impl_of(op: str, name: str) -> Impl:
    return next(i for i in impls("triton", op) if i.name == name)


@pytest.fixture(autouse=True)
def nan_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    allocate = torch.empty

    def fill(*args: Any, **kwargs: Any) -> Tensor:
        t = allocate(*args, **kwargs)
        return t.fill_(float("nan") if t.is_floating_point() else 85)

    monkeypatch.setattr(torch, "empty", fill)


def differences(op: Operator, stage: Stage, inputs: tuple[Tensor, ...], got: Tensor) -> str | None:
    (want,), tolerance = op.reference(stage, *inputs), op.tolerance(stage, *inputs)
    got = got.cpu()
    assert (got.shape, got.dtype) == (want.shape, want.dtype)
    if got.dtype == torch.int8:
        off = (got.int() - want.int()).abs() > tolerance.steps
    else:
        off = ~((got == want) | (got.isnan() & want.isnan()) | ((got.double() - want.double()).abs() <= tolerance.atol))
    return f"{int(off.sum())} of {off.numel()} differ" if off.any() else None


def check(op: str, impl: Impl, stage: Stage, rows: int, *others: int) -> None:
    """Prepared for `rows`, run with them and with others, twice each: within the tolerance, and the same bits."""
    call = impl.prepare(stage, Problem.of(stage, rows, DEVICE))
    make = contract.make_inputs if op == "linear" else fused.make_inputs
    for m in (rows, *others):
        inputs = make(stage, m, seed=torch.randint(1 << 30, ()).item())  # type: ignore[arg-type]
        there = [t.to(DEVICE) for t in inputs]
        (first,) = call(*there)
        (second,) = call(*there)
        assert torch.equal(first.nan_to_num(7.0), second.nan_to_num(7.0))
        found = differences(operator(op), stage, inputs, first)
        assert found is None, f"{impl.name} M = {m}, {stage.inputs[0].width} to {stage.outputs[0].width}: {found}"


SIZES = [(1, 1), (31, 3), (33, 17), (129, 33), (515, 18)]


@pytest.mark.parametrize("kind", contract_weights.KINDS)
@pytest.mark.parametrize(("k", "n"), SIZES)
def test_every_format_at_the_edges_of_tiles(kind: str, k: int, n: int) -> None:
    stage = contract_weights.make_stage(k, n, kind, "relu")
    check("linear", impl_of("linear", "triton_tensor_core"), stage, 1, 0, 17)


@pytest.mark.parametrize("group", [16, 48, 128])
@pytest.mark.parametrize("kind", ["w4a16", "w4a8-static", "w4a8-dynamic"])
def test_groups_of_every_kind_of_size(kind: str, group: int) -> None:
    """Powers of two, multiples of 16 that are none, and a last group that is not whole."""
    for k in (group - 1, 2 * group + 12):
        stage = contract_weights.make_stage(k, 11, kind, group_size=group)
        check("linear", impl_of("linear", "triton_tensor_core"), stage, 3)
        if kind != "w4a16" and k % 4 == 0:
            check("linear", impl_of("linear", "triton_gemv_int4"), stage, 3, 5)


@pytest.mark.parametrize("k", [4, 60, 68, 1100])
def test_int4_rows_one_by_one(k: int) -> None:
    for rows in (1, 2, 4, 7):
        stage = contract_weights.make_stage(k, 9, "w4a8-dynamic", "relu", out="int8")
        check("linear", impl_of("linear", "triton_gemv_int4"), stage, rows)


@pytest.mark.parametrize("group", [16, 32, 48, 128])
@pytest.mark.parametrize("k", [1, 31, 130, 1100])
def test_float_rows_one_by_one(k: int, group: int) -> None:
    """Every number of rows that a program may have, and others; lines of words that end within K, and a split sum."""
    rows = int(torch.randint(1, 9, ()))
    impl = impl_of("linear", "triton_gemv_float")
    for kind in ("w4a16", "w8a16", "bfloat16") if group == 32 else ("w4a16",):
        stage = contract_weights.make_stage(k, 9, kind, "relu", group_size=group)
        assert impl.supports(Problem.of(stage, rows)) is None
        check("linear", impl, stage, rows, 0, 11)


@pytest.mark.parametrize(("k", "group", "line", "run"), [
    (512, 32, 256, 128), (512, 48, 128, 48), (768, 128, 256, 128), (512, 256, 256, 256), (640, 32, 128, 64), (260, 16, 32, 16),
])  # fmt: skip
def test_lines_of_every_length(k: int, group: int, line: int, run: int) -> None:
    """Weights lie so that lanes read x side by side: in lines of 256 numbers, and in shorter ones where K would be padded."""
    rows = int(torch.randint(1, 4, ()))
    stage = contract_weights.make_stage(k, 5, "w4a16", group_size=group)
    assert gemv_float.Shape.of(KernelConfig.of_linear(Problem.of(stage, rows))).line == line
    assert gemv_int4.run_of(k, group) == run
    check("linear", impl_of("linear", "triton_gemv_float"), stage, rows, 3)
    int8 = contract_weights.make_stage(k, 5, "w4a8-dynamic", group_size=group)
    check("linear", impl_of("linear", "triton_gemv_int4"), int8, rows, 3)
    for kind, sizes in (("w4a8-rows", {"group_size": group}), ("w8a8-rows", {})):
        check("fused_linear", impl_of("fused_linear", "triton_gemv"), fused.make_stage(k, 5, kind, **sizes), rows, 3)


def test_many_rows_of_large_layers_are_left_to_tensor_cores() -> None:
    for kind, impl, most in (
        ("w4a16", "triton_gemv_float", 3), ("w8a16", "triton_gemv_float", 7), ("bfloat16", "triton_gemv_float", 8),
        ("w4a8-static", "triton_gemv_int4", 6),
    ):  # fmt: skip
        stage = contract_weights.make_stage(4096, 4096, kind, group_size=128)
        taken = [m for m in range(1, 20) if impl_of("linear", impl).supports(Problem.of(stage, m)) is None]
        assert taken == list(range(1, most + 1)), kind
        small = contract_weights.make_stage(256, 256, kind, group_size=128)
        assert impl_of("linear", impl).supports(Problem.of(small, 8)) is None
        assert "M <= 8" in (impl_of("linear", impl).supports(Problem.of(small, 9)) or "")


def test_which_kernel_is_taken_for_few_rows() -> None:
    """The preferred one, which `explain()` names: without tensor cores up to eight rows, with them beyond."""
    for kind, few in (
        ("w4a16", "triton_gemv_float"),
        ("bfloat16", "triton_gemv_float"),
        ("w4a8-static", "triton_gemv_int4"),
    ):
        stage = contract_weights.make_stage(512, 256, kind)
        for rows, name in ((1, few), (5, few), (8, few), (9, "triton_tensor_core")):
            problem = Problem.of(stage, rows)
            assert next(i.name for i in impls("triton", "linear") if i.supports(problem) is None) == name, (kind, rows)


@pytest.mark.parametrize("group", [32, 64, 96, 128, 160, 256])
def test_int4_on_wide_tiles(group: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups that are a step, half of one, several, and no power of two; K that ends within a step, within a byte's two
    halves, and sums that programs share. Prepared for few rows and for many: x as float32, and made bfloat16 before."""
    monkeypatch.setattr(wide_config, "LAUNCH_US", 0.0)  # as if that cost nothing
    impl = impl_of("linear", "triton_wide")
    for k, n, rows, cast in (
        (1, 1, 1, True), (group - 1, 11, 3, True), (2 * group + 12, 11, 33, True), (1024, 130, 16, False), (1024, 130, 33, True),
    ):  # fmt: skip
        stage = contract_weights.make_stage(k, n, "w4a16", "relu", group_size=group)
        shape = wide_config.Shape.of(KernelConfig.of_linear(Problem.of(stage, rows)), rows)
        assert shape.cast == cast and (k != 1024 or shape.split > 1)
        check("linear", impl, stage, rows, 0, 5, 70)


@pytest.mark.parametrize(("k", "n", "rows", "cast"), [
    (1, 1, 1, True), (127, 17, 3, True), (129, 11, 70, True), (1024, 129, 16, False), (1024, 129, 50, False),
    (2050, 130, 40, True),
])  # fmt: skip
def test_int8_on_wide_tiles(k: int, n: int, rows: int, cast: bool) -> None:
    stage = contract_weights.make_stage(k, n, "w8a16", "gelu")
    assert wide_config.Shape.of(KernelConfig.of_linear(Problem.of(stage, rows)), rows).cast == cast
    check("linear", impl_of("linear", "triton_wide"), stage, rows, 0, 19)


@pytest.mark.parametrize("kind", ["w4a16", "w8a16"])
def test_wide_tiles_with_a_residual_and_rows_that_are_not_finite(kind: str) -> None:
    for k, rows in ((300, 20), (512, 9)):
        stage = fused.make_stage(k, 140, kind, "relu", residual=True)
        check("fused_linear", impl_of("fused_linear", "triton_wide"), stage, rows, 1, 30)
        stage = contract_weights.make_stage(k, 9, kind)
        x = torch.randn(rows, k)
        x[1, k - 1], x[3, 0], x[5] = float("nan"), float("-inf"), 1e30
        (y,) = impl_of("linear", "triton_wide").prepare(stage, Problem.of(stage, rows, DEVICE))(x.to(DEVICE))
        assert not y[[1, 3]].isfinite().any()
        others = [r for r in range(rows) if r not in (1, 3)]
        assert y[others].isfinite().all()


@pytest.mark.parametrize(("kind", "k", "rows"), [("w4a16", 300, 40), ("w8a16", 256, 9)])
def test_wide_tiles_get_other_weights(kind: str, k: int, rows: int) -> None:
    """In the memory that they read, as `swap` of a graph does it. The cases of the contract are too small for them."""
    impl = replace(impl_of("linear", "triton_wide"), supports=lambda problem: None)
    stage = contract_weights.make_stage(k, 130, kind)
    x = torch.randn(rows, k).to(DEVICE)
    assert exchanged(impl, stage, (x,), DEVICE) == "exchanged"


def test_which_layers_have_wide_tiles() -> None:
    """Where narrow tiles are computed to take longer: by x that all programs read, or by instructions where layers are large."""
    impl = impl_of("linear", "triton_wide")
    for kind, group, n, rows, word in (
        ("w4a16", 128, 4096, 9, None), ("w4a16", 128, 4096, 16, None), ("w4a16", 128, 256, 16, "narrow"),
        ("w4a16", 32, 4096, 64, None), ("w8a16", 32, 4096, 64, None), ("w8a16", 32, 2048, 64, None),
        ("w4a16", 32, 256, 64, "narrow"), ("w4a16", 48, 4096, 64, "32 divides"), ("bfloat16", 32, 4096, 64, "bfloat16"),
        ("w4a8-static", 32, 4096, 64, "float32"),
    ):  # fmt: skip
        problem = Problem.of(contract_weights.make_stage(4096, n, kind, group_size=group), rows)
        refused = impl.supports(problem)
        assert (refused is None) if word is None else word in str(refused), (kind, group, n, rows, refused)
        first = next(i.name for i in impls("triton", "linear") if i.supports(problem) is None)
        assert (first == "triton_wide") == (word is None), (kind, group, n, rows, first)


@pytest.mark.parametrize("kind", ["w4a16", "w8a16"])
def test_more_rows_do_not_leave_wide_tiles(kind: str) -> None:
    """A launch more is made only where it earns its time."""
    for n in (1024, 2048, 4096):
        stage = contract_weights.make_stage(n, n, kind, group_size=128)
        config = KernelConfig.of_linear(Problem.of(stage, 1))
        taken = [wide_config.not_worth(config, rows) is None for rows in range(9, 129)]
        assert taken == sorted(taken), (n, taken)


def test_the_sums_of_a_group_are_whole_numbers() -> None:
    """The largest numbers int8 and int4 have, a scale of 1: what a float32 product would round, these kernels do not."""
    k, n = 64, 5
    stage = contract_weights.make_stage(k, n, "w4a8-dynamic", group_size=64)
    packed = torch.zeros(n, k // 2, dtype=torch.uint8)  # q = -8 everywhere
    tensors = {"weight": packed, "group_scale": torch.ones(n, 1)}
    stage = Stage(stage.op, stage.name, stage.inputs, stage.outputs, tensors, stage.attrs)
    x = torch.full((2, k), -128, dtype=torch.int8)
    for name in ("triton_tensor_core", "triton_gemv_int4"):
        (y,) = impl_of("linear", name).prepare(stage, Problem.of(stage, 2, DEVICE))(
            x.to(DEVICE), torch.ones(2, 1, device=DEVICE)
        )
        assert torch.equal(y.cpu(), torch.full((2, n), 8.0 * 128 * k))


def long_stages() -> Iterator[Any]:
    for kind in ("w8a16", "w4a16"):
        yield pytest.param("linear", contract_weights.make_stage(1030, 21, kind, "relu"), id=kind)
    for scheme in ("static", "dynamic"):
        yield pytest.param("linear", contract.make_stage(1030, 21, scheme, "relu", out="int8"), id=f"w8a8-{scheme}")
    for kind in ("w8a8-rows", "float8"):
        stage = fused.make_stage(1030, 21, kind, "relu", residual=True, out="int8")
        yield pytest.param("fused_linear", stage, id=f"fused-{kind}")


@pytest.mark.parametrize(("op", "stage"), list(long_stages()))
def test_parts_of_k_are_added_once(op: str, stage: Stage) -> None:
    """Few outputs and a long sum: several programs a tile. The counters are ready again for the next call, and a batch with
    more tiles than the one prepared for has counters of its own."""
    if op == "linear":
        assert split_of(KernelConfig.of_linear(Problem.of(stage, 1)), 1) > 1
    check(op, impl_of(op, "triton_tensor_core"), stage, 1, 40, 3)


@pytest.mark.parametrize("kind", ["w8a16", "w4a16", "bfloat16"])
def test_parts_of_k_without_tensor_cores(kind: str) -> None:
    stage = contract_weights.make_stage(4000, 21, kind, "relu")
    spec = gemv_float.specialize(KernelConfig.of_linear(Problem.of(stage, 5)), 5)
    assert spec.constants["SPLIT"] > 1
    check("linear", impl_of("linear", "triton_gemv_float"), stage, 5, 1, 20)


def test_parts_are_a_power_of_two_with_steps_to_do() -> None:
    for tiles in (1, 3, 16, 64, 128, 500):
        for steps in range(70):
            parts = parts_of(tiles, steps)
            assert parts in (1, 2, 4, 8)
            assert parts == 1 or (steps >= 2 * parts and tiles * parts <= 128)


@pytest.mark.parametrize("kind", fused.KINDS)
def test_fused_layers_of_any_batch(kind: str) -> None:
    for out, activation in (("float32", "silu"), ("int8", "none")):
        stage = fused.make_stage(70, 35, kind, activation, residual=True, out=out)
        check("fused_linear", impl_of("fused_linear", "triton_tensor_core"), stage, 2, 0, 33)


@pytest.mark.parametrize("kind", ["w8a8-rows", "w4a8-rows", "float8"])
def test_rows_without_meaning_are_nan_and_alone(kind: str) -> None:
    stage = fused.make_stage(40, 9, kind, "relu")
    x = torch.randn(5, 40)
    x[1, 39], x[3, 0], x[4] = float("nan"), float("-inf"), 1e-42
    call = impl_of("fused_linear", "triton_tensor_core").prepare(stage, Problem.of(stage, 5, DEVICE))
    (y,) = call(x.to(DEVICE))
    assert y[[1, 3]].isnan().all()
    assert y[[0, 2, 4]].isfinite().all()
    assert differences(operator("fused_linear"), stage, (x,), y) is None


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("kind", ["w8a8-static", "w8a8-dynamic", "bfloat16", "w8a16", "w4a16"])
def test_the_hand_over_to_blas(kind: str, activation: str) -> None:
    impl = impl_of("linear", "triton_blas")
    scheme = kind.removeprefix("w8a8-")
    for k, n, out in ((130, 33, "float32"), (48, 16, "int8" if scheme != kind else "float32")):
        stage = (
            contract.make_stage(k, n, scheme, activation, out=out)
            if scheme != kind
            else contract_weights.make_stage(k, n, kind, activation)
        )
        small = impl.supports(Problem.of(stage, 128))
        assert small is None if scheme == kind else "one launch with its epilogue" in (small or "")
        assert "M = 127" in (impl.supports(Problem.of(stage, 127)) or "")
        check("linear", impl, stage, 128, 0, 1, 17, 131)


@pytest.mark.parametrize(("k", "rows", "said"), [
    (1024, 1024, None), (1024, 56, "M = 56"), (1024, 1021, "would copy x"), (1030, 1024, "would copy x"),
    (64, 1024, "one launch with its epilogue"),
])  # fmt: skip
def test_w8a8_that_is_handed_over(k: int, rows: int, said: str | None) -> None:
    """Large products that cuBLAS takes as they lie."""
    found = impl_of("linear", "triton_blas").supports(Problem.of(contract.make_stage(k, 1024, "static"), rows))
    assert found is None if said is None else said in (found or "")


def test_w4a8_is_not_handed_over() -> None:
    stage = contract_weights.make_stage(64, 8, "w4a8-static")
    assert "whole numbers" in (impl_of("linear", "triton_blas").supports(Problem.of(stage, 500)) or "")


@pytest.mark.parametrize(("k", "n"), [(1, 1), (33, 7), (5000, 4100)])
def test_rows_that_int8_cannot_hold_are_spoiled(k: int, n: int) -> None:
    x, y = torch.randn(4, k), torch.randn(4, n)
    x[1, k - 1], x[2, 0] = float("inf"), float("nan")
    there, with_nan = x.to(DEVICE), y.to(DEVICE)
    nan_propagator(k, n)(there, with_nan)
    assert with_nan[[1, 2]].isnan().all()
    assert torch.equal(with_nan[[0, 3]].cpu(), y[[0, 3]])


def test_inputs_that_a_kernel_cannot_read_are_refused() -> None:
    stage = fused.make_stage(32, 8, "w8a8-rows", residual=True)
    call = impl_of("fused_linear", "triton_tensor_core").prepare(stage, Problem.of(stage, 2, DEVICE))
    x, r = torch.randn(2, 32, device=DEVICE), torch.randn(2, 8, device=DEVICE)
    for wrong in ((x,), (x, r[:1]), (x, r[:, :4]), (x.double(), r), (x.T, r), (x, r.T.contiguous().T)):
        with pytest.raises(ShapeError, match="fused_linear"):
            call(*wrong)


def test_tolerances_are_not_empty() -> None:
    """What the formats are held to is within a thousandth or so of the results: a bound that anything meets shows nothing."""
    for kind in contract_weights.KINDS:
        stage = contract_weights.make_stage(256, 8, kind)
        inputs = contract.make_inputs(stage, 2, 3)
        tolerance: Tolerance = contract.tolerance(stage, *inputs)
        (y,) = contract.reference(stage, *inputs)
        assert torch.as_tensor(tolerance.atol).max() < 0.05 * y.abs().max()


@triton.jit
def twins_kernel(a_ptr, b_ptr, c_ptr, dot_ptr, product_ptr, ASM: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    a, b, c = tl.load(a_ptr + at), tl.load(b_ptr + at), tl.load(c_ptr + at)
    tl.store(dot_ptr + at, dot4(a, b, c, ASM))
    x, y = a.to(tl.float32) * 1e-3, b.to(tl.float32) * 1e-5
    tl.store(product_ptr + at, multiply_rn(x, y, ASM) + c.to(tl.float32))


def test_the_assembly_does_what_its_twin_does() -> None:
    """All pairs of bytes in each place of a word, and products that a fused multiply-add would round otherwise."""
    bytes_ = torch.arange(-128, 128, device=DEVICE)
    a, b = (t.flatten().int() for t in torch.meshgrid(bytes_, bytes_, indexing="ij"))
    words = [((v & 255) << (8 * place)).int() for place in range(4) for v in (a, b)]
    a = torch.cat([*words[0::2], torch.randint(-(2**31), 2**31 - 1, (1 << 18,), dtype=torch.int32, device=DEVICE)])
    b = torch.cat([*words[1::2], torch.randint(-(2**31), 2**31 - 1, (1 << 18,), dtype=torch.int32, device=DEVICE)])
    c = torch.randint(-(2**30), 2**30, a.shape, dtype=torch.int32, device=DEVICE)
    found = []
    for asm in (True, False):
        dot, product = torch.zeros_like(c), torch.zeros(c.shape, device=DEVICE)
        twins_kernel[(a.numel() // 256,)](a, b, c, dot, product, ASM=asm, BLOCK=256, enable_fp_fusion=False)
        found.append((dot, product))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
