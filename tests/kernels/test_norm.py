"""Norm beyond conformance: same bits everywhere, the int8 of its own float, NaN rows, the outputs it may give."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rtaccel as rt
from rtaccel._native import Bound
from rtaccel.core.registry import impls
from rtaccel.core.stage import GraphIO, Problem, QParams, Stage, Value
from rtaccel.formats.int8 import quantize
from rtaccel.kernels._core.cpu import build
from rtaccel.kernels.norm import contract
from rtaccel.kernels.quantize import contract as quantize_contract
from rtaccel.plan.group import Subgraph, plan_group

KERNELS = [i for i in impls("cpu", "norm") if i.supports(Problem.of(contract.make_stage(3, "layer", "y"), 1)) is None]
NAN, INF = float("nan"), float("inf")


@pytest.fixture(params=KERNELS, ids=lambda i: i.name)
def kernel(request):
    return request.param


def call(kernel, stage: Stage, *inputs):
    return kernel.prepare(stage, Problem.of(stage, inputs[0].shape[0]))(*inputs)


@pytest.mark.parametrize("kind", ["layer", "rms"])
@pytest.mark.parametrize("c", [1, 17, 131, 384, 1000])
def test_same_bits_on_every_instruction_set(kind: str, c: int) -> None:
    stage = contract.make_stage(c, kind, "y,q,row_scale,sum", residual=True)
    inputs = torch.randn(5, c) + 2, torch.randn(5, c)
    first, *others = (call(k, stage, *inputs) for k in KERNELS)
    for results in others:
        for a, b in zip(first, results):
            torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["layer", "rms"])
@pytest.mark.parametrize("c", [1, 19, 64, 200])
def test_int8_is_that_of_its_own_float(kernel, kind: str, c: int) -> None:
    x, r = torch.randn(4, c) * 2, torch.randn(4, c)
    y, q, scale, total = call(kernel, contract.make_stage(c, kind, "y,q,row_scale,sum", residual=True), x, r)
    assert torch.equal(total, x + r)
    for got, want in zip((q, scale), quantize_contract.dynamic(y)):
        assert torch.equal(got, want)
    quant = QParams(0.02, 7)
    y, q = call(kernel, contract.make_stage(c, kind, "y,q", quant, residual=True), x, r)
    assert torch.equal(q, quantize(y, quant))
    only = call(kernel, contract.make_stage(c, kind, "q", quant, residual=True), x, r)
    assert torch.equal(only[0], q)


def test_against_torch(kernel) -> None:
    x, w, b = torch.randn(3, 77) * 3 - 5, torch.randn(77), torch.randn(77)
    for kind, want in (("layer", F.layer_norm(x, (77,), w, b, 1e-3)), ("rms", F.rms_norm(x, (77,), w, 1e-3) + b)):
        stage = Stage(
            "norm", "n", (Value("x", 77),), (Value("y", 77),), {"weight": w, "bias": b}, {"kind": kind, "eps": 1e-3}
        )
        torch.testing.assert_close(call(kernel, stage, x)[0], want, rtol=1e-5, atol=2e-5)


def test_constant_rows_and_large_offsets(kernel) -> None:
    stage = contract.make_stage(100, "layer", "y", affine=False)
    assert (call(kernel, stage, torch.zeros(2, 100))[0] == 0).all()
    x = torch.randn(3, 100) + 1e4  # a variance as E[x^2] - E[x]^2 would be lost here
    want = F.layer_norm(x.double(), (100,))
    assert (call(kernel, stage, x)[0].double() - want).abs().max() < 5e-3


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_a_bad_row_stays_alone(kernel, bad: float) -> None:
    """Rows are samples here: every other row keeps its bits; the bad one is NaN, its int8 0 with a NaN scale."""
    stage = contract.make_stage(70, "layer", "y,q,row_scale")
    x = torch.randn(4, 70)
    clean = call(kernel, stage, x)
    x[1, 69] = bad
    y, q, scale = call(kernel, stage, x)
    assert y[1].isnan().all() and (q[1] == 0).all() and scale[1].isnan().all()
    rest = [0, 2, 3]
    for got, want in zip((y, q, scale), clean):
        assert torch.equal(got[rest], want[rest])


def test_a_bad_row_marks_its_sample(kernel) -> None:
    """A static int8 cannot hold NaN: the float outputs of the whole sample become NaN, those of others do not."""
    x, y, q = Value("x", 20, steps=3), Value("y", 20, steps=3), Value("q", 20, "int8", QParams(0.03, 0), 3)
    stage = Stage("norm", "n", (x,), (q, y), {}, {"gives": "q,y", "kind": "layer"})
    plan = build([(stage, kernel.name)], [GraphIO.matrix(x)], [GraphIO.matrix(q), GraphIO.matrix(y)])
    data = torch.randn(4, 3, 20)
    _, clean = plan.call((data,))
    data[2, 1, 5] = NAN
    got_q, got = plan.call((data,))
    assert got[2].isnan().all() and (got_q[2, 1] == 0).all()
    assert torch.equal(got[[0, 1, 3]], clean[[0, 1, 3]])


def test_a_bad_row_marks_its_sample_in_plain_torch() -> None:
    x, y, q = Value("x", 20, steps=3), Value("y", 20, steps=3), Value("q", 20, "int8", QParams(0.03, 0), 3)
    stage = Stage("norm", "n", (x,), (q, y), {}, {"gives": "q,y", "kind": "layer"})
    group = Subgraph((stage,), (GraphIO.matrix(x),), (GraphIO.matrix(q), GraphIO.matrix(y)))
    plan, _ = plan_group(group, 4, backend="portable")
    data = torch.randn(4, 3, 20)
    _, clean = plan.call((data,))
    data[2, 1, 5] = NAN
    _, got = plan.call((data,))
    assert got[2].isnan().all() and torch.equal(got[[0, 1, 3]], clean[[0, 1, 3]])


@pytest.mark.parametrize("c", [1, 5, 17, 63, 65])
def test_writes_only_its_outputs(kernel, c: int) -> None:
    stage = contract.make_stage(c, "layer", "y,sum", residual=True)
    memory = torch.full((2, 3 * c + 64), 5.0)
    y, total = (m[32 : 32 + 3 * c].view(3, c) for m in memory)
    x, r = torch.randn(3, c), torch.randn(3, c)
    ports = [GraphIO.matrix(v) for v in stage.inputs], [GraphIO.matrix(v) for v in stage.outputs]
    Bound(build([(stage, kernel.name)], *ports), (x, r), (y, total))()
    assert torch.equal(total, x + r)
    assert (memory[:, :32] == 5).all() and (memory[:, 32 + 3 * c :] == 5).all()


@pytest.mark.parametrize(
    ("gives", "quant"),
    [
        ("q,row_scale", QParams(0.1, 0)),
        ("q,y", None),
        ("y,y", None),
        ("sum,y,q", None),
        ("sum,row_scale", None),
        ("z,q", None),
    ],
)
def test_outputs_that_do_not_fit(gives: str, quant: QParams | None) -> None:
    values = {"y": Value("y", 4), "q": Value("q", 4, "int8", quant), "row_scale": Value("s", 1), "sum": Value("t", 4)}
    outputs = tuple(values.get(n, Value("z", 4)) for n in gives.split(","))
    stage = Stage("norm", "n", (Value("x", 4),), outputs, {}, {"gives": gives})
    with pytest.raises(rt.FormatError, match="norm"):
        contract.lower(stage)


def test_outputs_without_a_list() -> None:
    y, t, scale = Value("y", 4), Value("t", 4), Value("s", 1)
    dynamic, static = Value("q", 4, "int8"), Value("q", 4, "int8", QParams(1.0, 0))
    for outputs, want in (
        ((y,), "y"),
        ((y, t), "y,sum"),
        ((static,), "q"),
        ((static, t), "q,sum"),
        ((dynamic, scale), "q,row_scale"),
        ((dynamic, scale, t), "q,row_scale,sum"),
    ):
        assert ",".join(contract.roles(Stage("norm", "n", (Value("x", 4),), outputs))) == want
    with pytest.raises(rt.FormatError, match="kind"):
        contract.lower(Stage("norm", "n", (Value("x", 4),), (y,), {}, {"kind": "batch"}))


class ReadBefore(nn.Module):
    """What the sum leads to is computed before the norm that takes the sum in, over two calls."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.norm = nn.Linear(8, 8), nn.Linear(8, 8), nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        total = x + torch.cumsum(x, 1)
        before = self.second(torch.cumsum(total, 1))
        return before * self.norm(total)


def test_what_reads_a_sum_comes_after_its_norm() -> None:
    """In one call, and not in one for each place that the order of the stages is broken at."""
    model, x = ReadBefore().eval(), torch.randn(3, 8)
    fast = rt.compile(model, x, strict=True)
    assert "one call on cpu" in fast.explain(measure=False)
    torch.testing.assert_close(fast(x), model(x))
