"""Float32 windows in CUDA C++: which stages take them and why, what is built ahead, other weights, and their machine code."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import rtaccel as rt
from rtaccel.backends import get_backend
from rtaccel.backends.cuda_streams import NO_ORDER
from rtaccel.core import settings
from rtaccel.core.registry import impls
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels._gpu import cuda_launch, cuda_nvrtc, triton_launch
from rtaccel.kernels._gpu.cuda_nvrtc import CudaKernel
from rtaccel.kernels._persistent.card import Card, assuming
from rtaccel.kernels.recurrent.cases import make_inputs, make_stage
from rtaccel.kernels.recurrent.cuda import fit
from rtaccel.kernels.recurrent.cuda.float32 import choice, layer
from rtaccel.kernels.recurrent.cuda.float32.config import layer_configs, select_layer
from rtaccel.kernels.recurrent.cuda.float32.layer import packed
from rtaccel.kernels.recurrent.layout import Geometry
from rtaccel.kernels.recurrent.triton.float32 import GATES
from rtaccel.runtime.gpu.ahead import kernels_by_card
from rtaccel.runtime.gpu.exchange import Exchange
from tests.cuda_checks import on_host
from tests.cuda_checks.float32 import layers
from tests.cuda_checks.float32.budgets import BUDGETS
from tests.cuda_checks.float32.layers import HostLaunch, cut
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
    BUDGETS.check_forms(layer.declared)


def stage_of(op: str, k: int, g: Geometry, **more: Any) -> Stage:
    return make_stage(op, GATES[op], g, k, states=False, seed=1, **more)


@pytest.mark.parametrize("op", GATES)
def test_windows_take_it(op: str) -> None:
    for k, g in ((100, A), (250, B), (64, Geometry(32, directions=2, time=20, batch=3)), (9, Geometry(5, time=2))):
        stage = stage_of(op, k, g)
        assert taken(stage)[0] == "cuda_float32"
        (impl,) = (i for i in impls("triton", op) if i.name == "cuda_float32")
        assert impl.why is not None
        said = impl.why(Problem.of(stage, 1, "cuda"))
        assert "us a layer by the model" in said and "B of weights of h in registers" in said


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        (stage_of("lstm", 100, replace(A, time=1)), "not one time step"),
        (stage_of("gru", 16, Geometry(2048, time=9)), "a layer's weights of h on the chip"),
    ],
)
def test_what_it_is_not_for(stage: Stage, said: str) -> None:
    name, reasons = taken(stage)
    assert name == "triton_float32" and said in str(reasons["cuda_float32"]), reasons


def test_weights_of_another_format_are_others(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = make_stage("lstm", 4, A, 100, "int8-own", states=False)
    assert "computes float32 weights" in str(taken(stage)[1]["cuda_float32"])


def test_cuts_are_within_a_card() -> None:
    """All weights are on the chip, in a cluster that the card has; of streams that fill a card fewer programs each."""
    for capability, cluster in ((80, 1), (89, 1), (90, 16), (120, 8)):
        for hidden, gates in ((96, 3), (33, 4), (1, 1), (250, 1)):
            found = list(layer_configs(hidden, gates, Card(capability)))
            assert found and {c.parts for c in found} <= set(range(1, cluster + 1))
            for config in found:
                assert config.kept + config.held == config.steps and config.shared_bytes <= Card(capability).shared
                assert config.wide >= hidden and config.units * config.lanes <= config.threads
    one, many = (select_layer(100, 4, 50, streams, Card()) for streams in (1, 1000))
    assert one is not None and many is not None and many.parts == 1 < one.parts


@pytest.mark.parametrize("op", GATES)
def test_every_weight_has_its_place(op: str) -> None:
    """Of two directions: each number once, and zeros beside them."""
    for parts, lanes, hidden in ((1, 4, 30), (3, 2, 33), (2, 16, 9)):
        config, gates = cut(hidden, op, parts, lanes, 3), GATES[op]
        w = torch.arange(1.0, 1 + 2 * gates * hidden**2).view(2 * gates * hidden, hidden)
        words = packed(w, 2, config)
        assert words.shape == (2, config.parts, config.steps, config.threads, 4)
        assert torch.equal(words[words != 0].sort().values, w.flatten())
        for d, g, unit, k in ((0, 0, 0, 0), (1, gates - 1, hidden - 1, hidden - 1), (1, 0, hidden // 2, 5)):
            chunk, line = divmod(k // 4, lanes)
            at = words[d, unit // config.units, chunk * gates + g, unit % config.units * lanes + line, k % 4]
            assert at == w.view(2, gates, hidden, hidden)[d, g, unit, k]


def test_without_room_for_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """One multiprocessor where that holds the weights, else triton_float32 with the reason."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(fit, "card", lambda: Card())
    asked: list[CudaKernel] = []
    monkeypatch.setattr(cuda_launch, "has_room", lambda kernel: (asked.append(kernel), False)[1])
    config, reason = choice.select(Problem.of(stage_of("lstm", 100, A), 1, "cuda"))
    assert config is not None and config.parts == 1 and not reason and asked[-1].cluster == 2
    name, reasons = taken(stage_of("lstm", 250, B))
    assert name == "triton_float32" and "for which this device has no room" in str(reasons["cuda_float32"])


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_launch, "unavailable", lambda kernel: "libnvrtc cannot be loaded")
    name, reasons = taken(stage_of("lstm", 100, A))
    assert name == "triton_float32" and reasons["cuda_float32"] == "libnvrtc cannot be loaded"
    with fit.without():
        assert taken(stage_of("lstm", 100, A))[1]["cuda_float32"] == "is left out here"


def test_a_layer_is_two_launches() -> None:
    """One product of all time steps with x, and one launch through time; of more streams than a grid has, several."""
    stage = stage_of("lstm", 100, replace(A, batch=2, directions=2))
    (impl,) = (i for i in impls("triton", "lstm") if i.name == "cuda_float32")
    with triton_launch.played():
        call = impl.prepare(stage, Problem.of(stage, 3, "meta"))
    for samples, grids in ((3, [12]), (20000, [65535, 80000 - 65535])):
        with triton_launch.noted() as notes:
            call(torch.empty((samples, 100, 100), device="meta"))
        through = [note.grid[1] for note in notes if isinstance(note.spec, CudaKernel)]
        assert through == 2 * grids and len(notes) == 2 + len(through)


class Net(nn.Module):
    def __init__(self, stack: nn.Module, outputs: int) -> None:
        super().__init__()
        self.stack, self.head = stack, nn.Linear(stack.hidden_size, outputs)  # type: ignore[arg-type]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.stack(x)[0][:, -1])


def test_it_is_built_ahead_for_each_card() -> None:
    """With triton_float32 beside a cluster, for a device that has no room for that."""
    model, x = Net(nn.LSTM(250, 200, 2, batch_first=True), 1).eval(), torch.randn(1, 100, 250)
    for capability, found in kernels_by_card(model, x, "float32", [x], (90, 89)):
        names = [kernel.name for kernel in found.values()]
        ours = [name for name in names if name.startswith("lstm_layer_float32_T100")]
        assert bool(ours) == (capability == 90), names
        assert any(name.startswith("lstm_float32_alone") for name in names), names


@pytest.mark.skipif(on_host.missing() is not None, reason="no C++ compiler")
def test_other_weights_in_its_memory() -> None:
    """As `swap` of a graph does it."""
    stage = stage_of("gru", 9, Geometry(12, layers=2, time=4))
    other = replace(stage, tensors={k: t.flip(0) for k, t in stage.tensors.items()})
    inputs, config = make_inputs(stage, 2, 3), cut(12, "gru", 2, 4, 5)
    host, kept = HostLaunch(), dict[str, Any]()
    with pytest.MonkeyPatch.context() as patch:
        launches = lambda bind: lambda _, kernel: kept.setdefault(kernel.name, bind(kernel))  # noqa: E731
        patch.setattr(HostLaunch, "bind", launches(host.bind))
        multiplied = layers.multiplied
        patch.setattr(layers, "multiplied", lambda spec: kept.setdefault("product", multiplied(spec)))
        running, fresh = (layers.prepared(s, 2, config) for s in (stage, other))
        before, after = running(*inputs)[0], fresh(*inputs)[0]
        assert not torch.equal(before, after)
        Exchange(running, fresh).flip(NO_ORDER)
        assert torch.equal(running(*inputs)[0], after) and torch.equal(fresh(*inputs)[0], before)


SMALL = {
    "lstm": (lambda: nn.LSTM(30, 40, 2, batch_first=True), 30, 6),
    "gru": (lambda: nn.GRU(20, 64, batch_first=True), 20, 9),
    "tanh": (lambda: nn.RNN(7, 33, 3, batch_first=True), 7, 12),
}  # fmt: skip


def on_a_gpu(make: Callable[[], nn.Module], features: int, steps: int) -> None:
    """The kernel in a graph on the card, for several samples, against float64."""
    reason = get_backend("triton").unavailable()
    if reason is not None or not torch.cuda.is_available():
        pytest.skip(f"runs on a GPU stay open here: {reason}")
    if settings.triton_interpret():
        pytest.skip("CUDA C++ is not interpreted")
    model, exact = Net(make(), 3).eval(), Net(make(), 3).eval().double()
    exact.load_state_dict(model.state_dict())
    fast = rt.compile(model, torch.randn(3, steps, features), device="cuda")
    assert "cuda_float32" in [line.kernel for line in fast.explain_lines(measure=False)]
    for _ in range(5):
        x = torch.randn(3, steps, features)
        assert torch.allclose(fast(x.cuda()).cpu().double(), exact(x.double()), atol=1e-5)


@pytest.mark.parametrize("name", SMALL)
def test_small_layers_on_a_gpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    on_a_gpu(*SMALL[name])


@pytest.mark.parametrize(("features", "hidden", "layers", "steps"), [(100, 100, 2, 50), (250, 200, 3, 100)])
def test_layers_of_stac_ml_on_a_gpu(
    features: int, hidden: int, layers: int, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    on_a_gpu(lambda: nn.LSTM(features, hidden, layers, batch_first=True), features, steps)


def test_cards_are_assumed() -> None:
    """An L4 has no clusters: LSTM_A is on one multiprocessor there, and LSTM_B is triton_float32's."""
    with assuming(Card(89, 58)):
        config, reason = choice.select(Problem.of(stage_of("lstm", 100, A), 1, "cuda"))
        assert config is not None and config.parts == 1 and not reason
        _, reason = choice.select(Problem.of(stage_of("lstm", 250, B), 1, "cuda"))
        assert "one multiprocessor or of a cluster of up to 1" in reason
