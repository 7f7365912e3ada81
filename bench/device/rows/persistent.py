"""Models on a persistent kernel on the card: their calls, starting and ending many, and eight at once in one process.

Nothing here may wait for the whole device: such a kernel does not end by itself. The functions take what makes a model, so that
their own logic is tested where there is no GPU; the rows at the end make it for the card.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

import rtaccel as rt
from bench.device.rows.models import network
from bench.device.rows.timing import Fields, timed
from rtaccel.runtime.gpu.persistent_choice import only


class Model(Protocol):
    def __call__(self, x: Tensor) -> Tensor: ...

    def bind(self, x: Tensor, *, out: Tensor) -> Callable[[], None]: ...

    def state_dict(self) -> Any: ...

    def load_state_dict(self, state: Any) -> Any: ...

    def close(self) -> None: ...


def compiled(name: str, scheme: str = "w8a8", kernel: str = "") -> Any:
    """A network on a persistent kernel. kernel: the only one that may be taken."""
    model, inputs = network(name)
    with only(kernel) if kernel else contextlib.nullcontext():
        return rt.compile(
            model, (torch.randn(1, inputs),), scheme=scheme, calibration=[torch.randn(256, inputs)], device="cuda",
            mode="persistent",
        )  # fmt: skip


def calls(make: Callable[[], Model], inputs: int, seconds: float) -> Fields:
    fast = make()
    try:
        x = torch.randn(1, inputs)
        return timed(fast.bind(x, out=fast(x)), seconds)
    finally:
        fast.close()


def starts(make: Callable[[], Model], inputs: int, times: int, seconds: float) -> Fields:
    """Starts, calls and ends a kernel so often, or for so long. Each answer must be that of the first, to the bit.

    It is compiled once: to load a state ends the kernel and starts another one.
    """
    fast, x, until = make(), torch.randn(1, inputs), time.monotonic() + seconds
    try:
        want, state, done = fast(x), fast.state_dict(), 1
        while done < times and time.monotonic() < until:
            fast.load_state_dict(state)
            if not torch.equal(fast(x), want):
                return {"passed": False, "error": f"start {done + 1}: another answer than at first", "starts": done}
            done += 1
    finally:
        fast.close()
    return {"passed": True, "starts": done}


class _Threads:
    """Calls a step again and again in a thread of Python, until it is stopped."""

    def __init__(self, step: Callable[[], None], core: int) -> None:
        self._step, self._core, self._stop, self._count = step, core, threading.Event(), 0
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        if self._core >= 0:
            os.sched_setaffinity(0, {self._core})
        while not self._stop.is_set():
            self._step()
            self._count += 1

    def stop(self) -> int:
        self._stop.set()
        self._thread.join()
        return self._count


def loop_class() -> tuple[Any, str]:
    """(what calls a step in a loop of its own, its name): native, where the core has that."""
    from rtaccel import _native

    native = getattr(_native, "MailboxLoop", None)
    return (_Threads, "threads of Python, which share one lock") if native is None else (native, "native")


@contextlib.contextmanager
def busy(steps: Sequence[Callable[[], None]], cores: Sequence[int]) -> Iterator[list[int]]:
    """Each step again and again, on a core of its own as far as there are some. How often each ran is there afterwards."""
    make, _ = loop_class()
    loops = [make(step, cores[i] if i < len(cores) else -1) for i, step in enumerate(steps)]
    counts: list[int] = []
    for loop in loops:
        loop.start()
    try:
        yield counts
    finally:
        counts += [loop.stop() for loop in loops]


def at_once(make: Callable[[], Any], inputs: int, seconds: float, models: int = 8) -> Iterator[Fields]:
    """One model alone, and the same one while the others are called as fast as they answer. ratio_p99: of the two.

    All in this process: kernels of several processes take turns on a card, and one that stays never ends its turn.
    """
    cores = sorted(os.sched_getaffinity(0))[1:-1]  # not the first, which has the interrupts, nor that of the timed loop
    made: list[Any] = []
    try:
        made.append(make())
        made.extend(copy.deepcopy(made[0]) for _ in range(models - 1))
        xs = [torch.randn(1, inputs) for _ in made]
        steps = [m.bind(x, out=m(x)) for m, x in zip(made, xs)]
        alone = timed(steps[0], seconds)
        yield {"name": ALONE, **alone}
        with busy(steps[1:], cores) as counts:
            together = timed(steps[0], seconds)
        ratio = together["p99_us"] / alone["p99_us"]
        yield {
            "name": TOGETHER.format(models), **together, "ratio_p99": ratio, "calls_of_others": sum(counts),
            "loops": loop_class()[1],
        }  # fmt: skip
    finally:
        for model in made:
            model.close()


ALONE, TOGETHER = "one model of eight, alone", "one model of {}, all called at once"


# -- rows --------------------------------------------------------------------------------------------------------------


def network_row(name: str, scheme: str, seconds: float, kernel: str = "") -> Fields:
    return calls(functools.partial(compiled, name, scheme, kernel), network(name)[1], seconds)


def starts_row(name: str, times: int, seconds: float) -> Fields:
    return starts(functools.partial(compiled, name), network(name)[1], times, seconds)


def at_once_row(name: str, seconds: float) -> Iterator[Fields]:
    return at_once(functools.partial(compiled, name), network(name)[1], seconds)
