"""rt.compile and rt.stream from several threads at once, and what the other threads of the process notice of it."""

from __future__ import annotations

import io
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import rtaccel as rt

X = torch.randn(3, 8, generator=torch.Generator().manual_seed(1))


def build() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.GELU(), nn.Linear(16, 4)).eval()


def _compiled(model: nn.Module) -> Any:
    return rt.compile(model, (X,), strict=True)


def _quantized(model: nn.Module) -> Any:
    return rt.compile(model, (X,), "w8a8", calibration=[torch.randn(16, 8) for _ in range(3)], strict=True)


def _specialized(model: nn.Module) -> Any:
    return rt.compile(model, (X,), specialize=True, strict=True)


def in_threads(calls: list[Callable[[], None]]) -> list[BaseException]:
    errors: list[BaseException] = []

    def run(call: Callable[[], None]) -> None:
        try:
            call()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


@pytest.mark.parametrize("shared", [False, True], ids=["own models", "one model"])
@pytest.mark.parametrize("way", [_compiled, _quantized, _specialized])
def test_threads_compile_at_once(way: Callable[[nn.Module], Any], shared: bool) -> None:
    before, common = (sys.stdout, sys.stderr), build()

    def work() -> None:
        model = common if shared else build()
        for _ in range(2):
            fast = way(model)
            with torch.no_grad():
                torch.testing.assert_close(fast(X), model(X), rtol=0.1, atol=0.1)

    assert in_threads([work] * 4) == []
    assert (sys.stdout, sys.stderr) == before


def test_threads_stream_at_once() -> None:
    def work() -> None:
        model, x = nn.GRU(4, 6, batch_first=True).eval(), torch.randn(1, 5, 4)
        live = rt.stream(model, x[:, 0])
        for t in range(5):
            y = live.step(x[:, t])
        with torch.no_grad():
            torch.testing.assert_close(y, model(x)[0][:, -1])

    assert in_threads([work] * 3) == []


def test_other_threads_print(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the compiling thread's model prints while it is traced is not shown; what others print is."""
    shown, ends, lines = io.StringIO(), threading.Event(), 0
    monkeypatch.setattr(sys, "stdout", shown)

    def work() -> None:
        for _ in range(2):
            _compiled(build())
        ends.set()

    thread = threading.Thread(target=work)
    thread.start()
    while not ends.wait(0.001):
        print("here")
        lines += 1
    thread.join()
    assert lines and shown.getvalue() == "here\n" * lines and sys.stdout is shown


def test_a_child_process_compiles_while_the_parent_does() -> None:
    """A lock that another thread held when the process was forked is not held in the child, which has no such thread."""
    from rtaccel.core.process import one_at_a_time

    held, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        go_on.wait()

    thread = threading.Thread(target=one_at_a_time.one_at_a_time(hold))
    thread.start()
    held.wait()
    child = os.fork()
    if not child:
        one_at_a_time.one_at_a_time(lambda: None)()
        os._exit(7)
    try:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    finally:
        go_on.set()
        thread.join()
