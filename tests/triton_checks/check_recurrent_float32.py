"""Recurrent layers with float32 weights against their contracts: all cells, in each of the forms of the kernel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import rtaccel as rt
from rtaccel.backends import require
from rtaccel.core import settings
from rtaccel.core.errors import FormatError, ShapeError
from rtaccel.core.registry import impls, operator
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels.recurrent.cases import behind, make_inputs, make_stage
from rtaccel.kernels.recurrent.layout import Geometry
from rtaccel.kernels.recurrent.triton import stack as triton_stack
from rtaccel.kernels.recurrent.triton.float32 import GATES, LayerForm

require("triton")
DEVICE = "cpu" if settings.triton_interpret() else "cuda"

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, at the inf and nan that are meant


@pytest.fixture(autouse=True)
def nan_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Results, and what goes from layer to layer and from step to step, are full of NaN before."""
    allocate = torch.empty

    def fill(*args: Any, **kwargs: Any) -> Tensor:
        t = allocate(*args, **kwargs)
        return t.fill_(float("nan")) if t.is_floating_point() else t

    monkeypatch.setattr(torch, "empty", fill)


def taken(stage: Stage, samples: int) -> list[str]:
    """Names of what computes a stage here, the first one by itself. CUDA C++ is not interpreted."""
    problem = Problem.of(stage, samples, DEVICE)
    found = [impl.name for impl in impls("triton", stage.op) if impl.supports(problem) is None]
    assert set(found) <= {"cuda_float32", "triton_float32"}
    return found


def computed(
    stage: Stage, inputs: tuple[Tensor, ...], prepared_for: int, name: str = "triton_float32"
) -> tuple[Tensor, ...]:
    problem = Problem.of(stage, prepared_for, DEVICE)
    (impl,) = (impl for impl in impls("triton", stage.op) if impl.name == name)
    assert impl.supports(problem) is None
    return tuple(y.cpu() for y in impl.prepare(stage, problem)(*(t.to(DEVICE) for t in inputs)))


def assert_near(stage: Stage, inputs: tuple[Tensor, ...], got: tuple[Tensor, ...]) -> None:
    want, tolerance = operator(stage.op).reference(stage, *inputs), operator(stage.op).tolerance(stage, *inputs)
    assert len(got) == len(want)
    for index, (g, w) in enumerate(zip(got, want)):
        assert (g.shape, g.dtype) == (w.shape, w.dtype)
        near = tolerance.within(g, w)
        assert near.all(), f"output {index}: {int((~near).sum())} of {near.numel()} differ"


FORMS = {
    "alone": (
        (1, 1, Geometry(1)), (2, 9, Geometry(40, layers=2, directions=2, batch=3)), (2, 4, Geometry(300, time=3, last_only=1)),
        (1, 4, Geometry(270, time=2, layers=2, directions=2)),
    ),
    "held": (
        (2, 5, Geometry(17, layers=2, time=3)), (3, 7, Geometry(33, batch=2, time=3, batch_first=1, last_only=1)),
        (2, 6, Geometry(21, layers=2, directions=2, time=3, batch=3, last_only=1)),
    ),
    "read": ((2, 9, Geometry(100, layers=2, time=3)), (1, 9, Geometry(90, directions=2, time=3, batch=2, batch_first=1))),
}  # fmt: skip


def cases() -> Iterator[Any]:
    """Forms are those of four gates; with fewer more is held."""
    for op in GATES:
        for form, sizes in FORMS.items():
            for samples, k, geometry in sizes:
                for states in (True, False):
                    name = f"{op}-{form}-M{samples}-H{geometry.hidden}-T{geometry.time}-D{geometry.directions}-{int(states)}"
                    yield pytest.param(op, form, samples, k, geometry, states, id=name)


@pytest.mark.parametrize(("op", "form", "samples", "k", "geometry", "states"), list(cases()))
def test_contract(op: str, form: str, samples: int, k: int, geometry: Geometry, states: bool) -> None:
    if op == "lstm":
        assert LayerForm(op, geometry, 0, states, states).form == form
    seed = torch.seed() % 2**31
    print(f"seed {seed}")
    stage = make_stage(op, GATES[op], geometry, k, states=states, bias=seed % 3 > 0, seed=seed)
    inputs = make_inputs(stage, samples, seed)
    for name in taken(stage, samples):
        assert_near(stage, inputs, computed(stage, inputs, samples, name))


@pytest.mark.parametrize("op", list(GATES))
@pytest.mark.parametrize("form", list(FORMS))
def test_streams_of_fewer_time_steps(op: str, form: str) -> None:
    """Lengths as an input, NaN in x behind them. One outside raises where one can look; in a replay its stream alone is NaN."""
    seed = torch.seed() % 2**31
    print(f"seed {seed}")
    for at, (samples, k, geometry) in enumerate(FORMS[form]):
        stage = make_stage(op, GATES[op], geometry, k, states=at % 2 == 0, seed=seed, lengths=True)
        inputs = make_inputs(stage, samples, seed)
        behind(stage)(*inputs)
        for name in taken(stage, samples):
            assert_near(stage, inputs, computed(stage, inputs, samples, name))
    for outside in (0, geometry.time + 1, -(2**40)):
        wrong = (inputs[0].nan_to_num(0.5), inputs[1].clone(), *inputs[2:])
        wrong[1].view(-1)[-1] = outside
        with pytest.raises(FormatError, match=f"a length of {outside}"):
            computed(stage, wrong, samples)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(triton_stack, "can_look", lambda tensor: False)
            got = computed(stage, wrong, samples)
        mended = (wrong[0], torch.where(wrong[1] == outside, 1, wrong[1]), *wrong[2:])
        y, want = (geometry.time_steps(t[0]) if not geometry.last_only else t[0].view(1, samples * geometry.batch, -1)
                   for t in (got, operator(op).reference(stage, *mended)))  # fmt: skip
        assert y[:, -1].isnan().all()
        assert torch.allclose(y[:, :-1], want[:, :-1], atol=1e-5)


LENGTHS = (
    ("float32", Geometry(17, layers=2, time=3, batch=3)), ("float32", Geometry(9, directions=2, time=4, batch=2, batch_first=1)),
    ("float32", Geometry(90, time=2, batch=2, last_only=1)), ("int8-static", Geometry(19, layers=2, time=3, batch=3)),
    ("int8-own", Geometry(11, directions=2, time=4, batch=2)), ("int4-static", Geometry(12, time=3, batch=2, last_only=1)),
)  # fmt: skip


@pytest.mark.parametrize("longest", [False, True])
@pytest.mark.parametrize(
    ("form", "geometry"), LENGTHS, ids=lambda v: v if isinstance(v, str) else f"H{v.hidden}T{v.time}"
)
def test_any_lengths_in_a_replay(form: str, geometry: Geometry, longest: bool) -> None:
    """Drawn from below 1 to above the time steps. A stream with one outside is NaN, and with `longest` all streams of a sample
    of which none has all time steps, as the module's result would be shorter. All others are the contract's."""
    seed = torch.seed() % 2**31
    print(f"seed {seed}")
    draw, op, samples, m, time = torch.Generator().manual_seed(seed), ("lstm", "gru")[seed % 2], 6, 5, geometry.time
    stage = make_stage(op, GATES[op], geometry, m, form, states=seed % 3 > 0, seed=seed, lengths=True)
    strict = replace(stage, attrs={**stage.attrs, "longest": 1}) if longest else stage
    x, counts, *states = make_inputs(stage, samples, seed)
    counts = torch.randint(-1, time + 2, counts.shape, generator=draw)
    counts[0], counts[1, 0] = torch.randint(1, time + 1, counts[0].shape, generator=draw), time
    counts[-1] = torch.randint(1, time, counts[0].shape, generator=draw)  # none has all time steps
    problem = Problem.of(strict, samples, DEVICE)
    impl = next(impl for impl in impls("triton", op) if impl.supports(problem) is None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton_stack, "can_look", lambda tensor: False)
        got = [y.cpu() for y in impl.prepare(strict, problem)(*(t.to(DEVICE) for t in (x, counts, *states)))]
    wrong = (counts < 1) | (counts > time)
    if longest:
        wrong = wrong | (counts.amax(1, keepdim=True) != time)
    assert wrong.any() and not wrong.all()
    want = operator(op).reference(stage, x, counts.clamp(1, time), *states)
    for y, w in zip(got, want):
        alike = y.isclose(w, rtol=1e-4, atol=1e-5) if form == "float32" else y == w
        lines = [t.view(samples, -1, geometry.batch, t.shape[-1]).movedim(2, 1) for t in (alike, y.isnan())]
        if y is got[0] and geometry.batch_first and not geometry.last_only:
            lines = [t.view(samples, geometry.batch, time, -1) for t in (alike, y.isnan())]
        same, nan = (t.flatten(2).all(2) for t in lines)
        assert torch.equal(nan, wrong[..., 0]), counts
        assert same[~wrong[..., 0]].all(), counts


@pytest.mark.parametrize("op", list(GATES))
def test_prepared_for_one_batch_it_runs_any_other(op: str) -> None:
    for hidden, time in ((9, 1), (9, 2), (90, 2)):
        stage = make_stage(op, GATES[op], Geometry(hidden, layers=2, time=time), 5)
        for samples in (0, 1, 4):
            inputs = make_inputs(stage, max(samples, 1), samples)
            inputs = tuple(t[:samples] for t in inputs)
            got = computed(stage, inputs, 1)
            assert all(y.shape[0] == samples for y in got)
            if samples:
                assert_near(stage, inputs, got)


@pytest.mark.parametrize("op", list(GATES))
def test_a_nan_stays_in_its_stream_and_its_future(op: str) -> None:
    for hidden in (12, 90):
        stage = make_stage(op, GATES[op], Geometry(hidden, time=3), 4, states=False)
        (x,) = make_inputs(stage, 3, 2)
        (clean,) = computed(stage, (x,), 3)
        x[1, 1, 2] = float("nan")
        (got,) = computed(stage, (x,), 3)
        assert got[1, 1:].isnan().all()
        got[1, 1:] = clean[1, 1:]
        assert torch.equal(got, clean)


def test_wrong_inputs_are_refused() -> None:
    stage = make_stage("gru", 3, Geometry(8), 5)
    x, h = make_inputs(stage, 2, 1)
    for wrong in ((x,), (x[:, :4], h), (x.double(), h), (x, h[:1])):
        with pytest.raises(ShapeError, match="gru"):
            computed(stage, wrong, 2)


def test_a_float32_model_has_no_torch_kernel() -> None:
    """A GRU that reads an LSTM in both directions, which reads an RNN."""

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = torch.nn.RNN(5, 7, nonlinearity="relu", batch_first=True)
            self.second = torch.nn.LSTM(7, 6, bidirectional=True, batch_first=True)
            self.third = torch.nn.GRU(12, 4, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.third(self.second(self.first(x)[0])[0])[0][:, -1]
            return y

    torch.manual_seed(3)
    model, x = Net().eval().to(DEVICE), torch.randn(1, 4, 5, device=DEVICE)
    with torch.no_grad():
        want = model(x)
    compiled = rt.compile(model, (x,), backend="triton", verify=False)
    assert torch.allclose(compiled(x), want, atol=1e-6, rtol=1e-5)
    table = compiled.explain().split("\nstages")[0]
    assert "portable" not in table and table.count("_float32") >= 3, table
