"""Convolutions in Triton over windows: the contract's cases, and the largest sums, with outputs that held something else before.
Started by tests/gpu/test_triton_interpreter.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.backends import require
from rtaccel.core import settings
from rtaccel.core.errors import ShapeError
from rtaccel.core.registry import Case, impls, operator
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels.conv import cases, contract
from rtaccel.kernels.conv.triton import grouped as triton_grouped
from rtaccel.kernels.conv.triton import window
from tests import turns

require("triton")
DEVICE = "cpu" if settings.triton_interpret() else "cuda"
SLOW = ("long-chunks",)
"""Of the contract's cases: the interpreter takes half a minute. It has them in `make check`."""
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


@pytest.fixture
def allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch.empty gives is full of NaN, or of one number, another in every test."""
    allocate, integer = torch.empty, int(torch.randint(-128, 128, ()))

    def fill(*args: Any, **kwargs: Any) -> Tensor:
        t = allocate(*args, **kwargs)
        return t.fill_(float("nan") if t.is_floating_point() else integer)

    monkeypatch.setattr(torch, "empty", fill)


class Newest(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, -1]


def prepared(stage: Stage, rows: int) -> Callable[..., tuple[Tensor, ...]]:
    """The one kernel that takes it."""
    problem = Problem.of(stage, rows, DEVICE)
    (impl,) = (i for i in impls("triton", "conv") if i.supports(problem) is None)
    call = impl.prepare(stage, problem)
    return lambda *inputs: tuple(y.cpu() for y in call(*(x.to(DEVICE) for x in inputs)))


def supported() -> Iterator[Case]:
    for case in operator("conv").cases():
        if case.id in SLOW and settings.triton_interpret() and not turns.EVERY:
            continue
        if any(i.supports(Problem.of(case.stage, 1, DEVICE)) is None for i in impls("triton", "conv")):
            yield case


@pytest.mark.parametrize("case", [pytest.param(c, id=c.id) for c in supported()])
def test_contract_case(case: Case, allocated: None) -> None:
    inputs = case.make(torch.seed() % 2**31)
    found, wanted = prepared(case.stage, inputs[0].shape[0])(*inputs), contract.reference(case.stage, *inputs)
    tolerance = contract.tolerance(case.stage, *inputs)
    assert len(found) == len(wanted)
    for got, want in zip(found, wanted):
        assert (got.shape, got.dtype) == (want.shape, want.dtype)
        apart = (got.double() - want.double()).abs()
        within = apart <= (tolerance.steps if got.dtype == torch.int8 else tolerance.atol)
        assert bool((within | (got.isnan() & want.isnan())).all())


@pytest.mark.parametrize("name", ["ticks", "ticks-narrow", "ticks-depthwise"])
def test_a_ring_in_place(name: str) -> None:
    """Over more calls than it has rows, by streams that have made other numbers of them: one column is written, nothing else.
    A NaN counts as zeros, as the contract says."""
    stage = cases.make_stage(cases.TICKS[name], "self", "relu", out="int8")
    call = next(i for i in impls("triton", "conv") if i.supports(Problem.of(stage, 5, DEVICE)) is None).prepare(
        stage, Problem.of(stage, 5, DEVICE)
    )
    x, ring, tick = cases.make_inputs(stage, 5, 3)
    there = ring.to(DEVICE)
    for t in range(2 * ring.shape[1] + 3):
        x = torch.randn_like(x)
        x[t % 5, ..., t % x.shape[-1]] = (float("nan"), float("inf"), 1.0)[t % 3]
        want, after = contract.reference(stage, x, ring, tick)
        before = there.clone()
        got, made = call.into((None, there), x.to(DEVICE), there, tick.to(DEVICE))
        assert made.data_ptr() == there.data_ptr() and torch.equal(made.cpu(), after)
        finite = torch.isfinite(x).flatten(1).all(1)
        assert torch.equal(got.cpu()[finite], want[finite])
        assert int((before != there).flatten(2).any(2).sum()) <= 5
        ring, tick = after, tick + 1


@pytest.mark.parametrize("shape", [
    cases.Shape(64, 33, (1, 70), (1, 5), dilation=(1, 3), causal=True),
    cases.Shape(2, 70, (1, 129), (1, 7), causal=True),
    cases.Shape(130, 17, (1, 5), (1, 3), dilation=(1, 4), causal=True),
], ids=["wide", "two-channels", "short"])  # fmt: skip
@pytest.mark.parametrize("rows", [1, 3])
def test_several_tiles_and_the_largest_sums(shape: cases.Shape, rows: int, allocated: None) -> None:
    """Prepared for one sample, called with others, and with none."""
    stage = cases.make_stage(shape, "static", seed=int(torch.randint(1 << 30, ())))
    stage.tensors["weight"][0], stage.tensors["weight"][-1] = 127, -127
    stage.tensors["bias"].zero_()
    stage.tensors["weight_scale"].fill_(1.0)
    x = torch.randint(-128, 128, (rows, *stage.inputs[0].shape), dtype=torch.int8)
    x[:, -1:] = 127
    call = prepared(stage, 1)
    (got,) = call(x)
    assert call(x[:0])[0].shape == (0, *got.shape[1:])
    assert torch.equal(got, contract.reference(stage, x)[0])


def test_a_network_over_windows() -> None:
    """The same bits as on the CPU; a sample without meaning is NaN, and alone. The newest output reads few positions."""
    model = nn.Sequential(
        nn.ConstantPad1d((4, 0), 0.0), nn.Conv1d(3, 20, 5), nn.ReLU(), nn.ConstantPad1d((8, 0), 0.0),
        nn.Conv1d(20, 20, 3, dilation=4), nn.ReLU(), Newest(), nn.Linear(20, 2),
    ).eval()  # fmt: skip
    x, calibration = torch.randn(3, 3, 26), [torch.randn(16, 3, 26)]
    plain = rt.compile(model, (x,), scheme="w8a8", calibration=calibration)
    if DEVICE == "cpu":
        fast = rt.compile(model, (x,), scheme="w8a8", calibration=calibration, backend="triton")
    else:
        fast = rt.compile(model, (x,), scheme="w8a8", calibration=calibration, device="cuda")
    x[1, 2, -1] = float("nan")
    got, want = fast(x.to(DEVICE)).cpu(), plain(x)
    assert got.isnan().all(1).tolist() == [False, True, False]
    assert torch.equal(got.nan_to_num(7.0), want.nan_to_num(7.0))
    lines = fast.explain(measure=False).splitlines()
    assert sum("conv(" in line and "triton_window" in line for line in lines) == 2


class Separable(nn.Module):
    """Depthwise and pointwise, as DS-CNN has them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 12, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(12, 12, 3, padding=1, groups=12),
            nn.ReLU(),
            nn.Conv2d(12, 20, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return y.mean((2, 3))


@pytest.mark.parametrize("scheme", [rt.W8A8("static"), rt.W8A8("dynamic")], ids=["static", "dynamic"])
def test_a_network_of_depthwise_layers(scheme: rt.Scheme) -> None:
    """No convolution falls back to PyTorch, and the bits are those of the CPU."""
    model, x = Separable().eval(), torch.randn(2, 1, 6, 5)
    options: dict[str, Any] = {"scheme": scheme}
    if scheme == rt.W8A8("static"):
        options["calibration"] = [torch.randn(16, 1, 6, 5)]
    there = {"backend": "triton"} if DEVICE == "cpu" else {"device": "cuda"}
    fast, plain = rt.compile(model, (x,), **options, **there), rt.compile(model, (x,), **options)
    kernels = [line.kernel for line in fast.explain_lines(measure=False) if line.what.startswith("conv(")]
    assert kernels == ["triton_window", "triton_grouped"]  # the last one is a linear layer of each position
    torch.testing.assert_close(fast(x.to(DEVICE)).cpu(), plain(x), atol=1e-6, rtol=1e-6)


def test_dynamic_samples_are_alone() -> None:
    """A sample that is not finite is NaN throughout, the others are as without it; zeros have a scale too."""
    for name in ("causal", "depthwise"):
        stage = cases.make_stage(cases.SHAPES[name], "dynamic", "relu")
        (x,) = cases.make_inputs(stage, 4, 5)
        x[1], x[2, 0, 0] = 0.0, float("nan")
        (y,), (want,) = prepared(stage, 1)(x), contract.reference(stage, x)
        assert y[2].isnan().all()
        assert torch.equal(y[[0, 1, 3]], want[[0, 1, 3]])


def test_what_is_not_taken() -> None:
    grouped, stream = (
        cases.make_stage(cases.SHAPES["grouped"], "static"), cases.make_stage(cases.STREAMS["stream"], "static"),
    )  # fmt: skip
    floats = cases.make_stage(cases.SHAPES["causal"], "float32")
    for kernel, stage, said in (
        (window, grouped, "one group"),
        (window, stream, "windows"),
        (triton_grouped, cases.make_stage(cases.SHAPES["causal"], "static"), "several groups"),
        (triton_grouped, floats, "int8 weights"),
    ):
        assert said in (kernel.supports(Problem.of(stage, 1, DEVICE)) or "")
    stage = cases.make_stage(cases.SHAPES["causal"], "static")
    call = window.prepare(stage, Problem.of(stage, 1, DEVICE))
    for wrong in (torch.zeros(1, 8, 5, dtype=torch.int8), torch.zeros(1, 9, 5)):
        with pytest.raises(ShapeError, match="contiguous"):
            call(wrong.to(DEVICE))
    with pytest.raises(ShapeError, match="2 inputs"):
        call(torch.zeros(1, 9, 5, dtype=torch.int8), torch.zeros(1))
