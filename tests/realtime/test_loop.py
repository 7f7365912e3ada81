"""The loop on this machine's clock: what it computes and what comes out of it. Nothing is timed."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import rtaccel as rt
from rtaccel.core.errors import BudgetExceeded, FormatError, UnsupportedProblem
from tests.realtime.loops import SLACK, compiled, fresh, mlp, slots, until

pytestmark = pytest.mark.filterwarnings("ignore:.*the system refused")


def test_it_computes_what_the_model_does() -> None:
    fast, (x, y) = compiled(), slots()
    with rt.Loop(fast, x, y, **SLACK) as loop:
        for n in range(20):
            value = torch.randn(7)
            stamp = time.monotonic_ns() + 0
            x.put(value, stamp_ns=stamp)
            got = fresh(y, stamp)
            with pytest.raises(UnsupportedProblem, match="running loop"):
                fast(value[None])
            kept = torch.tensor(got.value)
            assert got.seq > n
            torch.testing.assert_close(kept, mlp()(value).detach(), rtol=1e-5, atol=1e-5)
    assert torch.equal(kept, fast(value[None])[0])  # the same bits, and the model is free again
    stats = loop.stats()
    assert stats.state == "stopped"
    assert stats.cycles >= 20
    assert stats.fresh == stats.cycles - stats.waiting - stats.held
    assert y.put(np.zeros(5, np.float32)) > 0  # the slots are given back
    assert x.get().status == "old"


@pytest.mark.parametrize("kind", ["gru", "lstm", "conv"])
def test_warm_runs_leave_a_stream_s_past_alone(kind: str) -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.GRU(6, 9, batch_first=True) if kind == "gru" else nn.LSTM(6, 9, batch_first=True)
            self.head = nn.Linear(9, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.layer(x)[0])

    torch.manual_seed(1)
    if kind == "conv":
        model: nn.Module = nn.Sequential(nn.ConstantPad1d((4, 0), 0.0), nn.Conv1d(6, 3, 5)).eval()
    else:
        model = Last().eval()
    live, other = rt.stream(model, torch.randn(1, 6)), rt.stream(model, torch.randn(1, 6))
    live.step(torch.ones(1, 6))
    other.step(torch.ones(1, 6))
    x, y = slots(6, 3)
    loop = rt.Loop(live, x, y, on_old="hold", spin_us=1500, **SLACK)
    with loop:
        for _ in range(60):
            value = torch.randn(6)
            stamp = time.monotonic_ns()
            x.put(value, stamp_ns=stamp)
            got = fresh(y, stamp)
            assert torch.equal(torch.tensor(got.value), other.step(value[None]).reshape(-1))
    assert loop.stats().warm_runs > 0
    value = torch.randn(1, 6)
    assert torch.equal(live.step(value), other.step(value))


def test_a_stream_can_start_anew_after_a_gap() -> None:
    model = nn.GRU(4, 6, batch_first=True).eval()
    live, other = rt.stream(model, torch.randn(1, 4)), rt.stream(model, torch.randn(1, 4))
    x, y = slots(4, 6)
    loop = rt.Loop(
        live,
        x,
        y,
        on_old="hold",
        on_gap="reset",
        period_us=2000,
        deadline_us=2000,
        on_miss="late",
        max_age_us=1_000_000,
    )
    with loop:
        for _ in range(3):
            stamp = time.monotonic_ns()
            x.put(torch.ones(4), stamp_ns=stamp)
            fresh(y, stamp)
        stale = loop.stats().stale
        until(lambda: loop.stats().stale > stale + 3)
        value, stamp = torch.randn(4), time.monotonic_ns()
        x.put(value, stamp_ns=stamp)
        assert torch.equal(torch.tensor(fresh(y, stamp).value), other.step(value[None])[0])


def test_stale_inputs_go_to_the_fallback_and_the_forecast() -> None:
    small = rt.compile(nn.Linear(7, 5).eval(), (torch.randn(1, 7),))
    ahead = rt.compile(nn.Linear(7, 7).eval(), (torch.randn(1, 7),))
    value = torch.randn(7)
    for mode, option, wanted in (
        ("fallback", {"fallback": small}, lambda: small(value[None])[0]),
        ("forecast", {"forecast": ahead}, None),
    ):
        fast, (x, y) = compiled(), slots()
        loop = rt.Loop(
            fast, x, y, period_us=2000, deadline_us=2000, max_age_us=1, on_miss="late", on_stale=mode, **option
        )
        with loop:
            x.put(value)
            until(lambda y=y, mode=mode: y.get().origin in (mode, "missed"))
            got = y.get().value.copy()
        if wanted:
            assert np.array_equal(got, wanted().numpy())
        assert getattr(loop.stats(), mode) > 0


def test_a_fallback_slower_than_the_deadline_is_refused() -> None:
    slow = rt.compile(
        nn.Sequential(nn.Linear(7, 2000), nn.ReLU(), nn.Linear(2000, 2000), nn.Linear(2000, 5)).eval(),
        (torch.randn(1, 7),),
    )
    fast, (x, y) = compiled(), slots()
    loop = rt.Loop(fast, x, y, deadline_us=20, fallback=slow, on_stale="fallback")
    with pytest.raises(BudgetExceeded, match="fallback takes"):
        loop.start()
    fast(torch.randn(1, 7))
    x.put(torch.zeros(7))
    x.get()


def test_two_loops_on_one_plan() -> None:
    fast = compiled()
    first, second = rt.Loop(fast, *slots(), **SLACK), rt.Loop(fast, *slots(), **SLACK)
    with first, pytest.raises(UnsupportedProblem, match="another one"):
        second.start()
    with rt.Loop(fast, *slots(), **SLACK):
        pass
    with pytest.raises(UnsupportedProblem, match="starts once"):
        first.start()


def test_a_stop_before_the_start_changes_nothing() -> None:
    fast, (x, y) = compiled(), slots()
    loop = rt.Loop(fast, x, y, **SLACK)
    for _ in range(2):
        loop.stop()
        loop._native.stop()  # as a program in C asks
        assert not loop.running
        assert repr(loop) == "Loop(made)"
    x.put(torch.ones(7))
    with loop:
        until(lambda: loop.stats().fresh > 0)
    assert torch.equal(torch.tensor(y.get().value), fast(torch.ones(1, 7))[0])


@pytest.mark.parametrize("call", ["stop", "join"])
@pytest.mark.filterwarnings("ignore:.*runs in Python")
def test_a_callable_of_the_loop_ends_it(call: str) -> None:
    """stop() there returns at once, and join() is refused: the loop would wait for itself."""
    x, y = slots()
    asked: list[Any] = []
    made_loop: list[Any] = []

    def post(made: Any) -> Any:
        if made_loop and not asked:
            try:
                asked.append(made_loop[0].join(1) if call == "join" else made_loop[0].stop())
            except rt.UnsupportedProblem as error:
                asked.append(error)
                made_loop[0].stop()
        return made

    loop = rt.Loop(compiled(), read=x, write=y, post=post, **SLACK)
    made_loop.append(loop)
    loop.start()
    while not asked:
        x.put(torch.ones(7))
    assert loop.join(60)
    assert not loop.running
    assert isinstance(asked[0], rt.UnsupportedProblem) == (call == "join"), asked
    loop.stop()
    with rt.Loop(compiled(), read=x, write=y, **SLACK) as again:  # the slots are free
        x.put(torch.ones(7))
        until(lambda: again.stats().cycles > 0)


@pytest.mark.parametrize(("key", "value"), [
    ("period_us", 0), ("period_us", float("inf")), ("period_us", 1e18), ("deadline_us", 0), ("deadline_us", 1e9),
    ("max_age_us", 0), ("spin_us", 1e9), ("spin_us", -1), ("period_us", True), ("deadline_us", "1"),
])  # fmt: skip
def test_a_wrong_setting_is_named_with_its_value(key: str, value: Any) -> None:
    x, y = slots()
    with pytest.raises(rt.FormatError) as raised:
        rt.Loop(compiled(), read=x, write=y, **{**SLACK, key: value})
    assert raised.value.got == f"{key}={value!r}"


def test_a_second_start_says_what_it_is_and_leaves_the_first_alone() -> None:
    fast, (x, y) = compiled(), slots()
    x.put(torch.ones(7))
    loop = rt.Loop(fast, x, y, **SLACK)
    with loop:
        for _ in range(2):
            with pytest.raises(UnsupportedProblem, match="starts once"):
                loop.start()
            with pytest.raises(UnsupportedProblem, match="running loop"):  # the model is the loop's still
                fast(torch.ones(1, 7))
        cycles = loop.stats().cycles
        until(lambda: loop.stats().cycles > cycles)
    with pytest.raises(UnsupportedProblem, match="starts once"):
        loop.start()
    fast(torch.ones(1, 7))


def test_a_start_that_was_refused_can_be_made_again() -> None:
    fast, (x, y) = compiled(), slots()
    first, second = rt.Loop(fast, *slots(), **SLACK), rt.Loop(fast, x, y, **SLACK)
    with first, pytest.raises(UnsupportedProblem, match="another one"):
        second.start()
    second.stop()
    x.put(torch.ones(7))
    with second:
        until(lambda: second.stats().fresh > 0)


def test_a_slot_of_another_loop_or_handle() -> None:
    x, y = slots()
    with rt.Loop(compiled(), x, y, **SLACK):
        with pytest.raises(UnsupportedProblem, match="slot"):
            rt.Loop(compiled(), x, rt.Latest((5,)), **SLACK).start()
        with pytest.raises(UnsupportedProblem, match="reader"):
            x.get()
        with pytest.raises(UnsupportedProblem, match="writer"):
            y.put(np.zeros(5, np.float32))
    x.close()
    with pytest.raises(ValueError, match="closed"):
        rt.Loop(compiled(), x, y, **SLACK)


def test_a_held_gil_costs_no_cycle() -> None:
    """The GIL is not given away until the loop has run on for 40 cycles: a loop that needed it would never get there."""
    fast, (x, y) = compiled(), slots()
    x.put(torch.zeros(7))
    with rt.Loop(fast, x, y, **SLACK) as loop:
        assert loop._native.hold_gil(40, 60_000_000_000)


def test_errors_of_the_model_come_out() -> None:
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 2)).eval()
    fast = rt.compile(model, (torch.tensor([1]),))
    x, y = rt.Latest((1,), "int64"), rt.Latest((2,))
    loop = rt.Loop(fast, x, y, **SLACK).start()
    x.put(torch.tensor([3]))
    until(lambda: loop.stats().fresh > 0)
    x.put(torch.tensor([77]))
    with pytest.raises(FormatError, match="77"):
        loop.join(60)
    with pytest.raises(FormatError):
        loop.stats()
    assert loop.stats(check=False).state == "failed"
    assert torch.isfinite(fast(torch.tensor([3]))).all()
