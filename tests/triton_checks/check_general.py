"""The general stages in Triton against their contracts: expressions, reductions, norms, movement, products, windows.

Their kernels are made for each stage, so a few cases of each kind of address and every function stand for the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import pytest
import torch
from torch import Tensor

import rtaccel as rt
from rtaccel.backends import require
from rtaccel.core import settings
from rtaccel.core.errors import FormatError, ShapeError
from rtaccel.core.registry import Case, Impl, impls, operator
from rtaccel.core.stage import GraphIO, Problem, QParams, Stage, Value
from rtaccel.formats import int8
from rtaccel.kernels._general import triton_places
from rtaccel.kernels._general.triton_source import kernel_of
from rtaccel.kernels.attention import contract as attention
from rtaccel.kernels.integer.triton import integer as triton_integer
from rtaccel.kernels.matmul import contract as matmul
from rtaccel.kernels.put import contract as put
from rtaccel.kernels.tree_ensemble.contract import attributes, random_tables
from rtaccel.kernels.tree_ensemble.triton import walk
from rtaccel.plan.group import Subgraph, plan_group

require("triton")
DEVICE = "cpu" if settings.triton_interpret() else "cuda"
SENTINELS = (float("nan"), -1.25e30)

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, at the inf and nan that are meant

STEPS = {
    "expression": 1,
    "strided_expression": 5,
    "reduce": 23,
    "softmax": 4,
    "norm": 6,
    "pointwise": 29,
    "assemble": 7,
    "rearrange": 2,
    "concat": 2,
    "position": 2,
    "embedding": 3,
    "take": 2,
    "integer": 7,
    "pool": 11,
    "resample": 5,
    "grid_sample": 1,
    "matmul": 6,
    "attention": 1,
    "scan": 7,
    "linear_scan": 4,
    "cached_attention": 1,
    "table_row": 1,
    "draw": 1,
    "cast": 3,
    "order": 9,
    "put": 5,
    "fourier": 3,
    "solve": 5,
    "tree_ensemble": 1,
}
"""Operator -> every how many of its cases run here."""

MAX_ELEMENTS, MAX_PROGRAMS = 2100, 40
"""Of a case: a program of the interpreter takes some milliseconds."""


def small(case: Case) -> bool:
    values = (*case.stage.inputs, *case.stage.outputs)
    most = max(v.steps * v.width for v in values)
    return most <= MAX_ELEMENTS and most * case.make(0)[0].shape[0] <= 32 * MAX_PROGRAMS


def supported() -> Iterator[object]:
    for name, step in STEPS.items():
        for case in islice(filter(small, operator(name).cases()), 0, None, step):
            for impl in impls("triton", name):
                if impl.supports(Problem.of(case.stage, 1, DEVICE)) is None:
                    yield pytest.param(name, impl, case, id=f"{name}-{impl.name}-{case.id}")


def outputs(call: object, inputs: tuple[Tensor, ...], sentinel: float, patch: pytest.MonkeyPatch) -> tuple[Tensor, ...]:
    """With memory full of the sentinel, so that an element which a kernel does not write cannot pass."""
    allocate = torch.empty

    def fill(*args: object, **kwargs: object) -> Tensor:
        t = allocate(*args, **kwargs)
        if not t.is_floating_point():
            return t.fill_(85)
        return t.fill_(max(sentinel, torch.finfo(t.dtype).min))  # of float16, which has no such number

    patch.setattr(torch, "empty", fill)
    found = call(*(x.to(DEVICE) for x in inputs))  # type: ignore[operator]
    patch.undo()
    return tuple(y.cpu() for y in found)


@pytest.mark.parametrize(("name", "impl", "case"), list(supported()))
def test_contract_case(name: str, impl: Impl, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    seed = torch.seed() % 2**31
    print(f"seed {seed}")
    inputs, op = case.make(seed), operator(name)
    call = impl.prepare(case.stage, Problem.of(case.stage, inputs[0].shape[0], DEVICE))
    want, tolerance = op.reference(case.stage, *inputs), op.tolerance(case.stage, *inputs)
    got = outputs(call, inputs, SENTINELS[seed % 2], monkeypatch)
    assert len(got) == len(want)
    for g, w in zip(got, want):
        assert (g.shape, g.dtype) == (w.shape, w.dtype)
        near = tolerance.within(g, w)
        assert near.all(), f"{int((~near).sum())} of {near.numel()}: {g[~near][0]} for {w[~near][0]}"


@pytest.mark.parametrize("name", ["floor_divide", "trunc_divide", "remainder", "fmod"])
def test_whole_numbers_that_divide_by_computed_ones(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against torch, at the ends of int64 too. A zero raises where one can look, and later calls are right; in a replay it gives
    the least number, and disturbs no other."""
    (case,) = (c for c in operator("integer").cases() if c.id == f"{name}-131")
    (impl,) = impls("triton", "integer")
    call = impl.prepare(case.stage, Problem.of(case.stage, 3, DEVICE))
    shape, (low, high) = (3, 131), (-(2**63), 2**63 - 1)
    a, b = torch.randint(low, high, shape), torch.randint(-9, 9, shape) * 2 + 1
    a[0, :4], b[0, :4] = torch.tensor([low, high, low, 7]), torch.tensor([3, -1, 1, high])
    want = operator("integer").reference(case.stage, a, b)[0]
    assert torch.equal(call(a.to(DEVICE), b.to(DEVICE))[0].cpu(), want)
    wraps = a.clone()
    wraps[1, 5] = low
    minus = torch.full_like(b, -1)
    (got,) = call(wraps.to(DEVICE), minus.to(DEVICE))  # torch itself ends the process there
    assert torch.equal(got.cpu(), -wraps if "divide" in name else torch.zeros_like(a))
    zero = b.clone()
    zero[2, 130] = 0
    with pytest.raises(FormatError, match="division by zero"):
        call(a.to(DEVICE), zero.to(DEVICE))
    assert torch.equal(call(a.to(DEVICE), b.to(DEVICE))[0].cpu(), want)
    monkeypatch.setattr(triton_integer, "can_look", lambda tensor: False)
    (got,) = call(a.to(DEVICE), zero.to(DEVICE))
    want[2, 130] = low
    assert torch.equal(got.cpu(), want)


def test_prepared_for_one_batch_runs_any_other() -> None:
    for name in ("strided_expression", "reduce", "matmul", "assemble"):
        case = list(operator(name).cases())[1]
        (impl,) = impls("triton", name)
        call = impl.prepare(case.stage, Problem.of(case.stage, 1, DEVICE))
        for rows in (0, 1, 3):
            inputs = tuple(x[:1].expand(rows, *x.shape[1:]).contiguous().to(DEVICE) for x in case.make(3))
            (got,) = call(*inputs)
            if rows:
                (one,) = call(*(x[:1].contiguous() for x in inputs))
                assert torch.equal(got.nan_to_num(7.0), one.expand_as(got).nan_to_num(7.0)), name
            assert got.shape[0] == rows


def test_wrong_inputs_are_refused() -> None:
    case = next(iter(operator("strided_expression").cases()))
    (impl,) = impls("triton", "strided_expression")
    call = impl.prepare(case.stage, Problem.of(case.stage, 2, DEVICE))
    given = tuple(x.to(DEVICE) for x in case.make(1))
    for wrong in (
        (given[0],),
        (given[0].double(), *given[1:]),
        (given[0][:, :1], *given[1:]),
        (given[0], given[1][:1]),
    ):
        with pytest.raises(ShapeError, match="strided_expression"):
            call(*wrong)


def test_an_index_outside_is_refused() -> None:
    for name, where in (("embedding", 0), ("take", 1)):
        case = next(c for c in operator(name).cases() if "int64" not in c.id and "negative" not in c.id)
        (impl,) = impls("triton", name)
        call = impl.prepare(case.stage, Problem.of(case.stage, 1, DEVICE))
        inputs = [x.to(DEVICE) for x in case.make(0)]
        for bad in (-1, 10**6):
            inputs[where] = torch.full_like(inputs[where], bad)
            with pytest.raises(FormatError, match=f"index {bad}"):
                call(*inputs)


def test_an_index_outside_selects_nan_and_reads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a graph that is replayed, where nobody looks at indices before."""
    from rtaccel.kernels._general import triton_indices

    monkeypatch.setattr(triton_indices, "check", lambda *given, **named: None)
    weight = torch.randn(5, 3)
    stage = Stage("embedding", "e", (Value("i", 1, "int64"),), (Value("y", 3),), {"weight": weight})
    (impl,) = impls("triton", "embedding")
    (y,) = impl.prepare(stage, Problem.of(stage, 3, DEVICE))(torch.tensor([[2], [-7], [2**40]], device=DEVICE))
    assert torch.equal(y[0].cpu(), weight[2])
    assert y[1:].isnan().all()


def test_what_a_card_cannot_raise_is_left() -> None:
    for case in operator("integer").cases():
        divides = any(
            line.split()[0] in ("floor_divide", "trunc_divide", "remainder", "fmod")
            for line in case.stage.attrs["program"]
        )
        (impl,) = impls("triton", "integer")
        if not divides:
            assert impl.supports(Problem.of(case.stage, 1, DEVICE)) is None, case.id


def test_dimensions_that_are_walked_in_one_stride_are_joined() -> None:
    assert triton_places.joined((2, 3, 4), [(5, 12, 4, 1), (0, 0, 0, 0)]) == ((24,), [(5, 1), (0, 0)])
    assert triton_places.joined((2, 3, 4), [(0, 12, 4, 1), (0, 4, 0, 1)]) == ((2, 3, 4), [(0, 12, 4, 1), (0, 4, 0, 1)])
    assert triton_places.joined((1, 1), [(3, 9, 9)]) == ((1,), [(3, 0)])


def test_a_text_is_compiled_once() -> None:
    text = "def kernel(x_ptr, rows):\n    pass\n"
    assert kernel_of(text) is kernel_of(text)


def one_number() -> Iterator[object]:
    """Stages with an operand that lies at the same element all over a kernel's tile: its address is a number."""
    a_put = put.make_stage([(4, 6), (1, 5), (1, 5)], "set", dims=(5,), kept=1, sizes=(24,), strides=(1,),
                           places=((0, 0), (0, 1), (0, 0)))  # fmt: skip
    x, index, src = a_put.inputs
    number = torch.tensor([0.0, 0.7])
    for mode in put.MODES:
        put_there = replace(a_put, attrs={**a_put.attrs, "mode": mode, "places": ((0, 0), (0, 1), (1, 0))})
        yield pytest.param(replace(put_there, inputs=(x, index), tensors={"src": number}), id=f"put-src-{mode}")
    into_one = {**a_put.attrs, "places": ((0, 0), (0, 0), (0, 1)), "dims": (1,), "mode": "add"}
    fixed = torch.tensor([7])
    yield pytest.param(replace(a_put, attrs=into_one, inputs=(x, src), tensors={"i0": fixed}), id="put-index")
    filled = {**a_put.attrs, "whole": ((24,), (1, 0), (0, 1)), "mode": "add"}
    yield pytest.param(replace(a_put, attrs=filled, inputs=(index, src), tensors={"x": number}), id="put-x")
    value, y = Value("v", 5, steps=2), Value("y", 6, steps=2)
    parts = (((2, 5), (0, 5, 1), (0, 6, 1)), ((2,), (1, 0), (5, 6)))
    yield pytest.param(Stage("assemble", "s", (value,), (y,), {"c0": number}, {"parts": parts}), id="assemble")
    for i in (3, 7):
        plain = matmul.make_stage((), i, 5, 6)
        for side, place in (("a", (2, 0, 0)), ("w", (1, 0, 0))):
            places = tuple(place if name == side else was for name, was in zip("aw", plain.attrs["places"]))
            stage = replace(plain, attrs={**plain.attrs, "places": places})
            yield pytest.param(stage, id=f"matmul-{i}-{side}")
            own, other = stage.inputs if side == "a" else stage.inputs[::-1]
            alone = replace(stage, inputs=(other,), tensors={side: torch.randn(own.steps * own.width)})
            yield pytest.param(alone, id=f"matmul-{i}-{side}-fixed")


@pytest.mark.parametrize("stage", list(one_number()))
def test_an_operand_of_one_number(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    given = [
        torch.randint(0, 24, (3, *v.shape)) if v.dtype == "int64" else torch.randn(3, *v.shape) for v in stage.inputs
    ]
    (impl,) = impls("triton", stage.op)
    (got,) = outputs(impl.prepare(stage, Problem.of(stage, 3, DEVICE)), tuple(given), float("nan"), monkeypatch)
    (want,) = operator(stage.op).reference(stage, *given)
    assert operator(stage.op).tolerance(stage, *given).within(got, want).all()


class Block(torch.nn.Module):
    """Gates, a norm over channels, a reduction over positions, a softmax over another dimension, columns put together."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.GroupNorm(2, 6)

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        y = torch.where(x > 0, x * torch.sigmoid(gate), torch.expm1(x)) - x.mean(2, keepdim=True)
        y = self.norm(y)
        scores = torch.softmax(y @ x.transpose(1, 2), 1)
        return torch.cat([scores.flip(1), y.amax(2, keepdim=True).clamp(-1, 1)], 2)


def test_a_model_of_general_stages_has_no_torch_kernel() -> None:
    torch.manual_seed(5)
    model, x = Block().eval(), (torch.randn(1, 6, 5), torch.randn(1, 6, 1))
    compiled = rt.compile(model.to(DEVICE), tuple(t.to(DEVICE) for t in x), backend="triton", verify=False)
    with torch.no_grad():
        want = model(*(t.to(DEVICE) for t in x))
    got = compiled(*(t.to(DEVICE) for t in x))
    assert torch.allclose(got, want, atol=1e-5, rtol=1e-4)
    text = compiled.explain()
    assert "triton_expression" in text
    table = text.split("\nstages")[0]
    assert "portable" not in table, text


@pytest.mark.parametrize(("t", "s"), [(1, 9), (20, 11)])
def test_attention_rounds_its_result(t: int, s: int) -> None:
    """As the float32 result rounded by itself, and 0 for what is not finite."""
    quant = QParams(0.013, -7)
    stages = [attention.make_stage(t, s, 2, 5, quant=q) for q in (quant, None)]
    q, kv = attention.make_inputs(stages[0], 2, t)[:2]
    kv[1, 3, 3 + 10 + 5 :] = float("inf")  # of v, the second head
    got, floats = (
        impl.prepare(stage, Problem.of(stage, 2, DEVICE))(*(x.to(DEVICE) for x in (q, kv, kv)))[0].cpu().view(2, t, 10)
        for stage in stages
        for impl in impls("triton", "attention")
    )
    finite = floats.isfinite()
    assert not finite[1, :, 5:].any() and finite[1, :, :5].all() and finite[0].all()
    want = torch.where(finite, int8.quantize(floats.nan_to_num(0, 0, 0), quant), 0)
    assert got.dtype == torch.int8 and torch.equal(got, want.to(torch.int8))


@pytest.mark.parametrize("block", [8, 32, 128])
@pytest.mark.parametrize(
    ("trees", "features", "targets", "depth"), [(1, 1, 1, 0), (41, 5, 1, 4), (70, 9, 3, 3), (24, 2, 1, 7)]
)
def test_trees_have_the_bits_of_the_cpu(
    trees: int, features: int, targets: int, depth: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However they are cut into programs, and in each call anew: programs count themselves in words that are 0 again."""
    monkeypatch.setattr(walk, "BLOCK", block)
    seed = torch.seed() % 2**31
    print(f"seed {seed}")
    torch.manual_seed(seed)
    for strict in (False, True):
        tables = random_tables(trees, features, targets, depth, seed)
        tables["value"] *= 10 ** torch.randint(-3, 4, tables["value"].shape)  # so that an order shows
        x, y = Value("x", features), Value("y", targets)
        stage = Stage("tree_ensemble", "trees", (x,), (y,), tables, attributes(tables, strict))
        native, _ = plan_group(Subgraph((stage,), (GraphIO(x, 1, x.shape),), (GraphIO(y, 1, y.shape),)), 1)
        call = walk.prepare(stage, Problem.of(stage, 3, DEVICE))
        for rows in (1, 5):
            given = torch.randn(rows, features)
            at = torch.randint(tables["threshold"].numel(), given.shape)
            given = torch.where(torch.rand(given.shape) < 0.3, tables["threshold"][at], given)
            for odd in (float("nan"), float("inf"), -float("inf")):
                given[torch.rand(given.shape) < 0.1] = odd
            (got,) = call(given.to(DEVICE))
            assert torch.equal(got.cpu(), native.call((given,)))
