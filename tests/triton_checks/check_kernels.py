"""Every Triton kernel against the operator contracts: on CPU tensors in the interpreter, else on the GPU.

Not collected by name: tests/gpu/test_triton_interpreter.py starts it in a process of its own, because TRITON_INTERPRET
must be set before triton is imported. Outputs are filled with a sentinel before each launch, twice with different
ones, so that an element a kernel does not write cannot pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import rtaccel as rt
from rtaccel.backends import require
from rtaccel.core import settings
from rtaccel.core.errors import ShapeError
from rtaccel.core.registry import Case, Impl, Operator, Prepared, impls, operator
from rtaccel.core.stage import Problem, QParams, Stage, Value
from rtaccel.kernels._common.activations import ACTIVATIONS
from rtaccel.kernels.linear import contract as linear_contract
from rtaccel.kernels.quantize import contract as quantize_contract
from tests.triton_checks.support.cpu_bits import (  # noqa: F401
    test_a_norm_has_the_bits_of_the_cpu,
    test_an_activation_has_the_bits_of_the_cpu,
)
from tests.triton_checks.support.exchanged import exchanged

require("triton")
DEVICE = "cpu" if settings.triton_interpret() else "cuda"
SENTINELS = ((float("nan"), 85), (-1.25e30, -86))
LINEAR = [impl for impl in impls("triton", "linear") if impl.name in ("triton_dot", "triton_gemv")]  # W8A8 of any size
QUANTIZE = impls("triton", "quantize")

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, at the inf and nan that are meant

Run = Callable[..., "list[tuple[Tensor, ...]]"]


@pytest.fixture(autouse=True)
def fresh_seed() -> int:
    """New numbers every time; pytest shows the printed seed of a test that failed."""
    seed = torch.seed() % 2**31
    torch.manual_seed(seed)
    print(f"torch.manual_seed({seed})")
    return seed


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Calls a prepared kernel once per sentinel, with `torch.empty` filling what it gives; outputs come to the CPU."""
    allocate = torch.empty

    def nan_filled(call: Prepared, *inputs: Tensor) -> list[tuple[Tensor, ...]]:
        found = []
        for real, integer in SENTINELS:

            def fill(*args: object, real: float = real, integer: int = integer, **kwargs: object) -> Tensor:
                t = allocate(*args, **kwargs)
                return t.fill_(real if t.is_floating_point() else integer)

            with monkeypatch.context() as patch:
                patch.setattr(torch, "empty", fill)
                out = call(*(x.to(DEVICE) for x in inputs))
            found.append(tuple(y.cpu() for y in out))
        return found

    return nan_filled


def problem_of(stage: Stage, rows: int) -> Problem:
    return Problem.of(stage, rows, DEVICE)


def assert_close(op: Operator, stage: Stage, inputs: tuple[Tensor, ...], got: tuple[Tensor, ...]) -> None:
    want, tolerance = op.reference(stage, *inputs), op.tolerance(stage, *inputs)
    assert len(got) == len(want)
    for g, w in zip(got, want):
        assert (g.shape, g.dtype) == (w.shape, w.dtype)
        if g.dtype == torch.int8:
            assert (g.int() - w.int()).abs().le(tolerance.steps).all(), (g.int() - w.int()).abs().max()
        else:
            near = (g == w) | (g.isnan() & w.isnan()) | ((g.double() - w.double()).abs() <= tolerance.atol)
            assert near.all(), (
                f"{int((~near).sum())} of {near.numel()} differ, the first {g[~near][0]} for {w[~near][0]}"
            )


def supported() -> Iterator[object]:
    for name in ("linear", "quantize", "fused_linear", "mlp"):
        for case in operator(name).cases():
            for impl in impls("triton", name):
                if name == "fused_linear" and "gemv" in impl.name and "gelu" in case.id:
                    continue  # what the activation does is shown by the tensor cores' kernel, which ends as these do
                if impl.supports(problem_of(case.stage, case.make(0)[0].shape[0])) is None:
                    yield pytest.param(name, impl, case, id=f"{impl.name}-{case.id}")


@pytest.mark.parametrize(("name", "impl", "case"), list(supported()))
def test_contract_case(name: str, impl: Impl, case: Case, run: Run, fresh_seed: int) -> None:
    inputs = case.make(fresh_seed)
    call = impl.prepare(case.stage, problem_of(case.stage, inputs[0].shape[0]))
    for got in run(call, *inputs):
        assert_close(operator(name), case.stage, inputs, got)


def visible_sums(n: int, k: int, zero_point: int) -> Stage:
    """A linear whose float32 output is the accumulator itself (up to 2^24, then rounded once): scales 1, no bias."""
    weight = torch.randint(-127, 128, (n, k), dtype=torch.int8)
    x = Value("x", k, "int8", QParams(1.0, zero_point))
    return Stage("linear", "sums", (x,), (Value("y", n),), {"weight": weight, "weight_scale": torch.ones(n)})


def assert_sums(impl: Impl, m: int, n: int, k: int, run: Run) -> bool:
    zero_point = int(torch.randint(-128, 128, ()))
    stage = visible_sums(n, k, zero_point)
    if impl.supports(problem_of(stage, m)) is not None:
        return False
    x = torch.randint(-128, 128, (m, k), dtype=torch.int8)
    if m and n and k:
        x[0], stage.tensors["weight"][0] = 127 if zero_point < 0 else -128, 127  # the largest sum of this size
    want = (x.long() - zero_point) @ stage.tensors["weight"].long().T
    for (got,) in run(impl.prepare(stage, problem_of(stage, m)), x):
        assert torch.equal(got, want.float()), f"M = {m}, N = {n}, K = {k}, zero point {zero_point}"
    return True


EDGES_N = (0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 40)
EDGES_K = (0, 1, 3, 4, 5, 12, 15, 16, 17, 31, 32, 33, 60, 64, 65, 127, 128, 129, 130)
"""Of the 9 x 41 x 131 sizes M 0-8, N 0-40, K 0-130, each pair of these edges runs, with M in turn from 0 to 8."""


@pytest.mark.parametrize("k", EDGES_K)
@pytest.mark.parametrize("impl", LINEAR, ids=lambda i: i.name)
def test_sums_are_exact_at_every_edge(impl: Impl, k: int, run: Run) -> None:
    rows = range(9) if impl.name != "triton_gemv" else range(5)
    ran = [assert_sums(impl, rows[(i + k) % len(rows)], n, k, run) for i, n in enumerate(EDGES_N)]
    assert any(ran) or impl.supports(problem_of(visible_sums(1, k, 0), 1)) is not None


SEVERAL_TILES = [
    (1, 3, 257), (2, 17, 512), (3, 9, 516), (4, 5, 640), (1, 33, 644), (17, 20, 48), (37, 18, 130), (70, 35, 260),
    (1, 2, linear_contract.MAX_K), (5, 2, linear_contract.MAX_K),
]  # fmt: skip
"""More than one tile of K, N or M; at MAX_K the largest sum is just below 2^31."""


@pytest.mark.parametrize(("m", "n", "k"), SEVERAL_TILES)
@pytest.mark.parametrize("impl", LINEAR, ids=lambda i: i.name)
def test_sums_are_exact_over_several_tiles(impl: Impl, m: int, n: int, k: int, run: Run) -> None:
    ran = assert_sums(impl, m, n, k, run)
    assert ran or impl.supports(problem_of(visible_sums(n, k, 0), m)) is not None


@pytest.mark.parametrize("impl", LINEAR, ids=lambda i: i.name)
def test_sums_are_exact_for_random_sizes(impl: Impl, run: Run) -> None:
    for m, n, k in zip(*(torch.randint(0, most, (60,)).tolist() for most in (9, 41, 131))):
        if impl.name == "triton_gemv":
            m, k = m % 5, k // 4 * 4 + 4
        assert assert_sums(impl, m, n, k, run)


@pytest.mark.parametrize("prepared_for", [1, 3, 20])
@pytest.mark.parametrize("impl", LINEAR, ids=lambda i: i.name)
def test_prepared_for_one_batch_runs_any_other(impl: Impl, prepared_for: int, run: Run) -> None:
    stage = linear_contract.make_stage(52, 21, "dynamic", "relu")
    if impl.supports(problem_of(stage, prepared_for)) is not None:
        prepared_for = 4
    call = impl.prepare(stage, problem_of(stage, prepared_for))
    for rows in (0, 1, 5, 18):
        inputs = linear_contract.make_inputs(stage, rows, seed=rows)
        for got in run(call, *inputs):
            assert_close(operator("linear"), stage, inputs, got)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("impl", LINEAR, ids=lambda i: i.name)
def test_a_row_without_meaning_is_nan_and_alone(impl: Impl, activation: str, run: Run) -> None:
    stage = linear_contract.make_stage(16, 9, "dynamic", activation, 0.3)
    x, row_scale = linear_contract.make_inputs(stage, 3, seed=5)
    row_scale[1] = float("nan")
    for (got,) in run(impl.prepare(stage, problem_of(stage, 3)), x, row_scale):
        assert got[1].isnan().all()
        assert got[[0, 2]].isfinite().all()


@pytest.mark.parametrize("impl", LINEAR, ids=lambda i: i.name)
def test_no_sum_and_no_output(impl: Impl, run: Run) -> None:
    for m, n, k in ((0, 5, 16), (3, 0, 16), (3, 5, 0), (0, 0, 0)):
        for scheme, out in (("static", "float32"), ("dynamic", "float32"), ("static", "int8")):
            stage = linear_contract.make_stage(k, n, scheme, "relu", out=out)
            if impl.supports(problem_of(stage, m)) is None:
                inputs = linear_contract.make_inputs(stage, m, seed=1)
                for got in run(impl.prepare(stage, problem_of(stage, m)), *inputs):
                    assert_close(operator("linear"), stage, inputs, got)


@pytest.mark.parametrize("quant", [QParams(1.0, 0), QParams(0.5, -128), None], ids=["unit", "unsigned", "dynamic"])
@pytest.mark.parametrize("impl", QUANTIZE, ids=lambda i: i.name)
def test_quantize_bits(impl: Impl, quant: QParams | None, run: Run) -> None:
    """Ties, both ends of the float32 range and rows longer than a tile, to the last bit."""
    ties = (torch.arange(40) - 20.0).mul(0.5).repeat(2, 1)
    wide = torch.randn(4, 33) * 10.0 ** torch.randint(-37, 38, (4, 33))
    below = torch.full((1, 5), 2.0**-100) * torch.tensor([[1.0, 0.5, -0.3, 0.0, 1 - 2.0**-24]])
    for x in (ties, wide, below, below[:, 1:], torch.randn(2, 4097), torch.zeros(0, 3), torch.zeros(2, 0)):
        stage = quantize_contract.make_stage(x.shape[1], quant)
        for got in run(impl.prepare(stage, problem_of(stage, x.shape[0])), x):
            assert_close(operator("quantize"), stage, (x,), got)


def test_the_scale_of_a_dynamic_row_is_one_division(run: Run) -> None:
    """With 127 * (1 / 4.069119) in place of 127 / 4.069119 the middle value would round to 15."""
    row = torch.tensor([[4.069118976593018, 0.49662473797798157, 0.0]])
    peak = row[0, 0].double()
    assert (row[0, 1] * (127.0 / peak).float()).item() == 15.5
    stage = quantize_contract.make_stage(3, None)
    for impl in QUANTIZE:
        for q, scale in run(impl.prepare(stage, problem_of(stage, 1)), row):
            assert q.tolist() == [[127, 16, 0]]
            assert scale.item() == (peak / 127.0).float().item()


def test_wrong_inputs_are_refused() -> None:
    stage = linear_contract.make_stage(8, 4, "static")
    x = linear_contract.make_inputs(stage, 2, seed=0)[0].to(DEVICE)
    for impl in LINEAR:
        call = impl.prepare(stage, problem_of(stage, 2))
        for wrong in (x[:, :4], x.float(), x[0], x.repeat(1, 2)[:, ::2]):
            with pytest.raises(ShapeError, match="contiguous"):
                call(wrong)
        with pytest.raises(ShapeError, match="row_scale"):
            call(x, torch.ones(2, 1, device=DEVICE))


def test_why_a_kernel_does_not_take_a_problem() -> None:
    reasons = {impl.name: impl.supports for impl in LINEAR}
    int8 = problem_of(linear_contract.make_stage(16, 4, "static"), 1)
    assert reasons["triton_dot"](int8) is None
    assert reasons["triton_gemv"](int8) is None
    assert "float32" in (reasons["triton_dot"](problem_of(linear_contract.make_stage(16, 4, "float32"), 1)) or "")
    assert "M = 9" in (reasons["triton_gemv"](replace(int8, rows=9)) or "")
    assert "not 18" in (reasons["triton_gemv"](replace(int8, in_widths=(18,))) or "")
    assert "65536" in (reasons["triton_dot"](replace(int8, in_widths=(65_540,))) or "")


def test_a_chain_in_int4_gives_the_bits_of_the_cpu() -> None:
    """Its float32 sums have an order, which is that of the native kernels."""
    layers = (torch.nn.Linear(150, 70), torch.nn.ReLU(), torch.nn.Linear(70, 33))
    model, x = torch.nn.Sequential(*layers).eval(), torch.randn(1, 150)
    options = {"scheme": "w4a8", "calibration": [torch.randn(64, 150)]}
    native = rt.compile(model, (x,), backend="cpu", **options)
    fast = rt.compile(model, (x,), backend="triton", device=DEVICE, **options)
    fast.load_state_dict(native.state_dict())
    assert [line.kernel for line in fast.explain_lines(measure=False)] == ["triton_chain"]
    for _ in range(5):
        x = torch.randn(1, 150) * 2
        assert torch.equal(fast(x.to(DEVICE)).cpu(), native(x))


EXCHANGED = 2
"""Cases of each kernel: the first that it takes. The interpreter takes seconds for some."""


@pytest.mark.parametrize("impl", impls("triton"), ids=lambda impl: f"{impl.op}-{impl.name}")
def test_it_computes_with_other_weights_in_its_memory(impl: Impl) -> None:
    """As `swap` of a graph does it."""
    done = 0
    for seed, case in enumerate(operator(impl.op).cases()):
        inputs = tuple(t.to(DEVICE) for t in case.make(seed))
        found = exchanged(impl, case.stage, inputs, DEVICE)
        assert found in ("exchanged", "nothing"), f"{case.id}: {found}"
        done += found == "exchanged"
        if done == EXCHANGED:
            break
