"""Both sides of a mailbox: the native core as the host, and a persistent kernel; in the interpreter, or on a card.

In the interpreter one program runs in a thread, several as processes side by side, in memory that they share. On a card the
kernel is launched on a stream of its own and the words lie in pinned memory. Nobody may wait for the whole device meanwhile.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rtaccel._native import Mailbox
from rtaccel.core import settings
from rtaccel.kernels._gpu import triton_launch
from rtaccel.kernels._gpu.triton_spec import Specialisation

INTERPRET = settings.triton_interpret()
DEVICE = "cpu" if INTERPRET else "cuda"
END_S = 60.0
LOOK = 4
"""Spins before a look at the abort word, in the interpreter, where a spin takes long."""

Wait = Callable[[float], bool]
"""Whether the kernel ended within so many seconds."""


def words(count: int) -> Tensor:
    """int64 zeros in memory that both sides see."""
    made = torch.zeros(count, dtype=torch.int64)
    return made.share_memory_() if INTERPRET else made.pin_memory()


class Side:
    """A kernel, and its memory. programs of a launch: along the first axis."""

    def __init__(self, inputs: int, outputs: int, commands: bool = False) -> None:
        self.requests, self.replies, self.control = words(2 * (inputs + commands)), words(2 * outputs), words(8)
        self.box = Mailbox(self.requests.data_ptr(), inputs, self.replies.data_ptr(), outputs, commands)
        self._wait: Wait | None = None

    def start(self, spec: Specialisation, arguments: Mapping[str, Any], programs: int = 1) -> None:
        """arguments: what the kernel takes beside its mailbox."""
        mailbox = {"request_ptr": self.requests, "reply_ptr": self.replies, "control_ptr": self.control}
        given = {**mailbox, **arguments}
        if not INTERPRET:
            self._wait = _launched(spec, given, programs)
            return
        quick = replace(spec, constants={**spec.constants, "LOOK": LOOK})
        self._wait = _threaded(quick, given) if programs == 1 else _side_by_side(quick, given, programs)

    def ended(self, seconds: float = END_S) -> bool:
        assert self._wait is not None
        return self._wait(seconds)

    def end(self) -> int:
        """Sets the abort word; the state that the kernel leaves."""
        self.control[0] = 1
        assert self.ended(), "the kernel does not end"
        return int(self.control[1])


def _threaded(spec: Specialisation, given: dict[str, Any]) -> Wait:
    thread = threading.Thread(target=lambda: spec.kernel[(1,)](**given, **spec.keywords), daemon=True)
    thread.start()

    def wait(seconds: float) -> bool:
        thread.join(seconds)
        return not thread.is_alive()

    return wait


def _side_by_side(spec: Specialisation, given: dict[str, Any], programs: int) -> Wait:
    from tests.triton_checks.support import side_by_side  # imports triton's interpreter, which not every numpy can

    children = side_by_side.start(spec, (programs,), side_by_side.share(given))
    over: list[bool] = []

    def wait(seconds: float) -> bool:
        if not over:
            side_by_side.wait(children)  # with a time limit of its own
            over.append(True)
        return True

    return wait


def _launched(spec: Specialisation, given: dict[str, Any], programs: int) -> Wait:
    launch = triton_launch.bind(spec)
    torch.cuda.current_stream().synchronize()  # the weights are there
    stream = torch.cuda.Stream(priority=-1)
    with torch.cuda.stream(stream):
        launch((programs,), **given)

    def wait(seconds: float) -> bool:
        until = time.monotonic() + seconds
        while not (done := bool(stream.query())) and time.monotonic() < until:
            time.sleep(0.001)
        return done

    return wait
