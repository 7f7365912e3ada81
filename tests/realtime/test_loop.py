"""The loop on this machine's clock: what it computes, what it refuses, how it ends. Nothing is timed."""

from __future__ import annotations

import _thread
import ctypes
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import rtaccel as rt
from rtaccel.core.errors import BudgetExceeded, FormatError, RtaccelError, ShapeError, UnsupportedProblem
from rtaccel.realtime import CStep, LoopStats

SLACK = {"period_us": 2000, "deadline_us": 2000, "max_age_us": 60e6, "on_miss": "late"}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*the system refused.*")
        yield


def mlp() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(7, 33), nn.ReLU(), nn.Linear(33, 5)).eval()


def compiled(model: nn.Module | None = None) -> Any:
    return rt.compile(model or mlp(), (torch.randn(1, 7),))


def slots(inputs: int = 7, outputs: int = 5) -> tuple[Any, Any]:
    return rt.Latest((inputs,)), rt.Latest((outputs,))


def until(done: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.001)


def fresh(y: Any, stamp_ns: int) -> Any:
    """The result that was computed from the input with this stamp, or that result held."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        got = y.get()
        if got.status != "none" and got.stamp_ns == stamp_ns:
            return got
    raise AssertionError("no result came")


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


def test_python_callables_are_said_to_be_outside() -> None:
    x, y = slots(7, 5)

    def scale(v: Any) -> Any:
        return v * np.float32(2)

    def picky(v: Any) -> Any:
        if abs(v).max() > 1e4:
            raise KeyError("too much")
        return v - np.float32(1)

    with pytest.warns(UserWarning, match="GIL"):
        loop = rt.Loop(compiled(), x, y, pre=scale, post=[picky], **SLACK)
    loop.start()
    value, stamp = torch.randn(7), time.monotonic_ns()
    x.put(value, stamp_ns=stamp)
    got = torch.tensor(fresh(y, stamp).value)
    torch.testing.assert_close(got, mlp()(value * 2).detach() - 1, rtol=1e-5, atol=1e-5)
    x.put(torch.full((7,), 1e6))
    try:
        with pytest.raises(KeyError, match="too much"):
            loop.join(60)
        with pytest.raises(KeyError):
            loop.stats()
    finally:
        loop.stop()


def test_c_functions_before_and_after(tmp_path: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    source = tmp_path / "steps.c"
    source.write_text(
        "int twice(void* self, const void* const* in, void* const* out) {\n"
        "  const float* x = in[0]; float* y = out[0];\n"
        "  for (int i = 0; i < *(int*)self; ++i) y[i] = 2 * x[i];\n  return 0;\n}\n"
        "int refuse(void* self, const void* const* in, void* const* out) { return 3; }\n"
    )
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", str(tmp_path / "steps.so"), str(source)], check=True)
    library = ctypes.CDLL(str(tmp_path / "steps.so"))
    seven, five = ctypes.c_int(7), ctypes.c_int(5)
    fast, (x, y) = compiled(), slots()
    pre = CStep(library.twice, (7,), self_pointer=ctypes.addressof(seven), warm=True)
    post = CStep(library.twice, (5,), self_pointer=ctypes.addressof(five), warm=True)
    with rt.Loop(fast, x, y, pre=pre, post=post, spin_us=1000, **SLACK) as loop:
        value, stamp = torch.randn(7), time.monotonic_ns()
        x.put(value, stamp_ns=stamp)
        got = torch.tensor(fresh(y, stamp).value)
        torch.testing.assert_close(got, 2 * mlp()(2 * value).detach(), rtol=1e-5, atol=1e-5)
        until(lambda: loop.stats().warm_runs > 0)
    failing = rt.Loop(CStep(library.refuse, (5,)), *slots(7, 5), **SLACK).start()
    failing._inputs[0].put(torch.zeros(7))
    with pytest.raises(FormatError):
        failing.join(60)
    assert failing.stats(check=False).state == "failed"
    with pytest.raises(ShapeError):
        rt.Loop(fast, x, y, pre=CStep(library.twice, (6,)), **SLACK)


def test_multi_rate_with_a_slot_of_its_own() -> None:
    x, y = slots()
    other_in, other_out = rt.Latest((3,)), rt.Latest((2,))
    other = rt.compile(nn.Linear(3, 2).eval(), (torch.randn(1, 3),))
    loop = rt.Loop(compiled(), x, y, **SLACK).every(3, other, write=other_out, read=other_in)
    with loop:
        x.put(torch.zeros(7))
        value = torch.randn(3)
        other_in.put(value)
        until(lambda: other_out.get().status != "none")
        got = torch.tensor(other_out.get().value)
    assert torch.equal(got, other(value[None])[0])


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"period_us": 0}, FormatError),
        ({"period_us": "fast"}, FormatError),
        ({"period_us": float("nan")}, FormatError),
        ({"deadline_us": 0}, FormatError),
        ({"deadline_us": 1001}, FormatError),
        ({"spin_us": 1000}, FormatError),
        ({"spin_us": -1}, FormatError),
        ({"max_age_us": 0}, FormatError),
        ({"on_miss": "wait"}, FormatError),
        ({"on_stale": "x"}, FormatError),
        ({"on_old": 1}, FormatError),
        ({"on_gap": None}, FormatError),
        ({"priority": 100}, FormatError),
        ({"priority": 0}, FormatError),
        ({"cpu": -1}, FormatError),
        ({"cpu": True}, FormatError),
        ({"on_stale": "fallback"}, FormatError),
        ({"fallback": mlp()}, UnsupportedProblem),
        ({"name": "a/b"}, FormatError),
        ({"read": rt.Latest((6,))}, ShapeError),
        ({"write": rt.Latest((6,))}, ShapeError),
        ({"read": rt.Latest((7,), "float64")}, RtaccelError),
        ({"write": rt.Latest((5,), "int8")}, ShapeError),
        ({"read": None}, FormatError),
        ({"model": mlp()}, UnsupportedProblem),
        ({"model": 3}, UnsupportedProblem),
        ({"model": []}, RtaccelError),
    ],
)
def test_settings_that_do_not_fit(options: dict[str, Any], error: type[Exception]) -> None:
    x, y = slots()
    with pytest.raises(error):
        rt.Loop(**{"model": compiled(), "read": x, "write": y, **options})
    x.put(torch.zeros(7))
    x.get()  # nothing was taken


def test_a_core_that_is_not_there() -> None:
    with pytest.warns(UserWarning, match="core 4000"):
        loop = rt.Loop(compiled(), *slots(), cpu=4000, **SLACK).start()
    loop.stop()
    with pytest.raises(UnsupportedProblem, match="core 4000"):
        rt.Loop(compiled(), *slots(), cpu=4000, strict=True, **SLACK).start()


def test_without_permission_it_runs_and_says_so_once() -> None:
    code = """
import os, resource, warnings, torch, rtaccel as rt
fast = rt.compile(torch.nn.Linear(3, 2).eval(), (torch.randn(1, 3),))
resource.setrlimit(resource.RLIMIT_RTPRIO, (0, 0))
os.setresuid(65534, 65534, 65534)
def make(**more):
    more = dict(period_us=2000, deadline_us=2000, priority=40, lock_memory=False, **more)
    return rt.Loop(fast, rt.Latest((3,)), rt.Latest((2,)), **more)
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    for _ in range(2):
        with make() as loop:
            while loop.stats().cycles < 3: pass
        assert loop.stats().fifo == 0
assert len([w for w in said if "SCHED_FIFO 40" in str(w.message)]) == 1, said
try:
    make(strict=True).start()
except rt.UnsupportedProblem as error:
    assert "SCHED_FIFO 40" in str(error)
    print("refused")
"""
    if os.getuid() != 0:
        pytest.skip("has to be root, to give the permission away")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "refused\n", done.stderr


def test_forks_are_refused_while_it_runs() -> None:
    with rt.Loop(compiled(), *slots(), **SLACK):
        with pytest.raises(UnsupportedProblem, match="fork"):
            os.fork()
        with pytest.raises(UnsupportedProblem, match="fork"):
            multiprocessing.get_context("fork").Process(target=int).start()
        subprocess.run([sys.executable, "-c", ""], check=True)  # starts another program: no child of this one runs on
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0


def test_a_loop_in_a_forked_child() -> None:
    loop = rt.Loop(compiled(), *slots(), **SLACK)
    pid = os.fork()
    if pid == 0:
        try:
            loop.stats()
        except UnsupportedProblem:
            os._exit(0)
        os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0


def test_ctrl_c_ends_a_join_and_the_loop() -> None:
    timer = threading.Timer(0.3, _thread.interrupt_main, args=(signal.SIGINT,))
    loop = rt.Loop(compiled(), *slots(), **SLACK)

    def wait() -> None:
        with loop:
            timer.start()
            loop.join(60)

    with pytest.raises(KeyboardInterrupt):
        wait()
    timer.join()
    assert not loop.running
    assert loop.stats().state == "stopped"


def test_signals_go_to_the_main_thread() -> None:
    got = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: got.append(threading.current_thread()))
    try:
        with rt.Loop(compiled(), *slots(), **SLACK):
            for _ in range(20):
                os.kill(os.getpid(), signal.SIGUSR1)
            until(lambda: bool(got))
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert set(got) == {threading.main_thread()}


def test_join_with_a_timeout_and_a_stop_from_elsewhere() -> None:
    loop = rt.Loop(compiled(), *slots(), **SLACK)
    with pytest.raises(UnsupportedProblem):
        loop.join()
    loop.start()
    assert loop.running
    assert not loop.join(0.01)
    thread = threading.Timer(0.1, loop._native.stop)
    thread.start()
    assert loop.join(60)
    thread.join()
    loop.stop()
    loop.stop()


def test_a_loop_that_is_forgotten_ends() -> None:
    x, y = slots()
    fast = compiled()
    rt.Loop(fast, x, y, **SLACK).start()
    import gc

    gc.collect()
    fast(torch.randn(1, 7))
    x.put(torch.zeros(7))
    x.get()


def test_the_interpreter_ends_with_a_loop_running() -> None:
    code = """
import torch, rtaccel as rt
fast = rt.compile(torch.nn.Linear(3, 2).eval(), (torch.randn(1, 3),))
loop = rt.Loop(fast, rt.Latest((3,)), rt.Latest((2,)), period_us=2000, deadline_us=2000).start()
print("up")
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "up\n"), done.stderr


def test_statistics_from_another_process(name: str) -> None:
    x, y = slots()
    with rt.Loop(compiled(), x, y, name=name, **SLACK) as loop:
        x.put(torch.zeros(7))
        until(lambda: loop.stats().fresh > 3)
        with pytest.raises(FormatError, match="runs in process"):
            rt.Loop(compiled(), *slots(), name=name)
        code = (
            f"import rtaccel as rt; s = rt.realtime.LoopStats.open({name!r}); print(s.state, s.cycles, s.pid, s.work.n)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
        state, cycles, pid, work = done.stdout.split()
        assert (state, int(pid)) == ("running", os.getpid())
        assert 3 < int(cycles) <= loop.stats().cycles
        assert int(work) > 3
    assert LoopStats.open(name).state == "stopped"
    again = rt.Loop(compiled(), *slots(), name=name)  # the name is free again, and counts from zero
    assert LoopStats.open(name).cycles == 0
    del again
    with pytest.raises(FormatError):
        LoopStats.open("no-such-loop")
