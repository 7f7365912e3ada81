"""The recurrent kernels against the contracts of LSTM and GRU, to the last bit: in the interpreter, else on the GPU.

Started by tests/gpu/test_triton_interpreter.py.
In the interpreter the programs of a stack that is cut run as processes side by side
(side_by_side.py); what the sizes are is few, as the interpreter takes a tenth of a second for a layer of a time step.
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

import rtaccel as rt
from rtaccel.backends import require
from rtaccel.core import settings
from rtaccel.core.errors import FormatError, ShapeError
from rtaccel.core.registry import Impl, impls, operator
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels._gpu.triton_device import fma_rn
from rtaccel.kernels.recurrent.cases import behind, make_inputs, make_stage
from rtaccel.kernels.recurrent.layout import Geometry
from rtaccel.kernels.recurrent.reference import fma32
from rtaccel.kernels.recurrent.triton import bidirectional as both
from rtaccel.kernels.recurrent.triton import many, stack
from rtaccel.kernels.recurrent.triton.config import KernelConfig, kernel_configs, select_config

require("triton")
INTERPRET = settings.triton_interpret()
DEVICE = "cpu" if INTERPRET else "cuda"
GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1}

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


@pytest.fixture(autouse=True)
def nan_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    """New numbers every time, and outputs that are full of NaN before."""
    allocate = torch.empty
    seed = torch.seed() % 2**31
    torch.manual_seed(seed)
    print(f"torch.manual_seed({seed})")

    def fill(*args: Any, **kwargs: Any) -> Tensor:
        t = allocate(*args, **kwargs)
        return t.fill_(float("nan") if t.is_floating_point() else 85)

    monkeypatch.setattr(torch, "empty", fill)


def assert_same(stage: Stage, inputs: tuple[Tensor, ...], got: tuple[Tensor, ...]) -> None:
    want = operator(stage.op).reference(stage, *inputs)
    assert len(got) == len(want)
    for index, (g, w) in enumerate(zip(got, want)):
        g = g.cpu()
        assert (g.shape, g.dtype) == (w.shape, w.dtype)
        same = (g == w) | (g != g) & (w != w)
        assert same.all(), f"output {index}: {int((~same).sum())} of {same.numel()} differ"


def stacked(op: str) -> Impl:
    """The kernel for int8 and int4 weights."""
    return next(impl for impl in impls("triton", op) if impl.name == "triton_stack")


def seed() -> int:
    return int(torch.randint(1 << 30, ()))


Sizes = tuple[int, int, Geometry, str, str, bool | str]


def cases() -> Iterator[Any]:
    """(samples, K, geometry, form, output, with states)."""
    few: list[Sizes] = [
        (1, 1, Geometry(1), "int8-static", "float32", True),
        (3, 5, Geometry(17, layers=2), "int8-static", "int8", True),
        (1, 65, Geometry(33, batch=2, time=3, batch_first=1, last_only=1), "int8-dynamic", "float32", True),
        (2, 6, Geometry(21, layers=2, time=2), "int8-own", "float32", False),
        (1, 9, Geometry(40, batch=2, time=2), "int8-static", "int8", False),
        (2, 65, Geometry(17, layers=2), "int4-dynamic", "float32", True),
        (1, 7, Geometry(150, time=2), "int4-own", "int8", False),
        (2, 5, Geometry(17, layers=2, directions=2), "int8-static", "int8", True),
        (1, 6, Geometry(9, directions=2, time=3, batch=2, last_only=1), "int8-own", "float32", True),
        (2, 6, Geometry(13, layers=2, time=3, last_only=1), "int8-own", "int8", "after"),
        (1, 6, Geometry(9, layers=2, directions=2, time=3, batch=2), "int8-static", "float32", "after"),
    ]
    many: list[Sizes] = [
        (2, 100, Geometry(100, layers=2, time=7), "int8-own", "float32", True),
        (1, 250, Geometry(200, layers=3, time=20, last_only=1), "int8-static", "int8", False),
        (1, 500, Geometry(1000, layers=4, time=5), "int8-own", "float32", True),
        (5, 600, Geometry(130, layers=2, time=3, batch=2), "int8-dynamic", "float32", True),
        (2, 100, Geometry(100, layers=2, time=7), "int4-own", "float32", True),
        (1, 250, Geometry(200, layers=3, time=20, last_only=1), "int4-static", "int8", False),
        (2, 40, Geometry(100, layers=2, directions=2, time=20, batch_first=1), "int8-own", "float32", False),
    ]
    for op in GATES:
        for sizes in few if INTERPRET else few + many:
            yield pytest.param(op, *sizes, id=f"{op}-M{sizes[0]}-K{sizes[1]}-H{sizes[2].hidden}-{sizes[3]}-{sizes[4]}")


@pytest.mark.parametrize(("op", "samples", "k", "geometry", "form", "out", "states"), list(cases()))
def test_contract(op: str, samples: int, k: int, geometry: Geometry, form: str, out: str, states: bool | str) -> None:
    stage = make_stage(op, GATES[op], geometry, k, form, out, states, seed=seed())
    inputs = make_inputs(stage, samples, seed())
    impl = stacked(op)
    call = impl.prepare(stage, Problem.of(stage, samples, DEVICE))
    for _ in range(1 if INTERPRET else 3):
        assert_same(stage, inputs, call(*(t.to(DEVICE) for t in inputs)))


def counted() -> Iterator[Any]:
    """Windows of streams with lengths of their own."""
    sizes: list[Sizes] = [
        (3, 7, Geometry(19, layers=2, time=5), "int8-own", "float32", True),
        (2, 9, Geometry(12, time=4, batch=3, batch_first=1), "int8-static", "int8", False),
        (2, 9, Geometry(12, layers=2, time=3, batch=2, last_only=1), "int8-dynamic", "int8", True),
        (2, 40, Geometry(33, time=4), "int4-static", "float32", True),
        (2, 6, Geometry(11, layers=2, directions=2, time=5), "int8-own", "int8", True),
        (2, 6, Geometry(11, layers=2, directions=2, time=4, batch=2, last_only=1), "int8-static", "float32", False),
        (2, 6, Geometry(11, layers=2, time=4), "int8-own", "float32", "after"),
    ]
    for op in GATES:
        for size in sizes:
            yield pytest.param(
                op, *size, id=f"{op}-M{size[0]}-H{size[2].hidden}-{size[3]}-{size[4]}-D{size[2].directions}"
            )


@pytest.mark.parametrize(("op", "samples", "k", "geometry", "form", "out", "states"), list(counted()))
def test_streams_of_fewer_time_steps(
    op: str, samples: int, k: int, geometry: Geometry, form: str, out: str, states: bool | str
) -> None:
    """To the bit, with NaN in x behind them. A length outside raises where one can look; in a replay its stream alone is NaN."""
    stage = make_stage(op, GATES[op], geometry, k, form, out, states, seed=seed(), lengths=True)
    inputs = make_inputs(stage, samples, seed())
    behind(stage)(*inputs)
    call = stacked(op).prepare(stage, Problem.of(stage, samples, DEVICE))
    assert_same(stage, inputs, call(*(t.to(DEVICE) for t in inputs)))
    for outside in (0, geometry.time + 1, -(2**40)):
        wrong = (inputs[0].nan_to_num(0.5), inputs[1].clone(), *inputs[2:])
        wrong[1].view(-1)[-1] = outside
        with pytest.raises(FormatError, match=f"a length of {outside}"):
            call(*(t.to(DEVICE) for t in wrong))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stack, "can_look", lambda tensor: False)
            y = call(*(t.to(DEVICE) for t in wrong))[0].cpu()
        want = operator(op).reference(stage, wrong[0], wrong[1].clamp(1, geometry.time), *wrong[2:])[0]
        if geometry.last_only:
            y, want = (t.view(1, samples * geometry.batch, -1) for t in (y, want))
        else:
            y, want = geometry.time_steps(y), geometry.time_steps(want)
        assert torch.equal(y[:, :-1], want[:, :-1])
        nothing = y[:, -1].isnan() if out == "float32" else y[:, -1] == stage.outputs[0].quant.zero_point
        assert nothing.all()


@pytest.mark.parametrize("op", list(GATES))
def test_a_stream_without_meaning_is_nan_and_alone(op: str) -> None:
    stage = make_stage(op, GATES[op], Geometry(19, layers=2, time=2), 6, "int8-own", seed=seed())
    inputs = make_inputs(stage, 4, seed())
    inputs[0][0, 1, 5], inputs[1][1, 0, 18], inputs[-1][2, 1, 0] = float("nan"), float("inf"), float("-inf")
    impl = stacked(op)
    got = impl.prepare(stage, Problem.of(stage, 4, DEVICE))(*(t.to(DEVICE) for t in inputs))
    assert all(y[:3].isnan().all() and y[3].isfinite().all() for y in got)
    assert_same(stage, inputs, got)


MANY: list[tuple[str, int, int, Geometry, str, str]] = [
    ("gru", 1, 1, Geometry(1), "int8-static", "float32"),
    ("gru", 33, 32, Geometry(32), "int8-static", "float32"),
    ("gru", 70, 40, Geometry(33, layers=2), "int8-own", "int8"),
    ("lstm", 32, 7, Geometry(20, layers=3), "int8-static", "int8"),
    ("lstm", 65, 64, Geometry(64), "int8-own", "float32"),
    ("gru", 5, 9, Geometry(12, layers=2, batch=7), "int8-static", "float32"),
    ("lstm", 1, 9, Geometry(12, layers=2, batch=70), "int8-static", "float32"),
]


@pytest.mark.parametrize(("op", "samples", "k", "geometry", "form", "out"), MANY)
def test_many_streams(op: str, samples: int, k: int, geometry: Geometry, form: str, out: str) -> None:
    """A tile of streams on tensor cores, with streams that hold no number among them: the bits of the contract."""
    stage = make_stage(op, GATES[op], geometry, k, form, out, True, seed=seed())
    inputs = make_inputs(stage, samples, seed())
    for i in range(3 if samples > 1 else 0):
        tensor = inputs[i % len(inputs)] if inputs[i % len(inputs)].is_floating_point() else inputs[-1]
        place = int(torch.randint(tensor.numel(), ()))
        tensor.view(-1)[place] = (float("nan"), float("inf"), float("-inf"))[i]
    problem = Problem.of(stage, samples, DEVICE)
    assert many.unsupported(problem) is None
    call = many.prepare(GATES[op], operator(op).lower)(stage, problem)
    got = call(*(t.to(DEVICE) for t in inputs))
    assert_same(stage, inputs, got)
    assert bool(got[1].isnan().any()) == (samples > 1) and not bool(got[1].isnan().all())
    for rows in (0, samples // 2):
        part = tuple(t[:rows].contiguous() for t in inputs)
        assert_same(stage, part, call(*(t.to(DEVICE) for t in part)))


@pytest.mark.parametrize("op", ["lstm", "gru"])
def test_which_kernel_takes_many_streams(op: str) -> None:
    """From MIN_STREAMS on, of one time step with int8 weights; other stages say why not."""

    def taken(geometry: Geometry, k: int, rows: int, form: str = "int8-static", states: bool = True) -> str:
        problem = Problem.of(make_stage(op, GATES[op], geometry, k, form, "float32", states, seed=1), rows, DEVICE)
        return next(impl.name for impl in impls("triton", op) if impl.supports(problem) is None)

    assert taken(Geometry(32), 32, 10_000) == taken(Geometry(32, batch=10_000), 32, 1) == "triton_many"
    for other in (
        taken(Geometry(32), 32, many.MIN_STREAMS - 1), taken(Geometry(65), 32, 10_000), taken(Geometry(32), 65, 10_000),
        taken(Geometry(32, time=2), 32, 10_000), taken(Geometry(32), 32, 10_000, "int8-dynamic"),
        taken(Geometry(32), 32, 10_000, "int4-static"), taken(Geometry(32, batch=2), 32, many.MIN_STREAMS // 2 - 1),
        taken(Geometry(32, time=2), 32, 10_000, states=False),
    ):  # fmt: skip
        assert other == "triton_stack"


def cut(stage: Stage, samples: int, units: int, resident: int) -> tuple[KernelConfig, Any]:
    """A stage cut into programs of so many units, prepared."""
    geometry, gates = Geometry.of(stage.attrs), GATES[stage.op]
    problem = Problem.of(stage, samples, DEVICE)
    parts = -(-geometry.hidden // units)
    group = int(stage.attrs.get("group_size", 0))
    form = KernelConfig(geometry, stage.inputs[0].width, gates, units, parts, resident, group)
    return form, stack.prepared(stage, problem, form, operator(stage.op).lower(stage))


@pytest.mark.parametrize(
    ("op", "samples", "k", "geometry", "units", "resident", "states", "weights"),
    [
        ("lstm", 1, 7, Geometry(20, layers=2, time=2), 8, 1, True, "int8"),
        ("gru", 2, 33, Geometry(30, layers=1, time=2), 16, 0, True, "int8"),
        ("lstm", 1, 4, Geometry(16, layers=1, time=3, last_only=1), 8, 1, False, "int8"),
        ("gru", 1, 7, Geometry(20, layers=2), 16, 1, True, "int4"),
    ],
)
def test_programs_that_share_a_stream(
    op: str, samples: int, k: int, geometry: Geometry, units: int, resident: int, states: bool, weights: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Twice, so that the second launch goes on with the numbers of the first."""
    if INTERPRET:
        from tests.triton_checks.support import side_by_side

        monkeypatch.setattr(stack, "bind", side_by_side.bind)
        monkeypatch.setattr(stack, "multiprocessors", lambda: samples * -(-geometry.hidden // units))
    stage = make_stage(op, GATES[op], geometry, k, f"{weights}-own", states=states, seed=seed())
    form, call = cut(stage, samples, units, resident)
    assert form.parts > 1
    for _ in range(2):
        inputs = make_inputs(stage, samples, seed())
        assert_same(stage, inputs, call(*(t.to(DEVICE) for t in inputs)))


def test_programs_that_share_a_layer_in_both_directions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each direction exchanges words of its own; twice, so that the second launch goes on with the numbers of the first."""
    geometry = Geometry(13, directions=2, time=2)
    stage = make_stage("gru", 3, geometry, 6, "int8-own", seed=seed())
    if INTERPRET:
        from tests.triton_checks.support import side_by_side

        monkeypatch.setattr(both, "bind", side_by_side.bind)
    monkeypatch.setattr(both, "multiprocessors", lambda: 4)
    monkeypatch.setattr(
        both, "configs_of", lambda problem, gates: [KernelConfig(Geometry(13, time=2), 6, gates, 8, 2, 1)]
    )
    call = both.prepared(stage, Problem.of(stage, 2, DEVICE), 3, operator("gru").lower(stage))
    for _ in range(2):
        inputs = make_inputs(stage, 2, seed())
        assert_same(stage, inputs, call(*(t.to(DEVICE) for t in inputs)))


@triton.jit
def fma_kernel(a_ptr, b_ptr, c_ptr, y_ptr, ASM: tl.constexpr, N: tl.constexpr):
    n = tl.arange(0, N)
    tl.store(y_ptr + n, fma_rn(tl.load(a_ptr + n), tl.load(b_ptr + n), tl.load(c_ptr + n), ASM))


def test_fma_rounds_once() -> None:
    a, b = torch.randn(4096), torch.randn(4096)
    c = -a * b * (1 + torch.randn(4096) * 1e-7) + torch.randn(4096) * torch.randint(0, 2, (4096,))
    want = fma32(a, b, c)
    assert not torch.equal(want, a * b + c)
    for asm in (not INTERPRET,):
        y = torch.zeros(4096, device=DEVICE)
        fma_kernel[(1,)](*(t.to(DEVICE) for t in (a, b, c)), y, ASM=asm, N=4096, enable_fp_fusion=False)
        assert torch.equal(y.cpu(), want)


def test_how_a_stack_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """The networks of STAC-ML on an H100 and on smaller cards."""
    monkeypatch.setattr(settings, "triton_interpret", lambda: False)
    sizes = {
        "A": (Geometry(100, layers=2), 100), "B": (Geometry(200, layers=3), 250), "C": (Geometry(1000, layers=4), 500),
    }  # fmt: skip
    found = {}
    for name, (geometry, k) in sizes.items():
        problem = stack.problem_of("lstm", 4, geometry, k)
        form = select_config(problem, 4, 132)
        assert isinstance(form, KernelConfig)
        found[name] = (form.parts, form.units, form.layers_in_registers)
        for other in kernel_configs(problem, 4):
            assert other.parts * other.units >= geometry.hidden
            assert other.parts * other.units <= 4 * other.chunks_h[0] * other.chunks_h[1]
            assert other.parts == 1 or 32 * other.num_warps >= other.chunks_h[0] * other.chunks_h[1]
            assert sum(other.layer_words[: other.layers_in_registers]) <= 128 * 256
    assert found == {"A": (4, 32, 2), "B": (13, 16, 3), "C": (125, 8, 1)}
    large = stack.problem_of("lstm", 4, *sizes["C"])
    whole = select_config(large, 4, 132)
    assert isinstance(whole, KernelConfig)
    assert 4 * sum(whole.layer_words[1:]) == 192 << 10  # of the 256 KiB of L1 and shared memory
    small = select_config(large, 4, 108)
    assert isinstance(small, KernelConfig) and (small.parts, small.units, small.layers_in_registers) == (63, 16, 0)
    assert "32 programs at once for each of 5 streams" in str(select_config(replace(large, rows=5), 4, 108))


def test_what_is_not_taken() -> None:
    impl = stacked("lstm")
    for form, geometry, said in (
        ("float32", Geometry(8), "float32"), ("float32", Geometry(8, directions=2), "float32"),
    ):  # fmt: skip
        stage = make_stage("lstm", 4, geometry, 32, form)
        assert said in (impl.supports(Problem.of(stage, 1, DEVICE)) or "")
    assert "up to 256 in a time step, not 1024" in str(
        impl.supports(stack.problem_of("lstm", 4, Geometry(1000, layers=4), 500, group=32))
    )
    assert "16, 32, 64, 128, not 48" in str(impl.supports(stack.problem_of("lstm", 4, Geometry(8), 32, group=48)))


def test_wrong_inputs_are_refused() -> None:
    stage = make_stage("gru", 3, Geometry(8), 5, "int8-own")
    impl = stacked("gru")
    call = impl.prepare(stage, Problem.of(stage, 2, DEVICE))
    x, h = (t.to(DEVICE) for t in make_inputs(stage, 2, 1))
    for wrong in ((x,), (x[:, :4], h), (x.double(), h), (x, h[:1]), (x.repeat(1, 2)[:, ::2], h)):
        with pytest.raises(ShapeError, match="gru"):
            call(*wrong)


def test_a_compiled_model_uses_the_kernel() -> None:
    """A stack with its head: x is quantized in the stack, the head reads its int8; a NaN comes out as NaN."""

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stack, self.head = torch.nn.GRU(6, 20, 2, batch_first=True), torch.nn.Linear(20, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.stack(x)[0][:, -1])

    model, x = Net().eval(), torch.randn(2, 3, 6)
    x[1, 2, 3] = float("nan")
    calibration = [torch.randn(8, 3, 6)]
    plain = rt.compile(model, (x,), scheme="w8a8", calibration=calibration, backend="portable")
    backend = "triton" if INTERPRET else None
    fast = rt.compile(model, (x,), scheme="w8a8", calibration=calibration, backend=backend, device=DEVICE)
    kernels = [line.kernel for line in fast.explain_lines(measure=False)]
    assert kernels[0] == "triton_stack" and len(kernels) == 2
    got, want = fast(x.to(DEVICE)).cpu(), plain(x)
    assert got[1].isnan().all() and torch.equal(got[0], want[0])
