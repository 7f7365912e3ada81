"""Windows in CUDA C++: which stages take them and why, what is built ahead, other weights, and their machine code."""

from __future__ import annotations

import functools
import importlib.util
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import rtaccel as rt
from rtaccel.backends import get_backend
from rtaccel.backends.cuda_streams import NO_ORDER
from rtaccel.core import settings
from rtaccel.core.registry import impls, operator
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels._gpu import cuda_launch, cuda_nvrtc, triton_launch
from rtaccel.kernels._gpu.cuda_nvrtc import CudaKernel
from rtaccel.kernels._persistent.card import Card, assuming
from rtaccel.kernels.recurrent.cases import make_inputs, make_stage
from rtaccel.kernels.recurrent.cuda import fit, window, window_choice
from rtaccel.kernels.recurrent.cuda.window_config import select_window, window_configs
from rtaccel.kernels.recurrent.layout import Geometry
from rtaccel.runtime.gpu.ahead import kernels_by_card
from rtaccel.runtime.gpu.exchange import Exchange
from tests.cuda_checks import on_host
from tests.cuda_checks.window_budgets import BUDGETS
from tests.cuda_checks.windows import GATES, HostLaunch, chosen, on_this_cpu
from tests.gpu.cuda.windows_of_stacks import A, B, built_ahead, taken  # noqa: F401

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
needs_nvrtc = pytest.mark.skipif(cuda_nvrtc.unavailable() is not None, reason=f"{cuda_nvrtc.unavailable()}")


@needs_nvrtc
@pytest.mark.parametrize(
    ("name", "capability"), BUDGETS.todays(3), ids=lambda v: v if isinstance(v, str) else f"sm_{v}"
)
def test_its_code_is_within_its_budget(name: str, capability: int) -> None:
    assert BUDGETS.broken(name, capability, BUDGETS.read()[name].get(str(capability))) == []


def test_the_budget_file_says_what_the_forms_are() -> None:
    BUDGETS.check_forms(window.declared)


def stage_of(op: str, k: int, g: Geometry, form: str = "int8-own", **more: Any) -> Stage:
    return make_stage(op, GATES[op], g, k, form, states=False, seed=1, **more)


@pytest.mark.parametrize("form", ["int8-own", "int8-static", "int4-own"])
def test_windows_take_it_where_it_is_predicted_to_be_faster(form: str) -> None:
    for op, k, g in (("lstm", 100, A), ("lstm", 250, B), ("gru", 64, Geometry(128, time=20))):
        stage = stage_of(op, k, g, form)
        assert taken(stage)[0] == "cuda_window"
        (impl,) = (i for i in impls("triton", op) if i.name == "cuda_window")
        assert impl.why is not None
        said = impl.why(Problem.of(stage, 1, "cuda"))
        assert "us by the model, where triton_stack takes" in said and "B of weights in registers" in said
        ours, other = (float(number) for number in re.findall(r"([0-9.]+) us", said))
        assert ours < window_choice.CLEARLY_LESS * other


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        (stage_of("lstm", 100, replace(A, time=1)), "not one time step"),
        (stage_of("lstm", 100, A, "int8-dynamic"), "static scale"),
        (stage_of("lstm", 8, Geometry(8, directions=2, time=9)), "not in both directions"),
        (stage_of("gru", 8, Geometry(8, time=9), "float32"), "int8 or int4 weights, not float32"),
        (stage_of("lstm", 16, Geometry(520, layers=4, time=9)), "keeps all weights on the chip"),
    ],
)  # fmt: skip
def test_what_it_is_not_for(stage: Stage, said: str) -> None:
    name, reasons = taken(stage)
    assert name != "cuda_window" and said in str(reasons["cuda_window"]), reasons


def test_what_the_model_does_not_tell_apart_stays_what_it_was() -> None:
    """So many streams of LSTM_B in int4 take as long either way."""
    name, reasons = taken(stage_of("lstm", 250, B, "int4-own"), 512)
    assert name == "triton_stack" and "us, by the model of both" in str(reasons["cuda_window"])


def test_streams_side_by_side_are_cut_into_fewer_programs() -> None:
    """Where they fill the card; and never into a cluster that a card does not have."""
    for streams, least, most in ((1, 7, 8), (18, 7, 8), (64, 1, 4)):
        config = select_window(B, 250, 4, 0, streams, Card())
        assert config is not None and least <= config.parts <= most, (streams, config)
    for capability, cluster in ((80, 1), (89, 1), (90, 16), (120, 8)):
        assert {c.parts for c in window_configs(B, 250, 4, 0, Card(capability))} <= set(range(1, cluster + 1))
        for config in window_configs(Geometry(96, layers=2, time=4), 40, 3, 0, Card(capability)):
            assert config.cluster == (config.parts > 1) and config.reread_bytes == 0
            assert config.shared_bytes <= Card(capability).shared


def test_without_room_for_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """One multiprocessor where that holds all weights, else triton_stack with the reason."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for module in (fit, window_choice):
        monkeypatch.setattr(module, "card", lambda: Card())
    asked: list[CudaKernel] = []
    monkeypatch.setattr(cuda_launch, "has_room", lambda kernel: (asked.append(kernel), False)[1])
    monkeypatch.setattr("rtaccel.kernels.recurrent.triton.config.multiprocessors", lambda: 132)
    assert taken(stage_of("lstm", 100, A))[0] == "cuda_window" and asked[-1].cluster == 2
    config, reason = window_choice.select(Problem.of(stage_of("lstm", 100, A), 1, "cuda"), 4)
    assert config is not None and config.parts == 1 and not reason
    name, reasons = taken(stage_of("lstm", 250, B))
    assert name == "triton_stack" and "for which this device has no room" in str(reasons["cuda_window"])


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_launch, "unavailable", lambda kernel: "libnvrtc cannot be loaded")
    name, reasons = taken(stage_of("lstm", 100, A))
    assert name == "triton_stack" and reasons["cuda_window"] == "libnvrtc cannot be loaded"
    with fit.without():
        assert taken(stage_of("lstm", 100, A))[1]["cuda_window"] == "is left out here"


def test_a_window_is_one_launch() -> None:
    """Of programs times streams; of more streams than a grid has, several."""
    stage = stage_of("lstm", 100, replace(A, batch=2))
    (impl,) = (i for i in impls("triton", "lstm") if i.name == "cuda_window")
    with triton_launch.played():
        call = impl.prepare(stage, Problem.of(stage, 3, "meta"))
    for samples, grids in ((3, [(2, 6)]), (32768, [(2, 65535), (2, 1)])):
        with triton_launch.noted() as notes:
            call(torch.empty((samples, 100, 100), device="meta"))
        assert [note.grid for note in notes] == grids
        assert all(isinstance(note.spec, CudaKernel) for note in notes)


class Net(nn.Module):
    def __init__(self, stack: nn.Module, outputs: int) -> None:
        super().__init__()
        self.stack, self.head = stack, nn.Linear(stack.hidden_size, outputs)  # type: ignore[arg-type]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.stack(x)[0][:, -1])


def test_it_is_built_ahead_for_each_card() -> None:
    """With triton_stack beside a cluster, for a device that has no room for that."""
    model, x = Net(nn.LSTM(250, 200, 3, batch_first=True), 1).eval(), torch.randn(1, 100, 250)
    for capability, found in kernels_by_card(model, x, "w8a8", [x], (90, 89)):
        names = [kernel.name for kernel in found.values()]
        assert any(name.startswith("lstm_window_int8_T100") for name in names) == (capability == 90), names
        assert any(name.startswith("lstm_stack_T100") for name in names), names


@pytest.mark.skipif(on_host.missing() is not None, reason="no C++ compiler")
def test_other_weights_in_its_memory() -> None:
    """As `swap` of a graph does it."""
    stage = stage_of("gru", 9, Geometry(12, layers=2, time=4))
    other = replace(
        stage, tensors={k: t.flip(0) if t.dtype == torch.int8 else t * 0.5 for k, t in stage.tensors.items()}
    )
    inputs, lower = make_inputs(stage, 2, 3), operator("gru").lower
    host, config = HostLaunch(), chosen(stage)
    kept = functools.cache(host.bind)
    with on_this_cpu(host), pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda_launch, "bind", kept)
        running, fresh = (window.prepared(s, Problem.of(s, 2), config, lower(s)) for s in (stage, other))
        before, after = running(*inputs)[0], fresh(*inputs)[0]
        assert not torch.equal(before, after)
        Exchange(running, fresh).flip(NO_ORDER)
        assert torch.equal(running(*inputs)[0], after) and torch.equal(fresh(*inputs)[0], before)


SMALL = {
    "lstm": (lambda: nn.LSTM(30, 40, 2, batch_first=True), 30, 6, "w8a8"),
    "gru": (lambda: nn.GRU(20, 64, batch_first=True), 20, 9, "w8a8"),
    "lstm int4": (lambda: nn.LSTM(64, 96, 3, batch_first=True), 64, 5, "w4a8"),
}  # fmt: skip


def on_a_gpu(stack: nn.Module, features: int, steps: int, scheme: str) -> None:
    """The kernel in a graph on the card, for one sample and several, against the CPU's kernels."""
    reason = get_backend("triton").unavailable()
    if reason is not None or not torch.cuda.is_available():
        pytest.skip(f"runs on a GPU stay open here: {reason}")
    if settings.triton_interpret():
        pytest.skip("CUDA C++ is not interpreted")
    model, data = Net(stack, 3).eval(), [torch.randn(4, steps, features)]
    x = torch.randn(3, steps, features)
    plain = rt.compile(model, x, scheme=scheme, calibration=data)
    fast = rt.compile(model, x, scheme=scheme, calibration=data, device="cuda")
    assert "cuda_window" in [line.kernel for line in fast.explain_lines(measure=False)]
    for _ in range(5):
        x = torch.randn(3, steps, features)
        assert torch.equal(fast(x.cuda()).cpu(), plain(x))


@pytest.mark.parametrize("name", SMALL)
def test_small_windows_on_a_gpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    make, *rest = SMALL[name]
    on_a_gpu(make(), *rest)


@pytest.mark.parametrize("scheme", ["w8a8", "w4a8"])
@pytest.mark.parametrize(("features", "hidden", "layers", "steps"), [(100, 100, 2, 50), (250, 200, 3, 100)])
def test_windows_of_stac_ml_on_a_gpu(
    features: int, hidden: int, layers: int, steps: int, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    on_a_gpu(nn.LSTM(features, hidden, layers, batch_first=True), features, steps, scheme)


def test_cards_are_assumed(monkeypatch: pytest.MonkeyPatch) -> None:
    """An L4 has no clusters: LSTM_A is on one multiprocessor there, and LSTM_B is triton_stack's."""
    with assuming(Card(89, 58)):
        config, reason = window_choice.select(Problem.of(stage_of("lstm", 100, A), 1, "cuda"), 4)
        assert config is not None and config.parts == 1 and not reason
        _, reason = window_choice.select(Problem.of(stage_of("lstm", 250, B), 1, "cuda"), 4)
        assert "one multiprocessor or of a cluster of up to 1" in reason
