"""The loop and its machine: settings, cores, permissions, forks, signals, and how it ends."""

from __future__ import annotations

import _thread
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from typing import Any

import pytest
import torch

import rtaccel as rt
from rtaccel.core.errors import FormatError, RtaccelError, ShapeError, UnsupportedProblem
from rtaccel.realtime import LoopStats
from tests.realtime.loops import SLACK, compiled, mlp, slots, until

pytestmark = pytest.mark.filterwarnings("ignore:.*the system refused")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"period_us": 0}, FormatError),
        ({"period_us": "fast"}, FormatError),
        ({"period_us": "1000"}, FormatError),
        ({"deadline_us": b"200"}, FormatError),
        ({"max_age_us": 10**400}, FormatError),
        ({"period_us": [1000]}, FormatError),
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
    loop, ended = rt.Loop(compiled(), *slots(), **SLACK), threading.Event()

    def press() -> None:
        """Again where Python lost it: an exception in a callback of the garbage collector is ignored."""
        pause = 0.3
        while not ended.wait(pause):
            _thread.interrupt_main(signal.SIGINT)
            pause = 10

    presses = threading.Thread(target=press)

    def wait() -> None:
        with loop:
            presses.start()
            try:
                loop.join(60)
            finally:
                ended.set()

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever a test before left
    try:
        with pytest.raises(KeyboardInterrupt):
            wait()
    finally:
        signal.signal(signal.SIGINT, before)
    presses.join()
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
