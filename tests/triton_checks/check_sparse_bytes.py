"""What the sparse Triton kernels read: each byte of the weights once. And their assembly, on a card, as its twin computes.

As check_kernels.py, started by tests/gpu/test_triton_interpreter.py.

Layers that round x by one scale themselves, too, and what hands on a NaN in one launch: the bits of the CPU, and its NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.backends import require
from rtaccel.core.registry import impls, operator
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels._general import triton_nan_values
from rtaccel.kernels._general.triton_calls import calls_counter
from rtaccel.kernels._general.triton_nan_values import PIECE, Streamed, parts_of, stream_marker, values_propagator
from rtaccel.kernels.fused_linear import contract as dense
from rtaccel.kernels.fused_sparse_linear import contract as sparse
from rtaccel.kernels.linear import contract as linear
from rtaccel.kernels.sparse_linear import contract
from rtaccel.kernels.sparse_linear.triton.permute import pick_bytes
from rtaccel.kernels.sparse_linear.triton.rows import stored_block
from rtaccel.plan import sparse_gpu
from rtaccel.plan.sparse_gpu import FEW_ROWS
from tests.support.networks.conv_chains import CHAINS
from tests.triton_checks.support.sparse_stages import DEVICE, fresh_seed, nan_filled, taking  # noqa: F401

require("triton")

LEAST = 2048
"""Bytes above which an operand is part of the packed weights, here: what has a number for each output is smaller."""


@pytest.mark.parametrize("rows", [1, 16])
@pytest.mark.parametrize(
    ("layout", "kind"), [*((layout, "static") for layout in contract.LAYOUTS), ("2:4", "w4a8-static")]
)
def test_each_byte_of_the_weights_is_read_once(
    layout: str, kind: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the addresses that the kernels load: all of what is stored, nothing twice, and less than dense weights are."""
    from triton.runtime.interpreter import InterpreterBuilder

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
        packed = [t for t in held if t.numel() * t.element_size() > LEAST]
        counts = [torch.zeros(t.numel() * t.element_size(), dtype=torch.int32) for t in packed]

        def counted(self: Any, ptrs: Any, mask: Any, *rest: Any) -> Any:
            read = torch.from_numpy(ptrs.data.astype("int64")[mask.data]).unique()
            width = ptrs.get_element_ty().primitive_bitwidth // 8
            for t, count in zip(packed, counts):  # noqa: B023
                at = read - t.data_ptr()
                at = at[(at >= 0) & (at < count.numel())]
                for byte in range(width):
                    count[at + byte] += 1
            return load(self, ptrs, mask, *rest)

        with monkeypatch.context() as patch:
            patch.setattr(InterpreterBuilder, "create_masked_load", counted)
            call(linear.make_inputs(stage, rows, 3)[0])
        stored = "blocks" if impl.name == "triton_dot" else layout
        dense, block = contract.dense_stage(stage), stored_block(stage)
        packed_for = max(rows, FEW_ROWS + 1) if impl.name == "triton_dot" else rows
        expected = sparse_gpu._packed(dense, packed_for, stored, block).bytes
        times = -(-rows // FEW_ROWS) if "semi" in impl.name else 1  # programs of few rows
        assert all(bool((count == times).all()) for count in counts), impl.name
        size = sum(count.numel() for count in counts)
        assert size <= expected <= n * k // (2 if kind == "w4a8-static" else 1), impl.name


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


pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

BAD = (float("nan"), float("inf"), float("-inf"))


def set_nonfinite(x: Tensor) -> None:
    """About half of the rows get a NaN or an infinity somewhere, another a number far outside of the scale."""
    for row in x.view(x.shape[0], -1):
        place = int(torch.randint(row.numel(), ()))
        if torch.rand(()) < 0.5:
            row[place] = BAD[int(torch.randint(3, ()))]
        elif torch.rand(()) < 0.5:
            row[place] = 3e38 if torch.rand(()) < 0.5 else -3e38


def ends_of(stage: Stage, rows: int, inputs: Sequence[Tensor]) -> int:
    """Runs every kernel that takes the stage against its contract; how many did."""
    op, ran = operator(stage.op), 0
    (want,), tolerance = op.reference(stage, *inputs), op.tolerance(stage, *inputs)
    for impl in impls("triton", stage.op):
        if impl.supports(Problem.of(stage, rows, DEVICE)) is not None:
            continue
        (got,) = impl.prepare(stage, Problem.of(stage, rows, DEVICE))(*(t.to(DEVICE) for t in inputs))
        got, ran = got.cpu(), ran + 1
        assert torch.equal(got.isnan() if got.is_floating_point() else got != got, want != want), impl.name
        there = want == want
        if want.dtype == torch.int8:
            assert int((got.int() - want.int()).abs().max()) <= tolerance.steps, impl.name
        else:
            atol = torch.as_tensor(tolerance.atol, dtype=torch.float64).expand(want.shape)
            assert bool(((got - want).abs().double() <= atol)[there].all()), impl.name
    return ran


SIZES = ((1, 1, 1), (1, 33, 130), (2, 5, 36), (3, 17, 131), (8, 70, 257), (5, 9, 640), (1, 11, 4100), (17, 40, 96))


@pytest.mark.parametrize("out", ["float32", "int8"])
@pytest.mark.parametrize("kind", ["w8a8-inside", "w4a8-inside"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_dense_layers(size: tuple[int, int, int], kind: str, out: str) -> None:
    rows, n, k = size
    for activation, residual in (("relu", False), ("none", True)):
        stage = dense.make_stage(k, n, kind, activation, residual=residual, out=out)
        inputs = dense.make_inputs(stage, rows, int(torch.randint(1 << 30, ())))
        set_nonfinite(inputs[0])
        assert ends_of(stage, rows, inputs) >= 2


@pytest.mark.parametrize("out", ["float32", "int8"])
@pytest.mark.parametrize("layout", ["window", "2:4", "blocks"])
@pytest.mark.parametrize("size", SIZES[:6], ids=str)
def test_sparse_layers(size: tuple[int, int, int], layout: str, out: str) -> None:
    rows, n, k = size
    for scheme in ("static", "w4a8-static")[: 2 if layout == "2:4" else 1]:
        group = {"group_size": 32} if scheme != "static" else {}
        stage = sparse.make_stage(k, n, layout, 0.4, scheme, activation="relu", out=out, **group)
        inputs = sparse.make_inputs(stage, rows, int(torch.randint(1 << 30, ())))
        set_nonfinite(inputs[0])
        ran = ends_of(stage, rows, inputs)
        front = replace(stage, attrs={**stage.attrs, "rows_in_front": 1})
        assert ran == (layout != "2:4" or k % 4 == 0)  # rounded x lies in words
        assert ends_of(front, rows, inputs) == ran + (rows <= 4)


@pytest.mark.parametrize(
    ("sizes", "widths"),
    [
        ((33,), (7,)), ((5, 7, 9000, 100_000), (3, 12)), ((PIECE, 1, PIECE - 1, 1), (1,)), ((20_000,), (5000,)),
        ((3,) * 40, (2,) * 5),
    ],
)  # fmt: skip
def test_one_launch_looks_at_every_value(sizes: tuple[int, ...], widths: tuple[int, ...]) -> None:
    """Twice with the same counters: a graph is replayed."""
    propagate = values_propagator(sizes, widths)
    for samples in (3, 0, 1, 4, 4):
        xs = [torch.randn(samples, k) for k in sizes]
        ys = [torch.randn(samples, n) for n in widths]
        bad = torch.zeros(samples, dtype=torch.bool)
        for sample in range(samples):
            if torch.rand(()) < 0.6:
                x = xs[int(torch.randint(len(xs), ()))]
                x[sample, int(torch.randint(x.shape[1], ()))] = BAD[int(torch.randint(3, ()))]
                bad[sample] = True
        there = [y.to(DEVICE) for y in ys]
        propagate([x.to(DEVICE) for x in xs], there)
        for y, got in zip(ys, there):
            want = y.masked_fill(bad[:, None], float("nan"))
            assert torch.equal(got.cpu().nan_to_num(7.0), want.nan_to_num(7.0))


@pytest.mark.parametrize("sizes", [(33,), (PIECE + 3, 20_000)])
def test_a_launch_counts_a_call_once(sizes: tuple[int, ...]) -> None:
    """However many programs look at a stream, marked or not."""
    mark, first = stream_marker(sizes, (7,), Streamed(2, (), True)), torch.tensor([[0], [5], [2**40]])
    left, ticks = torch.zeros(3, dtype=torch.int32, device=DEVICE), first.clone().to(DEVICE)
    for call in range(1, 5):
        xs = [torch.randn(3, k, device=DEVICE) for k in sizes]
        if call == 2:
            xs[-1][1, -1] = float("nan")
        mark(xs, [torch.randn(3, 7, device=DEVICE)], (), left, ticks)
        assert torch.equal(ticks.cpu(), first + call)
        assert left.tolist() == [0, max(4 - call, 0) if call >= 2 else 0, 0]


@pytest.mark.parametrize("samples", [0, 1, 3, 300])
def test_a_launch_that_counts_alone(samples: int) -> None:
    ticks = torch.randint(2**40, (samples, 1))
    counted = ticks.clone().to(DEVICE)
    calls_counter()(counted)
    assert torch.equal(counted.cpu(), ticks + 1)


def test_every_number_is_looked_at_once() -> None:
    for sizes in ((1,), (PIECE + 1, 3), (3, PIECE * 3, 4, PIECE, 9)):
        parts = parts_of(sizes)
        assert sorted(v for part in parts for v in part.values) == list(range(len(sizes)))
        for part in parts:
            numbers = sum(sizes[v] for v in part.values)
            assert numbers <= PIECE * part.programs and (part.programs == 1 or len(part.values) == 1)
    assert triton_nan_values.specialize((5,), (3,)) is triton_nan_values.specialize((5,), (3,))


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b, self.c = nn.Linear(24, 24), nn.LayerNorm(24), nn.Linear(24, 24), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.norm(x + self.a(x).relu())
        return self.c(self.b(h) + h), h


class Recurrent(nn.Module):
    """A stack, and layers behind its newest time step."""

    def __init__(self, stack: nn.RNNBase, *layers: nn.Module) -> None:
        super().__init__()
        self.stack, self.layers = stack, nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stack(x)[0]
        return self.layers(y[:, -1] if self.stack.batch_first else y[-1])


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (nn.Linear(45, 7), (3, 45)), (nn.Sequential(nn.Linear(44, 30), nn.GELU(), nn.Linear(30, 7)), (20, 44)),
        (Tokens(), (2, 6, 24)), (Recurrent(nn.LSTM(9, 12, batch_first=True), nn.Linear(12, 3)), (3, 4, 9)),
        (Recurrent(nn.GRU(9, 12), nn.Linear(12, 3)), (3, 4, 9)), (nn.RNN(9, 12), (4, 3, 9)),
        (Recurrent(nn.GRU(9, 8, 2, batch_first=True, bidirectional=True), nn.GELU(), nn.Linear(16, 3)), (2, 3, 9)),
        *((net(), shape) for net, shape, _ in CHAINS.values()),
    ],
)  # fmt: skip
def test_a_plan_has_the_nan_of_the_cpu(model: nn.Module, shape: tuple[int, ...]) -> None:
    """Samples, not rows: a NaN in one token makes all of its sample NaN."""
    model, data = model.eval(), [torch.randn(shape) for _ in range(4)]
    given = {"scheme": "w8a8", "calibration": data, "verify": False}
    here = rt.compile(model, (torch.randn(shape),), **given)
    there = rt.compile(model, (torch.randn(shape, device=DEVICE),), backend="triton", **given)
    for _ in range(3):
        x = torch.randn(shape)
        set_nonfinite(x)
        want, got = here(x), there(x.to(DEVICE))
        for a, b in zip(*((v,) if isinstance(v, Tensor) else v for v in (want, got))):
            assert torch.equal(a.isnan(), b.cpu().isnan())
            assert torch.allclose(a.nan_to_num(), b.cpu().nan_to_num(), rtol=1e-4, atol=1e-3)
