"""Kernels that stay: the round trip alone, models, starting and stopping, and several at once.

Nothing here may wait for the whole device: such a kernel does not end by itself. Functions take what makes a model, so that
their own logic is tested where there is no GPU.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn

import rtaccel as rt
from bench.device_rows import Row, timed
from rtaccel.core.errors import RtaccelError

TIMEOUT_NS = 1_000_000_000


class Model(Protocol):
    def __call__(self, x: Tensor) -> Tensor: ...

    def bind(self, x: Tensor, *, out: Tensor) -> Callable[[], None]: ...

    def close(self) -> None: ...


def compiled(model: nn.Module, inputs: int) -> Any:
    """The model on a kernel that stays."""
    return rt.compile(
        model, (torch.randn(1, inputs),), scheme="w8a8", calibration=[torch.randn(256, inputs)], device="cuda",
        mode="persistent",
    )  # fmt: skip


def measure(name: str, make: Callable[[], Model], inputs: int, seconds: float) -> Row:
    title = f"{name}, rtaccel w8a8 persistent"
    try:
        fast = make()
    except RtaccelError as error:
        return {"name": title, "error": str(error)}
    try:
        x = torch.randn(1, inputs)
        return timed(title, fast.bind(x, out=fast(x)), seconds)
    finally:
        fast.close()


def start_and_stop(make: Callable[[], Model], inputs: int, times: int) -> Row:
    """Starts, calls and ends a kernel so often. Each answer must be that of the first kernel, to the bit."""
    name, x = f"start and stop, {times} times", torch.randn(1, inputs)
    want: Tensor | None = None
    for index in range(times):
        try:
            fast = make()
            try:
                y = fast(x)
            finally:
                fast.close()
        except RtaccelError as error:
            return {"name": name, "error": f"at {index}: {error}"}
        want = y if want is None else want
        if not torch.equal(y, want):
            return {"name": name, "error": f"at {index}: another answer than at first"}
    return {"name": name, "passed": True}


@contextlib.contextmanager
def _busy(steps: list[Callable[[], None]], cores: list[int]) -> Iterator[list[int]]:
    """Each step again and again in a thread of its own, on a core of its own where there are enough; how often each ran."""
    stop, counts = threading.Event(), [0] * len(steps)

    def work(index: int) -> None:
        if cores:
            os.sched_setaffinity(0, {cores[index % len(cores)]})
        while not stop.is_set():
            steps[index]()
            counts[index] += 1

    threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(len(steps))]
    for thread in threads:
        thread.start()
    try:
        yield counts
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def at_once(
    make: Callable[[], Model], inputs: int, seconds: float, models: int = 8, cores: list[int] | None = None
) -> list[Row]:
    """One model alone, and the same one while others are called as fast as they answer. ratio: of the two p99."""
    made: list[Model] = []
    try:
        for _ in range(models):
            made.append(make())
        xs = [torch.randn(1, inputs) for _ in made]
        steps = [m.bind(x, out=m(x)) for m, x in zip(made, xs)]
        alone = timed("one model of eight, alone", steps[0], seconds)
        with _busy(steps[1:], cores or []) as counts:
            together = timed(f"one model of {models}, all called at once", steps[0], seconds)
        together["calls_of_others"] = sum(counts)
    except RtaccelError as error:
        return [{"name": f"{models} models at once", "error": str(error)}]
    finally:
        for model in made:
            model.close()
    if "p99_us" in alone and "p99_us" in together:
        together["ratio_p99"] = together["p99_us"] / alone["p99_us"]
    return [alone, together]


def _round_trip(title: str, seconds: float, start: Callable[[Tensor, Tensor, Tensor], None]) -> Row:
    """One float32 each way. start(requests, replies, control) starts the kernel."""
    from rtaccel._native import Mailbox

    requests, replies, control = (torch.zeros(n, dtype=torch.int64).pin_memory() for n in (2, 2, 8))
    try:
        with torch.cuda.stream(torch.cuda.Stream()):
            start(requests, replies, control)
    except RtaccelError as error:
        return {"name": title, "error": str(error)}
    box = Mailbox(requests.data_ptr(), 1, replies.data_ptr(), 1)
    x, y = torch.ones(1), torch.zeros(1)
    where = (x.data_ptr(), y.data_ptr(), TIMEOUT_NS)
    try:
        if not box.exchange(*where):
            return {"name": title, "error": "the kernel does not answer"}
        return timed(title, lambda: box.exchange(*where), seconds)
    finally:
        control[0] = 1


def measure_null(seconds: float) -> list[Row]:
    """The mailbox alone, by Triton's kernel and by the one in CUDA C++, which waits for no other thread."""
    from rtaccel.kernels._shared import cubin_launch
    from rtaccel.kernels._shared.cuda_nvrtc import ECHO, compile_cubin
    from rtaccel.kernels._shared.triton_launch import bind
    from rtaccel.kernels.mlp.triton_resident import specialise_null

    def triton(requests: Tensor, replies: Tensor, control: Tensor) -> None:
        bind(specialise_null(1, 1))((1,), request_ptr=requests, reply_ptr=replies, control_ptr=control, idle_looks=0)

    def cuda(requests: Tensor, replies: Tensor, control: Tensor) -> None:
        major, minor = torch.cuda.get_device_capability()
        launch = cubin_launch.load(compile_cubin(ECHO, 10 * major + minor))
        launch((1,), request_ptr=requests, reply_ptr=replies, control_ptr=control, words=1, idle_looks=0)

    return [
        _round_trip("null model, persistent", seconds, triton),
        _round_trip("null model, persistent, CUDA C++", seconds, cuda),
    ]
