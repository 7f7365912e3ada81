"""Streams of LSTM and GRU on a persistent kernel, interpreted or on the GPU: from the program of rt.stream, through the plan, the
native mailbox and the kernel, to the same bits as the stream on the CPU. Started by tests/gpu/test_triton_interpreter.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import triton.language as tl
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.backends import require
from rtaccel.core.errors import UnsupportedProblem
from rtaccel.core.registry import operator
from rtaccel.core.stage import QParams
from rtaccel.kernels._persistent import triton_mailbox
from rtaccel.kernels.linear.contract import make_stage as make_linear
from rtaccel.kernels.recurrent.cases import make_stage
from rtaccel.kernels.recurrent.layout import Geometry
from rtaccel.kernels.recurrent.triton import persistent as persistent
from rtaccel.kernels.recurrent.triton.config import KernelConfig, Operands
from rtaccel.runtime.options import Options
from rtaccel.runtime.stream import StreamModel
from tests.triton_checks.support.interpreted_device import TIMEOUT_NS, in_its_place
from tests.triton_checks.support.sides import DEVICE, INTERPRET, Side

require("triton")

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


@pytest.fixture(autouse=True)
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    yield from in_its_place(monkeypatch, persistent)


class Net(nn.Module):
    def __init__(self, stack: nn.Module, head: nn.Module | None) -> None:
        super().__init__()
        self.stack, self.head = stack, head

    def forward(self, x: Tensor) -> Tensor:
        y = self.stack(x)[0][:, -1]
        return y if self.head is None else self.head(y)


def stayed(model: nn.Module, features: int, calibrated: bool = True) -> tuple[StreamModel, StreamModel]:
    """(the stream on a persistent kernel, the same on the CPU)."""
    calibration = [torch.randn(8, 5, features)] if calibrated else None
    plain = rt.stream(model, torch.randn(1, features), scheme="w8a8", calibration=calibration)
    options = Options(1, title="Net, streamed", states=plain._options.states, mode="persistent")
    return StreamModel(plain._program, options, ("x_t",)), plain


@pytest.mark.parametrize(
    ("make", "head"),
    [
        (lambda: nn.LSTM(6, 20, 2, batch_first=True), lambda: nn.Linear(20, 3)),
        (lambda: nn.GRU(33, 9, batch_first=True), lambda: None),
    ],
    ids=["lstm-head", "gru"],
)
def test_a_stream_that_stays(make: Callable[[], nn.Module], head: Callable[[], Any]) -> None:
    stack = make()
    features = int(stack.input_size)  # type: ignore[arg-type]
    live, plain = stayed(Net(stack, head()).eval(), features)
    for time_step in range(7):
        x = torch.randn(1, features)
        if time_step == 4:
            x[0, -1] = float("nan")
        if time_step == 3:
            live.reset()
            plain.reset(0)
        if time_step == 6:  # what was NaN until now is not any more
            live.reset(0)
            plain.reset()
        got, want = live.step(x), plain.step(x)
        assert torch.equal(got.nan_to_num(77.0), want.nan_to_num(77.0)), time_step
        assert bool(got.isnan().all()) == (time_step in (4, 5))
    y, x = torch.empty_like(got), torch.randn(1, features)
    live.bind(x, out=y)()
    assert torch.equal(y, plain.step(x))
    assert "programs with" in live.explain() and "one persistent kernel: it runs" in live.explain()
    live.close()


@pytest.mark.parametrize(
    ("make", "head"),
    [
        (lambda: nn.LSTM(6, 20, 2, batch_first=True), lambda: nn.Linear(20, 3)),
        (lambda: nn.GRU(7, 13, 2, batch_first=True), lambda: None),
    ],
    ids=["lstm-head", "gru"],
)
def test_its_past_goes_on(make: Callable[[], nn.Module], head: Callable[[], Any], tmp_path: Path) -> None:
    """Before the first step, behind some and behind a NaN: on the same kernel, on another one, on the CPU, and from there back. A
    reset before it is saved is kept, and other bytes change nothing."""
    torch.manual_seed(3)
    stack = make()
    features = int(stack.input_size)  # type: ignore[arg-type]
    live, plain = stayed(Net(stack, head()).eval(), features)
    other = StreamModel(live._program, live._options, ("x_t",))

    def stepped(count: int, *streams: StreamModel) -> None:
        for _ in range(count):
            x = torch.randn(1, features)
            want = plain.step(x)
            for stream in streams:
                assert torch.equal(stream.step(x).nan_to_num(77.0), want.nan_to_num(77.0))

    def past(stream: StreamModel) -> Tensor:
        return stream.state_dict()["_extra_state"]

    assert torch.equal(past(live), past(plain))
    for steps in (0, 1, 4):
        stepped(steps, live)
        ends = live.save_stream(0)
        assert ends[:-8] == plain.save_stream(0)[:-8]  # but for the number of its steps, the bytes of the CPU's stream
        other.load_state_dict(live.state_dict())
        stepped(2, live, other)
    loaded = rt.load(rt.save(live, tmp_path / "live.rta", states=True))
    x = torch.randn(1, features)
    want = plain.step(x)
    assert torch.equal(torch.from_numpy(loaded.step(x.numpy())), want)
    assert torch.equal(live.step(x), want)
    other.load_stream(0, plain.save_stream(0))
    live.suspend()
    other.suspend()  # which has made no step since it was loaded
    stepped(2, live, other)
    for wrong in (b"1234", bytes(len(ends) - 8) + (-1).to_bytes(8, "little", signed=True)):
        with pytest.raises(rt.FormatError, match="load_stream"):
            live.load_stream(0, wrong)
    stepped(1, live)
    for stream in (plain, live):
        stream.step(torch.full((1, features), float("nan")))
    other.load_state_dict(live.state_dict())
    for _ in range(2):
        y = live.step(x)
        assert y.isnan().all() and torch.equal(other.step(x).isnan(), y.isnan())
    plain.load_stream(0, live.save_stream(0))
    assert plain.step(x).isnan().all()
    for stream in (plain, live):
        stream.reset()
    other.load_state_dict(live.state_dict())
    stepped(3, live, other)
    live.close()
    other.close()


def test_what_cannot_stay() -> None:
    for model, calibrated, said in (
        (Net(nn.GRU(6, 20, batch_first=True), nn.Linear(20, 3)), False, "static scale"),
        (
            Net(nn.GRU(6, 20, batch_first=True), nn.Sequential(nn.Linear(20, 8), nn.Tanh(), nn.Linear(8, 3))),
            True,
            "one",
        ),
    ):
        with pytest.raises(UnsupportedProblem, match=said):
            stayed(model.eval(), 6, calibrated)


@pytest.mark.parametrize("with_head", [True, False])
def test_programs_that_share_a_stream(with_head: bool, side: Callable[..., Side]) -> None:
    """Against the contract step by step: the first alone reads the mailbox."""
    k, hidden, outputs = 10, 13, 3 if with_head else 13
    stage = make_stage("lstm", 4, Geometry(hidden, layers=2), k, "int8-own", "int8" if with_head else "float32", seed=4)
    following = make_linear(hidden, outputs, "static", "relu")
    if with_head:  # its scale is that of what the stack gives
        quant = following.inputs[0].quant
        assert isinstance(quant, QParams)
        stage = make_stage("lstm", 4, Geometry(hidden, layers=2), k, "int8-own", "int8", seed=4)
        value = type(stage.outputs[0])(stage.outputs[0].name, hidden, "int8", quant)
        stage = type(stage)(stage.op, stage.name, stage.inputs, (value, *stage.outputs[1:]), stage.tensors, stage.attrs)
    form = KernelConfig(Geometry(hidden, layers=2), k, 4, 8, 2, 1)
    low = operator("linear").lower(following) if with_head else None
    spec = persistent.specialize("lstm", form, outputs, "relu" if with_head else None)
    ops = Operands.of(operator("lstm").lower(stage), form, DEVICE)
    of_head = persistent.HeadOperands.of(low, form, DEVICE)
    exchange = torch.zeros(persistent.exchange_words(form), dtype=torch.int64, device=DEVICE)
    made = side(k, outputs, commands=True)
    given = {**persistent.weights_of(ops, of_head), **persistent.scalars_of(ops), "exchange_ptr": exchange}
    past = torch.zeros(2 * persistent.past_numbers(form) + 1, device=DEVICE)
    if INTERPRET:  # programs are processes
        exchange, past = exchange.share_memory_(), past.share_memory_()
    given |= {"idle_looks": 0, "second": 0, "past_ptr": past}
    made.start(spec, given, programs=form.parts)
    states = [torch.zeros(1, 2, hidden)] * 2
    for time_step in range(8):
        if time_step == 5:  # a program that starts late reads none of what the others leave
            assert made.end() == triton_mailbox.ABORTED
            ends, begins = past[: past.numel() // 2], past[past.numel() // 2 : -1]
            torch.testing.assert_close(
                ends.view(2, 2, hidden), torch.stack(states).squeeze(1).to(DEVICE), rtol=0, atol=0
            )
            begins.copy_(ends)
            exchange.zero_()
            made = side(k, outputs, commands=True)
            made.start(spec, given, programs=form.parts)
        x, y = torch.randn(1, k), torch.full((1, outputs), 7.0)
        command = int(time_step == 2)
        assert made.box.exchange(x.data_ptr(), y.data_ptr(), TIMEOUT_NS, command)
        if command:
            states = [torch.zeros(1, 2, hidden)] * 2
        want, *states = operator("lstm").reference(stage, x, *states)
        if with_head:
            (want,) = operator("linear").reference(following, want)
        assert torch.equal(y, want), time_step
    assert made.end() == triton_mailbox.ABORTED


@pytest.mark.parametrize("before", [2**31 - 3, 2**32 - 3], ids=["2**31", "2**32"])
def test_numbers_go_on_for_ever(before: int, side: Callable[..., Side], monkeypatch: pytest.MonkeyPatch) -> None:
    """At 10 us a message, 2^31 of them take six hours: behind them numbers are negative, and begin again at 2^32. The h of the
    time step before is still received."""
    monkeypatch.setattr(persistent, "BEFORE", tl.constexpr(signed(before)))
    k, hidden = 10, 13
    stage = make_stage("lstm", 4, Geometry(hidden, layers=2), k, "int8-own", "float32", seed=4)
    form = KernelConfig(Geometry(hidden, layers=2), k, 4, 8, 2, 1)
    ops, of_head = (
        Operands.of(operator("lstm").lower(stage), form, DEVICE),
        persistent.HeadOperands.of(None, form, DEVICE),
    )
    given = {**persistent.weights_of(ops, of_head), **persistent.scalars_of(ops), "idle_looks": 0, "second": 0}
    given["exchange_ptr"] = torch.zeros(persistent.exchange_words(form), dtype=torch.int64).share_memory_()
    given["past_ptr"] = torch.zeros(2 * persistent.past_numbers(form) + 1).share_memory_()
    made = side(k, hidden, commands=True)
    made.start(persistent.specialize("lstm", form, hidden, None), given, programs=form.parts)
    states = [torch.zeros(1, 2, hidden)] * 2
    for time_step in range(7):
        x, number = torch.randn(1, k), before + 1 + time_step
        reset = time_step == 5
        if reset:
            states = [torch.zeros(1, 2, hidden)] * 2
        want, *states = operator("lstm").reference(stage, x, *states)
        assert torch.equal(by_hand(made, number, x, int(reset)), want), hex(number)
    assert made.end() == triton_mailbox.ABORTED


def signed(number: int) -> int:
    """The same 32 bits."""
    number &= 0xFFFFFFFF
    return number - (1 << 32) if number >= 1 << 31 else number


def by_hand(made: Side, number: int, x: Tensor, command: int) -> Tensor:
    """An answer to a message of this number, as the native side would write and read it."""
    payload = torch.cat([x.view(-1).view(torch.int32).long() & 0xFFFFFFFF, torch.tensor([command])])
    made.requests.view(2, -1)[number & 1] = payload | (signed(number) << 32)
    slot, end = made.replies.view(2, -1)[number & 1], time.monotonic() + TIMEOUT_NS / 1e9
    while not bool((slot >> 32 == signed(number)).all()):
        assert time.monotonic() < end, "no answer"
        time.sleep(0.001)
    return slot.view(torch.int32).view(-1, 2)[:, 0].contiguous().view(torch.float32)[None]
