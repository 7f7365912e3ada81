"""The Triton kernels of sparse weights: blocks, 2:4 and single weights, of any size; what they read, and who chooses them.

As check_kernels.py, started by tests/test_triton_interpreter.py. Integers must be those of the CPU's kernels to the bit.
"""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.backends import require
from rtaccel.core import settings
from rtaccel.core.errors import ShapeError
from rtaccel.core.registry import Impl, impls, operator
from rtaccel.core.stage import Problem, Quant, Stage, Value
from rtaccel.formats import masks
from rtaccel.kernels._shared.triton_permute import pick_bytes
from rtaccel.kernels.linear import contract as linear
from rtaccel.kernels.sparse_linear import contract
from rtaccel.kernels.sparse_linear.triton_rows import stored_block
from rtaccel.plan import sparse_gpu

require("triton")
DEVICE = "cpu" if settings.triton_interpret() else "cuda"
SPARSE = operator("sparse_linear")

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


@pytest.fixture(autouse=True)
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    allocate = torch.empty

    def fill(*args: Any, **kwargs: Any) -> Tensor:
        t = allocate(*args, **kwargs)
        return t.fill_(float("nan") if t.is_floating_point() else 85)

    monkeypatch.setattr(torch, "empty", fill)


@pytest.fixture(autouse=True)
def fresh_seed() -> None:
    seed = torch.seed() % 2**31
    torch.manual_seed(seed)
    print(f"torch.manual_seed({seed})")


def taking(stage: Stage, rows: int) -> list[Impl]:
    return [i for i in impls("triton", "sparse_linear") if i.supports(Problem.of(stage, rows, DEVICE)) is None]


def assert_right(impl: Impl, stage: Stage, prepared_for: int, *batches: tuple[Tensor, ...]) -> None:
    call = impl.prepare(stage, Problem.of(stage, prepared_for, DEVICE))
    for inputs in batches:
        (want,), tolerance = SPARSE.reference(stage, *inputs), SPARSE.tolerance(stage, *inputs)
        (got,) = call(*(t.to(DEVICE) for t in inputs))
        got = got.cpu()
        assert (got.shape, got.dtype) == (want.shape, want.dtype)
        if got.dtype == torch.int8:
            off = (got.int() - want.int()).abs() > tolerance.steps
        else:
            near = (got.double() - want.double()).abs() <= tolerance.atol
            off = ~((got == want) | (got.isnan() & want.isnan()) | near)
        assert not off.any(), f"{impl.name}: {int(off.sum())} of {off.numel()} differ"


def contract_cases() -> Iterator[Any]:
    """A fifth of them, another each day: the interpreter takes a quarter of a second for one."""
    for case in itertools.islice(SPARSE.cases(), datetime.date.today().toordinal() % 5, None, 5):
        for impl in taking(case.stage, case.make(0)[0].shape[0]):
            yield pytest.param(impl, case, id=f"{impl.name}-{case.id}")


@pytest.mark.parametrize(("impl", "case"), list(contract_cases()))
def test_contract_case(impl: Impl, case: Any) -> None:
    inputs = case.make(torch.randint(1 << 30, ()).item())
    assert_right(impl, case.stage, inputs[0].shape[0], inputs)


def with_zeros(n: int, k: int, kind: str, pattern: rt.BlockSparse | rt.Unstructured, **options: Any) -> Stage:
    """A stage with whole blocks of zeros, an empty row of blocks among them."""
    stage = contract.make_stage(k, n, kind, "window", 1.0, **options)
    dense = contract.dense_stage(stage)
    weight = dense.tensors["weight"] * masks.keep(torch.rand(n, k), pattern)
    block = pattern.block if isinstance(pattern, rt.BlockSparse) else (1, 1)
    weight[: block[0]] = 0
    dense = replace(dense, tensors={**dense.tensors, "weight": weight})
    return contract.sparse_stage(dense, pattern.layout, block)


BLOCKS = ((1, 16), (3, 5), (16, 16), (32, 16), (64, 64), (128, 8), (48, 40))


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_blocks_of_any_size_that_do_not_divide_the_layer(block: tuple[int, int]) -> None:
    for kind in ("static", "dynamic", "w8a16")[: 1 if block in BLOCKS[2:] else 3]:
        stage = with_zeros(75, 84, kind, rt.BlockSparse(block, 0.6))
        for impl in taking(stage, 2):
            assert_right(impl, stage, 2, linear.make_inputs(stage, 2, torch.randint(1 << 30, ()).item()))


@pytest.mark.parametrize("kind", ["static", "bfloat16", "float32"])
def test_no_weight_at_all(kind: str) -> None:
    """The bias is left, and no block is looked for."""
    for layout in contract.LAYOUTS:
        stage = contract.make_stage(36, 19, kind, layout, 0.0)
        ran = taking(stage, 3)
        assert ran or (kind, layout) == ("float32", "2:4")
        for impl in ran:
            assert_right(impl, stage, 3, linear.make_inputs(stage, 3, 1))


def visible_sums(weight: Tensor, zero_point: int, layout: str, block: tuple[int, int]) -> Stage:
    """Its float32 output is the accumulator itself, up to 2^24."""
    x = Value("x", weight.shape[1], "int8", Quant(1.0, zero_point))
    tensors = {"weight": weight, "weight_scale": torch.ones(weight.shape[0])}
    return contract.sparse_stage(Stage("linear", "sums", (x,), (Value("y", weight.shape[0]),), tensors), layout, block)


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
        assert len(ran) == 2
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


def test_why_a_kernel_does_not_take_a_problem() -> None:
    reasons = {i.name: i.supports for i in impls("triton", "sparse_linear")}
    blocks = Problem.of(contract.make_stage(16, 4, "static", "blocks", 0.5), 1)
    semi = Problem.of(contract.make_stage(16, 4, "static", "2:4", 0.5), 1)
    floats = Problem.of(contract.make_stage(16, 4, "float32", "blocks", 0.5), 1)
    for name in ("triton_gemv", "triton_dot"):
        assert "packed as 2:4" in (reasons[name](semi) or "")
    for name in ("triton_semi", "triton_semi_dot"):
        assert "packed as blocks" in (reasons[name](blocks) or "")
        whole = replace(semi, weight_dtype="float32", in_dtypes=("float32",))
        assert "float32 values" in (reasons[name](whole) or "")
    assert "M = 5" in (reasons["triton_gemv"](replace(blocks, rows=5)) or "")
    assert "not 18" in (reasons["triton_gemv"](replace(blocks, in_widths=(18,))) or "")
    assert "65540" in (reasons["triton_dot"](replace(blocks, in_widths=(65_540,))) or "")
    assert "torch" in (reasons["triton_dot"](floats) or "")
    assert "float32" in (reasons["triton_gemv"](floats) or "")
    assert "int8" in (reasons["triton_gemv_float"](blocks) or "")


if settings.triton_interpret():
    from triton.runtime.interpreter import InterpreterBuilder

    @pytest.mark.parametrize("rows", [1, 16])
    @pytest.mark.parametrize(
        ("layout", "kind"), [*((layout, "static") for layout in contract.LAYOUTS), ("2:4", "w4a8-static")]
    )
    def test_each_byte_of_the_weights_is_read_once(
        layout: str, kind: str, rows: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By the addresses that the kernels load: all of what is stored, nothing twice, and less than dense weights are."""
        k, n = 512, 64
        stage = contract.make_stage(k, n, kind, layout, 0.25)
        if layout == "window":  # single weights would leave no block of 16 x 16 out
            stage = contract.sparse_stage(contract.dense_stage(contract.make_stage(k, n, kind, "blocks", 0.25)), layout)
        load, to = InterpreterBuilder.create_masked_load, Tensor.to
        for impl in taking(stage, rows):
            held: list[Tensor] = []

            def placed(t: Tensor, *where: Any, **options: Any) -> Tensor:
                if where == (DEVICE,):
                    held.append(t)  # noqa: B023
                return to(t, *where, **options)

            monkeypatch.setattr(Tensor, "to", placed)
            call = impl.prepare(stage, Problem.of(stage, rows, DEVICE))
            monkeypatch.setattr(Tensor, "to", to)
            packed = max(held, key=lambda t: t.numel() * t.element_size())
            start, size = packed.data_ptr(), packed.numel() * packed.element_size()
            counts = torch.zeros(size, dtype=torch.int32)

            def counted(self: Any, ptrs: Any, mask: Any, *rest: Any) -> Any:
                at = torch.from_numpy(ptrs.data.astype("int64")[mask.data]).unique() - start  # noqa: B023
                at = at[(at >= 0) & (at < size)]  # noqa: B023
                width = ptrs.get_element_ty().primitive_bitwidth // 8
                for byte in range(width):
                    counts[at + byte] += 1  # noqa: B023
                return load(self, ptrs, mask, *rest)

            with monkeypatch.context() as patch:
                patch.setattr(InterpreterBuilder, "create_masked_load", counted)
                call(linear.make_inputs(stage, rows, 3)[0])
            expected = sparse_gpu._packed(contract.dense_stage(stage), rows, layout, stored_block(stage)).bytes
            assert counts.max() == 1, impl.name
            assert counts.float().mean() == 1 or impl.name == "triton_semi_dot", impl.name
            assert size <= expected <= n * k // (2 if kind == "w4a8-static" else 1), impl.name


def pruned(n: int, pattern: Any) -> nn.Sequential:
    model = nn.Sequential(nn.Linear(n, n), nn.ReLU(), nn.Linear(n, 8)).eval()
    with torch.no_grad():
        model[0].weight *= masks.keep(torch.rand(n, n), pattern)
    return model


FORMS = {
    rt.BlockSparse((32, 32), 0.8): "triton_gemv", rt.SemiStructured(): "triton_semi",
}  # fmt: skip


@pytest.mark.parametrize("pattern", FORMS, ids=str)
def test_a_model_takes_the_sparse_kernel_where_the_model_says_so(pattern: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bits as the dense kernels give; dense where nothing is gained, and said."""
    model, x, data = pruned(96, pattern), torch.randn(1, 96), [torch.randn(64, 96)]
    monkeypatch.setattr(sparse_gpu, "LEAST_WEIGHTS", 4096)
    options: dict[str, Any] = {"scheme": "w8a8", "calibration": data}
    there = {"backend": "triton"} if DEVICE == "cpu" else {"device": "cuda", "mode": "eager"}
    dense = rt.compile(model, (x,), **options, **there)
    assert "is computed dense, which is not slower" in dense.explain(measure=False)
    monkeypatch.setattr(sparse_gpu, "CHAIN_US", -1.0)  # else a layer this small is never worth it
    fast = rt.compile(model, (x,), **options, **there)
    text = fast.explain(measure=False)
    assert "is computed sparse" in text
    assert "no card has confirmed" in text
    assert FORMS[pattern] in [line.kernel for line in fast.explain_lines(measure=False)]
    for rows in (1, 3):
        x = torch.randn(rows, 96).to(DEVICE)
        assert torch.equal(fast(x), dense(x))


def test_the_cpu_gives_the_same_integers() -> None:
    for pattern in (rt.BlockSparse((16, 16), 0.7), rt.SemiStructured(), rt.Unstructured(0.8)):
        layer = rt.nn.SparseLinear.from_float(
            nn.Linear(132, 35), rt.W8A8("static"), [torch.randn(64, 132)], sparsity=pattern
        )
        numbers = layer._numbers()
        stage = numbers.group(1).stages[-1]
        for rows in (3, 9):
            x = torch.randn(rows, 132)
            quant = stage.inputs[0].quant
            assert quant is not None
            q = rt.formats.int8.quantise(x, quant)
            for impl in taking(stage, rows):
                (y,) = impl.prepare(stage, Problem.of(stage, rows, DEVICE))(q.to(DEVICE))
                assert torch.equal(y.cpu(), layer(x)), impl.name


def test_a_sparse_layer_on_a_card_is_modelled(monkeypatch: pytest.MonkeyPatch) -> None:
    """What SparseLinear asks on CUDA: its own storage, or dense."""
    for pattern in (rt.BlockSparse((16, 16), 0.8), rt.SemiStructured(), rt.Unstructured(0.95)):
        layer = rt.nn.SparseLinear.from_float(nn.Linear(256, 256), rt.W8A8("dynamic"), sparsity=pattern)
        numbers = layer._numbers()
        group, notes = numbers.chosen(numbers.group(1), 1, "cuda")
        assert group.stages[-1].op == "linear"
        assert "dense, which is not slower" in notes[0]
        with monkeypatch.context() as patch:
            patch.setattr(sparse_gpu, "CHAIN_US", -5.0)
            group, notes = numbers.chosen(numbers.group(1), 1, "cuda")
        assert group.stages[-1].op == "sparse_linear"
        assert group.stages[-1].tensors["weight"] is numbers.weight
        assert "computed sparse" in notes[0]


def test_int4_values_in_2_4_are_chosen_and_right(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = pruned(128, rt.SemiStructured()), torch.randn(1, 128)
    options: dict[str, Any] = {"scheme": rt.W4A8(group_size=32), "calibration": [torch.randn(64, 128)]}
    there = {"backend": "triton"} if DEVICE == "cpu" else {"device": "cuda", "mode": "eager"}
    dense = rt.compile(model, (x,), **options, **there)
    monkeypatch.setattr(sparse_gpu, "LEAST_WEIGHTS", 4096)
    monkeypatch.setattr(sparse_gpu, "CHAIN_US", -5.0)
    fast = rt.compile(model, (x,), **options, **there)
    assert "triton_semi_int4" in [line.kernel for line in fast.explain_lines(measure=False)]
    torch.testing.assert_close(fast(x.to(DEVICE)), dense(x.to(DEVICE)), rtol=1e-2, atol=1e-2)


def test_rows_of_the_model_of_time() -> None:
    """By bytes and gathers alone: what 90 % zeros save, what nothing saves, and that it errs towards dense."""
    n = 2048
    weight = torch.randn(n, n).bfloat16()

    def chosen(pattern: Any, rows: int) -> Any:
        kept = weight * masks.keep(torch.rand(n, n), pattern) if pattern is not None else weight
        return sparse_gpu.modelled(Stage("linear", "l", (Value("x", n),), (Value("y", n),), {"weight": kept}), rows)

    assert chosen(rt.BlockSparse((64, 64), 0.9), 16).stage.attrs["layout"] == "blocks"
    assert chosen(rt.SemiStructured(), 1).stage.attrs["layout"] == "2:4"
    assert not chosen(rt.SemiStructured(), 256).sparse
    assert not chosen(rt.Unstructured(0.9), 64).sparse
    nothing = chosen(None, 1)
    assert not nothing.sparse
    assert "0% zeros" in nothing.reason


if not settings.triton_interpret():  # the interpreter has no inline assembly

    @triton.jit
    def twins_kernel(a_ptr, b_ptr, s_ptr, y_ptr, ASM: tl.constexpr, BLOCK: tl.constexpr):
        at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        a, b, s = tl.load(a_ptr + at), tl.load(b_ptr + at), tl.load(s_ptr + at)
        tl.store(y_ptr + at, pick_bytes(a, b, s, ASM))

    def test_the_assembly_picks_as_its_twin() -> None:
        """Every selector that picks among eight bytes."""
        s = torch.arange(8**4, device=DEVICE)
        s = ((s & 7) | (s >> 3 & 7) << 4 | (s >> 6 & 7) << 8 | (s >> 9 & 7) << 12).int()
        a, b = (torch.randint(-(2**31), 2**31 - 1, s.shape, dtype=torch.int32, device=DEVICE) for _ in range(2))
        found = []
        for asm in (True, False):
            y = torch.zeros_like(s)
            twins_kernel[(s.numel() // 256,)](a, b, s, y, ASM=asm, BLOCK=256)
            found.append(y)
        assert torch.equal(*found)
